"""Sample weights against ball arithmetic: the exact solution of the weighted problem lies within every bound."""

from __future__ import annotations

import dataclasses

import torch
from hypothesis import given
from hypothesis import strategies as st

from ntkla.forgetting.training import GradientDescent, GradientFlow
from ntkla.testing import exact_rank, problems, ridge_problems, ridges, with_bias
from tests.soundness.judge import (
    fewer,
    forecast,
    judge_forgetting,
    judge_ridge,
    judge_training,
    promised_drift,
    promised_ridge,
    solve,
)


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


@st.composite
def trained_problems(draw):
    """A weighted problem and a training whose learning rate is a share of the largest stable one."""
    problem = draw(problems(weighted=True))
    momentum, nesterov = draw(st.sampled_from([(0.0, False), (0.9, False), (0.9, True)]))
    design = with_bias(problem.features_new) if problem.bias else problem.features_new.to(torch.float64)
    weighted = design * problem.weights.to(torch.float64).sqrt()[:, None]
    largest = float(torch.linalg.matrix_norm(weighted, 2)) ** 2 + problem.ridge + problem.weight_decay
    share, steps = draw(st.sampled_from([0.5, 0.1, 0.95, 1e-4])), draw(st.sampled_from([1, 2, 3, 10, 1000]))
    if draw(st.booleans()):
        return problem, GradientFlow(time=share * steps / largest)
    limit = GradientDescent(1.0, 1, momentum, nesterov).stability_limit
    return problem, GradientDescent(share * limit / largest, steps, momentum, nesterov)


@fewer(2)
@given(trained_problems())
def test_training_that_stops_early_is_within_the_bound(case):
    problem, training = case
    judge_training(problem, training, forecast(problem, training=training))
