"""What the integer kernel writes, in Python's integers: digits and carry of a window of levels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

BITS, LEVELS = 7, 6


def window(x: np.ndarray, y: np.ndarray, levels: Sequence[Sequence[tuple[int, int]]]) -> tuple[np.ndarray, np.ndarray]:
    """`sum_l 2^(7 l) sum over (p, q) of x[p] y[q]^T` as (remainder, quotient) of its division by 2^42."""
    x, y = x.astype(object), y.astype(object)
    total = np.zeros((x.shape[1], y.shape[1]), dtype=object)
    for level, pairs in enumerate(levels):
        for p, q in pairs:
            total = total + (x[p] @ y[q].T) * 2 ** (BITS * level)
    whole = 2 ** (BITS * LEVELS)
    return (total % whole).astype(np.int64), (total // whole).astype(np.int64)
