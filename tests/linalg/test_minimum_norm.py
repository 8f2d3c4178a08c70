"""Least squares without a ridge: ranks, the certificate of full rank, and the solutions that rest on it."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from ntkla.linalg.design import DesignMatrix
from ntkla.linalg.errors import ScaleError
from ntkla.linalg.ridge import RidgeSolution, ridge_solve
from ntkla.linalg.solve.minimum_norm import certified_least
from ntkla.linalg.solve.normal import BoundedMatrix, gram_matrix, normal_matrix
from ntkla.testing import FeatureSpec, compare, exact_rank, feature_specs
from ntkla.testing.ball_solutions import minimum_norm_solution
from ntkla.testing.balls import MOST_BITS, ball, design_matrix, diagonal, working_precision
from ntkla.testing.planted import planted_features
from ntkla.testing.spectra import normal


def positive_semidefinite(features: torch.Tensor, dual: bool, shift: float) -> bool:
    """Whether the smaller eigenvalues of the exact Gram matrix are all above `shift`: Gauss's pivots, in balls."""
    with working_precision(MOST_BITS >> 4):
        phi = design_matrix(features)
        gram = phi * phi.transpose() if dual else phi.transpose() * phi
        rows = (gram - diagonal([ball(shift)] * gram.nrows())).tolist()
        for i, pivot in enumerate(rows):
            if not pivot[i] > 0:
                return False
            for j in range(i + 1, len(rows)):
                factor = rows[j][i] / pivot[i]
                rows[j] = [a - factor * b for a, b in zip(rows[j], pivot, strict=True)]
        return True


def least(features: torch.Tensor, dual: bool) -> float:
    design = DesignMatrix(features)
    return certified_least(gram_matrix(design) if dual else normal_matrix(design))


@given(feature_specs(most=7), st.booleans())
@example(FeatureSpec(6, 4, condition=1e15), False)
@example(FeatureSpec(5, 5, "one_small", condition=1e10), True)
@example(FeatureSpec(6, 6, "clustered", condition=1e15), False)
def test_the_certified_eigenvalue_is_a_lower_bound(spec: FeatureSpec, dual: bool) -> None:
    bound = least(spec.tensor, dual)
    assert bound >= 0
    assert bound == 0 or positive_semidefinite(spec.tensor, dual, bound)


@pytest.mark.parametrize("dual", [False, True])
def test_the_certified_eigenvalue_is_about_half_of_the_exact_one(dual: bool) -> None:
    """Planted: eigenvalues n F s^2 with s of 4, 2, 1."""
    features = (
        planted_features(8, 4, (4.0, 2.0, 1.0, 1.0)) if not dual else planted_features(4, 8, (4.0, 2.0, 1.0, 1.0))
    )
    exact = 32.0
    assert 0.49 * exact < least(features, dual) <= exact / 2
    assert positive_semidefinite(features, dual, exact * (1 - 2.0**-40))
    assert not positive_semidefinite(features, dual, exact * (1 + 2.0**-40))


def test_nothing_is_certified_beyond_the_error_of_the_matrix() -> None:
    matrix, error = normal_matrix(DesignMatrix(planted_features(8, 4, (4.0, 2.0, 1.0, 1.0))))
    whole = certified_least(BoundedMatrix(matrix, error))
    assert certified_least(BoundedMatrix(matrix, error + whole)) <= error + whole * 2.0**-40
    assert certified_least(BoundedMatrix(matrix, 2 * whole)) == 0
    assert certified_least(BoundedMatrix(-matrix, error)) == 0


def judged(solution: RidgeSolution, features: torch.Tensor, targets: torch.Tensor, bias: bool) -> None:
    exact = minimum_norm_solution(features, targets, bias=bias)
    value, bound = solution.solution, solution.error_bound
    if bias:
        value, bound = torch.cat([value, solution.bias[None]]), torch.cat([bound, solution.bias_error_bound[None]])
    verdict = compare(value, bound, exact)
    assert verdict.sound, verdict


# spec, bias, free bias: what is decided.
DECIDED: list[tuple[FeatureSpec, bool, bool, dict[str, Any]]] = [
    (FeatureSpec(9, 4), False, False, {"route": "primal", "rank": 4, "factor": "cholesky:float64"}),
    (FeatureSpec(9, 4), True, False, {"route": "primal", "rank": 5, "factor": "cholesky:float64"}),
    (FeatureSpec(9, 4), True, True, {"route": "primal", "rank": 4, "factor": "cholesky:float64"}),
    (FeatureSpec(5, 5), False, False, {"route": "primal", "rank": 5, "factor": "cholesky:float64"}),
    (FeatureSpec(4, 9), False, False, {"route": "dual", "rank": 4, "factor": "cholesky:float64"}),
    (FeatureSpec(4, 9), True, False, {"route": "dual", "rank": 4, "factor": "cholesky:float64"}),
    # The minimum norm without the bias's own is another problem: no certificate covers it.
    (FeatureSpec(4, 9), True, True, {"route": "dual", "rank": 3, "factor": "svd:float64"}),
    (FeatureSpec(9, 4, "integer_low_rank"), False, False, {"route": "primal", "rank": 2, "factor": "svd:float64"}),
    (FeatureSpec(4, 9, "integer_low_rank"), False, False, {"route": "dual", "rank": 2, "factor": "svd:float64"}),
    (FeatureSpec(6, 3, "zero"), False, False, {"route": "primal", "rank": 0, "factor": "svd:float64"}),
]


@pytest.mark.parametrize(("spec", "bias", "free", "expected"), DECIDED)
def test_the_rank_decides_the_route_and_the_certificate(
    spec: FeatureSpec, bias: bool, free: bool, expected: dict[str, Any]
) -> None:
    targets = normal(spec.n, 2, 3)
    solution = ridge_solve(spec.tensor, targets, ridge=0.0, bias=bias, penalize_bias=not free)
    d = solution.diagnostics
    assert {"route": solution.route, "rank": d.rank, "factor": d.factor} == expected
    full = expected["factor"] != "svd:float64"
    assert bool(solution.error_bound.isfinite().all()) == full
    assert bool(solution.error_bound.isinf().all()) != full
    assert solution.status.code == ("certified" if full else "rank_deficient")
    if full:
        judged(solution, spec.tensor, targets, bias)
        assert exact_rank(spec.tensor, bias) == min(spec.n, spec.features + int(bias))
        assert d.rank_gap == math.inf


def test_the_gap_and_the_threshold_are_those_of_the_singular_values() -> None:
    """Planted singular values sqrt(n F) s: the second lies just above the threshold, or below it."""
    for small, rank in ((2.0**-40, 2), (2.0**-51, 1)):
        features = torch.diag(torch.tensor([1.0, small], dtype=torch.float64))
        d = ridge_solve(features, normal(2, 1, 1), ridge=0.0).diagnostics
        assert (d.rank, d.rank_threshold) == (rank, 2 * 2.0**-52)
        assert d.rank_gap == (math.inf if rank == 2 else 1 / small)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(("scale", "targets_scale"), [(1e-300, 1e75), (1e-250, 1e60), (1e-305, 1.0)])
def test_a_solution_beyond_float64_is_refused(scale: float, targets_scale: float, bias: bool) -> None:
    features, targets = normal(6, 4, 0).abs().clamp(min=1.0) * scale, normal(6, 2, 1) * targets_scale
    with pytest.raises(ScaleError, match="ridge=0: the minimum-norm solution is too large"):
        ridge_solve(features, targets, ridge=0.0, bias=bias, penalize_bias=not bias)


def test_a_rank_that_cannot_be_certified_has_no_bound() -> None:
    """A condition number of 2^27 is full rank to the singular values; Cholesky of its square, 2^54, cannot tell."""
    solution = ridge_solve(torch.diag(torch.tensor([1.0, 2.0**-27], dtype=torch.float64)), normal(2, 1, 1), ridge=0.0)
    assert solution.diagnostics.rank == 2
    assert solution.status.code == "rank_deficient"
    assert bool(solution.error_bound.isinf().all())


@pytest.mark.parametrize("spec", [FeatureSpec(5, 12, condition=1e6), FeatureSpec(300, 4, condition=1e8)], ids=repr)
@pytest.mark.parametrize("tol", [1e-3, None, 1e-14], ids=str)
def test_full_rank_is_solved_to_every_tolerance(spec: FeatureSpec, tol: float | None) -> None:
    targets = normal(spec.n, 2, 3)
    solution = ridge_solve(spec.tensor, targets, ridge=0.0, tol=tol)
    assert solution.status.certified, solution.status
    judged(solution, spec.tensor, targets, False)
