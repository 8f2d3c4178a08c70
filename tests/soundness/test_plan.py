"""Every number of a plan's points against ball arithmetic: the bounds hold, are tight somewhere, and can fail."""

from __future__ import annotations

from dataclasses import replace

import torch
from hypothesis import example, given

from ntkla.linalg.precision import PLAN_TOLERANCE
from ntkla.testing import FeatureSpec, Problem
from tests.soundness.plans import Planned, planned_problems

EASY = Planned(
    Problem(FeatureSpec(5, 4, seed=1), FeatureSpec(7, 4, condition=1e3), outputs=3, ridge_relative=1e-2, bias=True)
)


@given(planned_problems())
@example(EASY)
@example(replace(EASY, kind="nesterov", share=0.9, steps=100))
@example(Planned(Problem(FeatureSpec(2, 3), FeatureSpec(3, 3, spectrum="zero"), ridge_relative=1.0)))
@example(Planned(Problem(FeatureSpec(2, 3, spectrum="zero"), FeatureSpec(3, 3), ridge_relative=1e-6)))
def test_within_the_bounds(planned: Planned) -> None:
    for point in planned.made().points:
        for judged in planned.judged(point):
            assert judged.sound, (point, judged)
        assert planned.accuracy_holds(point), point


def test_bounds_are_tight_enough_to_be_of_use() -> None:
    """Proved far below the tolerance, and not far above what really is wrong."""
    for kind in ("plain", "momentum", "nesterov", "flow"):
        planned = replace(EASY, kind=kind)
        for point in planned.made().points:
            assert point.relative_bound <= PLAN_TOLERANCE / 1000
            assert point.status.certified
    ratios = [judged.largest_ratio for point in EASY.made().points for judged in EASY.judged(point)]
    assert max(ratios) > 1e-4


def test_planted_errors_are_caught() -> None:
    """A bound scaled down, or a value moved by 1e-8 of itself, is seen in some point."""
    points = EASY.made().points
    assert all(judged.sound for point in points for judged in EASY.judged(point))
    assert any(not judged.sound for point in points for judged in EASY.judged(point, scale=1e-6))
    assert all(not judged.sound for point in points for judged in EASY.judged(point, moved=1e-8))


def test_extreme_scales() -> None:
    for scale in (1e-12, 1e12, 1e-80, 1e60):
        problem = Problem(FeatureSpec(3, 3, scale=scale), FeatureSpec(4, 3, scale=scale), outputs=2)
        planned = Planned(problem, kind="momentum")
        for point in planned.made().points:
            assert bool(torch.tensor([point.old["old"].drift, point.new.loss], device="cpu").isfinite().all())
            for judged in planned.judged(point):
                assert judged.sound, (scale, point, judged)
