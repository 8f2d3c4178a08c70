"""The kernel `drift`: exact products of small integers, bounds that are upper bounds and all but reached, one pass."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import ntkla
from ntkla.linalg.arithmetic.products import pieced_gamma
from ntkla.linalg.design import DesignMatrix
from ntkla.linalg.drift_product import Centre, Errors, Moved, moved
from ntkla.linalg.precision import TINY64, gamma, norm_upper
from ntkla.testing import Exact, ball_matrix, compare, design_matrix
from ntkla.testing.spectra import LAYOUTS, laid_out
from ntkla.testing.strategies import feature_specs
from tests.kernels import models_drift
from tests.kernels.draws import DEVICE, normal, whole
from tests.kernels.drift_problems import columns_of, wide

pytest.importorskip("triton", reason="the kernels need Triton, which is made for Linux only")

from csrc_triton import drift as module
from csrc_triton.drift import DTYPES, drift

interpreter = pytest.mark.skipif(DEVICE == "cuda", reason="the order inside a block is numpy's in the interpreter only")


def assert_exact(x: torch.Tensor, high: torch.Tensor, low: torch.Tensor | None, bias: bool) -> None:
    """Values are those of integer arithmetic; sums of squares are exact too, so norms are hardly above theirs."""
    own = Errors(*(t.to(x.device) for t in columns_of(high.shape[1])))
    value, bound, norms, distances = drift(x, high, low, *own, bias=bias)
    plain = x.cpu().double()
    design = torch.cat([plain, torch.ones(len(plain), int(bias), dtype=torch.float64)], 1)
    change = high.cpu().double() if low is None else high.cpu().double() + low.cpu().double()
    assert value.is_contiguous()
    assert torch.equal(value.cpu(), design @ change)
    for found, exact in ((norms, plain), (distances, design)):
        expected = torch.linalg.vector_norm(exact, dim=1)
        assert (found.cpu() >= expected).all()
        assert (found.cpu() <= expected * (1 + gamma(4 * x.shape[1] + 200)) + math.sqrt(x.shape[1] * TINY64)).all()
    most = torch.outer(distances, own.update) + torch.outer(norms, own.rounding) + own.constant
    assert (bound >= most).all()
    assert (bound <= most * (1 + gamma(200))).all()


@pytest.mark.parametrize("sizes", [(0, 3, 2), (1, 1, 1), (5, 0, 2), (15, 33, 17), (17, 16, 16), (16, 70, 1), (3, 4, 0)])
def test_every_size_has_the_exact_values(sizes):
    n, features, outputs = sizes
    for bias in (False, True):
        high = whole(features + bias, outputs, seed=1, dtype=torch.float64)
        low = whole(features + bias, outputs, seed=2, dtype=torch.float64) if bias else None
        assert_exact(whole(n, features), high, low, bias)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_and_layout_has_the_exact_values_and_nothing_beside_it_is_read(dtype, layout):
    x, high = whole(9, 18, dtype=dtype), whole(19, 5, seed=1)
    assert_exact(laid_out(x, layout), laid_out(high, layout), None, True)


@pytest.mark.parametrize("strides", [(2**26, 1), (1, 2**26)])
def test_offsets_pass_two_to_the_31(strides):
    x = torch.empty_strided((64, 64), strides, dtype=torch.float32, device=DEVICE)[40:, :7]
    x.copy_(whole(24, 7))
    assert_exact(x, whole(7, 3, seed=1), None, False)


def test_every_entry_is_written(monkeypatch):
    empty = torch.empty
    monkeypatch.setattr(torch, "empty", lambda *size, **options: empty(*size, **options).fill_(torch.nan))
    assert_exact(whole(33, 5), whole(6, 35, seed=1), whole(6, 35, seed=2), True)


@interpreter
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("bias", "low", "centred"), [(True, True, True), (True, False, False), (False, True, False)])
def test_it_computes_in_the_order_of_its_model(dtype, bias, low, centred):
    x, high, rest = normal(18, 37, dtype=dtype), wide(37 + bias, 19, seed=1), wide(37 + bias, 19, seed=2) * 2.0**-53
    centre, beside = (wide(37, seed=3), torch.tensor(1e-15, dtype=torch.float64)) if centred else (None, None)
    own = columns_of(19)
    found = drift(x, high, rest if low else None, *own, bias=bias, centre=centre, beside=beside)
    tile = module.pinned_tile(19)
    sizes = models_drift.DriftSizes(tile.rows, tile.columns, tile.depth, module.PIECE)
    limits = module.limits_of(37, torch.zeros(()) if beside is None else beside).numpy()
    columns = models_drift.Columns(*(t.numpy() for t in own))
    arrays = (x.double().numpy(), high.numpy(), rest.numpy() if low else None)
    expected = models_drift.drift(*arrays, columns, limits, bias, None if centre is None else centre.numpy(), sizes)
    for ours, model in zip(found, expected, strict=True):
        assert np.array_equal(ours.numpy(), model)
    assert all(
        map(torch.equal, found, drift(x, high, rest if low else None, *own, bias=bias, centre=centre, beside=beside))
    )


# --- the bounds -----------------------------------------------------------------------------------------------------


def worst_update(x: torch.Tensor, bias: bool, centre: torch.Tensor | None, size: float) -> tuple[torch.Tensor, float]:
    """[K, n]: an error of the update whose column i meets row i in full, and a bound of its columns' norms.

    From a centre the bias takes back what the error does there, as the elimination of a free bias does.
    """
    plain = x.cpu().double()
    if centre is not None:
        away = plain - centre
        error = (size * away / torch.linalg.vector_norm(away, dim=1, keepdim=True)).T
        return torch.cat([error, -(centre @ error)[None]]), float(norm_upper(error, dim=0).max())
    whole_rows = torch.cat([plain, torch.ones(len(plain), int(bias), dtype=torch.float64)], 1)
    error = (size * whole_rows / torch.linalg.vector_norm(whole_rows, dim=1, keepdim=True)).T
    return error, float(norm_upper(error, dim=0).max())


def fused(x: torch.Tensor, w: torch.Tensor, update: float, bias: bool, centre: torch.Tensor | None = None) -> Moved:
    """What `drift_of` asks the kernel for."""
    design, size = DesignMatrix(x, bias), norm_upper(w, dim=0)
    rounding = pieced_gamma(design.columns) * size + TINY64 * math.sqrt(design.columns)
    constant = TINY64 * design.columns * (2 + size) + (pieced_gamma(design.columns) * w[-1].abs() if bias else 0.0)
    own = Errors(torch.full_like(size, update), rounding, constant)
    # A centre that is exact, and an elimination that is not: the bias is rounded by less than this.
    place = None if centre is None else Centre(centre.to(x.device), 64 * 2.0**-53 * float(norm_upper(centre)))
    with ntkla.backend("triton"):
        found = moved(design, w, own, centre=place)
    assert found is not None
    return found


CASES = [(False, False), (True, False), (True, True)]


def verdict(dtype: torch.dtype, bias: bool, centred: bool, size: float = 1e-3):
    x, n = normal(7, 37, dtype=dtype) + 2, 7
    centre = x.cpu().double().mean(0) if centred else None
    off, update = worst_update(x, bias, centre, size)
    w = wide(37 + bias, n, seed=1)
    found = fused(x, w, update, bias, centre)
    exact = Exact(lambda: design_matrix(x.cpu(), bias) * (ball_matrix(w.cpu()) + ball_matrix(off)))
    return compare(found.value.cpu(), found.bound.cpu(), exact)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("bias", "centred"), CASES)
def test_the_bound_holds_and_is_all_but_reached(dtype, bias, centred):
    """The error that is worst for row i moves it by the bound, but for roundings."""
    found = verdict(dtype, bias, centred)
    assert found.sound, str(found)
    assert found.largest_ratio > 1 - 1e-9


@pytest.mark.parametrize(("bias", "centred"), CASES)
def test_a_norm_that_is_a_thousandth_too_small_is_caught(bias, centred, monkeypatch):
    right = module.limits_of
    monkeypatch.setattr(module, "limits_of", lambda *given: right(*given) * (1 - 2e-3))
    assert not verdict(torch.float64, bias, centred).sound


@settings(max_examples=12)
@given(feature_specs(), st.booleans(), st.integers(0, 99))
def test_products_and_norms_are_within_their_bounds(spec, bias, seed):
    """Where nothing is wrong with the update only the product's rounding is left."""
    x = spec.tensor.to(DEVICE)
    w = wide(x.shape[1] + bias, 2, seed=seed)
    design, size = DesignMatrix(x, bias), norm_upper(w, dim=0)
    rounding = pieced_gamma(design.columns) * size + TINY64 * math.sqrt(design.columns)
    constant = TINY64 * design.columns * (2 + size) + (pieced_gamma(design.columns) * w[-1].abs() if bias else 0.0)
    found = drift(x, w, None, torch.zeros_like(size), rounding, constant, bias=bias)
    product = Exact(lambda: design_matrix(x.cpu(), bias) * ball_matrix(w.cpu()))
    judged = compare(found.value.cpu(), found.bound.cpu(), product)
    assert judged.sound, str(judged)
    for bounds, with_bias in ((found.norms, False), (found.distances, bias)):

        def norms(with_bias: bool = with_bias):
            rows = design_matrix(x.cpu(), with_bias).tolist()
            return type(ball_matrix(x.cpu()))([[sum((entry * entry for entry in row), 0).sqrt()] for row in rows])

        # Zero is off by the norm itself.
        judged = compare(torch.zeros_like(bounds.cpu())[:, None], bounds.cpu()[:, None], Exact(norms))
        assert judged.sound, str(judged)


# --- what is pinned, what is refused --------------------------------------------------------------------------------


X, W, E = torch.zeros(2, 3, device=DEVICE), torch.zeros(3, 4, device=DEVICE), torch.zeros(4, device=DEVICE).double()


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: drift(X.long(), W, None, E, E, E), TypeError, "torch.int64"),
        (lambda: drift(X[0], W, None, E, E, E), ValueError, r"got \[\(3,\)"),
        (lambda: drift(X, W, None, E, E, E, bias=True), ValueError, r"\[F \+ 1, C\]"),
        (lambda: drift(X, W, W[:2], E, E, E), ValueError, r"\(2, 4\)"),
        (lambda: drift(X, W, None, E, E[:3], E), ValueError, r"\(3,\)"),
        (lambda: drift(X, W, None, E, E, E, centre=E), ValueError, r"perhaps \[F\]"),
        (lambda: drift(X, W.to("meta"), None, E, E, E), ValueError, "meta"),
    ],
)
def test_bad_input_is_named(call, error, message):
    with pytest.raises(error, match=message):
        call()
