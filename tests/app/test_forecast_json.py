"""The JSON document: strictly valid, and every number in it the one that `ntkla.forecast` gives."""

from __future__ import annotations

import json
import math
from dataclasses import fields

import pytest
import torch
from typer.testing import CliRunner

import ntkla
from ntkla.app.command_line.commands import app
from ntkla.app.reports.forecast_json import SCHEMA
from ntkla.app.reports.strict_json import plain
from tests.app.task_files import CLASSES, FEATURES, RIDGE, task_files

IN_A_REPORT = ("r_50", "r_90", "k_G", "k_star", "accuracy_before", "accuracy_forecast")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return task_files(tmp_path_factory.mktemp("files"))


@pytest.fixture(scope="module")
def document(files):
    arguments = ["forecast", *files.arguments, "--ridge", str(RIDGE), "--after", files.after, "--json", "--top", "4"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output

    def refused(constant: str):
        pytest.fail(f"{constant} is not JSON")

    return json.loads(result.stdout, parse_constant=refused)


def interval(value: object) -> dict[str, float]:
    return {"low": value.low, "high": value.high}


def test_what_went_in(document, files):
    assert (document["schema"], document["ntkla"], document["command"]) == (SCHEMA, ntkla.__version__, "forecast")
    inputs, settings = document["inputs"], document["settings"]
    assert inputs["head"] == {"argument": files.head, "weight": [CLASSES, FEATURES], "bias": True, "dtype": "float64"}
    assert inputs["after"]["argument"] == files.after
    assert list(inputs["old"]) == ["first_x", "second"]
    array = inputs["old"]["second"]["arrays"]["features"]
    assert array == {"path": files.second, "shape": [20, FEATURES], "dtype": "float32"}
    assert inputs["new"]["samples"] == 40
    assert settings["ridge"] == RIDGE
    assert settings["training"] == {"kind": "optimum"}


def test_every_number_of_a_task(document, files):
    reports = files.forecast(top=4)
    assert [task["name"] for task in document["tasks"]] == list(reports)
    for task in document["tasks"]:
        report = reports[task["name"]]
        assert task["samples"] == report.drift.shape[0]
        assert task["outputs"] == report.outputs.tolist()
        assert all(task[name] == interval(getattr(report, name)) for name in IN_A_REPORT)
        assert task["status"]["message"] == report.status.message
        assert task["drift"]["relative_bound"] == report.forgetting.relative_bound
        assert task["flips"]["certain"] == report.flips.certain.nonzero().flatten().tolist()
        assert task["flips"]["undecided"] == report.flips.undecided.nonzero().flatten().tolist()
        assert task["flips"]["high"] == report.flips.count.high
        modes, parts = task["modes"], report.decomposition
        for name in ("values", "value_error"):
            assert modes[name] == getattr(report.modes, name).tolist()
        for name in ("energy", "energy_error"):
            assert modes[name] == getattr(parts, name).tolist()
        assert modes["clusters"] == [[c.start, c.stop] for c in parts.clusters]
        assert modes["total"] == parts.total
        rms = float((report.drift**2).mean().sqrt())
        # Two ways of summing the squares.
        assert math.isclose(task["drift"]["rms"], rms, rel_tol=report.drift.numel() * torch.finfo(torch.float64).eps)


def test_classes_and_samples(document, files):
    reports = files.forecast(top=4)
    for task in document["tasks"]:
        report = reports[task["name"]]
        for found, expected in zip(
            [*task["classes"], *task["largest_drifts"]], [*report.classes, *report.samples], strict=True
        ):
            assert found == {field.name: plain(getattr(expected, field.name)) for field in fields(expected)}
        assert [one["label"] for one in task["classes"]] == [one.label for one in report.classes]
        assert [one["index"] for one in task["largest_drifts"]] == [one.index for one in report.samples]


def test_the_post_mortem(document, files):
    reports = files.forecast(top=4)
    moved = ntkla.forecast(files.olds["second"], files.new_task, files.linear, ridge=RIDGE).forgetting
    after = ntkla.LinearHead(files.linear.weight + moved.head_update, files.linear.bias + moved.bias_update)
    for name, fact in document["post_mortem"].items():
        expected = ntkla.post_mortem(reports[name], files.olds[name], files.linear, after)
        for field in ("relative_difference", "relative_error", "largest_difference", "head_rounding", "inside_fact"):
            assert fact[field] == plain(getattr(expected, field))
        assert fact["verdict"] == expected.verdict
        assert fact["accuracy_after"] == interval(expected.accuracy_after)
        assert fact["flips"]["certain"] == expected.flips.certain.nonzero().flatten().tolist()
        assert fact["energy"] == expected.decomposition.energy.tolist()
