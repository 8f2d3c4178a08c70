"""Quadratic terms beside the loss: `c/2 ||Z X - Y||_F^2` for some outputs, what a penalty on modes is made of.

Z, Y and c are known to within a rounding (`linalg/solve/inexact_rows.py` has the notation: Z*, Y*, c* are the exact
ones).  With `t = Z X - Y`, as stored, the exact gradient is

    c* Z*^T (Z* X - Y*) = c Z^T t + Z*^T c* d + c (Z* - Z)^T t,   d = (Z* - Z) X - (Y* - Y) + (1 - c / c*) t.

The second term is a change d of the targets, and costs what a change of the outputs costs in `certificate.py`:
completing the square leaves `1/4 c* ||d||^2`, so sqrt(c*) ||d|| adds to delta.  The third is a gradient: `c z ||t||`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ntkla.linalg.arithmetic.accurate import Bounded, accurate_sum
from ntkla.linalg.arithmetic.products import pieced_gamma, pieced_matmul
from ntkla.linalg.precision import SHORT_CHAIN, TINY64, U64, norm_upper
from ntkla.linalg.solve.inexact_rows import InexactRows


@dataclass(frozen=True, eq=False)
class Quadratic:
    """One term.

    Attributes:
        rows: Z [k, K], Y [k, m], c, and how well they are known.
        outputs: int64 [m], the outputs that it is about.
    """

    rows: InexactRows
    outputs: torch.Tensor

    def misfit(self, x: torch.Tensor) -> torch.Tensor:
        """t in float64, [k, m], for x [K, C]."""
        return pieced_matmul(self.rows.rows.high, x[:, self.outputs]) - self.rows.targets.high

    def add_gradient(self, out: torch.Tensor, x: torch.Tensor) -> None:
        """Adds `c Z^T t` to [K, C]."""
        pulled = self.rows.weight[0] * pieced_matmul(self.rows.rows.high.T, self.misfit(x))
        out.index_add_(1, self.outputs, pulled)

    def add_product(self, out: torch.Tensor, v: torch.Tensor) -> None:
        """Adds `c Z^T Z v` to [K, C], in the type of v."""
        z = self.rows.rows.high.to(v.dtype)
        out.index_add_(1, self.outputs, self.rows.weight[0] * (z.T @ (z @ v[:, self.outputs])))

    def measured(self, x: torch.Tensor, sharp: bool) -> tuple[Bounded, float]:
        """`c Z^T t` [K, m] with the 2-norm bounds of its columns' errors; and the bound of sqrt(c*) ||d||_F.

        Args:
            x: [K, C].
            sharp: beyond float64, at three times the cost.
        """
        rows, own, (weight, _) = self.rows, x[:, self.outputs], self.rows.weight
        z, length = rows.rows.high, norm_upper(own, dim=0)
        ends = 8.0 * TINY64 * (z.numel() + own.numel()) * (1.0 + rows.size + length)
        if sharp:
            t, lost = accurate_sum(z, own, [-rows.targets.high])
        else:
            t = self.misfit(x)
            lost = pieced_gamma(z.shape[1]) * rows.size * length + U64 * norm_upper(t, dim=0)
        fit = norm_upper(t, dim=0) + lost
        moved = lost + rows.targets_error + rows.rows_error * length + 2.0 * U64 * fit + ends
        delta = rows.root * float(norm_upper(moved)) * SHORT_CHAIN
        scaled = weight * t
        if sharp:
            value, error = accurate_sum(z.T.contiguous(), scaled, [])
        else:
            value = pieced_matmul(z.T, scaled)
            error = pieced_gamma(z.shape[0]) * rows.size * norm_upper(scaled, dim=0)
        error = error + 2.0 * U64 * rows.size * weight * fit + weight * (rows.rows_error * fit + ends) + ends
        return Bounded(value, error * SHORT_CHAIN), delta
