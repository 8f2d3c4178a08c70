"""Doubled numbers with a radius against exact fractions."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ntkla.linalg.arithmetic import enclosure
from ntkla.linalg.arithmetic.doubled import two_product
from ntkla.linalg.arithmetic.enclosure import Enclosed
from ntkla.linalg.decisions import Decision
from ntkla.linalg.errors import ArgumentError, UndecidedError
from ntkla.linalg.precision import U64

NUMBERS = st.floats(-(2.0**60), 2.0**60).filter(lambda x: x == 0 or abs(x) > 2.0**-60)
OPERATIONS: dict[str, Callable[[Fraction, Fraction], Fraction]] = {
    "multiply": lambda x, y: x * y,
    "plus": lambda x, y: x + y,
    "minus": lambda x, y: x - y,
    "divide": lambda x, y: x / y,
}


def enclosed(a: float, b: float) -> tuple[Enclosed, Fraction]:
    """The product a b as a doubled number, and exactly."""
    product = two_product(torch.tensor([a], dtype=torch.float64), torch.tensor([b], dtype=torch.float64))
    return Enclosed(product, torch.zeros(1, dtype=torch.float64)), Fraction(a) * Fraction(b)


def value_of(x: Enclosed) -> Fraction:
    return Fraction(float(x.value.high)) + Fraction(float(x.value.low))


@pytest.mark.parametrize("name", sorted(OPERATIONS))
@given(NUMBERS, NUMBERS, NUMBERS, NUMBERS)
def test_operations_enclose(name: str, a: float, b: float, c: float, d: float) -> None:
    (x, exact_x), (y, exact_y) = enclosed(a, b), enclosed(c, d)
    found = getattr(enclosure, name)(x, y)
    if name == "divide" and exact_y == 0:
        assert torch.isinf(found.radius).all()
        return
    exact = OPERATIONS[name](exact_x, exact_y)
    assert abs(value_of(found) - exact) <= Fraction(float(found.radius))
    value, error = enclosure.rounded(found)
    assert abs(Fraction(float(value)) - exact) <= Fraction(float(error))


@given(NUMBERS, NUMBERS, st.floats(0.0, 1e-3), st.floats(0.0, 1e-3), st.floats(-1.0, 1.0), st.floats(-1.0, 1.0))
def test_radii_propagate(a: float, b: float, r: float, s: float, p: float, q: float) -> None:
    """Any pair of numbers inside the operands has its result inside the result."""
    x, y = (Enclosed(enclosed(v, 1.0)[0].value, torch.tensor([w], dtype=torch.float64)) for v, w in ((a, r), (b, s)))
    inside_x, inside_y = Fraction(a) + Fraction(r) * Fraction(p), Fraction(b) + Fraction(s) * Fraction(q)
    for name, operation in OPERATIONS.items():
        if name == "divide" and abs(b) <= 2 * s:
            continue
        found = getattr(enclosure, name)(x, y)
        assert abs(value_of(found) - operation(inside_x, inside_y)) <= Fraction(float(found.radius))


def test_products_keep_106_bits() -> None:
    (x, _), (y, _) = enclosed(1 / 3, 1 / 7), enclosed(1 / 11, 1 / 13)
    found = enclosure.multiply(x, y)
    assert float(found.radius) <= 16 * U64**2 * abs(float(found.value.high))


def test_choose_takes_all_three_parts() -> None:
    (x, _), (y, _) = enclosed(1 / 3, 1 / 7), enclosed(1 / 11, 1 / 13)
    assert value_of(enclosure.choose(torch.tensor([True]), x, y)) == value_of(x)
    assert value_of(enclosure.choose(torch.tensor([False]), x, y)) == value_of(y)


def test_decisions() -> None:
    decided, open_ = Decision(3, 3), Decision(2, 4)
    assert decided.decided
    assert decided.value == 3
    assert int(decided) == float(decided) == 3
    assert str(decided) == "3"
    assert not open_.decided
    assert open_.value is None
    assert 3 in open_
    assert 5 not in open_
    assert str(open_) == "[2, 4]"
    for convert in (int, float):
        with pytest.raises(UndecidedError, match=r"\[2, 4\]"):
            convert(open_)
    for low, high in ((2, 1), (float("nan"), 1)):
        with pytest.raises(ArgumentError):
            Decision(low, high)
