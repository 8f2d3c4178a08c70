"""The last product, `dF_A = Phi_A dW^T`, with a bound on every entry.

With `e_c` the certified error of column c of the update,

    |error_ic| <= ||phi_i - centre|| e_c + offset_c + gamma ||[phi_i, 1]|| ||dw_c||

Centre and offset belong to an unpenalised bias (see `linalg.stability`); the last term is the rounding of the product,
by the Cauchy-Schwarz inequality, gamma counting its summands.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch

from ntkla.linalg.design import DesignMatrix
from ntkla.linalg.precision import SHORT_CHAIN, TINY64, gamma, norm_upper
from ntkla.linalg.products import pieced_gamma
from ntkla.linalg.stability import SolutionError, Stability


class RowSizes(NamedTuple):
    """What multiplies the errors of an update in row i: ||[phi_i, 1]|| and ||phi_i - centre||, float64 [n_A] each."""

    norms: torch.Tensor
    distances: torch.Tensor

    @classmethod
    def of(cls, old: DesignMatrix, stability: Stability | None = None) -> RowSizes:
        """Upper bounds for the old features; without a centre the two are the same."""
        norms = old.row_norms()
        centred = stability is not None and stability.centre is not None
        return cls(norms, stability.row_distances(old) if stability is not None and centred else norms)


class Drift(NamedTuple):
    """A product Phi_A x, the entrywise bound of its error [n_A, C], and the norms of the two parts of that bound."""

    value: torch.Tensor
    bound: torch.Tensor
    from_update: float
    from_rounding: float


def drift_of(old: DesignMatrix, x: torch.Tensor, error: SolutionError, sizes: RowSizes) -> Drift:
    """`Phi_A x` with its bound, given the error of x.  Cost: 2 n_A K C operations, two arrays [n_A, C]."""
    x_norm = norm_upper(x, dim=0)
    # Beside the rounding, flushed arithmetic may drop subnormal features and subnormal entries of x.
    rounding = pieced_gamma(old.columns) * x_norm + TINY64 * math.sqrt(old.columns)
    underflow = TINY64 * old.columns * (2 + x_norm)
    bound = torch.outer(sizes.distances, error.weights)
    bound.addr_(sizes.norms, rounding).add_(error.offset + underflow).mul_(SHORT_CHAIN)
    rows = math.sqrt(old.rows)
    from_update = norm_upper(sizes.distances) * norm_upper(error.weights) + rows * norm_upper(error.offset)
    from_rounding = norm_upper(sizes.norms) * norm_upper(rounding) + rows * norm_upper(underflow)
    return Drift(old.matmul(x), bound, float(from_update), float(from_rounding))


def drift_scale(old: DesignMatrix, x: torch.Tensor, drift: Drift, enough: float) -> float:
    """`max(||dF||_F, || |Phi_A| |dW|^T ||_F)` from below; the second norm only when the first is below `enough`."""
    scale = float(torch.linalg.vector_norm(drift.value)) - float(norm_upper(drift.bound))
    if scale >= enough:
        return scale
    squares = 0.0
    magnitudes = x.abs()
    for _, block in old.blocks():
        squares += float(((block.abs() @ magnitudes) ** 2).sum())
    return max(scale, math.sqrt(squares) * (1.0 - gamma(old.columns + old.rows + 8)))
