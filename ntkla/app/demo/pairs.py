"""Extended precision for the demo's own check: numbers as pairs of float64, and exact products with a sliced matrix.

The demo compares a forecast with a training that really ran in float64, and has to know how much of the difference is
that training's own rounding.  So the training is run once more with 60 or 80 correct bits.  This file is that
arithmetic.  It shares nothing with `ntkla.linalg`, on purpose: a mistake there must not be able to hide itself here.

A pair (high, low) stands for the exact sum of its two arrays, about 106 bits (Dekker 1971, Knuth's two-sum).  A matrix
is cut into slices of b bits on one fixed-point grid; the product of two slices over K terms is a sum of integers below
2^53 when `2 b + log2 K <= 53`, so an ordinary float64 matrix product makes no error in it (Ozaki, Ogita, Oishi and
Rump 2012).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
_SPLITTER = 2.0**27 + 1.0


class Pair(NamedTuple):
    """The exact sum of two float64 arrays, `|low|` at most half a last bit of `high`."""

    high: Array
    low: Array

    def __neg__(self) -> Pair:
        return Pair(-self.high, -self.low)


def pair(x: Array) -> Pair:
    """A float64 array as a pair."""
    return Pair(x, np.zeros_like(x))


def two_sum(a: Array, b: Array) -> Pair:
    """a + b exactly."""
    high = a + b
    other = high - a
    return Pair(high, (a - (high - other)) + (b - other))


def add(x: Pair, y: Pair) -> Pair:
    """x + y, to about 2^-104 of |x| + |y|."""
    high, error = two_sum(x.high, y.high)
    low, rest = two_sum(x.low, y.low)
    high, error = two_sum(high, error + low)
    return two_sum(high, error + rest)


def scale(x: Pair, factor: float) -> Pair:
    """factor * x, to about 2^-104."""
    high = factor * x.high
    a, b = _halves(x.high), _halves(np.float64(factor))
    error = ((a[0] * b[0] - high) + a[0] * b[1] + a[1] * b[0]) + a[1] * b[1]
    return two_sum(high, error + factor * x.low)


def _halves(x: Array | np.float64) -> tuple[Array, Array]:
    """Two numbers of 26 bits whose sum is x."""
    scaled = _SPLITTER * x
    high = scaled - (scaled - x)
    return np.asarray(high), np.asarray(x - high)


class SlicedMatrix:
    """A float64 matrix A [n, k], ready for products A x and A^T x in extended precision.

    With L levels, the products of slices p of A and q of x with p + q <= L + 1 are taken.  The rest is about
    2^-(L b) of the largest entries, b = 21 bits for sums of up to 2048 terms: 2^-63 with three, 2^-84 with four.
    """

    def __init__(self, matrix: Array, levels: int = 4) -> None:
        self._levels = levels
        longest = max(matrix.shape)
        self._bits = (53 - int(longest - 1).bit_length()) // 2
        self._exponent = int(np.frexp(np.abs(matrix).max())[1])
        self._slices: list[Array] = []
        rest = np.ldexp(matrix, -self._exponent)
        # Until nothing is left: the slices add up to the stored matrix exactly.
        while rest.any() or not self._slices:
            grid = self._bits * (len(self._slices) + 1)
            part = np.ldexp(np.rint(np.ldexp(rest, grid)), -grid)
            self._slices.append(part)
            rest = rest - part

    def matmul(self, x: Pair) -> Pair:
        """A x: x [k, m] -> [n, m]."""
        return self._product(self._slices, x)

    def rmatmul(self, x: Pair) -> Pair:
        """A^T x: x [n, m] -> [k, m]."""
        return self._product([part.T for part in self._slices], x)

    def _product(self, left: list[Array], x: Pair) -> Pair:
        exponent = np.frexp(np.abs(x.high).max(axis=0))[1]
        right = self._cut(x, exponent)
        total = pair(np.zeros((left[0].shape[0], x.high.shape[1])))
        for p, part in enumerate(left[: self._levels]):
            wide = part @ np.hstack(right[: self._levels - p])
            for term in np.hsplit(wide, self._levels - p):
                total = add(total, pair(term))
        return Pair(np.ldexp(total.high, exponent + self._exponent), np.ldexp(total.low, exponent + self._exponent))

    def _cut(self, x: Pair, exponent: NDArray[np.int32]) -> list[Array]:
        high, low = np.ldexp(x.high, -exponent), np.ldexp(x.low, -exponent)
        slices = []
        for level in range(1, self._levels + 1):
            grid = self._bits * level
            part = np.ldexp(np.rint(np.ldexp(high, grid)), -grid)
            slices.append(part)
            high, low = two_sum(high - part, low)
        return slices
