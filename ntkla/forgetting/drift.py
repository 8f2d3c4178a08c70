"""The last product, `dF_A = Phi_A dW^T`, with a bound on every entry.

With `e_c` the certified error of column c of the update,

    |error_ic| <= ||phi_i - centre|| e_c + offset_c + gamma_{K+1} ||[phi_i, 1]|| ||dw_c||

Centre and offset belong to an unpenalised bias (see `linalg.stability`); the last term is the rounding of the product,
by the Cauchy-Schwarz inequality.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from ntkla.linalg.design import DesignMatrix
from ntkla.linalg.precision import TINY64, gamma, norm_upper, rounded_up
from ntkla.linalg.stability import SolutionError


class Drift(NamedTuple):
    """A product Phi_A x and the two parts of its error bound."""

    value: torch.Tensor
    from_update: torch.Tensor
    from_rounding: torch.Tensor

    @property
    def bound(self) -> torch.Tensor:
        """Entrywise upper bound of the error."""
        return rounded_up(self.from_update + self.from_rounding)


def drift_of(old: DesignMatrix, x: torch.Tensor, error: SolutionError, distances: torch.Tensor) -> Drift:
    """`Phi_A x` with its bound, given the error of x and the distances that multiply it (`Stability.row_distances`)."""
    norms = old.row_norms()
    from_update = rounded_up(distances[:, None] * error.weights + error.offset)
    underflow = 2 * old.columns * TINY64 + TINY64 * norm_upper(x, dim=0)
    from_rounding = rounded_up(gamma(old.columns + 1) * norms[:, None] * norm_upper(x, dim=0) + underflow)
    return Drift(old.matmul(x), from_update, from_rounding)


def drift_scale(old: DesignMatrix, x: torch.Tensor, drift: Drift, enough: float) -> float:
    """`max(||dF||_F, || |Phi_A| |dW|^T ||_F)` from below; the second norm only when the first is below `enough`."""
    scale = float(torch.linalg.vector_norm(drift.value)) - float(norm_upper(drift.bound))
    if scale >= enough:
        return scale
    squares = 0.0
    magnitudes = x.abs()
    for _, block in old.blocks():
        squares += float(((block.abs() @ magnitudes) ** 2).sum())
    return max(scale, squares**0.5 * (1.0 - gamma(old.columns + old.rows + 8)))
