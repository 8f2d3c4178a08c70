"""The rounding model: every constant and norm against exact rational arithmetic, at every scale float64 has."""

from __future__ import annotations

import math
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from ntkla.linalg.design import DesignMatrix, widened
from ntkla.linalg.precision import (
    SHORT_CHAIN,
    TINY64,
    U64,
    UNIT_ROUNDOFF,
    flushes_subnormals,
    gamma,
    norm_lower,
    norm_upper,
    rounded_up,
)
from ntkla.testing import FeatureSpec, hostile_states
from ntkla.testing.exact import dyadic

U = Fraction(1, 2**53)


def exact(x: torch.Tensor) -> list[Fraction]:
    """The stored numbers, read from their bits: no arithmetic of the processor can flush them."""
    return [Fraction(m) * Fraction(2) ** e for m, e in dyadic(x)]


@pytest.mark.parametrize("dtype", UNIT_ROUNDOFF)
def test_unit_roundoff_is_half_the_gap_above_one(dtype):
    one, half_gap = torch.ones(1, dtype=dtype), torch.full((1,), UNIT_ROUNDOFF[dtype], dtype=dtype)
    assert torch.equal(one + half_gap, one)  # a tie, to even
    assert torch.nextafter(one, 2 * one) - one == 2 * half_gap


def test_the_short_chain_covers_sixty_three_operations_and_its_own():
    assert Fraction(SHORT_CHAIN) * (1 - U) ** 64 >= 1
    assert Fraction(SHORT_CHAIN) >= (1 + U) ** 64
    assert Fraction(SHORT_CHAIN) <= (1 + U) ** 67


@given(st.integers(1, 2**53 - 1), st.sampled_from(list(UNIT_ROUNDOFF.values())))
@example(1, U64)
@example(2**52, U64)
@example(2**53 - 1, U64)
def test_gamma_is_an_upper_bound_and_no_more(n, unit):
    u = Fraction(unit)
    if n * u >= 1:
        assert gamma(n, unit) == math.inf
        return
    true = n * u / (1 - n * u)
    assert true <= Fraction(gamma(n, unit)) <= true * (1 + U) ** 70


@pytest.mark.parametrize("n", [2**53, 2**60, 10**30])
def test_gamma_is_infinite_where_the_model_ends(n):
    assert gamma(n) == math.inf


@given(st.lists(st.floats(0, 1e100), min_size=2, max_size=32), st.integers(0, 30))
def test_rounded_up_covers_a_short_chain(terms, divisions):
    computed, true = 0.0, Fraction(0)
    for term in terms:  # at most 32 sums and 30 divisions
        computed, true = computed + term, true + Fraction(term)
    for _ in range(divisions):
        computed, true = computed / 3, true / 3
    assert Fraction(float(rounded_up(torch.tensor(computed, dtype=torch.float64)))) >= true


# --- norms ----------------------------------------------------------------------------------------------------------

SCALES = (1e-320, 1e-312, 1e-308, 1e-200, 1e-160, 1e-12, 1.0, 1e12, 1e155, 1e300)
vectors = st.builds(
    lambda seed, length, scale, spread: (
        torch.randn(length, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        * torch.logspace(0, -spread, length, dtype=torch.float64)
        * scale
    ),
    st.integers(0, 2**31),
    st.sampled_from((1, 2, 3, 17, 256)),
    st.sampled_from(SCALES),
    st.sampled_from((0, 3, 20, 300)),
)


@given(vectors, st.booleans())
@example(torch.zeros(3, dtype=torch.float64), True)
@example(torch.full((5,), 5e-324, dtype=torch.float64), True)
@example(torch.full((5,), TINY64 * (1 - 2**-52), dtype=torch.float64), True)
@example(torch.tensor([1e300, 1e-320], dtype=torch.float64), True)
def test_a_norm_is_an_upper_bound_and_nearly_the_norm(x, flushed):
    square = sum(entry * entry for entry in exact(x))
    with flushing(flushed):
        bounds = [norm_upper(x), norm_upper(x[:, None], dim=0)[0], norm_upper(x[None], dim=1)[0]]
    for bound in bounds:
        found = exact(bound)[0]
        assert found * found >= square
        # gamma_{n+8} above a sum that may itself be gamma_n too large, and the floor for what may be flushed.
        slack = 1 + 2 * Fraction(gamma(x.numel() + 32))
        floor = 3 * Fraction(TINY64) * (math.isqrt(x.numel()) + 1)
        assert found <= floor or (found - floor) ** 2 <= square * slack * slack
    lower = Fraction(norm_lower_of(x, flushed))
    assert 0 <= lower * lower <= square
    slack, floor = 1 - 8 * Fraction(gamma(x.numel() + 32)), 8 * Fraction(TINY64) * (math.isqrt(x.numel()) + 1)
    assert (lower + floor) ** 2 >= square * slack * slack


def norm_lower_of(x, flushed):
    with flushing(flushed):
        return norm_lower(x)


def flushing(on: bool):
    return hostile_states()["flush denormal" if on else "no grad"]()


def test_norms_of_nothing_are_zero():
    assert norm_upper(torch.zeros(0, 3, dtype=torch.float64)) == 0
    assert torch.equal(norm_upper(torch.zeros(0, 3, dtype=torch.float64), dim=0), torch.zeros(3, dtype=torch.float64))
    assert norm_upper(torch.zeros(0, 3, dtype=torch.float64), dim=-1).shape == (0,)


def test_norms_along_each_dimension():
    x = torch.arange(24, dtype=torch.float64).reshape(2, 3, 4)
    for dim in (0, 1, 2, -1):
        bound, reference = norm_upper(x, dim=dim), torch.linalg.vector_norm(x, dim=dim)
        assert bound.shape == reference.shape
        assert (bound >= reference * (1 - gamma(8))).all()
        assert (bound <= reference * (1 + gamma(64)) + 8 * TINY64).all()


@given(st.sampled_from(("float64", "float32", "bfloat16")), st.sampled_from((1e-300, 1e-40, 1e-12, 1.0)), st.booleans())
def test_design_norms_are_upper_bounds(dtype, scale, flushed):
    spec = FeatureSpec(6, 3, dtype=dtype, scale=scale)
    entries = exact(spec.tensor)
    for bias in (False, True):
        with flushing(flushed):
            design = DesignMatrix(spec.tensor, bias)
            rows, whole = exact(design.row_norms()), Fraction(design.frobenius())
        squares = [sum(e * e for e in entries[3 * i : 3 * i + 3]) + int(bias) for i in range(6)]
        assert all(bound * bound >= square for bound, square in zip(rows, squares, strict=True))
        assert whole * whole >= sum(squares)


# --- subnormal numbers ----------------------------------------------------------------------------------------------


def test_flushing_is_noticed():
    assert not flushes_subnormals()
    with flushing(True):
        assert flushes_subnormals()
    assert not flushes_subnormals()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("flushed", [False, True])
def test_narrow_subnormals_widen_exactly(dtype, flushed):
    smallest = torch.finfo(dtype).smallest_normal
    x = torch.tensor([smallest / 2, -smallest / 4, smallest, 0.0, 1.5, -3.0], dtype=torch.float64).to(dtype)
    with flushing(flushed):
        wide, blocks = widened(x), [block.clone() for _, block in DesignMatrix(x[:, None]).blocks()]
    assert exact(wide) == exact(x)
    assert exact(torch.cat(blocks)) == exact(x)


def test_subnormals_stay_exact_when_only_the_pool_flushes():
    # The pool's threads are started while flushing is on, and keep it when the main thread turns it off again.
    code = """
import torch
from ntkla.linalg.design import DesignMatrix, widened
torch.set_num_threads(2)
torch.set_flush_denormal(True)
torch.ones(2**20, device="cpu").mul(2.0)
torch.set_flush_denormal(False)
x = torch.full((2**20, 1), 2.0**-140, dtype=torch.float32)
assert bool((widened(x) == 2.0**-140).all())
assert all(bool((block == 2.0**-140).all()) for _, block in DesignMatrix(x.expand(2**20, 40)[: 2**12]).blocks())
"""
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
