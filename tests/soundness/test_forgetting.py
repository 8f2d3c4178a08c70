"""`predict_forgetting` against ball arithmetic: the drift of every old prediction within its bound, in every case."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ntkla.testing import FeatureSpec, Problem, check_forgetting, exact_rank, problems, ridges
from tests.soundness.judge import fewer, forecast, judge_forgetting, judge_training, promised_drift, trained_problems
from tests.soundness.pins import FORGETTING_CERTIFIED, FORGETTING_SOUND, pinned


@pinned(FORGETTING_SOUND)
@given(problems(ridge=ridges(weak=True), extreme=True))
def test_the_exact_drift_is_within_the_bound(problem):
    judge_forgetting(problem, forecast(problem))


@pinned(FORGETTING_CERTIFIED)
@given(problems())
def test_ridges_from_a_millionth_of_the_mean_eigenvalue_are_certified(problem):
    """Old and new features come from one backbone: the promise is for features of one scale."""
    problem = dataclasses.replace(problem, old=dataclasses.replace(problem.old, scale=problem.new.scale))
    forgetting = forecast(problem)
    judge_forgetting(problem, forgetting)
    if promised_drift(problem):
        assert forgetting.status.certified, forgetting.status


@given(problems(ridge=st.just(0.0), weight_decay=False))
def test_without_a_ridge_the_bound_is_finite_only_at_full_rank(problem):
    forgetting = forecast(problem)
    judge_forgetting(problem, forgetting)
    columns = problem.new.features + int(problem.bias)
    if bool(forgetting.error_bound.isfinite().all()):
        assert exact_rank(problem.features_new, problem.bias) == min(problem.new.n, columns)
    else:
        assert forgetting.status.code == "rank_deficient"


@given(problems(weight_decay=False))
def test_features_and_kernels_give_the_same_drift_within_their_bounds(problem):
    problem = dataclasses.replace(problem, penalize_bias=True)
    primal, dual = (forecast(dataclasses.replace(problem, route=route)) for route in ("primal", "dual"))
    assert (primal.route, dual.route) == ("primal", "dual")
    assert bool(((primal.drift - dual.drift).abs() <= primal.error_bound + dual.error_bound).all())


@given(problems(ridge=ridges(weak=True)))
def test_the_same_call_gives_the_same_bits(problem):
    first, second = forecast(problem), forecast(problem)
    assert torch.equal(first.drift, second.drift)
    assert torch.equal(first.error_bound, second.error_bound)
    assert first.diagnostics == second.diagnostics


@fewer(2)
@given(trained_problems())
def test_training_that_stops_early_is_within_the_bound(case):
    problem, training = case
    judge_training(problem, training, forecast(problem, training=training))


SAME = {"dtype": "float32", "spectrum": "geometric"}
LARGE = [
    Problem(FeatureSpec(2500, 4, **SAME), FeatureSpec(2300, 4, seed=1, **SAME), 3, ridge_relative=1e-6, bias=True),
    Problem(FeatureSpec(30, 400, **SAME), FeatureSpec(9, 400, seed=1, **SAME), 2, ridge_relative=1e-6, route="dual"),
    Problem(FeatureSpec(300, 60, seed=2), FeatureSpec(150, 60, condition=1e12), 20, ridge_relative=1e-6),
    Problem(FeatureSpec(99, 9), FeatureSpec(600, 9, "low_rank"), 2, weight_decay_relative=1e-3, bias=True),
]


@pytest.mark.parametrize("problem", LARGE, ids=repr)
def test_shapes_that_span_several_blocks_are_certified(problem):
    forgetting = forecast(problem)
    judge_forgetting(problem, forgetting)
    assert forgetting.status.certified, forgetting.status


def test_the_bound_is_tight_in_some_case():
    """The drift carries the rounding of one product: the bound must come within a stated factor of a true error."""
    ratios = []
    for seed in range(30):
        old, new = FeatureSpec(3, 2, seed=seed, condition=1e2), FeatureSpec(5, 2, seed=seed + 50, condition=1e2)
        problem = Problem(old, new, 2, seed=seed)
        ratios += [verdict.largest_ratio for verdict in check_forgetting(forecast(problem), problem)]
    assert TIGHTNESS < max(ratios) <= 1


# The largest true error is at least this share of its bound in some case.
TIGHTNESS = 1e-2
