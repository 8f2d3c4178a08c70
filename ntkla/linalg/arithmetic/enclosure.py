"""Unevaluated sums high + low that carry a bound on their own error: elementwise interval arithmetic of 106 bits.

Each number is `x = high + low`, off by at most `radius` from the exact value it stands for.  Rounding of one operation,
u = 2^-53 and `|low| <= u |high|`:

- product: dropped `x.low y.low`: u^2 |xy|; the two cross products: u^2 each; their sum: 2 u^2; adding the low part of
  `two_product`: 3 u^2.  Together 8 u^2 |xy| to first order, taken as 10 u^2;
- sum: the two low parts: u^2 (|x| + |y|); adding the error of `two_sum`: 2 u^2 (|x| + |y|), taken together as 4 u^2.

Source: the operations are those of Dekker, "A floating-point technique for extending the available precision", Numer.
Math. 18 (1971); sharp constants in Joldes, Muller and Popescu, ACM TOMS 44 (2017).
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from ntkla.linalg.arithmetic.doubled import Doubled, two_product, two_sum
from ntkla.linalg.precision import TINY64, U64, rounded_up


class Enclosed(NamedTuple):
    """float64 arrays: a doubled value and an upper bound of its distance to the exact one."""

    value: Doubled
    radius: torch.Tensor


def exactly(x: torch.Tensor) -> Enclosed:
    """The float64 numbers themselves."""
    return Enclosed(Doubled(x, torch.zeros_like(x)), torch.zeros_like(x))


def multiply(x: Enclosed, y: Enclosed) -> Enclosed:
    """x y, elementwise.  Needs |x|, |y| < 2^500."""
    (x_high, x_low), (y_high, y_low) = x.value, y.value
    high, low = two_product(x_high, y_high)
    low = low + (x_high * y_low + x_low * y_high)
    rounding = 10 * U64**2 * high.abs() + 16 * TINY64
    radius = x_high.abs() * y.radius + y_high.abs() * x.radius + x.radius * y.radius + rounding
    return Enclosed(two_sum(high, low), rounded_up(radius))


def plus(x: Enclosed, y: Enclosed) -> Enclosed:
    """x + y, elementwise."""
    high, low = two_sum(x.value.high, y.value.high)
    low = low + (x.value.low + y.value.low)
    rounding = 4 * U64**2 * (x.value.high.abs() + y.value.high.abs())
    return Enclosed(two_sum(high, low), rounded_up(x.radius + y.radius + rounding))


def opposite(x: Enclosed) -> Enclosed:
    """-x."""
    return Enclosed(Doubled(-x.value.high, -x.value.low), x.radius)


def minus(x: Enclosed, y: Enclosed) -> Enclosed:
    """x - y, elementwise."""
    return plus(x, opposite(y))


def choose(condition: torch.Tensor, x: Enclosed, y: Enclosed) -> Enclosed:
    """x where the condition holds, y elsewhere."""
    parts = zip((*x.value, x.radius), (*y.value, y.radius), strict=True)
    high, low, radius = (torch.where(condition, a, b) for a, b in parts)
    return Enclosed(Doubled(high, low), radius)


def divide(x: Enclosed, y: Enclosed) -> Enclosed:
    """x / y to float64 precision only; where y is not certainly different from 0 the radius is infinite.

    With q = fl(x.high / y.high): `x - q y` is at most the error and low part of x, u |x|, and q times those of y.
    """
    divisor = y.value.high.abs() * (1 - 4 * U64) - y.radius
    safe = divisor > 0
    quotient = torch.where(safe, x.value.high / torch.where(safe, y.value.high, 1.0), 0.0)
    from_x = x.radius + U64 * x.value.high.abs()
    from_y = quotient.abs() * (y.radius + 2 * U64 * y.value.high.abs())
    error = (from_x + from_y) / torch.where(safe, divisor, 1.0)
    return Enclosed(Doubled(quotient, torch.zeros_like(quotient)), torch.where(safe, rounded_up(error), torch.inf))


def rounded(x: Enclosed) -> tuple[torch.Tensor, torch.Tensor]:
    """The float64 number nearest to x and an upper bound of its distance to the exact value."""
    return x.value.high, rounded_up(x.radius + x.value.low.abs())
