"""Sums and eigendecompositions beyond float64 against ball arithmetic."""

from __future__ import annotations

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from ntkla.linalg.arithmetic.accurate import (
    accurate_adjoint,
    accurate_normal_matrix,
    accurate_outputs,
    accurate_sum,
    doubled_adjoint,
    doubled_outputs,
)
from ntkla.linalg.design import DesignMatrix, widened
from ntkla.linalg.eigen.diagonalization import certified, diagonalize
from ntkla.linalg.precision import TINY64, U64, norm_upper
from ntkla.linalg.solve.normal import normal_matrix
from ntkla.linalg.solve.weights import SampleWeights
from ntkla.testing import Exact, FeatureSpec, compare_columns, feature_specs, gram_eigenvalues
from ntkla.testing.balls import ball, ball_matrix, design_matrix, diagonal, times_weights, upper
from ntkla.testing.samples import WEIGHTINGS, sample_weights
from ntkla.testing.spectra import normal

FLOORS = st.sampled_from([0.0, 1e-3])


@given(feature_specs(most=7), st.integers(1, 4), st.integers(0, 2), st.integers(1, 3))
def test_sums_within_their_bound(spec: FeatureSpec, outputs: int, terms: int, level: int) -> None:
    a, b = widened(spec.tensor), normal(spec.features, outputs, spec.seed)
    added = [normal(spec.n, outputs, spec.seed + i) * spec.scale for i in range(terms)]
    found = accurate_sum(a, b, added, level)

    def compute():
        return sum((ball_matrix(term) for term in added), ball_matrix(a) * ball_matrix(b))

    assert compare_columns(found.value, found.error, Exact(compute)).sound


def test_level_one_is_one_rounding() -> None:
    """Without cancellation the error is that of the result alone, however long the sum."""
    a, b = normal(4, 2000, 1).abs(), normal(2000, 3, 2).abs()
    found = accurate_sum(a, b, [])
    assert bool((found.error <= 2 * U64 * norm_upper(found.value, dim=0)).all())


@given(feature_specs(most=7), st.booleans(), st.integers(1, 3), st.sampled_from(WEIGHTINGS))
@example(FeatureSpec(5, 4, dtype="bfloat16", scale=1e12, layout="strided"), True, 2, "none")
@example(FeatureSpec(5, 4, dtype="float32", scale=1e-12), True, 2, "one_huge")
def test_design_products_within_their_bound(spec: FeatureSpec, bias: bool, outputs: int, weighting: str) -> None:
    design = DesignMatrix(spec.tensor, bias)
    w, t = normal(design.columns, outputs, spec.seed), normal(spec.n, outputs, spec.seed + 1)
    values = sample_weights(weighting, spec.n, seed=spec.seed)
    weights = None if values is None else SampleWeights.of(values, design, t)
    forward, adjoint = accurate_outputs(design, w, t), accurate_adjoint(design, t, [w], weights)
    phi = design_matrix(spec.tensor, bias)
    exact_forward = Exact(lambda: phi * ball_matrix(w) - ball_matrix(t))
    exact_adjoint = Exact(lambda: phi.transpose() * times_weights(ball_matrix(t), values) + ball_matrix(w))
    assert compare_columns(forward.value, forward.error, exact_forward).sound
    assert compare_columns(adjoint.value, adjoint.error, exact_adjoint).sound
    for form in (normal_matrix, accurate_normal_matrix):
        matrix, error = form(design, weights)
        columns = torch.full((design.columns,), error, dtype=torch.float64)
        assert compare_columns(matrix, columns, Exact(lambda: phi.transpose() * times_weights(phi, values))).sound


@given(feature_specs(most=7), st.booleans(), st.integers(1, 3))
@example(FeatureSpec(600, 3), True, 2)
def test_doubled_products_within_their_bound(spec: FeatureSpec, bias: bool, outputs: int) -> None:
    design = DesignMatrix(spec.tensor, bias)
    w, t = normal(design.columns, outputs, spec.seed), normal(spec.n, outputs, spec.seed + 1)
    phi = design_matrix(spec.tensor, bias)
    forward, adjoint = doubled_outputs(design, w, t), doubled_adjoint(design, t)
    for found, exact in (
        (forward, Exact(lambda: phi * ball_matrix(w) - ball_matrix(t))),
        (adjoint, Exact(lambda: phi.transpose() * ball_matrix(t))),
    ):
        high, low = found.value
        beyond = Exact(lambda exact=exact, high=high: exact.compute() - ball_matrix(high))
        assert compare_columns(low, found.error, beyond).sound
        assert bool((low.abs() <= U64 * high.abs() + TINY64).all())


def test_doubled_products_hold_what_rounding_leaves() -> None:
    """A rounding is 2^8 times what is missing: level 1 keeps 20 bits more, less what its bound loses to norms."""
    design, t = DesignMatrix(normal(2000, 4, 1)), normal(2000, 3, 2)
    found = doubled_adjoint(design, t)
    size = design.frobenius() * norm_upper(t, dim=0)
    assert bool((found.error <= 2.0**-8 * U64 * size).all())


@pytest.mark.parametrize("weighting", ["none", "uniform", "wide"])
def test_the_normal_matrix_is_formed_more_accurately(weighting: str) -> None:
    features = normal(3000, 20, 3)
    design, values = DesignMatrix(features), sample_weights(weighting, 3000)
    weights = None if values is None else SampleWeights.of(values, design, features)
    assert accurate_normal_matrix(design, weights).error < normal_matrix(design, weights).error / 20


@given(feature_specs(most=7), FLOORS)
@example(FeatureSpec(3, 6, spectrum="zero"), 0.0)
@example(FeatureSpec(9, 6, spectrum="pairs", condition=1e15), 0.0)
def test_diagonalization_is_certified(spec: FeatureSpec, floor: float) -> None:
    design = DesignMatrix(spec.tensor)
    matrix, error = normal_matrix(design)
    matrix.diagonal().add_(floor)
    error += U64 * float(matrix.diagonal().max())
    modes = diagonalize(type(normal_matrix(design))(matrix, error), floor)
    phi = design_matrix(spec.tensor)

    def residual():
        exact = phi.transpose() * phi + diagonal([ball(floor)] * design.columns)
        values = diagonal([ball(v) for v in modes.values.tolist()])
        return exact * ball_matrix(modes.vectors) - ball_matrix(modes.vectors) * values

    # Entry by entry |R| is what was computed, up to the error of each column.
    spread = torch.full((design.columns,), modes.residual_error, dtype=torch.float64)
    judged = compare_columns(
        torch.zeros_like(modes.residual), norm_upper(modes.residual, dim=0) + spread, Exact(residual)
    )
    assert judged.sound, judged
    largest = gram_eigenvalues(spec.tensor, radius=U64 * (modes.largest + TINY64))[0]
    assert modes.smallest >= floor
    assert upper(largest + floor) <= modes.largest * (1 + 4 * U64) + TINY64


def test_certifying_against_another_matrix_sees_the_difference() -> None:
    matrix = normal_matrix(DesignMatrix(normal(9, 5, 1)))
    modes = diagonalize(matrix, 0.0)
    shift = 2.0**-20
    moved = type(matrix)(matrix.matrix + shift * torch.eye(5, dtype=torch.float64), matrix.error)
    again = certified(moved, modes.values, modes.vectors, modes.defect, 0.0)
    # A + shift I leaves R + shift Q, and ||Q||_F is sqrt(5) up to its defect.
    slack = float(norm_upper(modes.residual)) + again.residual_error + modes.residual_error + 5 * modes.defect
    assert abs(float(norm_upper(again.residual)) - shift * 5**0.5) <= slack
    assert slack < shift / 2
