"""Suite `softmax_regression`: a judge that sees gradients that are too large, and one command for all."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from ntkla.linalg.status import ABOVE_TOLERANCE, Status
from perf import __main__ as command
from perf import harness
from perf.harness import Contender
from perf.suites import softmax_regression as suite
from perf.suites.softmax_problem import Setting, make

CPU = torch.device("cpu")
SETTING = Setting(200, 8, 3, "float32", 1e-2, 1e-5)


def contender(ours: bool) -> Contender:
    return Contender("any", lambda: None, harness.Work(1.0, 1.0), ours=ours, digits=SETTING.target)


def test_the_relative_gradient_is_that_of_autograd():
    problem = make(SETTING, CPU)
    weight = torch.randn(3, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64, requires_grad=True)
    loss = torch.nn.functional.cross_entropy(problem.wide @ weight.T, problem.labels, reduction="sum")
    (loss + problem.ridge / 2 * weight.square().sum()).backward()
    expected = float(weight.grad.norm() / (problem.ridge * weight.detach().norm()))
    found = problem.relative_gradient(weight.detach())
    assert abs(found - expected) <= 2.0**-40 * expected


@pytest.mark.parametrize("fault", ["none", "moved", "uncertified"])
def test_the_judge_sees_planted_faults(fault):
    problem = make(SETTING, CPU)
    judge, found = suite.Judge(problem), suite._ours(problem, SETTING.target)
    if fault == "moved":
        found = replace(found, weight=found.weight * (1.0 + 1e-3))
    if fault == "uncertified":
        found = replace(found, status=Status(ABOVE_TOLERANCE, "planted"))
    assert judge(contender(ours=True), found).right == (fault == "none")
    if fault != "uncertified":
        assert judge(contender(ours=False), found.weight).right == (fault == "none")


def test_a_small_run_is_recorded(tmp_path):
    assert command.main(["softmax_regression", "--size", "small", "--output", str(tmp_path), "--no-memory"]) == 0
    (record,) = (json.loads(path.read_text()) for path in tmp_path.glob("*.json"))
    ours = [row for row in record["rows"] if row["ours"]]
    assert len(ours) == 2
    assert all(row["status"] == harness.TIMED and row["error"] <= row["bound"] * (1 + 2.0**-20) for row in ours)
    assert all("products with the Hessian" in row["parts"] for row in ours)
