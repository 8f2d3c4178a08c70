"""The primitive `softmax_gram`: against the operator, its registration with PyTorch, its gradients, what it refuses."""

from __future__ import annotations

import math

import pytest
import torch

import ntkla
from ntkla.linalg import errors
from ntkla.linalg.precision import UNIT_ROUNDOFF
from ntkla.testing import hostile_states
from tests.linalg.softmax_reference import FEATURES, C, N, normal, probabilities

P, V = probabilities(N, C, "mixed"), normal(N, C, 3)


@pytest.mark.parametrize("bias", [False, True])
def test_it_is_the_product_of_the_operator(bias):
    operator = ntkla.SoftmaxGram(ntkla.GramOperator(FEATURES, bias=bias), P, "sample")
    product = ntkla.softmax_gram(FEATURES, P, V, bias=bias)
    assert torch.equal(product.flatten(0, 1), operator @ V.flatten(0, 1))
    assert ntkla.last_dispatch() == "torch:softmax_gram:float64"
    one = ntkla.softmax_gram(FEATURES, P, V[:, :, 1], bias=bias)
    bound = ntkla.softmax_gram_error(FEATURES, P, V[:, :, 1], bias=bias)
    assert one.shape == (N, C)
    assert bound.shape == ()
    assert (one - product[:, :, 1]).norm() <= 2 * bound


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_narrow_inputs_give_float32_and_on_request_float64(dtype):
    x, v = FEATURES.to(dtype), V.to(dtype)
    narrow, wide = (ntkla.softmax_gram(x, P.float(), v, precision=kind) for kind in ("auto", "float64"))
    assert (narrow.dtype, wide.dtype) == (torch.float32, torch.float64)
    assert torch.equal(wide, ntkla.softmax_gram(x.double(), P.float(), v.double()))
    assert ((narrow - wide).abs() <= UNIT_ROUNDOFF[torch.float32] * wide.abs()).all()


@pytest.mark.parametrize("shape", [(N, C, 0), (N, C, 2)])
def test_products_that_are_empty_or_zero(shape):
    assert torch.equal(ntkla.softmax_gram(FEATURES[:, :0], P, torch.ones(shape).double()), torch.zeros(shape).double())
    sure = torch.eye(C, dtype=torch.float64)[torch.arange(N) % C]
    assert not ntkla.softmax_gram(FEATURES, sure, torch.ones(shape).double()).any()


@pytest.mark.parametrize("bias", [False, True])
def test_a_product_without_features_has_a_bound(bias):
    product = ntkla.softmax_gram(FEATURES[:, :0], P, V, bias=bias)
    expected = ntkla.softmax_gram(torch.zeros_like(FEATURES[:, :1]), P, V, bias=bias)
    bound = ntkla.softmax_gram_error(FEATURES[:, :0], P, V, bias=bias)
    assert (torch.linalg.vector_norm(product - expected, dim=(0, 1)) <= 2 * bound).all()
    assert bias or not product.any()


@pytest.mark.parametrize("backend", ["torch", "triton"])
@pytest.mark.parametrize(
    ("x", "p", "v"),
    [
        (2.0**110, [1.0, 2.0**-160], [0.0, 1.0]),  # in the middle, though the result is small
        (2.0**100, [0.5, 0.5], [1.0, 0.0]),  # at the end
        (2.0**-60, [0.6, 0.4], [3e38, 0.0]),  # on the way in
    ],
)
def test_the_bound_is_infinite_where_numbers_on_the_way_leave_the_range(x, p, v, backend):
    arguments = torch.tensor([[x]]), torch.tensor([p], dtype=torch.float64), torch.tensor([v])
    assert float(ntkla.softmax_gram_error(*arguments)) == math.inf
    assert math.isfinite(float(ntkla.softmax_gram_error(*arguments, precision="float64")))
    if backend == "triton":
        pytest.importorskip("triton", reason="Triton is made for Linux only")
    with ntkla.backend(backend), ntkla.checked_products():
        ntkla.softmax_gram(*arguments)  # is not called wrong


def test_it_is_a_well_formed_operator():
    arguments = (FEATURES.clone().requires_grad_(), P, V.clone().requires_grad_(), True, "auto")
    assert set(torch.library.opcheck(torch.ops.ntkla.softmax_gram, arguments).values()) == {"SUCCESS"}
    gradient = (FEATURES, P, V, V.flip(0))
    verdict = torch.library.opcheck(torch.ops.ntkla.softmax_gram_features_gradient, gradient)
    assert set(verdict.values()) == {"SUCCESS"}


def test_its_gradients():
    x, v = FEATURES.clone().requires_grad_(), V.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda x, v: ntkla.softmax_gram(x, P, v, bias=True), (x, v))
    ntkla.softmax_gram(x, P, v[:, :, 0]).sum().backward()
    assert x.grad.shape == x.shape
    assert not v.grad[:, :, 1:].any()


def test_it_works_compiled():
    compiled = torch.compile(lambda v: 2.0 * ntkla.softmax_gram(FEATURES, P, v), backend="aot_eager")
    assert torch.equal(compiled(V), 2.0 * ntkla.softmax_gram(FEATURES, P, V))


@pytest.mark.parametrize("state", hostile_states())
def test_ambient_state_changes_no_result_beyond_its_bound(state):
    expected, bound = ntkla.softmax_gram(FEATURES, P, V), ntkla.softmax_gram_error(FEATURES, P, V)
    with hostile_states()[state]():
        found = ntkla.softmax_gram(FEATURES, P, V)
        again = ntkla.softmax_gram_error(FEATURES, P, V)
    assert ((found - expected).norm(dim=(0, 1)) <= bound + again).all()


def test_a_bound_that_is_not_there_is_infinite():
    assert ntkla.softmax_gram_error(FEATURES, P, V * math.inf).isinf().all()


X = FEATURES
REQUIRES = P.clone().requires_grad_()


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: ntkla.softmax_gram(X, -P, V), errors.ArgumentError, "negative one in row 0"),
        (lambda: ntkla.softmax_gram(X, P * (torch.arange(N) != 2)[:, None], V), errors.ArgumentError, "zeros in row 2"),
        (lambda: ntkla.softmax_gram(X, P / 0.0, V), errors.NonFiniteError, "probabilities"),
        (lambda: ntkla.softmax_gram(X, P[:3], V), errors.ShapeError, r"got \(7, 5\), \(3, 4\) and \(7, 4, 3\)"),
        (lambda: ntkla.softmax_gram(X, P, V[:, :2]), errors.ShapeError, "expected x"),
        (lambda: ntkla.softmax_gram(X[:0], P[:0], V[:0]), errors.ShapeError, "at least 1"),
        (lambda: ntkla.softmax_gram(X, P, V[0, 0]), errors.ShapeError, "v: expected 3 dimensions"),
        (lambda: ntkla.softmax_gram(X, P, V.float()), errors.DtypeError, "v"),
        (lambda: ntkla.softmax_gram(X, P.long(), V), errors.DtypeError, "probabilities"),
        (lambda: ntkla.softmax_gram(X, P, V.to("meta")), errors.DeviceError, "meta"),
        (lambda: ntkla.softmax_gram(X, P, V, precision="bf16"), errors.DtypeError, "bf16"),
        (lambda: ntkla.softmax_gram(X, P, V, bias=1), errors.NtklaError, "bias"),
        (lambda: ntkla.softmax_gram(X, REQUIRES, V), errors.ArgumentError, r"Pass probabilities\.detach\(\)"),
        (lambda: ntkla.softmax_gram_error(X / 0.0, P, V), errors.NonFiniteError, "x"),
    ],
)
def test_bad_input_is_named(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_probabilities_that_require_a_gradient_pass_where_none_is_recorded():
    with torch.no_grad():
        assert torch.equal(ntkla.softmax_gram(X, REQUIRES, V), ntkla.softmax_gram(X, P, V))
