"""The primitives: registered as PyTorch wants, differentiable, compiled, and as exact as they say.

Whatever implementation runs: `test_dispatch` runs this file with the Triton kernels as well.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import ntkla
from ntkla.linalg import errors
from ntkla.linalg.backends.primitive import gram_roundings, normal_roundings
from ntkla.linalg.precision import UNIT_ROUNDOFF, gamma
from ntkla.testing import ambient_state, hostile_states
from ntkla.testing.balls import Exact, ball_matrix, design_matrix, diagonal
from ntkla.testing.spectra import DTYPES
from ntkla.testing.strategies import feature_specs
from ntkla.testing.violations import compare

PRECISIONS = ("auto", "ieee", "bf16", "float64")
HALF = (torch.bfloat16, torch.float16)


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    generator = torch.Generator(device="cpu").manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64, device="cpu").to(dtype)


def precision_for(precision: str, dtype: torch.dtype) -> str:
    """The drawn precision, or for "bf16" with a wide type, which is refused, what comes nearest."""
    return "ieee" if precision == "bf16" and dtype not in HALF else precision


def returned_dtype(dtype: torch.dtype, precision: str) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 or precision == "float64" else torch.float32


# --- the PyTorch contract -------------------------------------------------------------------------------------------

CASES = [
    (dtype, bias, second)
    for dtype in (*DTYPES.values(), torch.float16)
    for bias in (False, True)
    for second in (False, True)
]


@pytest.mark.parametrize(("dtype", "bias", "two_sided"), CASES)
def test_gram_is_a_well_formed_operator(dtype, bias, two_sided):
    x, y = normal(5, 3, dtype=dtype), normal(4, 3, seed=1, dtype=dtype)
    arguments = (x.requires_grad_(), y.requires_grad_() if two_sided else None, bias, "auto")
    verdict = torch.library.opcheck(torch.ops.ntkla.gram, arguments)
    assert set(verdict.values()) == {"SUCCESS"}


@pytest.mark.parametrize(("dtype", "bias", "weighted"), CASES)
def test_normal_matmul_is_a_well_formed_operator(dtype, bias, weighted):
    x, w, d = normal(5, 3, dtype=dtype), normal(3 + bias, 2, seed=1, dtype=dtype), normal(5, seed=2, dtype=dtype)
    arguments = (x.requires_grad_(), w.requires_grad_(), d.requires_grad_() if weighted else None, bias, "auto")
    verdict = torch.library.opcheck(torch.ops.ntkla.normal_matmul, arguments)
    assert set(verdict.values()) == {"SUCCESS"}


@pytest.mark.parametrize("bias", [False, True])
def test_gradients_to_second_order(bias):
    x, y = normal(4, 3).requires_grad_(), normal(5, 3, seed=1).requires_grad_()
    w, d = normal(3 + bias, 2, seed=2).requires_grad_(), normal(4, seed=3).requires_grad_()
    for function, inputs in (
        (lambda x: ntkla.gram(x, bias=bias), (x,)),
        (lambda x, y: ntkla.gram(x, y, bias=bias), (x, y)),
        (lambda x, w: ntkla.normal_matmul(x, w, bias=bias), (x, w)),
        (lambda x, w, d: ntkla.normal_matmul(x, w, weights=d, bias=bias), (x, w, d)),
    ):
        assert torch.autograd.gradcheck(function, inputs)
        assert torch.autograd.gradgradcheck(function, inputs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_narrow_gradients_are_those_of_the_wide_formula_rounded_once(dtype):
    x, w = normal(6, 3, dtype=dtype).requires_grad_(), normal(3, 2, seed=1, dtype=dtype).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        (ntkla.gram(x).sum() + ntkla.normal_matmul(x, w).sum()).backward()
    wide_x, wide_w = x.detach().double().requires_grad_(), w.detach().double().requires_grad_()
    (ntkla.gram(wide_x).sum() + ntkla.normal_matmul(wide_x, wide_w).sum()).backward()
    for narrow, wide in ((x, wide_x), (w, wide_w)):
        assert narrow.grad.dtype == dtype
        # Two contributions to x, each rounded to its type once after float32 sums of at most 6 * 3 + 6 terms.
        slack = 3 * UNIT_ROUNDOFF[dtype] + gamma(24, UNIT_ROUNDOFF[torch.float32])
        magnitude = gradient_magnitude(x.detach().double().abs(), w.detach().double().abs())
        assert ((narrow.grad.double() - wide.grad).abs() <= slack * magnitude).all()


def gradient_magnitude(x: torch.Tensor, w: torch.Tensor) -> float:
    """An upper bound of every sum of magnitudes that enters a gradient of the test above."""
    x, w = x.clone().requires_grad_(), w.clone().requires_grad_()
    (ntkla.gram(x).sum() + ntkla.normal_matmul(x, w).sum()).backward()
    return float(max(x.grad.max(), w.grad.max()))


def test_both_compile_into_one_graph():
    def both(x, w, d):
        return ntkla.normal_matmul(x, w, weights=d, bias=True), ntkla.gram(x, bias=True), ntkla.gram(x, x * 2)

    arguments = (normal(6, 3), normal(4, 2, seed=1), normal(6, seed=2).abs())
    compiled = torch.compile(both, backend="aot_eager", fullgraph=True)
    for computed, expected in zip(compiled(*arguments), both(*arguments), strict=True):
        assert torch.equal(computed, expected)
    x = normal(6, 3).requires_grad_()
    compiled(x, *arguments[1:])[0].sum().backward()
    direct = normal(6, 3).requires_grad_()
    both(direct, *arguments[1:])[0].sum().backward()
    assert torch.equal(x.grad, direct.grad)


def test_shapes_are_known_without_values():
    x = torch.empty(7, 3, device="meta", dtype=torch.bfloat16)
    assert ntkla.gram(x, precision="float64").shape == (7, 7)
    assert ntkla.gram(x).dtype == torch.float32
    assert ntkla.normal_matmul(x, torch.empty(4, 2, device="meta", dtype=torch.bfloat16), bias=True).shape == (4, 2)


# --- exactness ------------------------------------------------------------------------------------------------------


def gram_bound(
    x: torch.Tensor, y: torch.Tensor, bias: bool, dtype: torch.dtype, precision: str = "auto"
) -> torch.Tensor:
    """The bound that `gram` documents: gamma_r (|x| |y|^T + bias), and 2 r of the smallest normal number."""
    terms = gram_roundings(x.shape[1], x.dtype, precision)
    magnitude = (x.double().abs() @ y.double().abs().T + float(bias)) * (1 + gamma(terms)) + torch.finfo(dtype).tiny
    return gamma(terms, UNIT_ROUNDOFF[dtype]) * magnitude + 2 * terms * torch.finfo(dtype).tiny


# Narrow features up to 1e12 and down to 1e-12 neither overflow nor vanish in float32 here.
@given(feature_specs(), st.booleans(), st.sampled_from(PRECISIONS))
def test_gram_is_within_its_documented_bound(spec, bias, precision):
    x = spec.tensor
    precision = precision_for(precision, x.dtype)
    computed = ntkla.gram(x, bias=bias, precision=precision)
    assert computed.dtype == returned_dtype(x.dtype, precision)
    assert torch.equal(computed, computed.T)
    exact = Exact(lambda: design_matrix(x, bias) * design_matrix(x, bias).transpose())
    verdict = compare(computed, gram_bound(x, x, bias, computed.dtype, precision), exact)
    assert verdict.sound, str(verdict)


@given(feature_specs(features=4), feature_specs(features=4), st.booleans(), st.sampled_from(PRECISIONS))
def test_cross_gram_is_within_its_documented_bound(left, right, bias, precision):
    x, y = left.tensor, right.tensor.to(left.tensor.dtype)
    precision = precision_for(precision, x.dtype)
    computed = ntkla.gram(x, y, bias=bias, precision=precision)
    exact = Exact(lambda: design_matrix(x, bias) * design_matrix(y, bias).transpose())
    verdict = compare(computed, gram_bound(x, y, bias, computed.dtype, precision), exact)
    assert verdict.sound, str(verdict)


@given(feature_specs(), st.booleans(), st.booleans(), st.sampled_from(PRECISIONS), st.integers(0, 3))
def test_normal_matmul_is_within_its_documented_bound(spec, bias, weighted, precision, seed):
    x = spec.tensor
    precision = precision_for(precision, x.dtype)
    w, d = normal(spec.features + bias, 2, seed=seed, dtype=x.dtype), normal(spec.n, seed=seed, dtype=x.dtype)
    computed = ntkla.normal_matmul(x, w, weights=d if weighted else None, bias=bias, precision=precision)
    assert computed.dtype == returned_dtype(x.dtype, precision)

    def product():
        phi = design_matrix(x, bias)
        outputs = phi * ball_matrix(w)
        return phi.transpose() * (diagonal(ball_matrix(d).entries()) * outputs if weighted else outputs)

    verdict = compare(computed, normal_bound(x, w, d if weighted else None, bias, computed.dtype), Exact(product))
    assert verdict.sound, str(verdict)


def normal_bound(
    x: torch.Tensor, w: torch.Tensor, d: torch.Tensor | None, bias: bool, dtype: torch.dtype
) -> torch.Tensor:
    """The bound that `normal_matmul` documents: gamma_{n+F+4} |x|^T |d| |x| |w|, and what underflows."""
    ones = torch.ones((x.shape[0], int(bias)), dtype=torch.float64)
    phi = torch.cat([x.double().abs(), ones], 1)
    factors = torch.ones(x.shape[0], dtype=torch.float64) if d is None else d.double().abs()
    tiny, terms = torch.finfo(dtype).tiny, normal_roundings(*x.shape)
    outputs = factors[:, None] * (phi @ w.double().abs() + 4 * terms * tiny) + tiny
    magnitude = phi.T @ outputs * (1 + gamma(terms)) + tiny
    lost = 4 * terms * tiny * (1 + phi.T @ (1 + factors))[:, None]
    return gamma(terms, UNIT_ROUNDOFF[dtype]) * magnitude + lost


@pytest.mark.parametrize("n", [1, 63, 64, 65, 257, 300])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_the_gram_matrix_is_exactly_symmetric_across_blocks(n, dtype):
    x = normal(n, 33, dtype=dtype)
    computed = ntkla.gram(x)
    assert torch.equal(computed, computed.T)
    reference = x.double() @ x.double().T
    assert ((computed.double() - reference).abs() <= gram_bound(x, x, False, computed.dtype) * 2).all()


@pytest.mark.parametrize("state", hostile_states())
def test_ambient_state_breaks_no_bound_and_is_left_alone(state):
    x, w = normal(80, 96, dtype=torch.float32), normal(97, 3, seed=1, dtype=torch.float32)
    with hostile_states()[state]():
        before = ambient_state()
        computed, product = ntkla.gram(x, bias=True), ntkla.normal_matmul(x, w, bias=True)
        assert ambient_state() == before
    exact = Exact(lambda: design_matrix(x, True) * design_matrix(x, True).transpose())
    assert compare(computed, gram_bound(x, x, True, torch.float32), exact).sound
    normal_exact = Exact(lambda: design_matrix(x, True).transpose() * (design_matrix(x, True) * ball_matrix(w)))
    assert compare(product, normal_bound(x, w, None, True, torch.float32), normal_exact).sound


def test_the_bound_catches_a_planted_error():
    x = normal(6, 4)
    exact = Exact(lambda: design_matrix(x) * design_matrix(x).transpose())
    bound = gram_bound(x, x, False, torch.float64)
    assert compare(ntkla.gram(x), bound, exact).sound
    assert not compare(ntkla.gram(x) + 1e-8, bound, exact).sound
    assert not compare(ntkla.gram(x.float()).double(), bound, exact).sound


def test_the_same_call_gives_the_same_bits():
    x, w = normal(300, 70, dtype=torch.bfloat16), normal(70, 5, dtype=torch.bfloat16)
    assert torch.equal(ntkla.gram(x), ntkla.gram(x))
    assert torch.equal(ntkla.normal_matmul(x, w), ntkla.normal_matmul(x, w))


def test_degenerate_sizes():
    assert torch.equal(ntkla.gram(normal(3, 0), bias=True), torch.ones(3, 3, dtype=torch.float64))
    assert ntkla.gram(normal(0, 3)).shape == (0, 0)
    assert torch.equal(ntkla.normal_matmul(normal(0, 3), normal(3, 2)), torch.zeros(3, 2, dtype=torch.float64))


# --- what is refused ------------------------------------------------------------------------------------------------

X, W = normal(5, 3), normal(3, 2)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: ntkla.gram(X.tolist()), errors.DtypeError, "x: expected a float64.*got list"),
        (lambda: ntkla.gram(X.numpy()), errors.DtypeError, "got ndarray"),
        (lambda: ntkla.gram(X.long()), errors.DtypeError, "got torch.int64"),
        (lambda: ntkla.gram(X.to_sparse()), errors.DtypeError, "to_dense"),
        (lambda: ntkla.gram(X[0]), errors.ShapeError, "expected 2 dimensions"),
        (lambda: ntkla.gram(X, X[:, :2]), errors.ShapeError, "got 3 and 2"),
        (lambda: ntkla.gram(X, X.float()), errors.DtypeError, "x torch.float64, y torch.float32"),
        (lambda: ntkla.gram(X, X.to("meta")), errors.DeviceError, "x on cpu, y on meta"),
        (lambda: ntkla.gram(X, precision="tf32"), errors.ArgumentError, "'float64', 'exact', 'split', got 'tf32'"),
        (lambda: ntkla.gram(X, precision="bf16"), errors.DtypeError, "expected bfloat16 or float16 arrays.*'auto'"),
        (lambda: ntkla.normal_matmul(X, W, precision="bf16"), errors.DtypeError, "got torch.float64"),
        (lambda: ntkla.gram(X, bias=1), errors.ArgumentError, "bias: expected True or False, got int"),
        (lambda: ntkla.normal_matmul(X, W[0]), errors.ShapeError, "w: expected 2 dimensions"),
        (
            lambda: ntkla.normal_matmul(X, W, bias=True),
            errors.ShapeError,
            r"w with 4 rows \(features and bias\), got 3",
        ),
        (lambda: ntkla.normal_matmul(X, W.float()), errors.DtypeError, "w torch.float32"),
        (lambda: ntkla.normal_matmul(X, W, weights=X), errors.ShapeError, "weights: expected 1 dimensions"),
        (lambda: ntkla.normal_matmul(X, W, weights=X[:3, 0]), errors.ShapeError, "expected 5 weights"),
        (lambda: ntkla.normal_matmul(X, W, weights=X[:, 0].float()), errors.DtypeError, "weights torch.float32"),
        (lambda: ntkla.normal_matmul(X, W, bias=np.True_), errors.ArgumentError, "bias"),
        (lambda: ntkla.normal_matmul(X, W, precision=None), errors.ArgumentError, "precision"),
    ],
)
def test_bad_input_is_named(call, error, message):
    with pytest.raises(error, match=message):
        call()
