"""The weight of pseudo-samples: two float64 numbers that say more than one can."""

from __future__ import annotations

import sys
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

import ntkla
from ntkla.forgetting.penalties.weight import row_weight
from ntkla.linalg.precision import TINY64, U64


@given(st.floats(0.0, 1e300), st.integers(1, 10**6))
def test_the_two_parts_are_the_weight_to_twice_the_digits(weight, count):
    exact = 2 * Fraction(weight) / count
    high, low = row_weight(weight, count)
    assert high == float(exact)
    left = abs(exact - Fraction(high))
    assert abs(exact - Fraction(high) - Fraction(low)) <= left * Fraction(U64) + Fraction(TINY64)
    assert left <= Fraction(U64) * exact + Fraction(TINY64)


def test_one_number_would_not_do():
    high, low = row_weight(1.0, 3)
    assert low != 0.0
    assert Fraction(high) != Fraction(2, 3)


def test_a_weight_beyond_float64_is_refused():
    largest = sys.float_info.max
    assert row_weight(largest, 2) == (largest, 0.0)
    with pytest.raises(ntkla.ArgumentError, match="weight"):
        row_weight(largest, 1)
