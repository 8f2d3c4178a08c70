"""Fixed-point matrices against Python's integers: exact, one form for each number, and rounded within the bound."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from ntkla.linalg.arithmetic import fixed_point
from ntkla.linalg.arithmetic.fixed_point import LIMB_BITS, FixedPoint
from ntkla.linalg.precision import TINY64, U64
from tests.linalg.exact_reference import value

CPU = torch.device("cpu")
LARGEST = 2**54 - 1
Term = tuple[int, int]
terms = st.lists(st.tuples(st.integers(-LARGEST, LARGEST), st.integers(-2200, 600)), max_size=12)
near = st.lists(st.tuples(st.integers(-LARGEST, LARGEST), st.integers(-60, 60)), max_size=12)


def number(pairs: list[Term]) -> FixedPoint:
    found = [(torch.tensor([[m]], dtype=torch.int64), e) for m, e in pairs]
    return FixedPoint.of_terms(found, [e for _, e in pairs], FixedPoint.zeros(1, 1, CPU))


def truth(pairs: list[Term]) -> Fraction:
    return sum((m * Fraction(2) ** e for m, e in pairs), Fraction(0))


@given(st.one_of(terms, near), st.randoms(use_true_random=False))
@example([(1, 5), (-1, 5)], None)
@example([(2**43, 0), (-(2**43), 0), (2**43, 44)], None)
@example([(-(2**43), 0)], None)
@example([(2**43, 0)], None)
def test_sums_are_exact_and_have_one_form(pairs, random):
    whole = number(pairs)
    assert value(whole) == [[truth(pairs)]]
    shuffled = list(pairs)
    if random is not None:
        random.shuffle(shuffled)
    cut = len(pairs) // 2
    assert whole.equals(number(shuffled[:cut]) + number(shuffled[cut:]))
    digits = whole.limbs
    assert bool((digits >= -(2 ** (LIMB_BITS - 1))).all())
    assert bool((digits < 2 ** (LIMB_BITS - 1)).all())
    assert digits.shape[0] == 0 or bool(digits[0].any() and digits[-1].any())


def test_more_terms_than_a_limb_takes_are_carried_in_between():
    pairs = [(LARGEST, 43)] * 1200
    assert value(number(pairs)) == [[truth(pairs)]]


def test_a_limb_that_is_never_carried_overflows(monkeypatch):
    """The planted error: what the limit of terms between two carries is for."""
    monkeypatch.setattr(fixed_point, "_MOST_TERMS", 2**12)
    pairs = [(LARGEST, 43)] * 1200
    assert value(number(pairs)) != [[truth(pairs)]]


@given(near)
@example([(1, 0), (-1, -100)])
@example([(1, 43), (-1, 0)])
def test_rounding_is_within_its_bound(pairs):
    """And the bound within 7 L^2 u^2 of the number: 6, and what rounding the bound itself costs."""
    exact = number(pairs)
    found, count = exact.rounded(), exact.limbs.shape[0]
    high, low, radius = (Fraction(float(x)) for x in (*found.value, found.radius))
    assert abs(high + low - truth(pairs)) <= radius
    assert radius <= 7 * count**2 * Fraction(U64) ** 2 * abs(truth(pairs)) + Fraction(TINY64)


@given(terms)
@example([(LARGEST, -1100), (1, 300)])
@example([(LARGEST, -1000), (LARGEST, -1050)])
@example([(3, -2200)])
@example([(3, -1080), (1, -1200)])
def test_what_float64_cannot_hold_is_in_the_bound(pairs):
    found = number(pairs).rounded()
    assert all(bool(torch.isfinite(x)) for x in (*found.value, found.radius))
    assert abs(Fraction(float(found.value.high)) + Fraction(float(found.value.low)) - truth(pairs)) <= Fraction(
        float(found.radius)
    )


def test_numbers_that_differ_in_the_last_bit_differ():
    assert not number([(1, 500), (1, -1100)]).equals(number([(1, 500)]))
    assert not number([(1, 44)]).equals(number([(1, 0)]))


@pytest.mark.parametrize("shape", [(1, 1), (3, 2)])
def test_zero_is_one_form(shape):
    zero = FixedPoint.zeros(*shape, CPU)
    assert (zero + zero).equals(zero)
    assert zero.nbytes() == 0
    assert not bool(zero.rounded().radius.any())
