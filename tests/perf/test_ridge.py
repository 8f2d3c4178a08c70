"""Suite `ridge`: a judge that sees what is wrong, peers that solve the same problem, and one command for all."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from ntkla.linalg.status import ABOVE_TOLERANCE, Status
from perf import __main__ as command
from perf import harness
from perf.harness import Contender
from perf.suites import ridge as suite
from perf.suites import ridge_contenders
from perf.suites.forecast_problem import make
from perf.suites.ridge_contenders import Problem


@pytest.fixture(scope="module", params=[(60, 20), (20, 60)], ids=["primal", "dual"])
def problem(request):
    drawn = make(1, *request.param, 3, "float32", 1e-2)
    return Problem(torch.from_numpy(drawn.new), torch.from_numpy(drawn.residual), drawn.ridge)


def contender(ours: bool) -> Contender:
    return Contender("any", lambda: None, harness.Work(1.0, 1.0), ours=ours)


@pytest.mark.parametrize("fault", ["none", "moved", "bound", "uncertified"])
def test_the_judge_sees_planted_faults(problem, fault):
    judge = suite.Judge(problem)
    found = ridge_contenders.contenders(problem)[0][0].call()
    if fault == "moved":
        found = replace(found, solution=found.solution * (1.0 + 1e-6))
    if fault == "bound":
        # The last output is one that the judge knows to thirty digits.
        found = replace(found, error_bound=found.error_bound * 0.0)
    if fault == "uncertified":
        found = replace(found, status=Status(ABOVE_TOLERANCE, "planted"))
    assert judge(contender(ours=True), found).right == (fault == "none")
    if fault in ("none", "moved"):
        assert judge(contender(ours=False), found.solution).right == (fault == "none")


def test_every_expert_finds_the_solution(problem):
    judge = suite.Judge(problem)
    experts = [c for c in ridge_contenders.contenders(problem)[0] if not c.ours]
    assert len(experts) == 4
    for one in experts:
        verdict = judge(one, one.call())
        assert verdict.right, (one.name, verdict)


def test_a_small_run_is_recorded(tmp_path):
    assert command.main(["ridge", "--size", "small", "--device", "cpu", "--output", str(tmp_path)]) == 0
    (record,) = (json.loads(path.read_text()) for path in tmp_path.glob("*.json"))
    ours = [row for row in record["rows"] if row["ours"]]
    assert len(ours) == 16
    assert all(row["status"] == harness.TIMED and row["error"] <= row["bound"] for row in ours)
    assert all("Gram" in row["parts"] for row in ours)
