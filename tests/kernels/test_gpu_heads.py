"""The kernels of softmax heads and of drifts at the size of a device: exact entries, right products, the same bits.

As in `test_gpu.py`: the same bodies run in the interpreter at small sizes.
"""

from __future__ import annotations

import pytest
import torch

import ntkla
from ntkla.linalg.arithmetic.products import pieced_gamma
from ntkla.linalg.precision import norm_upper
from ntkla.testing import check_product
from tests.kernels.draws import DEVICE, normal, whole
from tests.kernels.places import GPU, places
from tests.kernels.softmax_problems import as_written, exact_roots, tops

pytest.importorskip("triton", reason="the kernels need Triton, which is made for Linux only")

from csrc_triton.drift import DTYPES, drift
from csrc_triton.drift_summary import drift_summary
from csrc_triton.softmax_gram import softmax_gram
from csrc_triton.softmax_tiles import LONGEST, MODES

CASES = [(mode, dtype) for mode, dtypes in MODES.items() for dtype in dtypes]


@places
@pytest.mark.parametrize("long", [False, True])
@pytest.mark.parametrize(("mode", "dtype"), CASES)
def test_softmax_products_of_many_tiles_have_the_exact_entries(place, mode, dtype, long):
    """x has few entries that are not 0, so that float32 holds every sum."""
    n, features, columns = (3001, 777, 2) if place == GPU else (19, 35, 1)
    outputs = LONGEST + 2 if long else 7
    x = whole(n, features, most=1, dtype=dtype) * whole(n, features, seed=4, most=20).eq(0)
    v, roots = whole(n, outputs, columns, seed=1, most=1, dtype=dtype), exact_roots(n, outputs)
    computed = softmax_gram(x, roots, tops(roots), v, bias=False, mode=mode)
    assert torch.equal(computed.cpu().double(), as_written(x, roots, v, False))


@places
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_softmax_products_agree_with_torch_within_their_bounds(place, dtype):
    n, features, outputs = (20011, 769, 1000) if place == GPU else (18, 5, 18)
    x, v = normal(n, features, dtype=dtype) + 1, normal(n, outputs, seed=1, dtype=dtype)
    p = torch.softmax(4 * normal(n, outputs, seed=2), 1)
    bound = ntkla.softmax_gram_error(x, p, v, bias=True)
    with ntkla.backend("triton"):
        found = ntkla.softmax_gram(x, p, v, bias=True)
        assert torch.equal(found, ntkla.softmax_gram(x, p, v, bias=True))
    difference = found.double() - ntkla.softmax_gram(x, p, v, bias=True).double()
    assert norm_upper(difference) <= 2 * bound


@places
@pytest.mark.parametrize("dtype", DTYPES)
def test_drifts_of_many_tiles_are_exact_and_so_are_their_sums(place, dtype):
    n, features, outputs = (30011, 769, 100) if place == GPU else (37, 35, 18)
    x, change = whole(n, features, dtype=dtype), whole(features + 1, outputs, seed=1, dtype=torch.float64)
    zeros = torch.zeros_like(change[0])
    expected = x.double() @ change[:-1] + change[-1]
    found = drift(x, change, None, zeros, zeros, zeros, bias=True)
    assert torch.equal(found.value, expected)
    assert not found.bound.any()
    assert (found.norms >= torch.linalg.vector_norm(x.double(), dim=1) * (1 - 2.0**-52)).all()
    sums = drift_summary(x, change, zeros, zeros, zeros, bias=True, before=-expected, before_bound=0 * expected)
    assert torch.equal(sums.row_squares, expected.square().sum(1))
    assert torch.equal(sums.column_squares, expected.square().sum(0))
    # After the drift every output is zero: all are possible.
    assert ((sums.flags >> 4) & 3 == 2).all()


@places
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_large_drift_agrees_with_its_factors_and_has_the_same_bits_again(place, dtype):
    n, features, outputs = (30011, 2048, 100) if place == GPU else (37, 40, 18)
    x, change = normal(n, features, dtype=dtype) + 1, normal(features, outputs, seed=1, dtype=torch.float64)
    own = [normal(outputs, seed=seed, dtype=torch.float64).abs() for seed in (2, 3, 4)]
    first, again = (drift(x, change, None, *own, centre=change[:, 0], beside=own[0][0]) for _ in range(2))
    assert all(map(torch.equal, first, again))
    check = check_product(first.value, [x, change], error=pieced_gamma(features))
    assert check.agrees, str(check)
    row = n // 2
    first.value[[row, row + 1]] = first.value[[row + 1, row]]
    assert check_product(first.value, [x, change], error=pieced_gamma(features)).rows == (row, row + 1)


@places
def test_a_forecast_and_its_summary_are_certified_on_the_device(place):
    n, features, outputs = (5003, 384, 100) if place == GPU else (37, 12, 5)
    old, new = normal(n, features, seed=5) + 1, normal(2 * n, features, seed=6)
    residual = normal(2 * n, outputs, seed=7).double()
    in_torch = ntkla.predict_forgetting(old, new, residual, ridge=1.0, bias=True)
    with ntkla.backend("triton"):
        found = ntkla.predict_forgetting(old, new, residual, ridge=1.0, bias=True)
        summary = ntkla.drift_summary(old, found)
        assert ntkla.last_dispatch() == "triton:drift:float64"
    assert found.status.certified
    assert ((found.drift - in_torch.drift).abs() <= 2 * (found.error_bound + in_torch.error_bound)).all()
    norms = torch.linalg.vector_norm(found.drift, dim=1)
    most = torch.linalg.vector_norm(found.error_bound, dim=1)
    assert ((summary.norms - norms).abs() <= 2 * (summary.norm_errors + most)).all()
    assert summary.norms.device.type == DEVICE
