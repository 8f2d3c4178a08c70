"""The suite's own oracle turns red when the library is broken on purpose: otherwise green would mean nothing."""

from __future__ import annotations

import dataclasses
from fractions import Fraction

import pytest
import torch

from ntkla.forgetting import drift_bound
from ntkla.forgetting.descent.training import GradientDescent
from ntkla.forgetting.predict import predict_forgetting
from ntkla.linalg.arithmetic.products import PIECE
from ntkla.linalg.precision import UNIT_ROUNDOFF
from ntkla.linalg.ridge import ridge_solve
from ntkla.linalg.solve import normal_problem, refine
from ntkla.linalg.solve.stability import SolutionError, Stability
from ntkla.testing import FeatureSpec, Problem, RidgeProblem
from tests.soundness.judge import forecast, judge_forgetting, judge_ridge, judge_training, solve
from tests.soundness.test_wide import chained, self_product, spiked

RIDGE = [
    RidgeProblem(FeatureSpec(6, 3, seed=seed, condition=1e2, dtype=dtype), 2, seed=seed, ridge_relative=ridge)
    for seed in range(4)
    for dtype in ("float64", "float32", "bfloat16")
    for ridge in (1.0, 1e-6)
]
FORGETTING = [
    Problem(FeatureSpec(4, 3, seed=s), FeatureSpec(6, 3, seed=s + 9, condition=1e2), 2, seed=s, ridge_relative=1e-2)
    for s in range(12)
]
TRAINING = GradientDescent(0.5, 10)


def red(judge, cases) -> int:
    """How many of the cases the judge refuses."""
    refused = 0
    for case in cases:
        try:
            judge(case)
        except AssertionError:
            refused += 1
    return refused


def ridge_is_judged(problem, **options) -> None:
    judge_ridge(problem, solve(problem, **options))


def drift_is_judged(problem, **options) -> None:
    judge_forgetting(problem, forecast(problem, **options))


def training_is_judged(problem) -> None:
    judge_training(problem, TRAINING, forecast(problem, training=TRAINING))


def test_nothing_is_red_before_anything_is_planted():
    assert red(ridge_is_judged, RIDGE) == 0
    assert red(drift_is_judged, FORGETTING) == 0
    assert red(training_is_judged, FORGETTING) == 0


def test_a_ridge_bound_scaled_by_a_thousandth_is_caught():
    def planted(problem):
        solution = solve(problem)
        judge_ridge(problem, dataclasses.replace(solution, error_bound=solution.error_bound * 1e-3))

    assert red(planted, RIDGE) > 0


def test_a_drift_bound_scaled_by_a_thousandth_is_caught():
    def planted(problem):
        forgetting = forecast(problem)
        judge_forgetting(problem, dataclasses.replace(forgetting, error_bound=forgetting.error_bound * 1e-3))

    assert red(planted, FORGETTING) > 0


@pytest.mark.parametrize("field", ["drift", "head_update"])
def test_one_entry_moved_by_1e_8_is_caught_in_every_case(field):
    def planted(problem):
        forgetting = forecast(problem)
        moved = getattr(forgetting, field).clone()
        moved[-1, 0] += 1e-8 * moved.abs().max()
        judge_forgetting(problem, dataclasses.replace(forgetting, **{field: moved}))

    assert red(planted, FORGETTING) == len(FORGETTING)


def test_a_solution_moved_by_1e_8_is_caught_in_every_case():
    def planted(problem):
        solution = solve(problem)
        moved = solution.solution.clone()
        moved[0, -1] += 1e-8 * moved.abs().max()
        judge_ridge(problem, dataclasses.replace(solution, solution=moved))

    assert red(planted, RIDGE) == len(RIDGE)


def test_a_trained_drift_moved_by_1e_8_is_caught_in_every_case():
    def planted(problem):
        forgetting = forecast(problem, training=TRAINING)
        moved = forgetting.drift * (1 + 1e-8)
        judge_training(problem, TRAINING, dataclasses.replace(forgetting, drift=moved))

    assert red(planted, FORGETTING) == len(FORGETTING)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_number_that_is_none_is_caught(value):
    def planted(problem):
        forgetting = forecast(problem)
        spoilt = forgetting.drift.clone()
        spoilt[0, 0] = value
        judge_forgetting(problem, dataclasses.replace(forgetting, drift=spoilt))

    assert red(planted, FORGETTING) == len(FORGETTING)


def test_a_relative_bound_that_is_reported_too_small_is_caught():
    def planted(problem):
        forgetting = forecast(problem)
        judge_forgetting(problem, dataclasses.replace(forgetting, relative_bound=forgetting.relative_bound / 2))

    assert red(planted, FORGETTING) > 0


def shrunk(method):
    """A method of Stability whose error is a thousand times too small."""

    def smaller(self, *arguments):
        error = method(self, *arguments)
        return SolutionError(error.weights * 1e-3, error.offset * 1e-3)

    return smaller


# A tolerance at the rounding level leaves nothing but rounding in a bound: what is missing from it shows.
ROUNDING_ONLY = UNIT_ROUNDOFF[torch.float64]


@pytest.mark.parametrize(("method", "options"), [("remaining", {}), ("moved", {"tol": ROUNDING_ONLY})])
def test_a_broken_bound_inside_the_library_is_caught(monkeypatch, method, options):
    monkeypatch.setattr(Stability, method, shrunk(getattr(Stability, method)))
    assert red(lambda problem: ridge_is_judged(problem, **options), RIDGE) > 0


def test_a_forgotten_rounding_of_the_last_product_is_caught(monkeypatch):
    monkeypatch.setattr(drift_bound, "pieced_gamma", lambda inner: 0.0)
    assert red(lambda problem: drift_is_judged(problem, tol=ROUNDING_ONLY), FORGETTING) > 0


def test_a_residual_of_another_problem_is_caught_in_every_case(monkeypatch):
    """The refinement converges to what its residual says: targets off by 1e-8 there are certified, and wrong."""

    def other(problem, *arguments, **options):
        return genuine(dataclasses.replace(problem, targets=problem.targets * (1 + 1e-8)), *arguments, **options)

    genuine = refine.residual
    monkeypatch.setattr(refine, "residual", other)
    assert red(ridge_is_judged, RIDGE) == len(RIDGE)


# Corrections bring the residual far below its own rounding, which is then all that a bound consists of.
CORRECTED = [
    RidgeProblem(FeatureSpec(n, k, seed=s, condition=1e2), seed=s, ridge_relative=ridge, targets_kind=kind)
    for s in range(6)
    for n, k in ((6, 3), (2, 40))
    for ridge in (1e-2, 1e-6)
    for kind in ("random", "in_span")
]


def test_a_forgotten_rounding_of_the_residual_is_caught(monkeypatch):
    options = {"tol": 1e-12}
    assert red(lambda problem: ridge_is_judged(problem, **options), CORRECTED) == 0
    monkeypatch.setattr(Stability, "rounding", shrunk(Stability.rounding))
    assert red(lambda problem: ridge_is_judged(problem, **options), CORRECTED) > 0


# A residual that is off by a hundredth of itself, and old features far from the mean of the new ones.
INHERITED = [
    Problem(
        FeatureSpec(4, 3, seed=s, scale=1e3),
        FeatureSpec(6, 3, seed=s + 9, condition=1e2),
        2,
        seed=s,
        ridge_relative=ridge,
        bias=True,
        penalize_bias=penalize,
    )
    for s in range(4)
    for ridge in (1.0, 1e-2)
    for penalize in (False, True)
]


def judged_with_an_inexact_residual(problem) -> None:
    """The forecast for a residual that is off, with the bound of by how much, judged against the exact one's."""
    residual = problem.residual_new
    other = residual + 0.01 * residual.roll(1, dims=0)
    error = (other - residual).norm(dim=0) * (1 + 2.0**-40)
    arguments = {**problem.arguments(), "residual_new": other}
    judge_forgetting(problem, predict_forgetting(**arguments, residual_error=error))


def test_nothing_is_red_with_an_inexact_residual_before_anything_is_planted():
    assert red(judged_with_an_inexact_residual, INHERITED) == 0


def test_a_forgotten_error_of_the_residual_itself_is_caught(monkeypatch):
    monkeypatch.setattr(Stability, "inherited", shrunk(Stability.inherited))
    assert red(judged_with_an_inexact_residual, INHERITED) == len(INHERITED)


def test_distances_of_rows_that_are_too_small_are_caught(monkeypatch):
    genuine = Stability.row_distances
    monkeypatch.setattr(Stability, "row_distances", lambda self, design: genuine(self, design) * 1e-3)
    assert red(judged_with_an_inexact_residual, INHERITED) > 0


WIDE_RIDGE = 2.0**-6


def wide_ridge_is_judged() -> None:
    """One sample (1, 2^-27, ...), multiplied in the worst order within pieces: the forward product is what rounds.

    A float32 factor starts far off, so that a correction moves the solution to where the rounded product puts it, and
    a tolerance of 2^12 u leaves that product at the level of plain float64.
    """
    phi, tolerance = spiked(1).to(torch.float32), 2.0**12 * UNIT_ROUNDOFF[torch.float64]
    target = torch.ones((1, 1), dtype=torch.float64)
    solution = ridge_solve(phi, target, ridge=WIDE_RIDGE, route="primal", tol=tolerance)
    exact = 1 / (self_product() + Fraction(WIDE_RIDGE))
    assert abs(Fraction(float(solution.solution[0, 0])) - exact) <= Fraction(float(solution.error_bound[0, 0]))


def test_a_forgotten_rounding_of_the_forward_product_is_caught(monkeypatch):
    def in_pieces(a, b):
        pieces = zip(torch.split(a, PIECE, dim=1), torch.split(b, PIECE), strict=True)
        return sum(chained(left, right) for left, right in pieces)

    genuine = normal_problem.pieced_gamma
    monkeypatch.setattr(normal_problem, "pieced_matmul", in_pieces)
    wide_ridge_is_judged()
    monkeypatch.setattr(normal_problem, "pieced_gamma", lambda inner: genuine(inner) * 1e-3)
    with pytest.raises(AssertionError):
        wide_ridge_is_judged()
