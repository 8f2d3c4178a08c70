"""The references agree with each other: float64 ones with exact ones, and exact ones that go different ways."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given

from ntkla.linalg.precision import gamma
from ntkla.testing import (
    Exact,
    FeatureSpec,
    Problem,
    RidgeProblem,
    check_forgetting,
    compare,
    dense_drift_dual,
    dense_drift_kronecker,
    dense_drift_primal,
    dense_kronecker,
    dense_ridge_solution,
    drift_dual,
    drift_of,
    exact_rank,
    exact_update,
    head_update,
    minimum_norm_solution,
    problems,
    ridge_solution,
    ridge_solution_dual,
    vec,
    with_bias,
)
from ntkla.testing.balls import FIRST_BITS, ball_matrix, flint, working_precision

WELL_CONDITIONED = 1e2


def rounding(*shape: int, scale: torch.Tensor) -> torch.Tensor:
    """What a backward stable float64 solver may be off by on the well conditioned problems of this file."""
    return torch.full(shape, gamma(200) * WELL_CONDITIONED**2 * float(scale.abs().max()), dtype=torch.float64)


def overlap(left: Exact, right: Exact) -> bool:
    """True when two enclosures of what must be the same matrix have a point in common, at two precisions."""
    return all(left.at(bits).overlaps(right.at(bits)) for bits in (FIRST_BITS * 2, FIRST_BITS * 8))


@pytest.mark.parametrize("bias", [False, True])
def test_exact_primal_and_dual_enclose_the_same_solution(bias):
    problem = RidgeProblem(FeatureSpec(5, 7, "geometric", condition=1e10, dtype="bfloat16"), 2, bias=bias)
    arguments = {"ridge": problem.ridge, "bias": bias}
    primal = ridge_solution(problem.design.tensor, problem.targets, **arguments)
    dual = ridge_solution_dual(problem.design.tensor, problem.targets, **arguments)
    assert overlap(primal, dual)
    moved = Exact(lambda: dual.compute() * (1 + flint().arb((1, -100))))
    assert not overlap(primal, moved)


@given(problems(weight_decay=False))
def test_exact_drift_is_the_same_by_features_and_by_kernels(problem):
    if not problem.penalize_bias:
        return
    primal = drift_of(problem.features_old, exact_update(problem), bias=problem.bias)
    dual = drift_dual(
        problem.features_old, problem.features_new, problem.residual_new, ridge=problem.ridge, bias=problem.bias
    )
    assert overlap(primal, dual)


def test_dense_references_agree_with_the_exact_drift():
    spec = {"spectrum": "geometric", "condition": WELL_CONDITIONED}
    problem = Problem(FeatureSpec(4, 5, seed=1, **spec), FeatureSpec(6, 5, seed=2, **spec), 3, ridge_relative=0.1)
    exact = drift_of(problem.features_old, exact_update(problem))
    arrays = (problem.features_old, problem.features_new, problem.residual_new)
    drifts = {
        "primal": dense_drift_primal(*arrays, problem.ridge),
        "dual": dense_drift_dual(*arrays, problem.ridge),
        "class": dense_drift_kronecker(*arrays, problem.ridge, "class"),
        "sample": dense_drift_kronecker(*arrays, problem.ridge, "sample"),
    }
    for name, drift in drifts.items():
        verdict = compare(drift, rounding(4, 3, scale=drift), exact, name)
        assert verdict.sound, verdict


def test_dense_weight_decay_agrees_with_the_exact_one():
    spec = {"spectrum": "geometric", "condition": WELL_CONDITIONED}
    problem = Problem(FeatureSpec(4, 5, **spec), FeatureSpec(6, 5, seed=2, **spec), 3, weight_decay_relative=0.5)
    drift = dense_drift_primal(
        problem.features_old,
        problem.features_new,
        problem.residual_new,
        problem.ridge,
        problem.weight_decay,
        problem.head_weight,
    )
    exact = drift_of(problem.features_old, exact_update(problem))
    assert compare(drift, rounding(4, 3, scale=drift), exact).sound
    without = head_update(problem.features_new, problem.residual_new, ridge=problem.ridge + problem.weight_decay)
    assert not compare(drift, rounding(4, 3, scale=drift), drift_of(problem.features_old, without)).sound


def test_a_bias_is_a_feature_of_ones_and_may_be_free():
    problem = RidgeProblem(FeatureSpec(6, 3, condition=WELL_CONDITIONED), 2, bias=True, ridge_relative=0.1)
    features, targets = problem.design.tensor, problem.targets
    penalised = ridge_solution(features, targets, ridge=problem.ridge, bias=True)
    dense = dense_ridge_solution(with_bias(features), targets, problem.ridge)
    assert compare(dense, rounding(4, 2, scale=dense), penalised).sound

    free = ridge_solution(features, targets, ridge=problem.ridge, bias=True, penalize_bias=False)
    # A free bias leaves residuals with mean zero: that is its normal equation.
    with working_precision(FIRST_BITS):
        fitted = ball_matrix(with_bias(features)) * free.compute() - ball_matrix(targets)
        sums = flint().arb_mat([[1] * 6]) * fitted
    assert sums.contains(flint().arb_mat(1, 2))
    assert not overlap(penalised, free)


@pytest.mark.parametrize("spectrum", ["integer_low_rank", "geometric", "zero"])
@pytest.mark.parametrize("shape", [(5, 3), (3, 5), (4, 4), (1, 1)])
@pytest.mark.parametrize("bias", [False, True])
def test_minimum_norm_solution_satisfies_its_definition(spectrum, shape, bias):
    """X is Phi^+ T iff Phi^T (Phi X - T) = 0 and X lies in the row space of Phi; here by Penrose's conditions."""
    features = FeatureSpec(*shape, spectrum, twist="twin_rows").tensor
    n, columns = shape[0], shape[1] + bias
    identity = torch.eye(n, dtype=torch.float64)
    with working_precision(FIRST_BITS * 8):
        phi = ball_matrix(with_bias(features) if bias else features)
        inverse = minimum_norm_solution(features, identity, bias=bias).compute()
        assert (phi * inverse * phi).overlaps(phi)
        assert (inverse * phi * inverse).overlaps(inverse)
        assert (phi * inverse).overlaps((phi * inverse).transpose())
        assert (inverse * phi).overlaps((inverse * phi).transpose())
    assert exact_rank(features, bias) <= min(n, columns)


def test_exact_rank_decides_where_floating_point_cannot():
    twin = FeatureSpec(6, 4, "geometric", twist="twin_columns").tensor
    assert exact_rank(twin) == 3
    nudged = twin.clone()
    nudged[0, 3] = torch.nextafter(nudged[0, 3], torch.tensor(9.0, dtype=torch.float64))
    assert exact_rank(nudged) == 4
    assert exact_rank(torch.zeros(3, 2)) == 0
    assert exact_rank(torch.zeros(3, 2), bias=True) == 1


@pytest.mark.parametrize("order", ["class", "sample"])
def test_kronecker_order_matches_its_vec(order):
    gram = torch.arange(9, dtype=torch.float64).reshape(3, 3)
    outputs = torch.arange(6, dtype=torch.float64).reshape(3, 2)
    assert torch.equal(dense_kronecker(gram, 2, order) @ vec(outputs, order), vec(gram @ outputs, order))
    other = "sample" if order == "class" else "class"
    assert not torch.equal(dense_kronecker(gram, 2, order) @ vec(outputs, other), vec(gram @ outputs, other))


def test_check_forgetting_needs_nothing_from_the_library_but_its_fields():
    """Other people's results are judged as well: anything with the fields of a forecast will do."""
    problem = Problem(FeatureSpec(3, 4), FeatureSpec(5, 4, seed=1), 2, ridge_relative=0.1)

    class Mine:
        drift = dense_drift_dual(problem.features_old, problem.features_new, problem.residual_new, problem.ridge)
        head_update = -dense_ridge_solution(problem.features_new, problem.residual_new, problem.ridge).T
        bias_update = None
        error_bound = rounding(3, 2, scale=drift)
        update_error_bound = rounding(2, scale=head_update)

    assert all(verdict.sound for verdict in check_forgetting(Mine(), problem))
