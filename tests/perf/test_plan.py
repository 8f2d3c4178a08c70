"""Suite `plan`: a judge that sees wrong points, broken bounds and wrong counts, and one command for all."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from ntkla.linalg.precision import gamma
from perf import __main__ as command
from perf import harness, tables
from perf.harness import Contender
from perf.suites import plan, plan_peers
from perf.suites.plan_problem import make

CPU = torch.device("cpu")
SETTING = plan._SMALL[0]


def contender(ours: bool = False, digits: float = 2.0**-53) -> Contender:
    return Contender("any", lambda: None, harness.Work(1.0, 1.0), ours=ours, digits=digits)


def test_the_judge_accepts_every_contender():
    problem = make(SETTING, CPU)
    judge = plan.Judge(problem)
    for one in [*plan.ours(problem, CPU), *plan_peers.contenders(problem)]:
        verdict = judge(one, one.call())
        assert verdict.right, (one.name, verdict)


@pytest.mark.parametrize("fault", ["drift", "loss", "hits"])
def test_the_judge_sees_planted_faults(fault):
    problem = make(SETTING, CPU)
    judge = plan.Judge(problem)
    answer = plan_peers.each(problem, range(SETTING.points))
    assert judge(contender(), answer).right
    changed = getattr(answer, fault).clone()
    changed[-1] += 2 if fault == "hits" else 1e-6
    assert not judge(contender(), answer._replace(**{fault: changed})).right


def test_ours_must_keep_its_own_bounds():
    problem = make(SETTING, CPU)
    judge, found = plan.Judge(problem), plan.ours(problem, CPU)[0].call()
    assert judge(contender(ours=True), found).right
    new, last = found.points.new, len(found.points) - 1
    moved = new.drift.clone()
    moved[last] += 1e-6
    none = torch.zeros_like(new.hits_low)
    for broken in (
        replace(new, drift=moved),
        replace(new, loss=new.loss + 1e-6),
        replace(new, hits_low=none, hits_high=none),
    ):
        points = replace(found.points, new=broken)
        assert not judge(contender(ours=True), replace(found, points=points)).right


def test_the_peers_penalty_is_the_papers():
    """The loop on normal matrices and the module under autograd end at the same head, to rounding."""
    problem = make(SETTING, CPU)
    one = next(c for c in plan_peers.contenders(problem) if c.name == plan_peers.SGD)
    trained = one.call()
    looped = plan_peers.each(problem, trained.numbers)
    off = float((trained.drift - looped.drift).abs().max() / looped.drift.max())
    assert off <= gamma(100 * SETTING.n * SETTING.features)


def test_one_command_records_every_contender(tmp_path):
    arguments = ["plan", "--size", "small", "--device", "cpu", "--no-memory", "--output", str(tmp_path)]
    assert command.main(arguments) == 0
    (path,) = tmp_path.glob("*.json")
    record = json.loads(path.read_text())
    rows = record["rows"]
    assert {row["contender"] for row in rows} == {*plan.TOLERANCES, plan_peers.EACH, plan_peers.SGD, plan_peers.LBFGS}
    assert all(row["seconds"] for row in rows)
    mine = next(row for row in rows if row["contender"] == "ntkla")
    assert mine["facts"]["certified"] == mine["facts"]["points"] == SETTING.points
    assert mine["facts"]["undecided_samples"] == 0
    assert "decompositions" in mine["parts"]
    assert "1 of 30 points" in tables.long([record])
