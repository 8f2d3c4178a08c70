"""An independent judge: the ridge drift of a few outputs to about thirty digits, in double-double arithmetic.

Every number is an unevaluated sum of two float64 values.  Products are made exact by Veltkamp's splitting and Dekker's
product, sums by Knuth's two-sum (as in Ogita, Rump and Oishi, SIAM J. Sci. Comput. 26, 2005), and the ridge system is
solved by refinement: an ordinary float64 Cholesky factor corrects, the double-double residual decides.
numpy and scipy only, and nothing of ntkla, so that a mistake there cannot be repeated here.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.linalg import cho_factor, cho_solve

_SPLITTER = 2.0**27 + 1.0
_BLOCK_ENTRIES = 2**17  # a block and its dozen temporaries stay in the cache
_MOST_STEPS = 40
_ENOUGH = 2.0**-70  # far below any error that float64 answers can have, far above double-double's own rounding


class Pair(NamedTuple):
    """The sum high + low."""

    high: np.ndarray
    low: np.ndarray


class Reference(NamedTuple):
    """The drift of some outputs, [n_old, k], and an estimate of its own error, [n_old, k]."""

    drift: Pair
    error: np.ndarray


def drift(old: np.ndarray, new: np.ndarray, residual: np.ndarray, ridge: float) -> Reference:
    """`-old (new^T new + ridge I)^-1 new^T residual` for every column of the residual, in double-double.

    Args:
        old: [n_old, F]; new: [n_new, F]; residual: [n_new, k]; any floating dtype, taken as exact.
        ridge: positive.

    Raises:
        ArithmeticError: the float64 factor is too weak to correct with.
    """
    wide = new.astype(np.float64)
    system = wide.T @ wide
    system.flat[:: system.shape[0] + 1] += ridge
    factor = cho_factor(system, lower=True, check_finite=False)
    columns = [_solve(wide, residual[:, j].astype(np.float64), ridge, factor) for j in range(residual.shape[1])]
    wide_old = old.astype(np.float64)
    drifts = [_product(wide_old, update) for update, _ in columns]
    norms = np.linalg.norm(wide_old, axis=1)
    return Reference(
        Pair(np.stack([d.high for d in drifts], 1), np.stack([d.low for d in drifts], 1)),
        np.stack([norms * error for _, error in columns], 1),
    )


def _solve(new: np.ndarray, residual: np.ndarray, ridge: float, factor: tuple[np.ndarray, bool]) -> tuple[Pair, float]:
    """One column of the update, and its error: the update is off by at most (norm of its residual) / ridge."""
    update = Pair(np.zeros(new.shape[1]), np.zeros(new.shape[1]))
    for _ in range(_MOST_STEPS):
        gradient = _gradient(new, residual, ridge, update)
        error = float(np.linalg.norm(gradient.high)) / ridge
        if error <= _ENOUGH * float(np.linalg.norm(update.high)):
            return update, error
        update = _add(update, Pair(-cho_solve(factor, gradient.high), np.zeros_like(update.low)))
    raise ArithmeticError(
        f"the reference reached only {error:.2g}: its float64 factor is too weak for ridge {ridge:.3g}"
    )


def _gradient(new: np.ndarray, residual: np.ndarray, ridge: float, update: Pair) -> Pair:
    """new^T (new update + residual) + ridge update."""
    outputs = _add(_product(new, update), Pair(residual, np.zeros_like(residual)))
    pulled = _two_product(update.high, np.float64(ridge))
    return _add(_transposed_product(new, outputs), Pair(pulled.high, pulled.low + ridge * update.low))


def _product(matrix: np.ndarray, vector: Pair) -> Pair:
    """matrix vector."""
    out = Pair(np.empty(matrix.shape[0]), np.empty(matrix.shape[0]))
    for rows in _blocks(matrix):
        block = matrix[rows]
        terms = _two_product(block, vector.high)
        out.high[rows], out.low[rows] = _sum(terms.high.T, (terms.low + block * vector.low).T)
    return out


def _transposed_product(matrix: np.ndarray, vector: Pair) -> Pair:
    """matrix^T vector."""
    total = Pair(np.zeros(matrix.shape[1]), np.zeros(matrix.shape[1]))
    for rows in _blocks(matrix):
        block = matrix[rows]
        terms = _two_product(block, vector.high[rows, None])
        total = _add(total, _sum(terms.high, terms.low + block * vector.low[rows, None]))
    return total


def _blocks(matrix: np.ndarray) -> list[slice]:
    step = max(1, _BLOCK_ENTRIES // matrix.shape[1])
    return [slice(start, start + step) for start in range(0, matrix.shape[0], step)]


def _sum(high: np.ndarray, low: np.ndarray) -> Pair:
    """The sum over the first axis, by halving."""
    while high.shape[0] > 1:
        half = high.shape[0] // 2
        pair = _two_sum(high[:half], high[half : 2 * half])
        rest = low[:half] + low[half : 2 * half] + pair.low
        high = np.concatenate([pair.high, high[2 * half :]])
        low = np.concatenate([rest, low[2 * half :]])
    return _two_sum(high[0], low[0])


def _add(a: Pair, b: Pair) -> Pair:
    total = _two_sum(a.high, b.high)
    return _two_sum(total.high, total.low + (a.low + b.low))


def _two_sum(a: np.ndarray, b: np.ndarray) -> Pair:
    total = a + b
    other = total - a
    return Pair(total, (a - (total - other)) + (b - other))


def _two_product(a: np.ndarray, b: np.ndarray) -> Pair:
    product = a * b
    a_high, a_low = _halves(a)
    b_high, b_low = _halves(b)
    return Pair(product, ((a_high * b_high - product) + a_high * b_low + a_low * b_high) + a_low * b_low)


def _halves(a: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    scaled = _SPLITTER * a
    high = scaled - (scaled - a)
    return high, a - high
