"""The random check of products: a right one always agrees, a wrong one is found, and mistakes of a caller are named."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import ntkla
from ntkla.linalg import errors
from ntkla.linalg.backends.primitive import gram_roundings, normal_roundings
from ntkla.linalg.precision import UNIT_ROUNDOFF, gamma
from ntkla.testing import check_product, hostile_states
from ntkla.testing.strategies import feature_specs


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    generator = torch.Generator(device="cpu").manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64, device="cpu").to(dtype)


@given(feature_specs(extreme=True), st.integers(0, 5))
def test_a_product_within_its_bound_agrees(spec, seed):
    x = spec.tensor
    computed = ntkla.gram(x, precision="float64")
    claim = gamma(gram_roundings(x.shape[1], x.dtype, "float64"))
    lost = 2 * (x.shape[1] + 1) * torch.finfo(torch.float64).tiny
    found = check_product(computed, [x, x.T], error=claim, lost=lost, seed=seed)
    assert found.agrees, str(found)


def test_a_product_of_three_factors_agrees():
    x, w, weights = normal(40, 7), normal(7, 3, seed=1), normal(40, seed=2).abs()
    computed = ntkla.normal_matmul(x, w, weights=weights)
    claim = gamma(normal_roundings(40, 7))
    # The weight is one more rounding of the factor, made here.
    found = check_product(computed, [x.T * weights, x, w], error=claim + 2 * UNIT_ROUNDOFF[torch.float64])
    assert found.agrees, str(found)


def test_the_claim_decides():
    """A product in float32 is none in float64, and is one in float32."""
    x = normal(60, 30)
    computed = (x.float() @ x.float().T).double()
    assert check_product(computed, [x, x.T], error=gamma(34, UNIT_ROUNDOFF[torch.float32])).agrees
    found = check_product(computed, [x, x.T], error=gamma(31))
    assert len(found.rows) == 60
    assert found.largest_ratio > 1


@pytest.mark.parametrize("row", [0, 59])
def test_one_wrong_entry_is_found_and_its_row_is_named(row):
    x = normal(60, 30)
    computed = x @ x.T
    claim = gamma(31)
    allowed = float((x.abs() @ x.abs().T).sum(1)[row]) * claim
    computed[row, 17] += 100 * allowed
    found = check_product(computed, [x, x.T], error=claim)
    assert found.rows == (row,)
    assert f"1 rows are wrong ({row})" in str(found)
    computed[row, 17] = math.nan
    assert check_product(computed, [x, x.T], error=claim).rows == (row,)


def test_errors_that_cancel_in_the_sum_of_a_row_are_found():
    """A check with ones instead of signs would not see them."""
    x = normal(20, 10)
    computed = x @ x.T
    computed[3, 4] += 1.0
    computed[3, 5] -= 1.0
    assert check_product(computed, [x, x.T], error=gamma(11)).rows == (3,)


def test_flushed_arithmetic_agrees_too():
    x = normal(9, 5) * 2.0**-530
    computed = x @ x.T
    with hostile_states()["flush denormal"]():
        assert check_product(computed, [x, x.T], error=gamma(6), lost=12 * torch.finfo(torch.float64).tiny).agrees


X = torch.ones(3, 2, dtype=torch.float64)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: check_product(X, [X, X], error=0.0), errors.ShapeError, r"got \(3, 2\) and \[\(3, 2\), \(3, 2\)\]"),
        (lambda: check_product(X, [], error=0.0), errors.ShapeError, r"\[n, k\]"),
        (lambda: check_product(X, [X], error=-1.0), errors.ArgumentError, "error"),
        (lambda: check_product(X, [X], error=0.0, trials=0), errors.ArgumentError, "trials"),
        (lambda: check_product(X.long(), [X], error=0.0), errors.DtypeError, "product: expected a float64"),
        (lambda: check_product(X, [X / 0], error=0.0), errors.NonFiniteError, r"factors\[0\]"),
        (lambda: check_product(X.to("meta"), [X], error=0.0), errors.DeviceError, "one device"),
        (lambda: check_product(X, [1e75 * X, 1e75 * X.T] * 2 + [1e75 * X], error=0.0), errors.ScaleError, "overflows"),
    ],
)
def test_bad_input_is_named(call, error, message):
    with pytest.raises(error, match=message):
        call()
