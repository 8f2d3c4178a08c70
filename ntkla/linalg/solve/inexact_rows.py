"""Pseudo-samples that are known to within a rounding: what that does to the solution, for the optimum and for training.

Some rows Z of a stacked design, their targets Y and their common weight c stand for exact ones
`Z* = Z + Z_l + dZ`, `Y* = Y + Y_l + dY`, `c* = c + c_l` (to `2 u^2`): Z and Y are the exact ones rounded to float64,
Z_l and Y_l what that left, `||dZ|| <= z'` and `||dY|| <= y'` (a column) the little that is unknown.  In all
`||Z* - Z|| <= z`, `||Y* - Y|| <= y`, `|c* - c| <= u c*`.

Let x solve the normal equations as stored and `t = Y - Z x`.  In the exact equations, with matrix A*, its residual is

    b(x) = c* Z*^T (Y* - Z* x) - c Z^T t  =  Z*^T (c* (Y* - Y - (Z* - Z) x) + (c* - c) t) - c (Z* - Z)^T t,

so x is off by at most, column by column,

    ||A*^-1 Z*^T sqrt(c*)|| sqrt(c*) (y + z ||x|| + u ||t||)  +  c z ||t|| / least(A*).

The second term is harmless because t is what the weight c keeps small.  With a ridge `least(A*) >= ridge`, and the gain
is that of `stability.py`, larger by at most what dZ adds to the Frobenius norm.  Without a ridge:

- full column rank: `least(A*) >= least(A) - ||A* - A||`, `||A* - A|| <= c (2 ||Z|| z + z^2 + u (||Z|| + z)^2)`;
- full row rank, where everything is fitted exactly and weights play no part: x is a combination `Phi^T a` of the rows,
  `||a|| <= ||x|| gain`, and `x* - x = Phi*^+ (Y* - Phi* x) - P* x` with P* the projector onto the null space of Phi*,
  `P* x = -P* dZ^T a`: together at most `gain* (y + z ||x||) + gain z ||x||`,
  `gain* <= 1 / (sqrt(least(Phi Phi^T)) - z)`.

`compensated.py` moves x by `A^-1 b(x)`, for which it needs b(x) as far as it is known (`correction`).

Training that stops early is run with A and g_0: their errors are `||A* - A||` as above and, with the residual E = -Y,
`||g_0* - g_0|| <= c ((||Z|| + z) y + z ||E|| + u (||Z|| + z)(||E|| + y))`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch

from ntkla.linalg.arithmetic.doubled import Doubled
from ntkla.linalg.arithmetic.products import pieced_gamma, pieced_matmul
from ntkla.linalg.precision import SHORT_CHAIN, TINY64, U64, gamma, norm_upper, rounded_up


@dataclass(frozen=True, eq=False)
class InexactRows:
    """Rows of a design that carry one weight, and how well they are known.

    Attributes:
        rows: Z and Z_l, float64 [k, K].
        targets: Y and Y_l, float64 [k, C].
        weight: c and c_l.
        rows_rest: z', upper bound of ||dZ||_2.
        targets_rest: y', upper bounds of the norms of the columns of dY, float64 [C].
    """

    rows: Doubled
    targets: Doubled
    weight: tuple[float, float]
    rows_rest: float
    targets_rest: torch.Tensor

    @cached_property
    def size(self) -> float:
        """Upper bound of ||Z||."""
        return float(norm_upper(self.rows.high))

    @cached_property
    def rows_error(self) -> float:
        """z."""
        return (float(norm_upper(self.rows.low)) + self.rows_rest) * SHORT_CHAIN

    @cached_property
    def targets_error(self) -> torch.Tensor:
        """y, [C]."""
        return rounded_up(norm_upper(self.targets.low, dim=0) + self.targets_rest)

    @cached_property
    def root(self) -> float:
        """Upper bound of the root of the exact weight."""
        return math.sqrt(self.weight[0]) * SHORT_CHAIN

    def misfit(self, x: torch.Tensor, error: torch.Tensor) -> torch.Tensor:
        """Upper bounds of ||t||, [C], for solutions within `error` of x."""
        computed = self.targets.high - pieced_matmul(self.rows.high, x)
        rounding = pieced_gamma(x.shape[0]) * self.size * norm_upper(x, dim=0) + U64 * norm_upper(computed, dim=0)
        return rounded_up(norm_upper(computed, dim=0) + rounding + self._ends(x) + self.size * error)

    def _ends(self, x: torch.Tensor) -> torch.Tensor:
        """What products with x may lose to underflow, and where flushed arithmetic drops subnormal numbers."""
        sizes = self.rows.high.numel() + norm_upper(x, dim=0) + self.size + self.rows_error + self.targets_error
        return 8.0 * TINY64 * math.sqrt(self.rows.high.numel()) * sizes

    def correction(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """b(x), [K, C], and the bound of each column's error but for dZ and dY: `Z^T (c d + c_l t) + c Z_l^T (t + d)`.

        `d = Y_l - Z_l x`, all in float64.  With g counting the roundings of a product, t is off by `g ||Z|| ||x||` and
        d by `g (y + z ||x||)`; these, the last products and terms of second order are in
        `4 g c ((||Z|| + z) (y + z ||x||) + (z + 2 u ||Z||) (||t|| + ||Z|| ||x||))`.
        """
        c, rest = self.weight
        t = self.targets.high - pieced_matmul(self.rows.high, x)
        d = self.targets.low - pieced_matmul(self.rows.low, x)
        value = pieced_matmul(self.rows.high.T, c * d + rest * t) + c * pieced_matmul(self.rows.low.T, t + d)
        length, fitted = norm_upper(x, dim=0), self.targets_error + self.rows_error * norm_upper(x, dim=0)
        terms = (self.size + self.rows_error) * fitted
        terms = terms + (self.rows_error + 2 * U64 * self.size) * (norm_upper(t, dim=0) + self.size * length)
        rounding = 4 * gamma(sum(self.rows.high.shape) + 16) * c * terms
        ends = (1.0 + c) * (1.0 + self.size + self.rows_error) * self._ends(x) + (1.0 + c) * self._ends(t)
        return value, rounded_up(rounding + ends)

    @cached_property
    def matrix_error(self) -> float:
        """Upper bound of ||A* - A||."""
        whole = self.size + self.rows_error
        products = (2 * self.size + self.rows_error) * self.rows_error + 2 * U64 * whole**2
        return self.weight[0] * products * SHORT_CHAIN

    @cached_property
    def gradient_error(self) -> torch.Tensor:
        """Upper bounds of the norms of the columns of g_0* - g_0, [C]."""
        whole, misfit = self.size + self.rows_error, norm_upper(self.targets.high, dim=0)
        terms = whole * self.targets_error + self.rows_error * misfit + 2 * U64 * whole * (misfit + self.targets_error)
        return rounded_up(self.weight[0] * terms)


@dataclass(frozen=True, eq=False)
class Inexactness:
    """What is known of a stacked problem's inputs: its inexact rows, and the targets of all other rows.

    Attributes:
        inexact: one for each weight.
        others_error: upper bounds of the 2-norms of the columns of the other targets' errors, float64 [C], or None.
        others_root: upper bound of the largest root of the other rows' weights.
    """

    inexact: tuple[InexactRows, ...]
    others_error: torch.Tensor | None = None
    others_root: float = 1.0

    def others(self, like: torch.Tensor, root: float) -> torch.Tensor:
        """Bounds of the weighted errors of the other targets, [C]."""
        return torch.zeros_like(like) if self.others_error is None else root * self.others_error

    @property
    def matrix_error(self) -> float:
        """Upper bound of ||A* - A||."""
        return sum(rows.matrix_error for rows in self.inexact) * SHORT_CHAIN

    @property
    def rows_error(self) -> float:
        """Upper bound of ||Phi* - Phi||."""
        return sum(rows.rows_error for rows in self.inexact) * SHORT_CHAIN

    @property
    def gradient_error(self) -> torch.Tensor:
        """Upper bounds of the norms of the columns of g_0* - g_0, [C]; the other targets' errors are left out."""
        total = torch.zeros_like(self.inexact[0].gradient_error)
        return rounded_up(sum((rows.gradient_error for rows in self.inexact), start=total))
