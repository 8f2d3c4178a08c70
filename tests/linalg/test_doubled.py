"""Unevaluated sums against rational numbers: without any error where that is promised, within the bounds elsewhere."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from ntkla.linalg.arithmetic import doubled
from ntkla.linalg.arithmetic.doubled import Doubled, add, add_into, column_sum, total, two_product, two_sum
from ntkla.linalg.precision import TINY64, U64
from ntkla.testing.spectra import normal

U = Fraction(U64)
SEEDS = range(60)
# No sum of two of these overflows, and sums of float64 numbers never underflow.
ADDENDS = st.floats(-(2.0**1020), 2.0**1020)
# No part of a product of two of these, down to its 106th bit, overflows or underflows.
FACTORS = st.builds(lambda m, e: m * 2.0**e, st.floats(-2.0, 2.0, allow_subnormal=False), st.integers(-300, 300))
ALL_BITS = 2.0 - 2.0**-52
# The bounds are squares of a number of additions times u^2 |x|: without that square, some case reaches this share.
TIGHTNESS = Fraction(1, 50)


def scalar(value: float) -> torch.Tensor:
    return torch.tensor(value, dtype=torch.float64)


def value(x: Doubled) -> list[Fraction]:
    """The numbers that x stands for, row by row."""
    pairs = zip(x.high.flatten().tolist(), x.low.flatten().tolist(), strict=True)
    return [Fraction(high) + Fraction(low) for high, low in pairs]


def exactly(x: torch.Tensor) -> list[Fraction]:
    return [Fraction(entry) for entry in x.flatten().tolist()]


def drawn(rows: int, seed: int, spread: int = 8) -> torch.Tensor:
    """[rows, 1]: all 53 bits set at random, exponents within `spread`, signs mixed."""
    x = normal(rows, 1, seed)
    return x * torch.exp2((normal(rows, 1, seed + 1000) * spread / 4).round())


@given(ADDENDS, ADDENDS)
@example(1.0, U64)
@example(2.0**1000, -(2.0**-1000))
@example(ALL_BITS, -ALL_BITS * 2.0**-53)
@example(5e-324, 2.0**-1022)
def test_two_sum_is_exact(a: float, b: float) -> None:
    found = two_sum(scalar(a), scalar(b))
    assert value(found) == [Fraction(a) + Fraction(b)]
    assert abs(Fraction(found.low.item())) <= U * abs(Fraction(found.high.item()))


@given(FACTORS, FACTORS)
@example(ALL_BITS, ALL_BITS)
@example(ALL_BITS * 2.0**994, ALL_BITS * 2.0**-600)
@example(1.0 + 2.0**-27, 1.0 + 2.0**-27)
@example(0.1328095077987128, 2.5351528253755e-309)
def test_two_product_is_exact(a: float, b: float) -> None:
    found = two_product(scalar(a), scalar(b))
    high, low = (Fraction(part.item()) for part in found)
    if abs(Fraction(a) * Fraction(b)) < TINY64 / U**2:
        # A part of it underflows: the next test says by how much it is off then.
        assert abs(low) <= U * abs(high) + 5 * Fraction(TINY64)
    else:
        assert high + low == Fraction(a) * Fraction(b)
        assert abs(low) <= U * abs(high)


@pytest.mark.parametrize("exponent", [-480, -500, -511, -520, -530, -600])
def test_two_product_loses_a_few_tiny_when_it_underflows(exponent: int) -> None:
    """High and low part, and the three products that the low part is made of: five, each off by at most `tiny`."""
    for seed in SEEDS:
        a, b = (x * 2.0**exponent for x in (drawn(1, seed), drawn(1, seed + 1)))
        (found,), (exact,) = value(two_product(a, b)), [x * y for x, y in zip(exactly(a), exactly(b), strict=True)]
        assert abs(found - exact) <= 5 * Fraction(TINY64)


def worst(cases: list[tuple[Fraction, Fraction]]) -> Fraction:
    """The largest error over its bound, of (error, bound)."""
    return max(error / bound for error, bound in cases)


def test_add_keeps_its_bound_and_comes_near_it() -> None:
    cases = []
    for seed in SEEDS:
        x = two_sum(drawn(1, seed), drawn(1, seed + 1) * U64)
        for y in (drawn(1, seed + 2), -x.high * (1.0 - 2.0**-30), x.high * 2.0**-53, torch.zeros_like(x.high)):
            found, exact = value(add(x, y))[0], value(x)[0] + exactly(y)[0]
            cases.append((abs(found - exact), 2 * U**2 * (abs(value(x)[0]) + abs(exactly(y)[0]))))
    assert TIGHTNESS < worst(cases) <= 1


@pytest.mark.parametrize("count", [1, 2, 3, 4, 11, 40])
def test_a_total_keeps_its_bound(count: int) -> None:
    cases = []
    for seed in SEEDS:
        terms = drawn(count, seed)
        terms[1::2] *= U64  # their last bits are the last of a doubled number, and do not all fit beside the errors
        bound = 2 * count**2 * U**2 * sum(map(abs, exactly(terms)))
        cases.append((abs(value(total(list(terms)))[0] - sum(exactly(terms))), bound))
    assert worst(cases) <= 1
    if count <= 2:
        assert worst(cases) == 0
    elif count > 4:  # the errors of a few additions mostly add up exactly
        assert worst(cases) * count**2 > TIGHTNESS


@pytest.mark.parametrize("rows", [1, 2, 3, 7, 8, 129])
def test_a_column_sum_keeps_its_bound(rows: int) -> None:
    levels = Fraction(math.log2(rows)) + 3
    cases = []
    for seed in SEEDS:
        x = two_sum(drawn(rows, seed), drawn(rows, seed + 1) * U64)
        found = value(column_sum(Doubled(x.high, x.low)))[0]
        cases.append((abs(found - sum(value(x))), 2 * levels**2 * U**2 * sum(map(abs, value(x)))))
    assert worst(cases) <= 1
    if rows == 1:
        assert worst(cases) == 0
    else:
        assert worst(cases) * levels**2 > TIGHTNESS


@pytest.mark.parametrize("chunk", [1, 3, doubled._CHUNK_ENTRIES])
def test_adding_in_place_keeps_the_bound_of_a_total(monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    """Row chunk by row chunk: no entry is left out, and none is added twice."""
    monkeypatch.setattr(doubled, "_CHUNK_ENTRIES", chunk)
    terms = [torch.cat([drawn(5, seed), drawn(5, seed + 7)], dim=1) * U64 ** (seed % 2) for seed in range(12)]
    x = Doubled(torch.zeros(5, 2, dtype=torch.float64), torch.zeros(5, 2, dtype=torch.float64))
    for term in terms:
        add_into(x, term)
    cases = []
    for i, found in enumerate(value(x)):
        entries = [exactly(term)[i] for term in terms]
        cases.append((abs(found - sum(entries)), 2 * len(terms) ** 2 * U**2 * sum(map(abs, entries))))
    assert worst(cases) * len(terms) ** 2 > TIGHTNESS
    assert worst(cases) <= 1


def test_what_the_high_parts_lose_is_kept() -> None:
    """Each of 4096 terms is u / 2 beside a sum of 1: high additions alone would lose them all, and halves find them."""
    terms = torch.full((4097, 1), U64 / 2, dtype=torch.float64)
    terms[0] = 1.0
    exact = [1 + 4096 * U / 2]
    x = Doubled(torch.zeros(1, 1, dtype=torch.float64), torch.zeros(1, 1, dtype=torch.float64))
    for term in terms:
        add_into(x, term[None])
    assert value(x) == value(total(list(terms))) == exact
    assert value(column_sum(Doubled(terms, torch.zeros_like(terms)))) == exact
