"""`ntkla plan`: its options against the library, its tables, errors in one readable line, files."""

from __future__ import annotations

import dataclasses
import json
import sys

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import ntkla
from ntkla.app.command_line.commands import app
from ntkla.app.command_line.plan_command import Over
from ntkla.app.failures import EXIT_ERROR
from ntkla.app.reports.strict_json import plain
from ntkla.forgetting.planning.choice import OVER
from ntkla.linalg.precision import gamma
from tests.app.task_files import CLASSES, task_files

GRID = ("--ridges", "0.5,2", "--strengths", "0.5,1", "--modes", "2,6")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return task_files(tmp_path_factory.mktemp("files"))


def run(*arguments: object):
    return CliRunner().invoke(app, ["plan", *map(str, arguments)])


def document(*arguments: object) -> dict:
    result = run(*arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def line_of(*arguments: object) -> str:
    """The one line on stderr of a command that failed."""
    result = run(*arguments)
    assert result.exit_code == EXIT_ERROR, result.output
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1
    assert result.stderr.startswith("ntkla: ")
    return result.stderr


def olds_with_targets(files) -> dict[str, ntkla.Task]:
    return {name: ntkla.Task.from_labels(task.features, task.labels, CLASSES) for name, task in files.olds.items()}


def library(files, **settings) -> ntkla.Plan:
    grid = {"ridges": (0.5, 2.0), "strengths": (0.5, 1.0), "modes": (2, 6), **settings}
    return ntkla.plan(olds_with_targets(files), files.new_task, files.linear, **grid)


def without_seconds(found: dict) -> dict:
    return {key: value for key, value in found.items() if key != "seconds"}


SAMPLES = 40
SETTINGS = {
    "strengths": ([], {}),
    "weights": (
        ["--weights", "3,5"],
        {"strengths": None, "weights": (0.0, 3.0, 5.0)},
    ),
    "a free bias": (["--free-bias"], {"penalize_bias": False}),
    "steps": (
        ["--steps", "3,optimum", "--lr", "1e-3", "--momentum", "0.9", "--nesterov"],
        {"steps": (3, None), "lr": 1e-3, "momentum": 0.9, "nesterov": True},
    ),
    "the mean loss": (
        ["--mean-loss", "--steps", "7", "--lr", "0.1"],
        {
            "ridges": (0.5 * SAMPLES * CLASSES / 2, 2.0 * SAMPLES * CLASSES / 2),
            "steps": (7,),
            "lr": 0.1 / (SAMPLES * CLASSES / 2),
        },
    ),
    "a tolerance": (["--tol", "1e-3"], {"tol": 1e-3}),
    "cross-entropy": (["--cross-entropy"], {"loss": "cross_entropy"}),
    "mean cross-entropy": (
        ["--cross-entropy", "--mean-loss"],
        {"loss": "cross_entropy", "ridges": (0.5 * SAMPLES, 2.0 * SAMPLES)},
    ),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_the_json_is_what_the_library_says(files, name):
    typed, settings = SETTINGS[name]
    grid = [word for word in GRID if name != "weights" or word not in ("--strengths", "0.5,1")]
    found = document(*files.arguments, *grid, *typed)
    expected = library(files, **settings)
    assert without_seconds(found["plan"]) == json.loads(json.dumps(without_seconds(plain(expected.to_dict()))))
    choice = expected.recommend(0.01)
    assert found["choice"]["point"] == choice.point.number
    assert found["choice"]["status"]["code"] == choice.status.code
    assert found["command"] == "plan"
    assert found["settings"]["steps"] == list(settings.get("steps", (None,)))


def test_ridges_relative_to_the_mean_eigenvalue(files):
    found = document(*files.arguments, "--relative-ridges", "0.1", "--modes", "2", "--strengths", "1")
    ones = torch.ones((SAMPLES, 1), dtype=torch.float64)
    design = torch.cat([files.new_task.features.to(torch.float64), ones], dim=1)
    mean = float(design.square().sum()) / design.shape[1]
    assert abs(found["settings"]["mean_eigenvalue"] - mean) <= gamma(design.numel()) * mean
    assert found["settings"]["ridges"] == [0.1 * found["settings"]["mean_eigenvalue"]]


def test_held_out_samples_and_probes(files):
    found = document(
        *files.arguments,
        *GRID,
        "--old-test",
        files.first,
        "--old-test",
        files.second,
        "--new-test",
        files.new,
        "--probes",
        "7",
        "--max-forgetting",
        "0.2",
    )
    rows = {name: torch.arange(7) * len(task.features) // 7 for name, task in files.olds.items()}
    probes = {name: task.features[rows[name]] for name, task in files.olds.items()}
    expected = library(files, probes=probes, old_tests=olds_with_targets(files), new_test=files.new_task)
    assert without_seconds(found["plan"]) == json.loads(json.dumps(without_seconds(plain(expected.to_dict()))))
    assert found["settings"]["probes"] == 7
    assert found["inputs"]["new_test"] == files.new
    assert found["choice"]["point"] == expected.recommend(0.2).point.number


@pytest.mark.parametrize("on", ["worst", "mean"])
def test_the_tables_answer_the_question(files, on):
    result = run(*files.arguments, *GRID, "--max-forgetting", "0.3", "--on", on)
    assert result.exit_code == 0, result.output
    assert max(map(len, result.stdout.splitlines())) <= 100
    said = " ".join(result.stdout.split())
    plan = library(files)
    point = plan.recommend(0.3, on).point
    assert f"{len(plan.points)} points" in said
    for name in files.olds:
        assert name in said
    assert f"a ridge of {point.ridge:.6g}" in said
    assert ("any old task" if on == "worst" else "on average") in said
    assert "What becomes of each task" in said
    assert "\x1b" not in result.stdout


def test_where_nothing_satisfies_the_closest_is_told(files):
    result = run(*files.arguments, "--ridges", "1e-3", "--strengths", "1e-6", "--modes", "1", "--max-forgetting", "0")
    assert result.exit_code == 0, result.output
    assert "No point of this grid keeps" in " ".join(result.stdout.split())
    assert "ntkla: note: no point of the grid keeps" in result.stderr


def test_the_files(files, tmp_path):
    result = run(*files.arguments, *GRID, "--output", tmp_path / "out")
    assert result.exit_code == 0, result.output
    found = json.loads((tmp_path / "out" / "plan.json").read_text(encoding="utf-8"))
    assert found["choice"]["point"] == library(files).recommend().point.number
    assert (tmp_path / "out" / "plan.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert "Written to" in result.stdout


ERRORS = {
    "two ridges": (["--ridges", "1", "--relative-ridges", "1"], "Leave one out"),
    "strengths and weights": (["--strengths", "1", "--weights", "1"], "Leave one out"),
    "no number": (["--ridges", "1,x"], "expected numbers between commas"),
    "a negative ridge": (["--ridges=-1"], "expected finite numbers >= 0"),
    "a ridge twice": (["--ridges", "1,1"], "each number once"),
    "no modes": (["--modes", "0"], "whole numbers >= 1"),
    "steps without a rate": (["--steps", "10"], "Add --lr"),
    "a rate without steps": (["--lr", "0.1"], "Add --steps"),
    "probes": (["--probes", "0"], "--probes"),
    "forgetting": (["--max-forgetting=-1"], "expected a share from 0 to 1"),
    "forgetting in percent": (["--max-forgetting", "2"], "two points are 0.02"),
    "names": (["--name", "one"], "expected one for each"),
    "tests": (["--old-test", "x.npy"], "--old-test: expected one for each of 2 OLD, got 1"),
    "steps of cross-entropy": (["--cross-entropy", "--steps", "3", "--lr", "0.1"], "cross_entropy"),
    "divergence": (["--steps", "10", "--lr", "1e3"], "--lr: training diverges at every point of the grid"),
}


@pytest.mark.parametrize("name", ERRORS)
def test_errors_are_one_readable_line(files, name):
    typed, said = ERRORS[name]
    assert said in line_of(*files.arguments, *typed)


def test_the_largest_rate_is_told_as_it_is_typed(files):
    line = line_of(*files.arguments, "--ridges", "1", "--modes", "2", "--steps", "5", "--lr", "1e3", "--mean-loss")
    limit = line.split("up to ")[1].split(" is")[0]
    found = document(*files.arguments, "--ridges", "1", "--modes", "2", "--steps", "5", "--lr", limit, "--mean-loss")
    assert any(point["largest_stable_lr"] is None for point in found["plan"]["points"])


def test_old_tasks_without_labels_are_named(files, tmp_path):
    np.save(tmp_path / "bare.npy", files.new_task.features.numpy())
    np.save(tmp_path / "targets.npy", np.zeros((SAMPLES, CLASSES), dtype=np.float64))
    line = line_of(f"{tmp_path}/bare.npy,{tmp_path}/targets.npy", files.new, files.head)
    assert "Add its labels" in line


def test_what_is_missing_is_named():
    assert "NEW and HEAD are missing" in line_of("old.npy")


def test_the_choices_are_those_of_the_library():
    assert [one.value for one in Over] == list(OVER)


def test_without_matplotlib_the_picture_is_refused_beforehand(files, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert "matplotlib" in line_of(*files.arguments, "--output", tmp_path / "out")


def test_the_options_are_all_in_the_help():
    result = run("--help")
    from ntkla.app.command_line.plan_options import PlanOptions

    said = " ".join(result.stdout.split())
    hidden = {"old", "new", "head", "after"}
    for field in dataclasses.fields(PlanOptions):
        assert field.name in hidden or f"--{field.name.replace('_', '-')}" in said, field.name
