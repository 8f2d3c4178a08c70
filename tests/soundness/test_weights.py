"""Sample weights against ball arithmetic: the exact solution of the weighted problem lies within every bound."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ntkla.forgetting.descent.training import GradientDescent
from ntkla.linalg.arithmetic.doubled import Doubled
from ntkla.linalg.precision import UNIT_ROUNDOFF
from ntkla.linalg.solve.weights import SampleWeights
from ntkla.testing import FeatureSpec, Problem, RidgeProblem, exact_rank, problems, ridge_problems, ridges
from tests.soundness.judge import (
    fewer,
    forecast,
    judge_forgetting,
    judge_ridge,
    judge_training,
    promised_drift,
    promised_ridge,
    solve,
    trained_problems,
)
from tests.soundness.test_planted import judged_with_an_inexact_residual, red


@given(ridge_problems(ridge=ridges(weak=True), extreme=True, weighted=True))
def test_the_exact_solution_is_within_the_bound(problem):
    judge_ridge(problem, solve(problem))


@given(ridge_problems(weighted=True))
def test_ridges_from_a_millionth_of_the_mean_eigenvalue_are_certified(problem):
    solution = solve(problem)
    judge_ridge(problem, solution)
    if promised_ridge(problem):
        assert solution.status.certified, solution.status


@given(problems(ridge=ridges(weak=True), extreme=True, weighted=True))
def test_the_exact_drift_is_within_the_bound(problem):
    judge_forgetting(problem, forecast(problem))


@given(problems(weighted=True))
def test_drifts_are_certified_from_a_millionth_of_the_mean_eigenvalue(problem):
    problem = dataclasses.replace(problem, old=dataclasses.replace(problem.old, scale=problem.new.scale))
    forgetting = forecast(problem)
    judge_forgetting(problem, forgetting)
    if promised_drift(problem):
        assert forgetting.status.certified, forgetting.status


@given(ridge_problems(ridge=st.just(0.0), weighted=True))
def test_without_a_ridge_the_bound_is_finite_only_at_full_rank(problem):
    solution = solve(problem)
    judge_ridge(problem, solution)
    counted = problem.design.tensor[problem.weights > 0]
    columns = problem.design.features + int(problem.bias)
    if bool(solution.error_bound.isfinite().all()):
        assert exact_rank(counted, problem.bias) == min(len(counted), columns)
    else:
        assert solution.status.code == "rank_deficient"


@fewer(2)
@given(trained_problems(weighted=True))
def test_training_that_stops_early_is_within_the_bound(case):
    problem, training = case
    judge_training(problem, training, forecast(problem, training=training))


# Several blocks of rows, the two routes, weights of a wide range, and a bias that is not penalised.
LARGE = [
    RidgeProblem(FeatureSpec(2300, 6, dtype="float32"), 3, ridge_relative=1e-6, bias=True, weighting="uniform"),
    RidgeProblem(FeatureSpec(1500, 9, "low_rank"), 2, ridge_relative=1e-6, weighting="wide"),
    RidgeProblem(FeatureSpec(9, 700, condition=1e10), 2, ridge_relative=1e-6, route="dual", weighting="wide"),
    RidgeProblem(FeatureSpec(9, 150), 2, bias=True, penalize_bias=False, route="dual", weighting="one_huge"),
    RidgeProblem(FeatureSpec(90, 70, condition=1e14, layout="transposed"), 20, ridge_relative=1e-6, weighting="zeros"),
]


@pytest.mark.parametrize("problem", LARGE, ids=repr)
def test_shapes_that_span_several_blocks_are_certified(problem):
    solution = solve(problem)
    judge_ridge(problem, solution)
    assert solution.status.certified, solution.status


PLANTED = [
    Problem(
        FeatureSpec(4, 3, seed=s),
        FeatureSpec(6, 3, seed=s + 9, condition=1e2),
        2,
        seed=s,
        ridge_relative=ridge,
        bias=bias,
        penalize_bias=s % 2 == 0,
        weighting=weighting,
    )
    for s in range(3)
    for bias in (False, True)
    for ridge in (1.0, 1e-4)
    for weighting in ("uniform", "counts", "zeros")
]
TRAINING = GradientDescent(0.05, 10)


def optimum_is_judged(problem, **options) -> None:
    judge_forgetting(problem, forecast(problem, **options))


def training_is_judged(problem) -> None:
    judge_training(problem, TRAINING, forecast(problem, training=TRAINING))


JUDGES = [optimum_is_judged, training_is_judged]


@pytest.mark.parametrize("judge", JUDGES)
def test_weights_that_are_off_are_caught_in_every_case(monkeypatch, judge):
    """All of the library then agrees on other weights; only the judge knows those that were given."""
    assert red(judge, PLANTED) == 0
    genuine = SampleWeights.of.__func__

    def other(cls, values, *arguments):
        moved = torch.arange(len(values), device="cpu") % 2 == 0
        return genuine(cls, torch.where(moved, values * (1 + 1e-7), values), *arguments)

    monkeypatch.setattr(SampleWeights, "of", classmethod(other))
    assert red(judge, PLANTED) == len(PLANTED)


def test_a_forgotten_rounding_of_the_weighting_is_caught(monkeypatch):
    """A tolerance at the rounding level leaves nothing but rounding in a bound: a plain product with w shows."""

    def judge(problem):
        optimum_is_judged(problem, tol=UNIT_ROUNDOFF[torch.float64])

    assert red(judge, PLANTED) == 0
    genuine = SampleWeights.times

    def rounded(self, rows, outputs):
        high, low = genuine(self, rows, outputs)
        return Doubled(high, torch.zeros_like(low))

    monkeypatch.setattr(SampleWeights, "times", rounded)
    assert red(judge, PLANTED) > 0


def test_norms_that_forget_the_weights_are_caught(monkeypatch):
    """An error of the residual reaches the update times the root of a weight, here up to a million."""
    heavy = [dataclasses.replace(p, weighting="one_huge", weights_dtype="float32") for p in PLANTED]
    assert red(judged_with_an_inexact_residual, heavy) == 0
    genuine = SampleWeights.of.__func__

    def forgetful(cls, *arguments):
        return dataclasses.replace(genuine(cls, *arguments), largest_root=1.0)

    monkeypatch.setattr(SampleWeights, "of", classmethod(forgetful))
    assert red(judged_with_an_inexact_residual, heavy) > 0
