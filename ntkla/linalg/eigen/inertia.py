"""How large an eigenvalue of a symmetric matrix can be, proved by one Cholesky factorisation: its inertia.

If `t I - A` has a Cholesky factor, no eigenvalue of A exceeds t (Sylvester).  In floating point: when the factorisation
of a symmetric matrix M [m, m] runs to its end, `M + dM = R^T R` with `|dM_ij| <= g sqrt(m_ii m_jj)`,
`g = gamma_{m+2} / (1 - gamma_{m+2})` (Demmel; Higham, Accuracy and Stability, section 10.1, with one rounding more for
a division by multiplying with the reciprocal, as BLAS libraries do), hence

    lambda_min(M) >= -g tr(M) - (underflow)       (Rump, "Verification of positive definiteness", BIT 46, 2006)

and A <= t + that, for M = fl(t I - A) plus its own rounding, at most u (t + |a_ii|) on the diagonal.
"""

from __future__ import annotations

import math

import torch

from ntkla.linalg.precision import SHORT_CHAIN, TINY64, U64, gamma
from ntkla.linalg.solve.normal import BoundedMatrix


def largest_below(matrix: BoundedMatrix, threshold: float) -> float | None:
    """An upper bound, a little above the threshold, of the largest eigenvalue of the exact matrix; None if not proved.

    Args:
        matrix: symmetric float64 [m, m] and the 2-norm bound of its error.
        threshold: t > 0.

    Cost: m^3 / 3 operations and one copy of the matrix.
    """
    margin = least_margin(matrix, threshold)
    if not math.isfinite(margin):
        return None
    shifted = -matrix.matrix
    shifted.diagonal().add_(threshold)
    factor, failed = torch.linalg.cholesky_ex(shifted)
    if int(failed) != 0 or not bool(factor.diagonal().isfinite().all()):
        return None
    return (threshold + margin) * SHORT_CHAIN


def least_margin(matrix: BoundedMatrix, threshold: float) -> float:
    """How far above a threshold the bound of `largest_below` lies when the factorisation succeeds there."""
    edge, diagonal = matrix.matrix.shape[0], matrix.matrix.diagonal()
    factor, largest = gamma(edge + 2), float(diagonal.abs().max())
    if not factor < 0.5:
        return math.inf
    trace = float((threshold - diagonal).abs().sum()) * (1.0 + gamma(edge + 2))
    lost = factor / (1.0 - factor) * trace + U64 * (threshold + largest)
    underflow = 8.0 * (edge + 2) ** 2 * TINY64 * (1.0 + threshold + largest)
    return (lost + matrix.error + underflow) * SHORT_CHAIN
