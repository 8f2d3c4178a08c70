"""Double-double arithmetic on torch tensors, for judges: about thirty digits, on any device, and nothing of ntkla.

Every number is an unevaluated sum of two float64 values.  Products are made exact by Veltkamp's splitting and Dekker's
product, sums by Knuth's two-sum (as in Ogita, Rump and Oishi, SIAM J. Sci. Comput. 26, 2005).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch

_SPLITTER = 2.0**27 + 1.0
# A block and its dozen temporaries stay in a processor's cache; a graphics card wants all of its cores busy.
_BLOCK_ENTRIES = {"cpu": 2**17, "cuda": 2**25}


class Pair(NamedTuple):
    """The sum high + low."""

    high: torch.Tensor
    low: torch.Tensor


def exactly(x: torch.Tensor) -> Pair:
    """A number as a pair."""
    return Pair(x, torch.zeros_like(x))


def two_sum(a: torch.Tensor, b: torch.Tensor) -> Pair:
    total = a + b
    other = total - a
    return Pair(total, (a - (total - other)) + (b - other))


def two_product(a: torch.Tensor, b: torch.Tensor) -> Pair:
    product = a * b
    a_high, a_low = _halves(a)
    b_high, b_low = _halves(b)
    return Pair(product, ((a_high * b_high - product) + a_high * b_low + a_low * b_high) + a_low * b_low)


def add(a: Pair, b: Pair) -> Pair:
    total = two_sum(a.high, b.high)
    return two_sum(total.high, total.low + (a.low + b.low))


def times(a: Pair, b: Pair) -> Pair:
    product = two_product(a.high, b.high)
    return two_sum(product.high, product.low + (a.high * b.low + a.low * b.high))


def total(terms: Pair) -> Pair:
    """The sum over the first axis, by halving."""
    high, low = terms
    while high.shape[0] > 1:
        half = high.shape[0] // 2
        pair = two_sum(high[:half], high[half : 2 * half])
        rest = low[:half] + low[half : 2 * half] + pair.low
        high = torch.cat([pair.high, high[2 * half :]])
        low = torch.cat([rest, low[2 * half :]])
    return two_sum(high[0], low[0])


def dots(x: torch.Tensor, y: torch.Tensor) -> Pair:
    """The inner products of the rows of float64 x and y, [k, F] each: [k]."""
    found = []
    for rows in blocks(x):
        found.append(total(two_product(x[rows].T.contiguous(), y[rows].T.contiguous())))
    return joined(found)


def product(matrix: torch.Tensor, vector: Pair) -> Pair:
    """matrix vector, of a matrix [n, F] in any floating type."""
    found = []
    for rows in blocks(matrix):
        block = matrix[rows].double()
        terms = two_product(block, vector.high)
        found.append(total(Pair(terms.high.T, (terms.low + block * vector.low).T)))
    return joined(found)


def transposed_product(matrix: torch.Tensor, vector: Pair) -> Pair:
    """matrix^T vector."""
    found = exactly(torch.zeros(matrix.shape[1], dtype=torch.float64, device=matrix.device))
    for rows in blocks(matrix):
        block = matrix[rows].double()
        terms = two_product(block, vector.high[rows, None])
        found = add(found, total(Pair(terms.high, terms.low + block * vector.low[rows, None])))
    return found


def blocks(matrix: torch.Tensor) -> Iterator[slice]:
    """Row blocks of a size that this arithmetic is fast in."""
    step = max(1, _BLOCK_ENTRIES[matrix.device.type] // max(1, matrix.shape[1]))
    return (slice(start, start + step) for start in range(0, matrix.shape[0], step))


def joined(parts: list[Pair]) -> Pair:
    """Pairs one after another."""
    return Pair(torch.cat([part.high for part in parts]), torch.cat([part.low for part in parts]))


def _halves(a: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    scaled = _SPLITTER * a
    high = scaled - (scaled - a)
    return high, a - high
