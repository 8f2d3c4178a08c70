"""Pseudo-samples that are known to within a rounding: what that does to the solution, for the optimum and for training.

Some rows Z of a stacked design, their targets Y and their common weight c stand for exact ones
`Z* = Z + dZ`, `Y* = Y + dY`, `c* = c + dc` with `||dZ|| <= z`, `||dY|| <= y` (a column) and `|dc| <= u c*`.
Let x solve the normal equations as stored and `t = Y - Z x`.  In the exact equations, with matrix A*, its residual is

    c* Z*^T (Y* - Z* x) - c Z^T t  =  Z*^T (c* (dY - dZ x) + dc t) - c dZ^T t,

so x is off by at most, column by column,

    ||A*^-1 Z*^T sqrt(c*)|| sqrt(c*) (y + z ||x|| + u ||t||)  +  c z ||t|| / least(A*).

The second term is harmless because t is what the weight c keeps small.  With a ridge `least(A*) >= ridge`, and the gain
is that of `stability.py`, larger by at most what dZ adds to the Frobenius norm.  Without a ridge:

- full column rank: `least(A*) >= least(A) - ||A* - A||`, `||A* - A|| <= c (2 ||Z|| z + z^2 + u (||Z|| + z)^2)`;
- full row rank, where everything is fitted exactly and weights play no part: x is a combination `Phi^T a` of the rows,
  `||a|| <= ||x|| gain`, and `x* - x = Phi*^+ (Y* - Phi* x) - P* x` with P* the projector onto the null space of Phi*,
  `P* x = -P* dZ^T a`: together at most `gain* (y + z ||x||) + gain z ||x||`,
  `gain* <= 1 / (sqrt(least(Phi Phi^T)) - z)`.

Training that stops early is run with A and g_0: their errors are `||A* - A||` as above and, with the residual E = -Y,
`||g_0* - g_0|| <= c ((||Z|| + z) y + z ||E|| + u (||Z|| + z)(||E|| + y))`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch

from ntkla.linalg.arithmetic.products import pieced_gamma, pieced_matmul
from ntkla.linalg.precision import SHORT_CHAIN, TINY64, U64, norm_upper, rounded_up
from ntkla.linalg.solve.stability import SolutionError, Stability


@dataclass(frozen=True, eq=False)
class InexactRows:
    """Rows of a design that carry one weight, and how well they are known.

    Attributes:
        rows: Z, float64 [k, K].
        targets: Y, float64 [k, C].
        weight: c, the exact weight rounded to float64.
        rows_error: upper bound of ||dZ||_2.
        targets_error: upper bounds of the norms of the columns of dY, float64 [C].
    """

    rows: torch.Tensor
    targets: torch.Tensor
    weight: float
    rows_error: float
    targets_error: torch.Tensor

    @cached_property
    def size(self) -> float:
        """Upper bound of ||Z||."""
        return float(norm_upper(self.rows))

    @cached_property
    def root(self) -> float:
        """Upper bound of the root of the exact weight."""
        return math.sqrt(self.weight) * SHORT_CHAIN

    def misfit(self, x: torch.Tensor, error: torch.Tensor) -> torch.Tensor:
        """Upper bounds of ||t||, [C], for solutions within `error` of x."""
        computed = self.targets - pieced_matmul(self.rows, x)
        rounding = pieced_gamma(x.shape[0]) * self.size * norm_upper(x, dim=0) + U64 * norm_upper(computed, dim=0)
        # Beside it, flushed arithmetic may drop subnormal numbers of either factor.
        ends = TINY64 * math.sqrt(self.rows.numel()) * (4 * x.shape[0] + norm_upper(x, dim=0) + self.size)
        return rounded_up(norm_upper(computed, dim=0) + rounding + ends + self.size * error)

    @cached_property
    def matrix_error(self) -> float:
        """Upper bound of ||A* - A||."""
        whole = self.size + self.rows_error
        products = (2 * self.size + self.rows_error) * self.rows_error + 2 * U64 * whole**2
        return self.weight * products * SHORT_CHAIN

    @cached_property
    def gradient_error(self) -> torch.Tensor:
        """Upper bounds of the norms of the columns of g_0* - g_0, [C]."""
        whole, misfit = self.size + self.rows_error, norm_upper(self.targets, dim=0)
        terms = whole * self.targets_error + self.rows_error * misfit + 2 * U64 * whole * (misfit + self.targets_error)
        return rounded_up(self.weight * terms)


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

    def at_optimum(self, x: torch.Tensor, error: SolutionError, stability: Stability, ridge: bool) -> SolutionError:
        """How far the stored problem's solution, known as x within `error`, can be from the exact one's.

        Args:
            x: float64 [K, C].
            error: of x as a solution of the stored problem.
            stability: of the stored problem; no bias is free.
            ridge: whether its least eigenvalue is that of a ridge, which inexact rows cannot lower.
        """
        least, gain = stability.least, stability.gain
        if not ridge:
            least -= self.matrix_error * SHORT_CHAIN
            gain = SHORT_CHAIN / math.sqrt(least) if least > 0 else math.inf
        else:
            gain += sum(rows.root * rows.rows_error for rows in self.inexact) / least * SHORT_CHAIN
        whole = norm_upper(x, dim=0) + error.weights
        outputs = self._others(self.others_root, whole)
        adjoint = torch.zeros_like(whole)
        for rows in self.inexact:
            misfit = rows.misfit(x, error.weights)
            outputs = outputs + rows.root * (rows.targets_error + rows.rows_error * whole + 2 * U64 * misfit)
            adjoint = adjoint + rows.weight * rows.rows_error * misfit
        weights = gain * outputs + adjoint / least if least > 0 else torch.full_like(whole, math.inf)
        return SolutionError(rounded_up(weights), torch.zeros_like(whole))

    def at_fit(self, x: torch.Tensor, error: SolutionError, stability: Stability) -> SolutionError:
        """The same for the minimum-norm solution of full row rank, whose weights play no part."""
        moved = sum(rows.rows_error for rows in self.inexact) * SHORT_CHAIN
        room = 1.0 / stability.gain / SHORT_CHAIN - moved
        gain = SHORT_CHAIN / room if room > 0 else math.inf
        whole = norm_upper(x, dim=0) + error.weights
        outputs = self._others(1.0, whole) + sum(rows.targets_error for rows in self.inexact)
        weights = gain * (outputs + moved * whole) + stability.gain * moved * whole
        return SolutionError(rounded_up(weights), torch.zeros_like(whole))

    def _others(self, root: float, like: torch.Tensor) -> torch.Tensor:
        return torch.zeros_like(like) if self.others_error is None else root * self.others_error

    @property
    def matrix_error(self) -> float:
        """Upper bound of ||A* - A||."""
        return sum(rows.matrix_error for rows in self.inexact) * SHORT_CHAIN

    @property
    def gradient_error(self) -> torch.Tensor:
        """Upper bounds of the norms of the columns of g_0* - g_0, [C]; the other targets' errors are left out."""
        return rounded_up(sum(rows.gradient_error for rows in self.inexact))  # type: ignore[arg-type]
