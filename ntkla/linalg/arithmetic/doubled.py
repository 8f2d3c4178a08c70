"""Unevaluated sums of two float64 numbers, high + low: about 106 bits from ordinary operations.

Sources: Knuth's two-sum and Veltkamp and Dekker's product, as in Ogita, Rump and Oishi, "Accurate sum and dot
product", SIAM J. Sci. Comput. 26 (2005).  Each function is elementwise and broadcasts.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

_SPLITTER = 2.0**27 + 1.0
_CHUNK_ENTRIES = 2**15


class Doubled(NamedTuple):
    """The exact sum `high + low` of two float64 arrays with `|low| <= u |high|`."""

    high: torch.Tensor
    low: torch.Tensor


def two_sum(a: torch.Tensor, b: torch.Tensor) -> Doubled:
    """a + b exactly."""
    high = a + b
    other = high - a
    return Doubled(high, (a - (high - other)) + (b - other))


def two_product(a: torch.Tensor, b: torch.Tensor) -> Doubled:
    """a * b exactly, unless a part of it underflows: then off by a few `tiny`.  Needs |a|, |b| < 2^996."""
    high = a * b
    a_high, a_low = _halves(a)
    b_high, b_low = _halves(b)
    low = ((a_high * b_high - high) + a_high * b_low + a_low * b_high) + a_low * b_low
    return Doubled(high, low)


def _halves(a: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Two numbers of 26 bits whose sum is a."""
    scaled = _SPLITTER * a
    high = scaled - (scaled - a)
    return high, a - high


def add(x: Doubled, y: torch.Tensor) -> Doubled:
    """x + y, off by at most `2 u^2 (|x| + |y|)`."""
    high, error = two_sum(x.high, y)
    return two_sum(high, x.low + error)


def add_into(x: Doubled, y: torch.Tensor) -> None:
    """x += y in place, [K, C]; x.low collects the errors of the high additions and is not folded back.

    Row chunk by row chunk, so that what lies between stays in a cache: for large arrays that is most of the time.
    """
    rows = max(1, _CHUNK_ENTRIES // y.shape[1])
    for high, low, part in zip(torch.split(x.high, rows), torch.split(x.low, rows), torch.split(y, rows), strict=True):
        total_high, error = two_sum(high, part)
        high.copy_(total_high)
        low.add_(error)


def column_sum(x: Doubled) -> Doubled:
    """The sum over the rows of x [n, m], off by at most `2 (log2(n) + 3)^2 u^2 sum |x|`.

    The rows are added in halves: each level finds its own errors exactly, and they pass through `log2(n)` additions.
    """
    high, low = x
    while high.shape[0] > 1:
        half = high.shape[0] // 2
        kept = high[2 * half :], low[2 * half :]
        pairs, error = two_sum(high[:half], high[half : 2 * half])
        high = torch.cat([pairs, kept[0]])
        low = torch.cat([low[:half] + low[half : 2 * half] + error, kept[1]])
    return Doubled(high[0], low[0])


def total(terms: list[torch.Tensor]) -> Doubled:
    """The sum of k float64 arrays, off by at most `2 k^2 u^2 sum |terms|`.

    The errors of the k high additions are found exactly; each is at most `u sum |terms|`, and adding them up
    in float64 loses at most `k u` of their sum.
    """
    high = terms[0]
    low = torch.zeros_like(high)
    for term in terms[1:]:
        high, error = two_sum(high, term)
        low = low + error
    return two_sum(high, low)
