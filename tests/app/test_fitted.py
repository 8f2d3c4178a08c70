"""`ntkla forecast OLD NEW fit`: a head for a person who has none."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import ntkla
from ntkla.app.command_line.commands import app
from ntkla.app.failures import EXIT_ERROR
from ntkla.app.reports.fitted import RELATIVE_RIDGE
from ntkla.linalg.precision import DEFAULT_TOLERANCE, gamma
from tests.app.task_files import CLASSES, FEATURES, task_files


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return task_files(tmp_path_factory.mktemp("files"))


def run(*arguments: object):
    return CliRunner().invoke(app, ["forecast", *map(str, arguments), "--ridge", "2"])


def fitted(features: torch.Tensor, labels: torch.Tensor) -> ntkla.LinearHead:
    """The head by its definition: the normal equations in dense float64."""
    design = torch.cat([features.double(), torch.ones(len(features), 1, dtype=torch.float64)], 1)
    normal = design.T @ design
    ridge = RELATIVE_RIDGE * normal.trace() / len(normal)
    targets = torch.nn.functional.one_hot(labels, CLASSES).double()
    stacked = torch.linalg.solve(normal + ridge * torch.eye(len(normal), dtype=torch.float64), design.T @ targets)
    return ntkla.LinearHead(stacked[:-1].T.contiguous(), stacked[-1])


@pytest.mark.parametrize("kept", [None, [0]])
def test_the_head_is_ridge_regression_on_old(files, kept):
    old = files.olds["first_x"]
    extra = [] if kept is None else ["--old-classes", ",".join(map(str, kept))]
    result = run(files.first, files.new, "fit", "--json", *extra)
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)["tasks"][0]
    chosen = old if kept is None else old.select(kept)
    head = fitted(chosen.features, chosen.labels)
    report = ntkla.forecast(chosen, files.new_task, head, ridge=2.0)
    assert found["accuracy_before"]["low"] == float(report.accuracy_before)
    assert found["accuracy_forecast"]["low"] == float(report.accuracy_forecast)
    rms = float(report.drift.square().mean().sqrt())
    # The two heads differ by the tolerance of one and the rounding of the other's solve, amplified by the ridge.
    slack = (DEFAULT_TOLERANCE + gamma(FEATURES**2) / RELATIVE_RIDGE * FEATURES) * CLASSES
    assert abs(found["drift"]["rms"] - rms) <= slack * rms


def test_under_cross_entropy_the_head_is_softmax_regression_on_old(files):
    old = files.olds["first_x"]
    result = run(files.first, files.new, "fit", "--json", "--cross-entropy")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)["tasks"][0]
    design = torch.cat([old.features.double(), torch.ones(len(old.features), 1, dtype=torch.float64)], 1)
    ridge = RELATIVE_RIDGE * float(design.square().sum()) / design.shape[1]
    targets = torch.nn.functional.one_hot(old.labels, CLASSES).double()
    fit = ntkla.softmax_regression(old.features, targets, ridge=ridge, bias=True)
    report = ntkla.forecast(
        old, files.new_task, ntkla.LinearHead(fit.weight, fit.bias), ridge=2.0, loss="cross_entropy"
    )
    assert found["accuracy_before"]["low"] == float(report.accuracy_before)
    # Both fits are within their bound of the optimum; nothing amplifies it but the features.
    slack = 2 * fit.error_bound * float(design.norm()) + float(report.error_bound.max())
    assert abs(found["drift"]["rms"] - report.drift_rms) <= slack


def test_the_tables_say_that_the_head_has_seen_the_samples(files):
    result = run(files.first, files.new, "fit")
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("The head was fitted to first_x: its accuracy before is on samples it has seen.")


def test_targets_can_be_fitted_as_well(files):
    np.save(files.folder / "targets.npy", np.linspace(-1, 1, 30 * CLASSES).reshape(30, CLASSES))
    result = run(f"{files.folder}/first_x.npy,{files.folder}/targets.npy", files.new, "fit", "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["inputs"]["head"]["weight"] == [CLASSES, FEATURES]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (lambda f: [f.first, f.second, f.new, "fit"], "one OLD, and 2 are given"),
        (lambda f: [f.first.split(",")[0], f.new, "fit"], "has no labels"),
        (lambda f: [zeros(f), f.new, "fit"], "a weight above 0"),
    ],
)
def test_what_cannot_be_fitted_is_one_line(files, arguments, message):
    result = run(*arguments(files))
    assert result.exit_code == EXIT_ERROR
    assert message in result.stderr
    assert result.stderr.count("\n") == 1


def zeros(files) -> str:
    """A task whose samples all have weight 0; the bias alone would make features of zeros a problem."""
    np.save(files.folder / "none.npy", np.zeros(30))
    return f"{files.first},{files.folder}/none.npy"


def test_a_file_of_that_name_is_a_head(files, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "fit").write_bytes(b"")
    assert "fit" in run(files.first, files.new, "fit").stderr
