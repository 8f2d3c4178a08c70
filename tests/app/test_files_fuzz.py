"""Damaged files: arrays or one named error, quickly, in little memory, and never a header that is run."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from ntkla.forgetting.heads import LinearHead
from tests.app.damaged_files import case, sound_files
from tests.app.read_damaged_files import outcome, read

ROOT = Path(__file__).resolve().parents[2]
GATE, ALL = 2_500, 100_000
LONGEST_SECONDS = 1.0
pytestmark = pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="limits memory as Linux does")


def read_damaged(first: int, last: int, folder: Path, timeout: float) -> dict[str, int]:
    """How many of the files ended how; fails for a crash, a hang, a wrong error, or a slow file."""
    script = [sys.executable, "-m", "tests.app.read_damaged_files", str(first), str(last), str(folder)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        script, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=timeout, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stderr == ""
    seen = json.loads(done.stdout)
    assert seen["slowest"][0] < LONGEST_SECONDS, seen
    counts: dict[str, int] = seen["counts"]
    assert sum(counts.values()) == last - first
    return counts


def test_damaged_files(tmp_path):
    counts = read_damaged(0, GATE, tmp_path, timeout=300)
    kinds = {
        "read",
        "DataError",
        "DtypeError",
        "ShapeError",
        "NonFiniteError",
        "ScaleError",
        "LabelError",
        "ArgumentError",
    }
    assert kinds <= counts.keys(), "the damages reach every check"


@pytest.mark.slow
def test_many_damaged_files(tmp_path):
    read_damaged(GATE, ALL, tmp_path, timeout=3600)


def test_the_same_files_every_time(tmp_path):
    files = [[case(number, sound_files(), tmp_path) for number in range(50)] for _ in range(2)]
    assert files[0] == files[1]
    assert len({entry.content for entry in files[0]}) > len(files[0]) / 2


def first_read(folder: Path):
    """The first damaged head in a .npy file that can still be read."""
    sound = sound_files()
    for name, content in sound.items():
        (folder / name).write_bytes(content)
    damaged = (case(number, sound, folder) for number in range(GATE))
    heads = (entry for entry in damaged if re.fullmatch(r".*damaged\.npy", entry.argument) and entry.is_head)
    return next(entry for entry in heads if "," not in entry.argument and outcome(entry) == "read")


def test_a_reader_that_gets_a_number_wrong_is_noticed(tmp_path):
    def wrong(entry):
        head = read(entry)
        weight = head.weight.clone()
        weight[0, 0] = torch.nextafter(weight[0, 0], weight[0, 0] + 1)
        return LinearHead(weight)

    entry = first_read(tmp_path)
    with pytest.raises(AssertionError):
        outcome(entry, wrong)


def test_a_reader_whose_errors_have_no_name_is_noticed(tmp_path):
    entry = first_read(tmp_path)
    cut = type(entry)(entry.path, entry.content[:-1], entry.argument, entry.is_head)
    with pytest.raises(ValueError, match="mmap length"):
        outcome(cut, lambda entry: LinearHead(torch.from_numpy(np.load(entry.argument, mmap_mode="c"))))
