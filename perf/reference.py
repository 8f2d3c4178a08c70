"""An independent judge: ridge solutions and drifts of a few outputs to about thirty digits, in double-double.

The ridge system is solved by refinement: an ordinary float64 Cholesky factor corrects, the double-double residual
decides.  Nothing of ntkla, so that a mistake there cannot be repeated here.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch

from perf.pairs import Pair, add, exactly, product, transposed_product, two_product

_MOST_STEPS = 40
_ENOUGH = 2.0**-70  # far below any error that float64 answers can have, far above double-double's own rounding


class Solution(NamedTuple):
    """One column of the minimiser, [F], and the 2-norm that its own error may have."""

    value: Pair
    error: float


class Drift(NamedTuple):
    """The sum high + low."""

    high: np.ndarray
    low: np.ndarray


class Reference(NamedTuple):
    """The drift of some outputs, [n_old, k], and an estimate of its own error, [n_old, k]."""

    drift: Drift
    error: np.ndarray


def solutions(samples: torch.Tensor, targets: torch.Tensor, ridge: float) -> list[Solution]:
    """`(samples^T samples + ridge I)^-1 samples^T targets`, column by column, in double-double.

    Args:
        samples: [n, F]; targets: [n, k]; any floating dtype, taken as exact, on one device, where the work is done.
        ridge: positive.

    Raises:
        ArithmeticError: the float64 factor is too weak to correct with.
    """
    wide = samples.double()
    system = wide.T @ wide
    system.diagonal().add_(ridge)
    factor = torch.linalg.cholesky(system)
    return [_solve(wide, y, ridge, factor) for y in targets.double().T]


def drift(old: np.ndarray, new: np.ndarray, residual: np.ndarray, ridge: float) -> Reference:
    """`-old (new^T new + ridge I)^-1 new^T residual` for every column of the residual, in double-double.

    Args:
        old: [n_old, F]; new: [n_new, F]; residual: [n_new, k]; any floating dtype, taken as exact.
        ridge: positive.

    Raises:
        ArithmeticError: the float64 factor is too weak to correct with.
    """
    columns = solutions(torch.from_numpy(new), -torch.from_numpy(residual.astype(np.float64)), ridge)
    wide_old = old.astype(np.float64)
    drifts = [product(torch.from_numpy(wide_old), update) for update, _ in columns]
    norms = np.linalg.norm(wide_old, axis=1)
    return Reference(
        Drift(*(torch.stack(part, 1).numpy() for part in zip(*drifts, strict=True))),
        np.stack([norms * error for _, error in columns], 1),
    )


def _solve(samples: torch.Tensor, target: torch.Tensor, ridge: float, factor: torch.Tensor) -> Solution:
    """The solution is off by at most (norm of its residual in the normal equations) / ridge."""
    x = exactly(torch.zeros_like(samples[0]))
    for _ in range(_MOST_STEPS):
        gradient = _gradient(samples, target, ridge, x)
        error = float(torch.linalg.vector_norm(gradient.high)) / ridge
        if error <= _ENOUGH * float(torch.linalg.vector_norm(x.high)):
            return Solution(x, error)
        x = add(x, exactly(-torch.cholesky_solve(gradient.high[:, None], factor)[:, 0]))
    raise ArithmeticError(
        f"the reference reached only {error:.2g}: its float64 factor is too weak for ridge {ridge:.3g}"
    )


def _gradient(samples: torch.Tensor, target: torch.Tensor, ridge: float, x: Pair) -> Pair:
    """samples^T (samples x - target) + ridge x."""
    outputs = add(product(samples, x), exactly(-target))
    pulled = two_product(x.high, x.high.new_tensor(ridge))
    return add(transposed_product(samples, outputs), Pair(pulled.high, pulled.low + ridge * x.low))
