"""Planes of float32 rows: what they hold and lose, which rows fall back, and the same bits wherever they are made."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from csrc_triton.planes import ALIGNED, RowPlanes, restored, split
from tests.kernels import models_split
from tests.kernels.draws import DEVICE, normal, whole

TINY = torch.finfo(torch.float32).tiny
needs_triton = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="made for Linux only")


def assert_as_modelled(x: torch.Tensor) -> RowPlanes:
    """The planes of `x` are those of the definition, number by number."""
    planes, expected = split(x), models_split.split(x.cpu().numpy())
    features = x.shape[1]
    assert planes.high.shape[1] % ALIGNED == 0
    assert not planes.high[:, features:].any()
    assert not planes.low[:, features:].any()
    for computed, wanted in ((planes.high, expected.high), (planes.low, expected.low)):
        assert np.array_equal(computed[:, :features].float().cpu().numpy(), wanted)
    assert np.array_equal(planes.exponents.cpu().numpy(), expected.exponents)
    assert np.array_equal(planes.fallen.cpu().numpy(), np.flatnonzero(expected.fallen))
    assert torch.equal(planes.rows.view(torch.int32), x.detach().resolve_neg()[planes.fallen].view(torch.int32))
    return planes


def assert_close_where_kept(x: torch.Tensor, planes: RowPlanes) -> float:
    """Every number of every kept row is within 2 units of its planes; the largest error in those units."""
    exact, off = x.double(), (restored(planes).double() - x.double()).abs()
    off[planes.fallen] = 0.0
    assert bool((off <= 2.0**-23 * exact.abs()).all())
    return float((off / exact.abs().clamp(min=TINY)).max()) * 2.0**23


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (1, 1), (5, ALIGNED - 1), (7, ALIGNED), (2, ALIGNED + 1)])
def test_every_shape_is_split_as_defined(shape):
    assert_as_modelled(normal(*shape))
    planes = split(whole(*shape))
    assert torch.equal(restored(planes), whole(*shape))
    assert len(planes.fallen) == 0


def test_the_error_reaches_what_is_claimed_and_no_more():
    x = normal(40, 500) * torch.logspace(-20, 20, 40, device=DEVICE)[:, None]
    planes = assert_as_modelled(x)
    assert len(planes.fallen) == 0
    assert 0.9 < assert_close_where_kept(x, planes) <= 1.0
    planes.low[3, 7] *= 1.5
    with pytest.raises(AssertionError):
        assert_close_where_kept(x, planes)


@settings(max_examples=40)
@given(st.integers(0, 2**20), st.integers(1, 60), st.integers(-149, 127))
def test_rows_of_any_range_are_split_as_defined(seed, spread, top):
    """Numbers over `spread` powers of two below a largest one, zeros and subnormal ones among them."""
    generator = torch.Generator(device="cpu").manual_seed(seed)
    powers = top - torch.randint(0, spread, (6, 9), generator=generator, device="cpu")
    x = torch.randn((6, 9), generator=generator, dtype=torch.float64, device="cpu") * 2.0 ** powers.double()
    x = x.clamp(-torch.finfo(torch.float32).max, torch.finfo(torch.float32).max).float().to(DEVICE)
    assert_close_where_kept(x, assert_as_modelled(x))


ROWS = {
    "zeros": ([0.0, -0.0, 0.0], False),
    "a NaN": ([1.0, float("nan"), 2.0], True),
    "an infinity": ([1.0, -float("inf"), 2.0], True),
    "subnormal only": ([TINY / 2, TINY / 4, 0.0], True),
    "subnormal beside ones": ([TINY / 2, 1.0, 1.0], True),
    "too small for a scale": ([2.0**-99, 2.0**-100, 0.0], True),
    "the smallest that has one": ([2.0**-98, 2.0**-100, 0.0], False),
    "the largest numbers": ([torch.finfo(torch.float32).max, 2.0**127, 2.0**110], False),
    "one huge among tiny ones": ([1e10, 1.1e-5, 3.3e-7], True),
    "a tiny one that low alone would hold": ([2.0**14, 2.0**-25, 0.0], True),
    "a tiny one that high holds": ([2.0**14, 2.0**-24, 0.0], False),
    "a tiny one whose last bits are lost": ([2.0**14, 2.0**-14 + 2.0**-36, 0.0], True),
    "one that is as small and is not lost": ([2.0**14, 2.0**-14 + 2.0**-35, 0.0], False),
}


@pytest.mark.parametrize("name", ROWS)
def test_rows_fall_back_where_a_number_would_be_lost(name):
    numbers, falls = ROWS[name]
    x = torch.tensor([[1.0, 2.0, 3.0], numbers], dtype=torch.float32, device=DEVICE)
    planes = assert_as_modelled(x)
    assert planes.fallen.tolist() == ([1] if falls else [])
    back = restored(planes)
    assert torch.equal(back[planes.fallen].view(torch.int32), x[planes.fallen].view(torch.int32))


def test_flushed_arithmetic_gives_the_same_planes():
    """The subnormal numbers are made before: flushed arithmetic would not make any."""
    x = normal(60, 40) * torch.logspace(-37, 3, 60, device=DEVICE)[:, None]
    x[:, ::7] *= 2.0**-24
    expected = split(x)
    assert 0 < len(expected.fallen) < 60
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor flushes nothing")
    try:
        found = split(x)
    finally:
        torch.set_flush_denormal(False)
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one.view(torch.uint8), other.view(torch.uint8))


def test_layouts_and_chunks_change_no_bit(monkeypatch):
    x = normal(23, 18)
    x[3, 3] = torch.nan
    expected = split(x)
    lazy = torch.imag(torch.complex(x, -x).conj())
    assert lazy.is_neg()
    monkeypatch.setattr("csrc_triton.planes._CHUNK", 5 * 18)
    for same in (x, x.T.contiguous().T, lazy, torch.cat([x, x], 1)[:, :18], x.clone().requires_grad_()):
        for one, other in zip(split(same), expected, strict=True):
            assert torch.equal(one.view(torch.uint8), other.view(torch.uint8))
            assert not one.requires_grad


# --- the same by a kernel -------------------------------------------------------------------------------------------


def assert_same(found: RowPlanes, expected: RowPlanes) -> None:
    for one, other in zip(found, expected, strict=True):
        assert (one.dtype, one.shape) == (other.dtype, other.shape)
        assert torch.equal(one.contiguous().view(torch.uint8), other.contiguous().view(torch.uint8))


def hostile(rows: int, features: int) -> torch.Tensor:
    """Rows of every size and range, with zeros, subnormal numbers and what is not finite among them."""
    sizes = torch.logspace(-44, 38, rows, dtype=torch.float64, device=DEVICE)[:, None]
    x = (normal(rows, features, dtype=torch.float64) * sizes).float()
    spread = torch.logspace(0, -12, features, device=DEVICE)
    x[::3] *= spread
    x[1::7, ::2], x[5, 0], x[8, -1], x[11] = 0.0, torch.nan, -torch.inf, -0.0
    return x


@needs_triton
def test_a_kernel_makes_the_same_planes_bit_by_bit():
    from csrc_triton.planes_kernel import by_kernel, split_rows, variants

    named = torch.tensor([numbers for numbers, _ in ROWS.values()], dtype=torch.float32, device=DEVICE)
    for x in (
        named,
        hostile(14, 35),
        hostile(12, 1),
        normal(3, 9).T,
        hostile(12, 40)[:, ::9],
        normal(0, 3),
        normal(3, 0),
    ):
        expected = split(x)
        assert_same(by_kernel(x), expected)
        assert_same(split_rows(x), expected)
    assert 3 < len(split(hostile(14, 35)).fallen) < 12
    for variant in variants():
        assert {*variant.signature, *variant.constexprs} == set(variant.kernel.arg_names)
