"""A certified solution of `A X = G` for a positive definite A that is held as a matrix, both known beyond float64.

A is `M + ridge I` with M positive semidefinite.  Cholesky of A in float64 is the corrector, nothing trusts it; the
residual rho = G - A X is formed at the highest level of `slicing.py` from the high and low parts of all three, so that
the solution, an unevaluated sum of two float64 numbers as well, is refined to about 2^-90 cond(A).

The error is bounded in the norm of A, which is what later problems that contain A inherit, and from it in each
coefficient.  Exactly, for the error e of one column, `A e = rho`.  With every coefficient penalised,

    ||A^1/2 e|| = ||A^-1/2 rho|| <= ||rho|| / sqrt(ridge),   ||e|| <= ||A^1/2 e|| / sqrt(ridge).

With a free bias, the last one, n = A_bb, m the rest of its row and the Schur complement `A_s = A_ww - m m^T / n`, which
is at least `ridge I` because that of M is positive semidefinite:

    ||A^-1/2 rho||^2 <= (||rho_w|| + ||m|| |rho_b| / n)^2 / ridge + rho_b^2 / n,
    ||e_w|| <= ||A^1/2 e|| / sqrt(ridge),   |e_b| <= ||A^1/2 e|| / sqrt(n) + ||m|| ||e_w|| / n.

Sources: Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed., chapter 12 (refinement) and section 7.1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from ntkla.linalg import checks
from ntkla.linalg.arithmetic.accurate import Bounded, accurate_sum
from ntkla.linalg.arithmetic.doubled import Doubled, add
from ntkla.linalg.arithmetic.enclosure import Enclosed
from ntkla.linalg.arithmetic.products import pieced_gamma, pieced_matmul
from ntkla.linalg.arithmetic.slicing import HIGHEST_LEVEL, power_of_two
from ntkla.linalg.precision import SHORT_CHAIN, TINY64, U64, norm_upper, rounded_up

# Each correction gains the digits that the factor has; what does not halve the residual any more is its rounding.
_MOST_CORRECTIONS = 40


@dataclass(frozen=True)
class Floor:
    """What keeps A away from singular: see above.

    Attributes:
        ridge: lower bound of what is added to each penalised diagonal entry, > 0.
        bias_weight: lower bound of n where the bias is free, else None.
        bias_slope: upper bound of ||m|| / n there.
    """

    ridge: float
    bias_weight: float | None = None
    bias_slope: float = 0.0

    @classmethod
    def of(cls, matrix: Enclosed, ridge: float, free_bias: bool) -> Floor:
        """For A itself, a lower bound of its ridge, and whether the last coefficient goes without."""
        if not free_bias:
            return cls(ridge)
        row, radius = matrix.value.high[-1], 2.0 * matrix.radius[-1]
        corner = (float(row[-1]) - float(radius[-1])) / SHORT_CHAIN
        rest = float(norm_upper(row[:-1].abs() + radius[:-1]))
        return cls(ridge, corner, rest / corner * SHORT_CHAIN if corner > 0 else math.inf)

    def energy(self, rho: Bounded) -> torch.Tensor:
        """Upper bounds [C] of ||A^-1/2 rho|| for a residual [K, C] that is known within its error."""
        value, error = rho
        if self.bias_weight is None:
            return rounded_up((norm_upper(value, dim=0) + error) / math.sqrt(self.ridge))
        if self.bias_weight <= 0:
            return torch.full_like(error, math.inf)
        rest, bias = norm_upper(value[:-1], dim=0) + error, value[-1].abs() + error
        weights = (rest + self.bias_slope * bias) / math.sqrt(self.ridge)
        return rounded_up(torch.hypot(weights, bias / math.sqrt(self.bias_weight)))

    def errors(self, energy: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Upper bounds [C] of the norm of the error of all weights, and of the last coefficient, from ||A^1/2 e||."""
        weights = rounded_up(energy / math.sqrt(self.ridge))
        if self.bias_weight is None:
            return weights, weights
        if self.bias_weight <= 0:
            return weights, torch.full_like(weights, math.inf)
        return weights, rounded_up(energy / math.sqrt(self.bias_weight) + self.bias_slope * weights)


@dataclass(frozen=True, eq=False)
class DenseSolution:
    """X [K, C] as high + low, and the upper bound [C] of ||A^1/2 e|| for the error of each column."""

    x: Doubled
    energy: torch.Tensor
    corrections: int


def solve_dense(matrix: Enclosed, right: Enclosed, floor: Floor) -> DenseSolution:
    """The solution of `A X = G`, refined until its residual is nothing but rounding.

    Args:
        matrix: A [K, K], symmetric.
        right: G [K, C].
        floor: of A.

    Returns:
        DenseSolution; where float64 sees A as singular, what is left uncorrected is in the bound.

    Cost: K^3 / 3 for the factor and about `60 K^2 C` operations for each correction, of which there are four or so.
    """
    columns, outputs = right.value.high.shape
    needed = 8 * columns * (16 * columns + 60 * outputs)
    checks.memory("the solution of the normal equations", needed, right.value.high.device)
    x = Doubled(torch.zeros_like(right.value.high), torch.zeros_like(right.value.high))
    factor = _Factor.of(matrix.value.high)
    corrections, rho = 0, dense_residual(matrix, right, x)
    while factor is not None and corrections < _MOST_CORRECTIONS:
        if bool((norm_upper(rho.value, dim=0) <= rho.error).all()):
            break
        tried = add(x, factor.solve(rho.value))
        after = dense_residual(matrix, right, tried)
        if not float(norm_upper(after.value)) <= 0.5 * float(norm_upper(rho.value)):
            break
        x, rho, corrections = tried, after, corrections + 1
    return DenseSolution(x, floor.energy(rho), corrections)


@dataclass(frozen=True)
class _Factor:
    """Cholesky factor of A, its rows and columns scaled by powers of two to a diagonal between 1/2 and 2."""

    triangle: torch.Tensor
    scale: torch.Tensor

    @classmethod
    def of(cls, matrix: torch.Tensor) -> _Factor | None:
        """None where a diagonal entry is not positive.

        Where A is not positive definite in float64, a little is added to its diagonal: what is corrected then is all
        that float64 sees of A.
        """
        diagonal = matrix.diagonal()
        if not bool((diagonal > 0).all()):
            return None
        half = torch.div(torch.frexp(diagonal).exponent, 2, rounding_mode="floor")
        scale = power_of_two(-half)
        scaled, size = matrix * scale[:, None] * scale, matrix.shape[0]
        for shift in (0.0, 8 * size * U64, 8 * size**2 * U64):
            scaled.diagonal().add_(shift)
            triangle, info = torch.linalg.cholesky_ex(scaled)
            if int(info) == 0:
                return cls(triangle, scale)
        return None

    def solve(self, rho: torch.Tensor) -> torch.Tensor:
        return torch.cholesky_solve(rho * self.scale[:, None], self.triangle) * self.scale[:, None]


def dense_residual(matrix: Enclosed, right: Enclosed, x: Doubled) -> Bounded:
    """G - A X and the 2-norm bound of each column's error, [C]."""
    (a, a_low), a_norm = matrix.value, float(norm_upper(matrix.value.high))
    low_norm, x_norm, x_low = float(norm_upper(a_low)), norm_upper(x.high, dim=0), norm_upper(x.low, dim=0)
    small = accurate_sum(-a, x.low, [])
    crossed = pieced_matmul(-a_low, x.high)
    found = accurate_sum(-a, x.high, [right.value.high, right.value.low, small.value, crossed], HIGHEST_LEVEL)
    size = a.shape[0]
    rounding = pieced_gamma(size) * low_norm * x_norm + low_norm * x_low + 2 * size**1.5 * TINY64
    inexact = float(norm_upper(matrix.radius)) * (x_norm + x_low) + norm_upper(right.radius, dim=0)
    # Flushed arithmetic drops subnormal numbers on either side of the product.
    dropped = 4.0 * size * TINY64 * (a_norm + x_norm)
    return Bounded(found.value, rounded_up(found.error + small.error + rounding + inexact + dropped))
