"""Slices against rational numbers: their products are exact within the budget of bits, and no longer one bit above."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from ntkla.linalg.arithmetic.doubled import Doubled, two_sum
from ntkla.linalg.arithmetic.slicing import (
    SIGNIFICAND,
    cut,
    exponents,
    length_bits,
    power_of_two,
    product_terms,
    right_factors,
    slice_bits,
)
from ntkla.linalg.precision import TINY64, U64, gamma
from ntkla.testing.spectra import normal

Rows = list[list[Fraction]]


def exactly(x: torch.Tensor) -> Rows:
    return [[Fraction(entry) for entry in row] for row in x.tolist()]


def value(x: torch.Tensor | Doubled) -> Rows:
    return exactly(x) if isinstance(x, torch.Tensor) else added(exactly(x.high), exactly(x.low))


def added(*terms: Rows) -> Rows:
    return [[sum(entries) for entries in zip(*rows, strict=True)] for rows in zip(*terms, strict=True)]


def product(a: Rows, b: Rows) -> Rows:
    columns = list(zip(*b, strict=True))
    return [[sum(x * y for x, y in zip(row, column, strict=True)) for column in columns] for row in a]


def largest(a: Rows) -> Fraction:
    return max(abs(entry) for row in a for entry in row)


def distance(a: Rows, b: Rows) -> Fraction:
    return max(abs(x - y) for row, other in zip(a, b, strict=True) for x, y in zip(row, other, strict=True))


def drawn(rows: int, columns: int, seed: int, doubled: bool) -> torch.Tensor | Doubled:
    """Entries of very different sizes, with all their bits set; as a doubled number with 106 of them."""
    x = normal(rows, columns, seed) * torch.exp2((8 * normal(rows, columns, seed + 1)).round())
    return two_sum(x, x * normal(rows, columns, seed + 2) * U64) if doubled else x


def high(x: torch.Tensor | Doubled) -> torch.Tensor:
    return x if isinstance(x, torch.Tensor) else x.high


LENGTHS = [1, 2, 3, 8, 9, 64, 65]


@pytest.mark.parametrize("doubled", [False, True])
@pytest.mark.parametrize("length", [*LENGTHS, 512, 513])
def test_products_of_slices_are_exact(length: int, doubled: bool) -> None:
    """Every pair of slices, not only those that a level multiplies: K at a power of two, and one above."""
    bits = slice_bits(length)
    partner = SIGNIFICAND - length_bits(length) - bits
    for seed in range(2):
        a, b = drawn(2, length, seed, doubled), drawn(length, 2, seed + 9, doubled)
        left = cut(a, exponents(high(a), 1), bits, 3)
        right = cut(b, exponents(high(b), 0), partner, 3)
        for p in left.parts:
            for q in right.parts:
                assert exactly(p @ q) == product(exactly(p), exactly(q))


def odd(length: int, bits: int) -> torch.Tensor:
    """[1, length]: the largest odd integers of so many bits, over 2^bits; their slice holds every bit of them."""
    return torch.full((1, length), 1.0 - 2.0**-bits, dtype=torch.float64)


@pytest.mark.parametrize("length", [n for n in LENGTHS if n > 1])
@pytest.mark.parametrize("excess", [0, 1])
def test_one_bit_too_many_is_not_exact(length: int, excess: int) -> None:
    """The sum of an odd number of odd products is odd: with one bit too many it has 54 bits and cannot be stored."""
    bits = slice_bits(length)
    partner = SIGNIFICAND - length_bits(length) - bits + excess
    a, b = odd(length, bits), odd(length, partner).T.clone()
    if length % 2 == 0:
        b[0] = 0.0
    # A sum of one product fewer stays below 2^54 and, from three products on, above 2^53.
    left, right = (cut(x, torch.zeros(1, 1, dtype=torch.int64), n, 1) for x, n in ((a, bits), (b, partner)))
    assert torch.equal(left.parts[0], a)
    assert torch.equal(right.parts[0], b)
    exact = exactly(a @ b) == product(exactly(a), exactly(b))
    assert exact == (excess == 0 or length == 2)


@pytest.mark.parametrize("length", [2**k + d for k in range(1, 12) for d in (-1, 0, 1)] + [1])
def test_the_bits_of_a_length_are_its_carries(length: int) -> None:
    assert 2 ** length_bits(length) >= length > 2 ** length_bits(length) // 2 - (length == 1)
    both = slice_bits(length) + SIGNIFICAND - length_bits(length) - slice_bits(length)
    assert length * 2**both <= 2**SIGNIFICAND
    assert slice_bits(length) <= SIGNIFICAND - length_bits(length) - slice_bits(length) <= slice_bits(length) + 1
    assert slice_bits(length, 4096) == slice_bits(4096) <= slice_bits(length)


@pytest.mark.parametrize("doubled", [False, True])
@pytest.mark.parametrize("bits", [7, 21, 26])
def test_slices_lie_on_their_grids_and_add_up(bits: int, doubled: bool) -> None:
    for seed in range(5):
        x = drawn(3, 4, seed, doubled)
        exponent = exponents(high(x), 1)
        slices = cut(x, exponent, bits, 4)
        for p, part in enumerate(slices.parts, start=1):
            for row, e in zip(exactly(part), exponent[:, 0].tolist(), strict=True):
                steps = [entry / Fraction(2) ** (e - p * bits) for entry in row]
                assert all(step.denominator == 1 for step in steps)
                assert all(abs(step) <= 2 ** (bits - (p > 1)) for step in steps)
        for q, rest in enumerate(slices.rest):
            found, half = added(exactly(rest), *map(exactly, slices.parts[:q])), Fraction(2) ** (-q * bits - 1)
            if doubled:  # the rest is what is left, rounded once
                assert distance(found, value(x)) <= Fraction(U64) * largest(exactly(rest)) * (1 + Fraction(U64))
            else:
                assert found == value(x)
            if q > 0:
                assert largest(exactly(rest / power_of_two(exponent))) <= half


def test_powers_of_two_are_exact_to_the_ends() -> None:
    all_of_them = torch.arange(-1022, 1024, dtype=torch.int32)
    found = power_of_two(all_of_them)
    assert found.dtype == torch.float64
    assert found.tolist() == [math.ldexp(1.0, e) for e in range(-1022, 1024)]
    assert float(found[0]) == TINY64


@given(st.floats(-(2.0**1020), 2.0**1020))
@example(0.0)
@example(1.0)
@example(-1.0 + 2.0**-53)
@example(2.0**-700)
@example(2.0**-701)
@example(5e-324)
@example(TINY64)
def test_exponents_are_the_least_ones_down_to_their_floor(x: float) -> None:
    row = torch.tensor([[x / 2, x, 0.0]], dtype=torch.float64)
    (e,) = exponents(row, 1).flatten().tolist()
    assert abs(Fraction(x)) < Fraction(2) ** e
    assert e == -700 or abs(Fraction(x)) >= Fraction(2) ** (e - 1)
    assert e >= -700


@pytest.mark.parametrize("doubled", [False, True])
@pytest.mark.parametrize("level", [0, 1, 2, 3, 4])
def test_the_partial_products_add_up_to_the_product(level: int, doubled: bool) -> None:
    """What is not exact is the ordinary products, each `2^(-level bits)` of the plain one."""
    length, width = 17, 3
    bits = slice_bits(length)
    partner = SIGNIFICAND - length_bits(length) - bits
    a, b = drawn(2, length, 5, False), drawn(length, width, 6, doubled)
    left = cut(a, exponents(a, 1), bits, level)
    right = cut(b, exponents(high(b), 0), partner, level)
    terms = product_terms([*left.parts, left.rest[level]], right_factors(right, level), width)
    assert len(terms) == (level + 1) * (level + 2) // 2
    error = distance(added(*map(exactly, terms)), product(value(a), value(b)))
    sizes = [float(power_of_two(exponents(high(x), d)).max()) for x, d in ((a, 1), (b, 0))]
    # Level + 1 ordinary products of K summands, whose factors are 2^(-p bits) and 2^(-q bits), p + q = level.
    bound = (level + 1) * length * gamma(length + 2) * sizes[0] * sizes[1] * 2.0 ** (-level * bits)
    assert 0 < error <= Fraction(bound)


def test_partial_products_of_few_bits_are_exact_at_every_level() -> None:
    a = torch.arange(1, 13, dtype=torch.float64).reshape(2, 6)
    b = torch.arange(-9, 9, dtype=torch.float64).reshape(6, 3)
    for level in range(5):
        left, right = cut(a, exponents(a, 1), 3, level), cut(b, exponents(b, 0), 3, level)
        terms = product_terms([*left.parts, left.rest[level]], right_factors(right, level), 3)
        assert torch.equal(torch.stack(terms).sum(0), a @ b)
