"""Every number of a plan against ball arithmetic: the bounds hold, are tight enough to be of use, and can fail."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from hypothesis import example, given

import ntkla
from ntkla.linalg.precision import gamma
from ntkla.testing import FeatureSpec, Problem
from tests.soundness.plan_judge import counted, counted_standing, judged, judged_standing
from tests.soundness.plans import Planned, design, planned_problems

# With a head that leads somewhere: of zeros every class ties, and nothing about flips is decided.
EASY = Planned(
    Problem(FeatureSpec(5, 4, seed=1), FeatureSpec(7, 4, condition=1e3), outputs=3, ridge_relative=1e-2, bias=True),
    head_scale=1.0,
)
# More than the bound is off by more than the bound, whatever the error was.
MOVED = 3.0


def check(planned: Planned, plan: ntkla.Plan) -> None:
    """Every number and every count; where a ridge above 0 holds the whole head, each number has a bound."""
    free = planned.problem.bias and not planned.problem.penalize_bias
    for point in plan.points:
        verdicts = judged(planned, point)
        assert len(verdicts) == 2 or (free and not point.status.certified), point
        assert all(verdict.sound for verdict in verdicts), (point, verdicts)
        assert all(count.holds for count in counted(planned, point)), point
    for one in (plan.before, *plan.joint):
        verdicts = judged_standing(planned, one)
        assert len(verdicts) == 2 or (free and not math.isfinite(one.relative_bound)), one
        assert all(verdict.sound for verdict in verdicts), (one, verdicts)
        assert all(count.holds for count in counted_standing(planned, one)), one


@given(planned_problems())
@example(EASY)
@example(replace(EASY, kind="nesterov", share=0.9, steps=100))
@example(Planned(Problem(FeatureSpec(2, 3), FeatureSpec(3, 3, spectrum="zero"), ridge_relative=1.0)))
@example(Planned(Problem(FeatureSpec(2, 3, spectrum="zero"), FeatureSpec(3, 3), ridge_relative=1e-6)))
# The joint optimum's residual carried the rounding of a head that plays no part in it.
@example(Planned(Problem(FeatureSpec(4, 3), FeatureSpec(5, 3), outputs=2, ridge_relative=1.0), head_scale=1e6))
@example(Planned(Problem(FeatureSpec(4, 3), FeatureSpec(5, 3), outputs=2, ridge_relative=1.0), head_scale=1e8))
def test_within_the_bounds(planned: Planned) -> None:
    check(planned, planned.made())


def test_the_judge_judges_ordinary_plans_whole() -> None:
    """Nothing of them is left open, neither by the plan nor by its judge."""
    for kind in ("plain", "momentum", "nesterov", "flow"):
        planned = replace(EASY, kind=kind)
        plan = planned.made()
        assert len(plan.points) == 4
        for point in plan.points:
            assert [count.decided for count in counted(planned, point)] == [True, True]
            assert point.old["old"].accuracy.decided
            assert point.old["old"].flips.decided
        for one in (plan.before, *plan.joint):
            assert [count.decided for count in counted_standing(planned, one)] == [True]
        assert len(plan.joint) == 1


def test_bounds_are_tight_enough_to_be_of_use() -> None:
    """Of the optimum, a condition's worth of what sums of so many terms lose; training that stops early loses less."""
    for kind in ("plain", "momentum", "nesterov", "flow"):
        planned = replace(EASY, kind=kind)
        phi = design(planned.problem.features_new, planned.problem.bias)
        largest = float(torch.linalg.matrix_norm(phi, 2)) ** 2
        condition = 1.0 + largest / planned.problem.ridge
        for point in planned.made().points:
            assert point.relative_bound <= gamma(phi.numel()) * condition * (1.0 + planned.strength)
            assert point.status.certified


def test_planted_errors_are_caught() -> None:
    """A bound below the error that was seen, and a value moved by a few of its bounds, everywhere."""
    plan = EASY.made()
    for judge, results in ((judged, plan.points), (judged_standing, (plan.before, *plan.joint))):
        for one in results:
            verdicts = judge(EASY, one)
            assert verdicts
            assert all(verdict.sound for verdict in verdicts)
            assert all(not verdict.sound for verdict in judge(EASY, one, moved=MOVED))
            least = min(verdict.largest_ratio for verdict in verdicts)
            assert all(not verdict.sound for verdict in judge(EASY, one, scale=least / 2))


def test_planted_counts_are_caught() -> None:
    """An accuracy, and a number of flips, of one sample more or less."""
    for point in EASY.made().points:
        outcome, samples = point.old["old"], EASY.problem.old.n
        for more in (-1, 1):
            flips = ntkla.Decision(outcome.flips.low + more, outcome.flips.high + more)
            share = more / samples
            accuracy = ntkla.Decision(outcome.accuracy.low + share, outcome.accuracy.high + share)
            for wrong in (replace(outcome, flips=flips), replace(outcome, accuracy=accuracy)):
                assert not all(count.holds for count in counted(EASY, replace(point, old={"old": wrong})))


def test_extreme_scales() -> None:
    for scale in (1e-12, 1e12, 1e-80, 1e60):
        problem = Problem(FeatureSpec(3, 3, scale=scale), FeatureSpec(4, 3, scale=scale), outputs=2)
        planned = Planned(problem, kind="momentum")
        plan = planned.made()
        for point in plan.points:
            assert bool(torch.tensor([point.old["old"].drift, point.new.loss], device="cpu").isfinite().all())
        check(planned, plan)
