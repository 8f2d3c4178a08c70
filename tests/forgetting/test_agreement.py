"""Two drifts beside each other: every number against exact arithmetic, and no NaN where one of them is zero."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ntkla.forgetting.reports.agreement import Agreement, agreement
from ntkla.linalg.precision import TINY64, gamma
from ntkla.testing.spectra import normal
from tests.forgetting.rational import Known, exactly, known

ROUNDING = gamma(200)


@st.composite
def pairs(draw: st.DrawFn) -> tuple[Known, Known]:
    n, c = draw(st.integers(1, 4)), draw(st.integers(1, 3))
    return draw(known(n, c)), draw(known(n, c))


def square(rows: list[list[Fraction]]) -> Fraction:
    return sum((v * v for row in rows for v in row), Fraction(0))


def apart(first: list[list[Fraction]], second: list[list[Fraction]]) -> list[list[Fraction]]:
    return [[a - b for a, b in zip(x, y, strict=True)] for x, y in zip(first, second, strict=True)]


def near(value: float, exact: Fraction) -> bool:
    return abs(Fraction(value) - exact) <= Fraction(ROUNDING) * abs(exact)


def judge(found: Agreement, forecast: Known, fact: Known) -> None:
    """The numbers of the computed drifts, and the relative difference of the true ones within its error."""
    x, y = exactly(forecast.value), exactly(fact.value)
    distance, bounds = apart(x, y), zip(exactly(forecast.bound), exactly(fact.bound), strict=True)
    limits = [[a + b for a, b in zip(*rows, strict=True)] for rows in bounds]
    entries = [(abs(d), b) for ds, bs in zip(distance, limits, strict=True) for d, b in zip(ds, bs, strict=True)]
    assert found.beyond_bounds == sum(d > b for d, b in entries)
    assert Fraction(found.largest_difference) == max(d for d, _ in entries)
    assert near(found.difference**2, square(distance))
    if square(y) == 0:
        assert found.norm_ratio is None
        assert found.relative_difference == (0.0 if square(x) == 0 else math.inf)
    else:
        assert near(found.norm_ratio**2, square(x) / square(y))
        assert near(found.relative_difference**2, square(distance) / square(y))
    if square(x) * square(y) == 0:
        assert found.cosine is None
    else:
        product = sum((a * b for p, q in zip(x, y, strict=True) for a, b in zip(p, q, strict=True)), Fraction(0))
        exact = float(product) / math.sqrt(square(x) * square(y))
        assert abs(found.cosine - exact) <= ROUNDING
        assert -1 <= found.cosine <= 1
    true = square(fact.truth)
    if true and math.isfinite(found.relative_error):
        low, high = (
            max(0, Fraction(found.relative_difference) + s * Fraction(found.relative_error)) ** 2 for s in (-1, 1)
        )
        assert low <= square(apart(forecast.truth, fact.truth)) / true <= high


@given(pairs())
def test_every_number_is_what_exact_arithmetic_says(pair) -> None:
    forecast, fact = pair
    judge(agreement(forecast.value, forecast.bound, fact.value, fact.bound), forecast, fact)


def test_the_judge_sees_what_is_planted() -> None:
    value = normal(3, 2, 1)
    bound = torch.full_like(value, 1e-9)
    fact = Known(value, bound, exactly(value))
    moved = value.clone()
    moved[1, 1] += 1e-8
    forecast = Known(moved, bound, exactly(moved))
    found = agreement(forecast.value, bound, value, bound)
    assert found.beyond_bounds == 1
    judge(found, forecast, fact)
    wrong = [
        {"cosine": found.cosine - 1e-8},
        {"norm_ratio": found.norm_ratio * (1 + 1e-8)},
        {"difference": found.difference * 2},
        {"largest_difference": 0.0},
        {"relative_difference": 0.0},
        {"beyond_bounds": 0},
    ]
    for change in wrong:
        with pytest.raises(AssertionError):
            judge(Agreement(**{**found._asdict(), **change}), forecast, fact)
    loose = Known(moved, bound, exactly(moved + 1e-9))
    with pytest.raises(AssertionError):
        judge(Agreement(**{**found._asdict(), "relative_error": 0.0}), loose, fact)


def test_the_error_of_the_relative_difference_is_tight() -> None:
    value = normal(4, 3, 2)
    found = agreement(2 * value, torch.zeros_like(value), value, torch.zeros_like(value))
    assert abs(found.relative_difference - 1) <= ROUNDING
    assert found.relative_error <= ROUNDING


@pytest.mark.parametrize(("up", "down"), [(70, -300), (-300, 70), (-160, -160), (-300, -300), (75, 75)])
def test_no_scale_overflows_or_vanishes(up: int, down: int) -> None:
    x, zero = normal(5, 3, 3), torch.zeros((5, 3), dtype=torch.float64)
    found = agreement(x * 10.0**up, zero, x * 10.0**down, zero)
    assert abs(found.cosine - 1) <= ROUNDING
    assert math.isclose(found.norm_ratio, 10.0**up / 10.0**down, rel_tol=ROUNDING) or found.norm_ratio == math.inf
    assert not any(isinstance(v, float) and math.isnan(v) for v in found)


def test_bounds_that_are_infinite_are_never_exceeded() -> None:
    x = normal(2, 2, 4)
    found = agreement(x, torch.full_like(x, math.inf), -x, torch.zeros_like(x))
    assert found.beyond_bounds == 0
    assert found.relative_error == math.inf
    assert abs(found.cosine + 1) <= ROUNDING


def test_a_fact_that_all_but_vanishes_leaves_the_relative_difference_open() -> None:
    fact, zero = torch.full((2, 2), TINY64, dtype=torch.float64), torch.zeros((2, 2), dtype=torch.float64)
    assert agreement(2.0 * fact, zero, fact, zero).relative_error == math.inf
    assert agreement(fact, zero, zero, zero).relative_error == math.inf
    assert agreement(zero, zero, zero, zero).relative_error == 0.0
