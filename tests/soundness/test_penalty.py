"""The forecast under penalties against ball arithmetic: bounds hold, are worth something, and see planted errors."""

from __future__ import annotations

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from ntkla.forgetting.training import GradientDescent, GradientFlow
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
    assert verdicts[0].largest_ratio > 2.0**-10


def test_references_and_rows_that_are_rounded_are_in_the_bound(monkeypatch):
    """Without what `inexact_rows` adds, pseudo-samples moved within their stated errors would go unnoticed."""
    from ntkla.linalg.solve.inexact_rows import Inexactness, InexactRows

    guarded = Guarded(FAST.problem, (Guard(PROBES, 1.0, 1e6, None, "other"),))
    assert_all_sound(tuple(guarded.judged(guarded.forecast())))
    made = InexactRows.__init__

    def moved(self, rows, targets, weight, rows_error, targets_error):
        shift = torch.zeros_like(rows)
        shift[0, 0] = 1e-9
        made(self, rows, targets, weight, rows_error + 1e-9, targets_error)
        rows += shift

    monkeypatch.setattr(InexactRows, "__init__", moved)
    found = guarded.forecast()
    monkeypatch.setattr(Inexactness, "at_optimum", lambda self, x, error, stability, ridge: error)
    blind = guarded.forecast()
    drift = drift_of(PROBES.tensor, guarded.exact(), bias=True)
    assert compare(found.drift, found.error_bound, drift).sound
    assert not compare(blind.drift, blind.error_bound, drift).sound
