"""`SoftmaxGram` against dense forms and torch's own Hessian of the cross-entropy, and what it refuses."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.sparse.linalg import eigsh

from ntkla.linalg import checks, errors
from ntkla.linalg.design import widened
from ntkla.linalg.operators import FunctionOperator, GramOperator
from ntkla.linalg.precision import NEGLIGIBLE, U64, norm_upper
from ntkla.linalg.softmax import SoftmaxGram
from ntkla.testing.spectra import DTYPES
from tests.linalg.softmax_reference import (
    FEATURES,
    KINDS,
    C,
    N,
    dense,
    dense_root,
    normal,
    probabilities,
)


@pytest.mark.parametrize("order", ["class", "sample"])
@pytest.mark.parametrize("kind", KINDS[:6])
def test_it_is_its_dense_form(kind, order):
    p = probabilities(N, C, kind)
    operator, matrix = SoftmaxGram(GramOperator(FEATURES), p, order), dense(FEATURES, p, order)
    slack = operator.error_bound(torch.eye(N * C, dtype=torch.float64)) + 64 * U64 * norm_upper(FEATURES) ** 2
    assert operator.shape == (N * C, N * C)
    assert operator.dtype == torch.float64
    assert operator.psd
    assert operator.T is operator
    formed = operator.to_dense()
    assert torch.equal(formed, formed.T)
    assert ((formed - matrix).norm(dim=0) <= slack).all()
    assert ((operator @ torch.eye(N * C, dtype=torch.float64) - matrix).norm(dim=0) <= slack).all()
    v = normal(N * C, 3)
    assert torch.equal((operator @ v[:, 1].clone())[:, None], operator @ v[:, 1:2])
    assert (torch.linalg.eigvalsh(formed) >= -slack.norm()).all()


def test_orders_differ_by_a_permutation_only():
    p, v = probabilities(N, C, "mixed"), normal(N, C)
    by_class, by_sample = (SoftmaxGram(GramOperator(FEATURES), p, order) for order in ("class", "sample"))
    product = (by_class @ by_class.flattened(v)).reshape(C, N).T
    other = (by_sample @ by_sample.flattened(v)).reshape(N, C)
    assert (product - other).norm() <= 2 * by_sample.error_bound(by_sample.flattened(v))


@pytest.mark.parametrize("kind", ["soft", "confident", "zeros", "uniform"])
def test_it_has_the_spectrum_of_the_symmetric_root(kind):
    p = probabilities(N, C, kind)
    operator = SoftmaxGram(GramOperator(FEATURES), p, "sample")
    root = dense_root(p)
    values, vectors = torch.linalg.eigh(root @ root.mT)
    symmetric = vectors * values.clamp(min=0.0).sqrt()[:, None] @ vectors.mT
    gram = torch.kron(FEATURES @ FEATURES.T, torch.eye(C, dtype=torch.float64))
    whole = torch.block_diag(*symmetric)
    expected = torch.linalg.eigvalsh(whole @ gram @ whole)
    # The symmetric root of a matrix of rank C - 1 takes the root of a rounding.
    slack = (N * C) ** 2 * math.sqrt(U64) * float(norm_upper(FEATURES)) ** 2
    assert (torch.linalg.eigvalsh(operator.to_dense()) - expected).abs().max() <= slack


def test_it_is_the_gauss_newton_matrix_of_torchs_cross_entropy():
    """J B B^T J^T, of the same non-zero spectrum, is the Hessian in the head's weights."""
    features, weight, labels = FEATURES, normal(C, 5, seed=3), torch.arange(N) % C

    def loss(w: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.cross_entropy(features @ w.T, labels, reduction="sum")

    hessian = torch.func.hessian(loss)(weight).reshape(C * 5, C * 5)
    operator = SoftmaxGram(GramOperator(features), torch.softmax(features @ weight.T, 1), "class")
    slack = (N * C) ** 2 * U64 * float(norm_upper(features)) ** 2
    values = torch.linalg.eigvalsh(operator.to_dense()).flip(0)
    expected = torch.linalg.eigvalsh(hessian).flip(0)
    assert (values[: C * 5] - expected).abs().max() <= slack
    jacobian = torch.func.jacrev(lambda w: operator.flattened(features @ w.T))(weight).reshape(N * C, C * 5)
    halved = torch.stack([operator.flattened(operator.half(j)[0]) for j in jacobian.T.reshape(-1, C, N).mT], 1)
    assert (halved.T @ halved - hessian).abs().max() <= slack
    assert (halved @ halved.T - operator.to_dense()).abs().max() <= slack


def test_scipy_finds_its_eigenvalues():
    operator = SoftmaxGram(GramOperator(FEATURES), probabilities(N, C, "soft"))
    values = eigsh(operator.to_scipy(), k=5, return_eigenvectors=False, v0=np.ones(N * C) + np.arange(N * C))
    expected = torch.linalg.eigvalsh(operator.to_dense())[-5:].numpy()
    assert np.abs(np.sort(values) - expected).max() <= (N * C) ** 2 * U64 * expected.max()


def test_scaled_rows_are_the_same_operator():
    p, scale = probabilities(N, C, "soft"), 2.0 ** torch.tensor([0, 1, -3, 200, -900, 30, 7], dtype=torch.float64)
    operators = [SoftmaxGram(GramOperator(FEATURES), rows) for rows in (p, p * scale[:, None])]
    assert torch.equal(operators[0].root.roots ** 2 > 0.25, operators[1].root.roots ** 2 > 0.25)
    first, second = (operator @ normal(N * C) for operator in operators)
    assert (first - second).norm() <= 2 * operators[0].error_bound(normal(N * C))


@pytest.mark.parametrize("dtype", sorted(DTYPES))
def test_probabilities_of_any_type_are_taken_as_stored(dtype):
    p = probabilities(N, C, "soft").to(DTYPES[dtype])
    operator, wide = (SoftmaxGram(GramOperator(FEATURES), rows) for rows in (p, widened(p)))
    assert torch.equal(operator @ normal(N * C), wide @ normal(N * C))


def test_a_gram_matrix_that_somebody_else_brings():
    matrix, p, v = FEATURES @ FEATURES.T, probabilities(N, C, "soft"), normal(N * C)
    foreign = FunctionOperator(lambda x: matrix @ x, (N, N), torch.float64, "cpu", psd=True, trace=1.0)
    operator, own = SoftmaxGram(foreign, p), SoftmaxGram(GramOperator(FEATURES), p)
    assert (operator @ v - own @ v).norm() <= 2 * own.error_bound(v) + N * U64 * matrix.norm() * v.norm()
    assert torch.isinf(operator.error_bound(v))
    assert operator.trace() is None
    assert operator.trace_bounds() is None


@pytest.mark.parametrize(("n", "outputs", "kind"), [(1, 1, "soft"), (5, 1, "soft"), (4, 3, "one-hot")])
def test_where_no_probability_can_move_it_is_zero(n, outputs, kind):
    operator, drift = SoftmaxGram(GramOperator(normal(n, 2)), probabilities(n, outputs, kind)), normal(n, outputs)
    v = operator.flattened(drift)
    assert not (operator @ v).any()
    assert operator.error_bound(v) <= NEGLIGIBLE
    assert operator.trace_bounds() == (0.0, 0.0)
    assert not any(part.any() for part in operator.half(drift, drift.abs()))


# --- what is refused ------------------------------------------------------------------------------------------------

GRAM, P = GramOperator(FEATURES), probabilities(N, C, "soft")
INDEFINITE = FunctionOperator(lambda v: v, (N, N), torch.float64, "cpu")
NARROW = FunctionOperator(lambda v: v, (N, N), torch.float32, "cpu", psd=True)
OPERATOR = SoftmaxGram(GRAM, P)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: SoftmaxGram(FEATURES, P), errors.DtypeError, "gram: expected an operator, got Tensor. Wrap it"),
        (lambda: SoftmaxGram(INDEFINITE, P), errors.ArgumentError, "positive semidefinite"),
        (lambda: SoftmaxGram(NARROW, P), errors.DtypeError, "gram: expected an operator in float64, got torch.float32"),
        (lambda: SoftmaxGram(GRAM, P[:3]), errors.ShapeError, "probabilities: expected 7 rows, got 3"),
        (lambda: SoftmaxGram(GRAM, P[:, 0]), errors.ShapeError, "probabilities: expected two dimensions"),
        (lambda: SoftmaxGram(GRAM, P[:, :0]), errors.ShapeError, "at least one row and one column"),
        (lambda: SoftmaxGram(GRAM, P.numpy()), errors.DtypeError, "probabilities: expected a torch.Tensor"),
        (lambda: SoftmaxGram(GRAM, P.to(torch.int64)), errors.DtypeError, "probabilities: .*int64"),
        (lambda: SoftmaxGram(GRAM, P * math.nan), errors.NonFiniteError, "probabilities: expected finite"),
        (lambda: SoftmaxGram(GRAM, P / 0), errors.NonFiniteError, "probabilities: expected finite"),
        (lambda: SoftmaxGram(GRAM, P * 1e200), errors.ScaleError, "probabilities: .*power of two"),
        (lambda: SoftmaxGram(GRAM, P - 0.5), errors.ArgumentError, "probabilities: .*negative one in row 0. Logits?"),
        (lambda: SoftmaxGram(GRAM, -5e-324 * P.ceil()), errors.ArgumentError, "probabilities: .*negative"),
        (lambda: SoftmaxGram(GRAM, P * (torch.arange(N) != 2)[:, None]), errors.ArgumentError, "zeros in row 2"),
        (lambda: SoftmaxGram(GRAM, P.to("meta")), errors.DeviceError, "meta"),
        (lambda: SoftmaxGram(GRAM, P, "row"), errors.ArgumentError, "order: expected one of"),
        (lambda: OPERATOR @ normal(N), errors.ShapeError, "expected 28 rows, got 7"),
        (lambda: OPERATOR.half(P.T), errors.ShapeError, "drift: expected 7 rows, got 4"),
        (lambda: OPERATOR.half(P[:, :2]), errors.ShapeError, "drift: expected 4 columns, got 2"),
        (lambda: OPERATOR.half(P, P[:, :2]), errors.ShapeError, r"error_bound: expected \(7, 4\), as the drift"),
        (lambda: OPERATOR.half(P, -P), errors.ArgumentError, "error_bound: expected bounds >= 0"),
        (lambda: OPERATOR.half(P, P * math.nan), errors.NonFiniteError, "error_bound: expected bounds, got NaN"),
        (lambda: OPERATOR.half(P, 0.0), errors.DtypeError, "error_bound: expected a float64"),
    ],
)
def test_bad_input_is_named(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_a_dense_form_that_does_not_fit_is_refused(monkeypatch):
    monkeypatch.setattr(checks, "available_memory", lambda device: 8 * 28 * 28)
    with pytest.raises(errors.MemoryEstimateError, match="to_dense"):
        OPERATOR.to_dense()


def test_gradients_end_at_the_door():
    operator = SoftmaxGram(GRAM, P.clone().requires_grad_())
    assert not (operator @ normal(N * C).requires_grad_()).requires_grad
    assert not operator.half(normal(N, C).requires_grad_())[0].requires_grad
