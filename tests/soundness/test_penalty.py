"""The forecast under penalties against ball arithmetic: bounds hold, are worth something, and see planted errors."""

from __future__ import annotations

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from ntkla.forgetting.descent.training import GradientDescent, GradientFlow
from ntkla.linalg.solve.compensated import CompensatedSolution
from ntkla.linalg.solve.inexact_rows import InexactRows
from ntkla.linalg.solve.stability import SolutionError
from ntkla.testing import FeatureSpec, Problem, compare, drift_of, ridges
from tests.soundness.judge import assert_all_sound, assert_no_nan
from tests.soundness.penalties import Guard, Guarded, guarded_problems

PROBES = FeatureSpec(12, 6, condition=1e2, seed=3)
SPLIT = (Guard(PROBES, 0.5, 1.0, (0, 2)), Guard(FeatureSpec(9, 6, seed=4), 1.0, 10.0, (1, 2), "other", True))
FAST = Guarded(Problem(PROBES, FeatureSpec(9, 6, condition=1e3), outputs=3, ridge_relative=1e-3, bias=True), SPLIT)


@given(guarded_problems(ridge=ridges(weak=True), weighted=True))
@example(FAST)
def test_the_exact_optimum_is_within_the_bound(guarded):
    found = guarded.forecast()
    assert_no_nan(found)
    assert_all_sound(tuple(guarded.judged(found)))


@given(
    guarded_problems(weighted=True, most=5),
    st.sampled_from([(0.0, False), (0.9, False), (0.9, True), None]),
    st.sampled_from([0.5, 1e-4, 0.95]),
    st.sampled_from([1, 2, 10, 1000]),
)
@example(FAST, (0.9, True), 0.5, 1000)
def test_training_that_stops_early_is_within_the_bound(guarded, kind, share, steps):
    largest = guarded.largest_eigenvalue()
    if kind is None:
        training = GradientFlow(share * steps / largest)
    else:
        training = GradientDescent(share * GradientDescent(1.0, 1, *kind).stability_limit / largest, steps, *kind)
    found = guarded.forecast(training=training)
    assert_no_nan(found)
    assert_all_sound(tuple(guarded.judged(found, training)))


@pytest.mark.parametrize("training", [None, GradientFlow(1e-2)])
def test_planted_errors_are_caught(training):
    """A bound scaled by 1e-3, a drift moved by 1e-8, a weight or a mode that is another one: each must be seen."""
    found = FAST.forecast(training=training)
    drift = drift_of(PROBES.tensor, FAST.exact(training), bias=True)
    assert compare(found.drift, found.error_bound, drift).sound
    tight = FAST.forecast(training=training, tol=1e-15)
    assert compare(tight.drift, tight.error_bound, drift).sound
    assert not compare(tight.drift, tight.error_bound * 1e-3, drift).sound
    assert not compare(found.drift + 1e-8 * found.drift.abs().max(), found.error_bound, drift).sound
    heavier = FAST.protections
    heavier[0].penalty.weight *= 1 + 1e-6
    moved = FAST.forecast(training=training)
    heavier[0].penalty.weight /= 1 + 1e-6
    assert not compare(moved.drift, moved.error_bound, drift).sound


@pytest.mark.parametrize("training", [None, GradientDescent(0.05, 100, 0.9)])
def test_the_bound_is_tight_to_a_few_hundred_roundings(training):
    verdicts = FAST.judged(FAST.forecast(training=training, tol=1e-16), training)
    assert_all_sound(tuple(verdicts))
    assert verdicts[0].largest_ratio > 2.0**-8


@pytest.mark.parametrize("strength", [1e6, 1e12])
def test_what_is_inexact_in_the_rows_is_in_the_bound(strength, monkeypatch):
    """Pseudo-samples moved by 1e-12, and bounds that know, or know nothing of it; with and without a compensation."""
    guarded = Guarded(FAST.problem, (Guard(PROBES, 1.0, strength, None, "other"),))
    drift = drift_of(PROBES.tensor, guarded.exact(), bias=True)
    made = InexactRows.__init__

    def moved(self, rows, targets, weight, rows_rest, targets_rest):
        rows.high[0, 0] += 1e-12
        targets.high[1] -= 1e-12
        made(self, rows, targets, weight, rows_rest + 1.1e-12, targets_rest + 1.1e-12)

    monkeypatch.setattr(InexactRows, "__init__", moved)
    found = guarded.forecast(tol=1e-14)
    assert compare(found.drift, found.error_bound, drift).sound
    zeros = SolutionError(torch.zeros(3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64))
    monkeypatch.setattr(CompensatedSolution, "_added", lambda self, error: zeros)
    blind = guarded.forecast(tol=1e-14)
    assert not compare(blind.drift, blind.error_bound, drift).sound


def test_large_weights_and_small_ridges_are_certified_by_a_compensation():
    problem = Problem(PROBES, FeatureSpec(9, 6, condition=1e3), outputs=3, ridge_relative=1e-6, bias=True)
    guarded = Guarded(problem, (Guard(PROBES, 1.0, 1e9, None, "rounded"),))
    found = guarded.forecast()
    assert found.status.certified, found.status
    assert found.diagnostics.escalations[-1].startswith("what rounding left")
    assert_all_sound(tuple(guarded.judged(found)))
