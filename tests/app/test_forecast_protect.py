"""`ntkla forecast --protect`: the penalty of every old task as the library would make it, in tables and JSON."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

import ntkla
from ntkla.app.command_line.commands import app
from ntkla.app.failures import EXIT_ERROR
from tests.app.task_files import CLASSES, RIDGE, task_files


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return task_files(tmp_path_factory.mktemp("files"))


def run(*arguments: object):
    return CliRunner().invoke(app, ["forecast", *map(str, arguments)])


def document(*arguments: object) -> dict:
    result = run(*arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def penalties(files, k: int, weight: float | None) -> dict[str, ntkla.SpectralPenalty]:
    made = {}
    for name, task in files.olds.items():
        said = files.linear.select(task.outputs)(task.features)
        modes = ntkla.eigenmodes(task.features, k, bias=files.linear.bias is not None)
        columns = None if task.outputs is None else task.outputs.tolist()
        used = k * said.shape[1] / 2 if weight is None else weight
        made[name] = ntkla.SpectralPenalty(modes, said, used, columns=columns)
    return made


@pytest.mark.parametrize(
    ("typed", "weight"), [([], None), (["--protect-weight", "7"], 7.0), (["--protect-weight", "0"], 0.0)]
)
@pytest.mark.parametrize("training", [[], ["--sgd", "1e-3,7"]])
def test_the_forecast_is_that_of_the_library(files, typed, weight, training):
    found = document(*files.arguments, "--ridge", RIDGE, "--protect", 4, *typed, *training)
    early = ntkla.GradientDescent(1e-3, 7) if training else None
    reports = files.forecast(penalty=penalties(files, 4, weight), training=early)
    for task in found["tasks"]:
        assert task["drift"]["rms"] == reports[task["name"]].drift_rms
    assert found["settings"]["protected"] == reports.to_dict()["protected"]
    assert len(found["settings"]["protected"]) == (0 if weight == 0 else 2)
    assert found["settings"]["training_in_words"] == reports.training


def test_the_tables_and_the_pages_say_what_is_protected(files, tmp_path):
    result = run(*files.arguments, "--ridge", RIDGE, "--protect", 4, "--output", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert "penalty weight 10 (4 modes of first_x and second)" in " ".join(result.stdout.split())
    written = json.loads((tmp_path / "out" / "report.json").read_text())
    assert [one["modes"] for one in written["settings"]["protected"]] == [4, 4]
    free = document(*files.arguments, "--ridge", RIDGE)
    assert free["settings"]["protected"] == []
    for before, after in zip(free["tasks"], written["tasks"], strict=True):
        assert after["drift"]["rms"] < before["drift"]["rms"]


def test_a_weight_of_the_mean_loss_is_converted(files):
    samples = files.new_task.features.shape[0]
    typed = [*files.arguments, "--ridge", "0.02", "--mean-loss", "--protect", 3, "--protect-weight", "0.5"]
    assert {one["weight"] for one in document(*typed)["settings"]["protected"]} == {0.5 * (samples * CLASSES / 2)}


def test_outputs_of_a_task_are_protected_as_its_own(files):
    found = document(*files.arguments, "--ridge", RIDGE, "--protect", 2, "--old-outputs", "0-2")
    assert [one["outputs"] for one in found["settings"]["protected"]] == [[0, 1, 2]] * 2


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        (["--protect-weight", "3"], "Add --protect"),
        (["--protect", "0"], "--protect: expected an integer >= 1"),
        (["--protect", "3", "--free-bias"], "exclude each other"),
        (["--protect", "3", "--protect-weight", "-1"], "ArgumentError: --protect-weight: expected a number from 0"),
        (["--protect", "3", "--protect-weight", "nan"], "ArgumentError: --protect-weight: expected a number from 0"),
        (["--protect", "300"], r"--protect 300 (first_x)"),
        (["--protect", "3", "--sgd", "77,5"], "diverges on this task with its penalties"),
    ],
)
def test_what_is_refused_is_one_readable_line(files, typed, message):
    result = run(*files.arguments, "--ridge", RIDGE, *typed)
    assert result.exit_code == EXIT_ERROR, result.output
    assert result.stderr.count("\n") == 1
    assert message in result.stderr
