"""The residual from exact sums, `rho = B - S x - p x + shift`, `S = Phi^T Phi`, `B = Phi^T Y`, where that is cheaper.

S and B are summed up once without rounding (`exact_sums.py`) and kept to 106 bits; S x is a product at the highest
level of `slicing.py` of a K x K matrix, whatever the number of samples.  The residual through the features
(`residual.py`) multiplies them anew, but does not cancel B against S x: where that costs too many digits, the
refinement goes back to it.

When it is cheaper, measured (CPU, one thread of a busy machine, 4096 samples, float32 features, float64 targets, the
one residual at levels (1, 2) that a small ridge takes; medians of solves that took turns in one process):

    K x C                          64 x 1000   16 x 2000   32 x 300   64 x 100
    ridge_solve by features, s          1.87        3.31       0.28       0.14
    ridge_solve by sums, s              1.28        1.90       0.26       0.18

Both take nine products of slices with n C outputs.  What sums save are passes over arrays of n C numbers that no cache
holds, and what they pay are the six products for S: they never win for the few outputs of most heads, and where they do
the bound is smaller besides, by a factor of ten or more.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ntkla.linalg.arithmetic.doubled import Doubled
from ntkla.linalg.arithmetic.enclosure import Enclosed, exactly, minus, multiply, plus
from ntkla.linalg.design import DesignMatrix
from ntkla.linalg.precision import norm_upper, rounded_up
from ntkla.linalg.solve.dense import dense_residual
from ntkla.linalg.solve.exact_sums import exact_sums
from ntkla.linalg.solve.normal_problem import NormalProblem, Residual

# Slices of 20 bits that features of a type usually take, and targets.
_SLICES = {torch.float64: 4, torch.float32: 3}
_HALF_SLICES, _TARGET_SLICES = 2, 3
# What a product of slices costs beside its 2 K operations for each of n C outputs, in operations: the passes over them.
_THROUGH_FEATURES, _FOR_SUMS = 390, 240
# With fewer outputs a block of them stays in a cache, and the passes over it cost little.
_LEAST_OUTPUTS = 500
# For n samples more than this times K the limbs of B are a small part of the targets.
_LEAST_SAMPLES = 32
# Sums must cost less than this share of one residual.
_SHARE = 0.8


def sums_pay(problem: NormalProblem, levels: tuple[int, int]) -> bool:
    """Whether a residual at these levels costs more than the exact sums: by the operations named above.

    Never with weights, whose products take more slices, nor with a bias, whose row of the residual has a bound of its
    own, nor for rows that are stacked on others.
    """
    design = problem.design
    if problem.weights is not None or design.bias or not isinstance(design, DesignMatrix):
        return False
    n, k, c = design.rows, design.columns, problem.targets.shape[1]
    slices = _SLICES.get(design.dtype, _HALF_SLICES)
    through = sum((level + 1) * (level + 2) // 2 for level in levels) * (2.0 * k + _THROUGH_FEATURES) * c
    summed = slices * (slices + 1) / 2 * k * k + slices * _TARGET_SLICES * (2.0 * k + _FOR_SUMS) * c
    return c >= _LEAST_OUTPUTS and n >= _LEAST_SAMPLES * k and summed < _SHARE * through


@dataclass(frozen=True, eq=False)
class NormalSums:
    """S [K, K] and B [K, C] to two float64 numbers, with what that leaves out."""

    square: Enclosed
    right: Enclosed

    @classmethod
    def of(cls, problem: NormalProblem) -> NormalSums:
        """Cost: `n K (m (m + 1) K / 2 + 2 m m_y C)` operations for m slices of the features and m_y of the targets."""
        assert isinstance(problem.design, DesignMatrix), "sums_pay comes first"
        sums = exact_sums(problem.design, (problem.targets,), squared=True, by_kernel=False)
        return cls(sums.square.rounded(), sums.right.rounded())

    def residual(self, problem: NormalProblem, x: Doubled) -> Residual:
        """rho at x.  All its rounding is in `adjoint_error`; T is not formed, and its norm only bounded.

        Cost: about `30 K^2 C` operations.
        """
        right = self.right if problem.shift is None else plus(self.right, _enclosed(problem.shift))
        for diagonal in problem.diagonals:
            right = minus(right, multiply(exactly(diagonal[:, None]), _enclosed(x)))
        found = dense_residual(self.square, right, x)
        zero = torch.zeros_like(found.error)
        length = norm_upper(x.high, dim=0) + norm_upper(x.low, dim=0)
        norm = rounded_up(problem.target_norms + problem.frobenius * length)
        return Residual(found.value, None, zero, found.error, found.error, norm)


class ResidualSource:
    """Where the residuals of one refinement come from: from sums once these are cheaper."""

    def __init__(self) -> None:
        self._sums: NormalSums | None = None
        self._left = False

    def residual(self, problem: NormalProblem, x: Doubled, levels: tuple[int, int]) -> Residual | None:
        """rho from sums, as accurate as they are, whatever the levels; None where the features are to be used."""
        if self._sums is None and not self._left and sums_pay(problem, levels):
            self._sums = NormalSums.of(problem)
        return None if self._sums is None else self._sums.residual(problem, x)

    def leave_sums(self) -> bool:
        """Goes back to the features for good, for more digits; False when that is where residuals come from already."""
        had, self._sums, self._left = self._sums is not None, None, True
        return had


def _enclosed(x: Doubled) -> Enclosed:
    return Enclosed(x, torch.zeros_like(x.high))
