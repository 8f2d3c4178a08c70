"""Reads damaged files FIRST ... LAST - 1 under a limit on memory and prints, as JSON, what became of them.

Run as a script: FIRST LAST FOLDER.  A file either gives arrays, the ones that numpy and safetensors find in it, or one
named error with one readable line; nothing in it is run, and no warning is shown.
"""

from __future__ import annotations

import json
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

from ntkla.app.files.reading import read_head, read_task
from ntkla.forgetting.heads import LinearHead
from ntkla.forgetting.tasks import Task
from ntkla.linalg.errors import NtklaError
from tests.app.damaged_files import CLASSES, Case, case, sound_files
from tests.app.damaged_headers import MARKER

# Beyond what the process already has: a header of the greatest length that is read, as Python objects, and no more.
HEADROOM = 64 * 2**20
LONGEST_MESSAGE = 600


def read(entry: Case) -> Task | LinearHead:
    """Reads the file as the command line would."""
    if entry.is_head:
        return read_head(entry.argument)
    return read_task(entry.argument).task(CLASSES, need_targets=len(entry.content) % 2 == 0)


def outcome(entry: Case, reader: Callable[[Case], Task | LinearHead] = read) -> str:
    """The name of the error, or "read"; an AssertionError when neither is as it should be."""
    entry.path.write_bytes(entry.content)
    try:
        found = reader(entry)
    except NtklaError as error:
        message = str(error)
        assert message.isprintable(), message
        assert len(message) <= LONGEST_MESSAGE + 2 * len(entry.argument), message
        assert str(entry.path.parent) in message, message
        return type(error).__name__
    held = [x for x in vars(found).values() if isinstance(x, torch.Tensor)]
    for array in _by_the_packages(entry.path):
        assert any(torch.equal(x.double(), array.double()) for x in held), entry
    return "read"


def _by_the_packages(path: Path) -> list[torch.Tensor]:
    if path.suffix == ".npy":
        return [torch.from_numpy(np.load(path, allow_pickle=False))]
    return list(load_file(path).values())


def main(first: int, last: int, folder: Path) -> None:
    """Prints how many files ended how, the number of the slowest one and its seconds of the CPU, and all seconds."""
    import resource

    sound = sound_files()
    for name, content in sound.items():
        (folder / name).write_bytes(content)
        outcome(Case(folder / name, content, str(folder / name), name.startswith("head")))  # imports what comes late
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + HEADROOM, taken + HEADROOM))
    warnings.simplefilter("error")
    counts: Counter[str] = Counter()
    slowest, began = (0.0, first), time.perf_counter()
    for number in range(first, last):
        entry = case(number, sound, folder)
        start = time.process_time()
        try:
            counts[outcome(entry)] += 1
        except Exception as error:
            raise SystemExit(f"file {number}, {entry.argument}: {error!r}") from error
        slowest = max(slowest, (time.process_time() - start, number))
    assert not Path(MARKER).exists(), "a header was run"
    print(json.dumps({"counts": counts, "slowest": slowest, "seconds": time.perf_counter() - began}))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
