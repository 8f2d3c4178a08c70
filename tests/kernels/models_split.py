"""The planes and the mode "split" in numpy: the order in which they compute, as in `models`."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from tests.kernels.models import Inner

UNIT = 2.0**-23


class Split(NamedTuple):
    """Planes of rows [n, F] in float32, the p of each row, and which rows fall back."""

    high: np.ndarray
    low: np.ndarray
    exponents: np.ndarray
    fallen: np.ndarray


def split(x: np.ndarray) -> Split:
    """Row after row in float64, by the definition."""
    high, low = np.zeros_like(x), np.zeros_like(x)
    exponents, fallen = np.zeros(len(x), dtype=np.int32), np.zeros(len(x), dtype=bool)
    for i, row in enumerate(x.astype(np.float64)):
        numbers = np.abs(row[row != 0])
        if not len(numbers):
            continue
        if not np.isfinite(row).all() or numbers.min() < 2.0**-126 or numbers.max() < 2.0**-98:
            fallen[i] = True
            continue
        p = 15 - np.frexp(numbers.max())[1]
        scaled = np.ldexp(row, p)
        upper = scaled.astype(np.float16).astype(np.float64)
        lower = ((scaled - upper) * 2.0**11).astype(np.float16).astype(np.float64)
        kept = np.abs(upper + lower * 2.0**-11 - scaled) <= UNIT * np.abs(scaled)
        if (kept & (np.abs(lower) <= np.abs(scaled))).all():
            high[i], low[i], exponents[i] = upper, lower, p
        else:
            fallen[i] = True
    return Split(high, low, exponents, fallen)


def inner(block: Inner, depth: int) -> Inner:
    """The two totals of rows [high, low] side by side, as one float32 number: `block` multiplies a block of columns."""

    def product(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        features = x.shape[1] // 2
        total = np.zeros((len(x), len(y)), dtype=np.float32)
        crossed = np.zeros_like(total)
        for start in range(0, features, depth):
            columns = slice(start, min(start + depth, features))
            h, h2 = x[:, :features][:, columns], y[:, :features][:, columns]
            low, low2 = x[:, features:][:, columns], y[:, features:][:, columns]
            total = total + block(h, h2)
            crossed = crossed + block(h, low2)
            crossed = crossed + block(low, h2)
        return total + crossed * np.float32(2.0**-11)

    return product


def scaled(total: np.ndarray, x: Split, y: Split, bias: bool) -> np.ndarray:
    """The totals times the powers of two of their rows and columns, in two steps, and the bias."""
    exponent = -(x.exponents[:, None] + y.exponents[None, :])
    half = exponent >> 1
    with np.errstate(over="ignore", under="ignore"):
        steps = total * np.ldexp(np.float32(1), half) * np.ldexp(np.float32(1), exponent - half)
    return steps + np.float32(bias)
