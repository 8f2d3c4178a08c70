"""`decompose` in the metric of the cross-entropy: energies of B^T dF in the modes of a `SoftmaxGram`."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from ntkla.forgetting.spectrum.decompose import decompose
from ntkla.linalg import errors
from ntkla.linalg.eigenmodes import eigenmodes
from ntkla.linalg.operators import GramOperator
from ntkla.linalg.softmax import SoftmaxGram
from ntkla.testing import compare, hadamard_basis, planted_energies, planted_features
from ntkla.testing.balls import Exact, ball_matrix, flint
from ntkla.testing.spectra import normal

N, C = 8, 4
ORDERS = ("class", "sample")


def scalar(x: float) -> torch.Tensor:
    return torch.tensor([[x]], dtype=torch.float64)


def softmax(n: int, outputs: int, seed: int, confidence: float = 1.0) -> torch.Tensor:
    return torch.softmax(confidence * normal(n, outputs, seed), 1)


def quadratic_form(p: torch.Tensor, drift: torch.Tensor) -> Exact:
    """sum_i f_i^T S_i f_i in balls, `S_i = diag(p_i) - p_i p_i^T` of each stored row over its sum."""

    def compute():
        total = flint().arb(0)
        for row, f in zip(ball_matrix(p).tolist(), ball_matrix(drift).tolist(), strict=True):
            share = [entry / sum(row, flint().arb(0)) for entry in row]
            mean = sum((a * b for a, b in zip(share, f, strict=True)), flint().arb(0))
            total += sum((a * (b - mean) ** 2 for a, b in zip(share, f, strict=True)), flint().arb(0))
        return flint().arb_mat([[total]])

    return Exact(compute)


@given(st.integers(1, 6), st.integers(1, 4), st.sampled_from(ORDERS), st.sampled_from((1.0, 20.0)), st.integers(0, 99))
@example(3, 1, "class", 1.0, 0)
def test_energies_add_up_to_the_quadratic_form_of_the_hessian(n, outputs, order, confidence, seed):
    p, drift = softmax(n, outputs, seed, confidence), normal(n, outputs, seed + 1)
    operator = SoftmaxGram(GramOperator(normal(n, 3, seed + 2)), p, order)
    result = decompose(drift, eigenmodes(operator, n * outputs))
    verdict = compare(scalar(result.total), scalar(result.total_error), quadratic_form(p, drift))
    assert verdict.sound, str(verdict)
    assert result.modes == n * outputs
    left = abs(float(result.energy.sum()) + result.tail - result.total)
    assert left <= float(result.energy_error.sum()) + result.tail_error + result.total_error


@pytest.mark.parametrize("order", ORDERS)
def test_they_are_those_of_b_transposed_in_the_dense_vectors(order):
    p, drift = softmax(N, C, 1), normal(N, C, 2)
    modes = eigenmodes(SoftmaxGram(GramOperator(normal(N, 5, 0)), p, order), 6)
    assert modes.softmax is not None
    half = torch.sqrt(p) * (drift - (p * drift).sum(1, keepdim=True))
    column = (half.T if order == "class" else half).reshape(-1)
    expected = (modes.vectors.T @ column).square()
    result = decompose(drift, modes)
    assert ((result.energy - expected).abs() <= modes.tolerance * result.total).all()
    assert result.status.certified


@pytest.mark.parametrize("order", ORDERS)
def test_planted_energies_are_enclosed(order):
    """With p uniform over four outputs the kernel is G (x) (I - J/4) / 4: planted vectors, each eigenvalue three times.

    A drift of integers whose rows sum to 0 is only halved by B^T, without rounding.
    """
    features, uniform = planted_features(N, N, [8.0, 7.0, 6.0, 5.0]), torch.ones(N, C)
    drift = torch.round(4.0 * normal(N, C, 3))
    drift = drift - torch.cat([drift[:, 1:], drift[:, :1]], 1)
    modes = eigenmodes(SoftmaxGram(GramOperator(features), uniform, order), 12)
    result = decompose(drift, modes)
    energies = planted_energies(drift / 2.0)
    assert [len(c) for c in modes.clusters] == [3, 3, 3, 3]
    exact = Exact(lambda: flint().arb_mat([[e] for e in energies[:4]]))
    verdict = compare(result.cluster_energy[:, None], result.cluster_energy_error[:, None], exact)
    assert verdict.sound, str(verdict)
    assert result.status.certified
    shrunk = compare(result.cluster_energy[:, None] * (1 + 1e-8), result.cluster_energy_error[:, None], exact)
    assert not shrunk.sound
    everything = sum(float(e.mid()) for e in energies)
    assert (
        result.cumulative_low[-1]
        <= sum(float(e.mid()) for e in energies[:4]) / everything
        <= result.cumulative_high[-1]
    )


def test_a_drift_of_the_head_has_no_energy_beyond_the_rank():
    features, update, p = normal(N, 2, 0), normal(2, 3, 1), softmax(N, 3, 2)
    modes = eigenmodes(SoftmaxGram(GramOperator(features), p), 4)  # rank 2 (C - 1)
    result = decompose(features @ update, modes)
    assert result.tail <= modes.tolerance * result.total
    assert 1 - float(result.cumulative[-1]) <= modes.tolerance


def test_what_moves_all_outputs_alike_has_no_energy():
    """B^T takes the vector of ones to zero: the loss does not change."""
    modes = eigenmodes(SoftmaxGram(GramOperator(normal(N, 3, 0)), softmax(N, C, 1)), 5)
    result = decompose(normal(N, 1, 2).expand(N, C), modes)
    assert result.total <= result.total_error
    assert decompose(torch.zeros(N, C), modes).rank(0.9).value == 0


def test_an_error_of_the_drift_widens_every_bound():
    p, drift = softmax(N, C, 1), normal(N, C, 2)
    modes = eigenmodes(SoftmaxGram(GramOperator(normal(N, 3, 0)), p), 5)
    bound = 1e-3 * normal(N, C, 3).abs()
    result = decompose(drift, modes, error_bound=bound)
    plain = decompose(drift, modes)
    for sign in (-1.0, 1.0):
        verdict = compare(
            scalar(plain.total), scalar(result.total_error), quadratic_form(p, drift + sign * bound / 2.0)
        )
        assert verdict.sound, str(verdict)
    assert (result.energy_error > plain.energy_error).all()
    unknown = decompose(drift, modes, error_bound=torch.full_like(drift, math.inf))
    assert math.isinf(unknown.total_error)
    assert not unknown.energy.isnan().any()
    assert not unknown.status.certified


def test_scales_of_the_drift_only_scale_the_energies():
    p, drift = softmax(N, C, 1), normal(N, C, 2)
    modes = eigenmodes(SoftmaxGram(GramOperator(normal(N, 3, 0)), p), 5)
    plain = decompose(drift, modes)
    for exponent in (-300, 200):
        scaled = decompose(drift * 2.0**exponent, modes)
        assert torch.equal(scaled.fraction, plain.fraction)
        assert torch.equal(scaled.energy, plain.energy * 4.0**exponent)
        assert scaled.status.certified


def test_a_drift_of_another_shape_is_named():
    modes = eigenmodes(SoftmaxGram(GramOperator(normal(N, 3, 0)), softmax(N, C, 1)), 2)
    for drift, message in (
        (normal(N, 3, 0), "drift: expected 4 columns, got 3"),
        (normal(N * C, 1, 0), "drift: expected 8 rows"),
    ):
        with pytest.raises(errors.ShapeError, match=message):
            decompose(drift, modes)
    with pytest.raises(errors.ShapeError, match="error_bound"):
        decompose(normal(N, C, 0), modes, error_bound=torch.zeros(N))


def test_without_its_operator_the_modes_are_ordinary_ones():
    """The field decides: the same vectors without it take a drift as one column."""
    operator = SoftmaxGram(GramOperator(planted_features(4, 4, [2.0, 1.0])), softmax(4, 2, 1))
    modes, drift = eigenmodes(operator, 3), hadamard_basis(4)[:, :2]
    plain = dataclasses.replace(modes, softmax=None, outputs=None)
    column = operator.flattened(operator.half(drift)[0])[:, None]
    assert torch.equal(decompose(column, plain).energy, decompose(drift, modes).energy)
