"""An independent judge: the ridge drift of a few outputs to about thirty digits, in double-double arithmetic.

The ridge system is solved by refinement: an ordinary float64 Cholesky factor corrects, the double-double residual
decides.  Nothing of ntkla, so that a mistake there cannot be repeated here.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from scipy.linalg import cho_factor, cho_solve

from perf.pairs import Pair, add, exactly, product, transposed_product, two_product

_MOST_STEPS = 40
_ENOUGH = 2.0**-70  # far below any error that float64 answers can have, far above double-double's own rounding


class Drift(NamedTuple):
    """The sum high + low."""

    high: np.ndarray
    low: np.ndarray


class Reference(NamedTuple):
    """The drift of some outputs, [n_old, k], and an estimate of its own error, [n_old, k]."""

    drift: Drift
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
    samples = torch.from_numpy(wide)
    columns = [_solve(samples, torch.from_numpy(r), ridge, factor) for r in residual.T.astype(np.float64)]
    wide_old = old.astype(np.float64)
    drifts = [product(torch.from_numpy(wide_old), update) for update, _ in columns]
    norms = np.linalg.norm(wide_old, axis=1)
    return Reference(
        Drift(*(torch.stack(part, 1).numpy() for part in zip(*drifts, strict=True))),
        np.stack([norms * error for _, error in columns], 1),
    )


def _solve(
    new: torch.Tensor, residual: torch.Tensor, ridge: float, factor: tuple[np.ndarray, bool]
) -> tuple[Pair, float]:
    """One column of the update, and its error: the update is off by at most (norm of its residual) / ridge."""
    update = exactly(torch.zeros(new.shape[1], dtype=torch.float64))
    for _ in range(_MOST_STEPS):
        gradient = _gradient(new, residual, ridge, update)
        error = float(torch.linalg.vector_norm(gradient.high)) / ridge
        if error <= _ENOUGH * float(torch.linalg.vector_norm(update.high)):
            return update, error
        update = add(update, exactly(-torch.from_numpy(cho_solve(factor, gradient.high.numpy()))))
    raise ArithmeticError(
        f"the reference reached only {error:.2g}: its float64 factor is too weak for ridge {ridge:.3g}"
    )


def _gradient(new: torch.Tensor, residual: torch.Tensor, ridge: float, update: Pair) -> Pair:
    """new^T (new update + residual) + ridge update."""
    outputs = add(product(new, update), exactly(residual))
    pulled = two_product(update.high, torch.tensor(ridge, dtype=torch.float64))
    return add(transposed_product(new, outputs), Pair(pulled.high, pulled.low + ridge * update.low))
