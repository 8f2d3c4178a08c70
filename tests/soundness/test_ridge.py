"""`ridge_solve` against ball arithmetic: within its bound in every drawn case, certified where that is promised."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ntkla.linalg.precision import DEFAULT_TOLERANCE, SHORT_CHAIN, UNIT_ROUNDOFF
from ntkla.testing import FeatureSpec, RidgeProblem, check_ridge, exact_rank, ridge_problems, ridges
from tests.soundness.judge import judge_ridge, promised_ridge, solve
from tests.soundness.pins import RIDGE_CERTIFIED, RIDGE_RANK, RIDGE_SOUND, pinned


@pinned(RIDGE_SOUND)
@given(ridge_problems(ridge=ridges(weak=True), extreme=True))
def test_the_exact_solution_is_within_the_bound(problem):
    judge_ridge(problem, solve(problem))


@pinned(RIDGE_CERTIFIED)
@given(ridge_problems())
def test_ridges_from_a_millionth_of_the_mean_eigenvalue_are_certified(problem):
    solution = solve(problem)
    judge_ridge(problem, solution)
    if promised_ridge(problem):
        assert solution.status.certified, solution.status


@given(ridge_problems())
def test_certified_means_that_the_whole_error_is_within_the_tolerance(problem):
    """Entry by entry the bounds repeat the 2-norm of a column: the largest of a column bounds that norm."""
    solution = solve(problem)
    if not solution.status.certified or solution.diagnostics.relative_bound == 0.0:
        return
    bound, size = solution.error_bound.amax(0).square().sum(), solution.solution.square().sum()
    if problem.bias:
        bound, size = bound + solution.bias_error_bound.square().sum(), size + solution.bias.square().sum()
    assert float(bound.sqrt()) <= DEFAULT_TOLERANCE * float(size.sqrt()) * 2**0.5 * SHORT_CHAIN


@pinned(RIDGE_RANK)
@given(ridge_problems(ridge=st.just(0.0)))
def test_without_a_ridge_the_bound_is_finite_only_at_full_rank(problem):
    solution = solve(problem)
    judge_ridge(problem, solution)
    columns = problem.design.features + int(problem.bias)
    true_rank = exact_rank(problem.design.tensor, problem.bias)
    if bool(solution.error_bound.isfinite().all()):
        assert true_rank == min(problem.design.n, columns)
    else:
        assert solution.status.code == "rank_deficient"
        assert solution.diagnostics.rank_threshold >= 0
    decided = solution.diagnostics.rank + int(problem.bias and not problem.penalize_bias)
    assert decided <= true_rank


@given(ridge_problems())
def test_both_routes_agree_within_their_bounds(problem):
    if not problem.penalize_bias:
        problem = dataclasses.replace(problem, penalize_bias=True)
    primal, dual = (solve(dataclasses.replace(problem, route=route)) for route in ("primal", "dual"))
    assert (primal.route, dual.route) == ("primal", "dual")
    assert bool(((primal.solution - dual.solution).abs() <= primal.error_bound + dual.error_bound).all())


@given(ridge_problems(ridge=ridges(weak=True)))
def test_the_same_call_gives_the_same_bits(problem):
    first, second = solve(problem), solve(problem)
    assert torch.equal(first.solution, second.solution)
    assert torch.equal(first.error_bound, second.error_bound)
    assert first.diagnostics == second.diagnostics


LARGE = [
    RidgeProblem(FeatureSpec(2500, 5, "geometric", dtype="float32"), 3, ridge_relative=1e-6, bias=True),
    RidgeProblem(FeatureSpec(2500, 5, "clustered"), 3, ridge_relative=1e-6, bias=True, penalize_bias=False),
    RidgeProblem(FeatureSpec(700, 3, "flat", layout="expanded", dtype="bfloat16"), 2, route="primal"),
    RidgeProblem(FeatureSpec(8, 600, "geometric", condition=1e10), 2, ridge_relative=1e-6, route="dual"),
    RidgeProblem(FeatureSpec(8, 150, "geometric", condition=1e10), 2, ridge_relative=1e-6, route="primal"),
    RidgeProblem(FeatureSpec(90, 70, "geometric", condition=1e14, layout="transposed"), 40, ridge_relative=1e-6),
    RidgeProblem(FeatureSpec(600, 40, "low_rank", dtype="float32", layout="strided"), 5, ridge_relative=1e-6),
]


@pytest.mark.parametrize("problem", LARGE, ids=repr)
def test_shapes_that_span_several_blocks_are_certified(problem):
    solution = solve(problem)
    judge_ridge(problem, solution)
    assert solution.status.certified, solution.status


def test_the_bound_is_tight_in_some_case():
    """At a tolerance of one rounding the solution is correctly rounded, and the bound must come near that rounding."""
    ratios = []
    for seed in range(30):
        problem = RidgeProblem(FeatureSpec(6, 3, seed=seed, condition=1e2), 2, seed=seed, ridge_relative=1e-6)
        ratios += [v.largest_ratio for v in check_ridge(solve(problem, tol=UNIT_ROUNDOFF[torch.float64]), problem)]
    assert max(ratios) > TIGHTNESS
    assert max(ratios) <= 1


# The largest true error is at least this share of its bound in some case.
TIGHTNESS = 0.1
