"""What protects one task in all later ones: some directions of its outputs, as pseudo-samples of the linear head.

With U the leading k modes of the kernel of its probes Phi and c what a mode counts (`penalty.py`), the penalty is

    c/2 ||U^T (Phi W^T - F_ref)||_F^2  =  1/2 ||Z W^T - T||_F^2,     Z = sqrt(c) U^T Phi,   T = Z W_ref^T.

Z is rounded once, to 60 bits below its largest entry, and is from then on exact: the penalty *is* that of the stored Z.
Later tasks see of all earlier ones only `sum Z^T Z` and `sum Z^T T`, both exact, whatever the number of tasks.

How far an error e of the reference reaches, `||Z e||`: through the loss of the task itself where the probes are among
its samples, because there `||Phi e|| <= ||A^1/2 e|| / sqrt(least weight)`; else by the norm of Z.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from ntkla.forgetting.sequences.penalty import Penalty
from ntkla.linalg.arithmetic.accurate import accurate_sum
from ntkla.linalg.arithmetic.doubled import Doubled
from ntkla.linalg.arithmetic.fixed_point import FixedPoint
from ntkla.linalg.arithmetic.integer_slices import exponent_of
from ntkla.linalg.arithmetic.products import pieced_gamma, pieced_matmul
from ntkla.linalg.arithmetic.slicing import HIGHEST_LEVEL
from ntkla.linalg.design import DesignMatrix
from ntkla.linalg.eigen.modes import Eigenmodes
from ntkla.linalg.eigenmodes import eigenmodes
from ntkla.linalg.precision import SHORT_CHAIN, TINY64, U64, gamma, norm_upper, rounded_up
from ntkla.linalg.solve.exact_normal import ExactNormal, exact_normal

_GRID_BITS = 60


@dataclass(frozen=True, eq=False)
class Anchor:
    """The protected directions of one task.

    Attributes:
        rows: Z, float64 [k, K], taken as exact.
        square: Z^T Z, exactly.
        wanted: how many modes were asked for; k is less where fewer eigenvalues are certainly above 0.
        probes: how many.
        stretch: `||Z e|| <= stretch ||Phi e|| + rounding ||e||` for the probes Phi.
        rounding: see there.
    """

    rows: torch.Tensor
    square: FixedPoint
    wanted: int
    probes: int
    stretch: float
    rounding: float

    @classmethod
    def of(cls, probes: DesignMatrix, penalty: Penalty, outputs: int) -> Anchor:
        """Protects the leading modes of the probes' kernel, each for all outputs.

        Cost: that of `eigenmodes`, and 2 n K k operations.
        """
        modes = penalty.wanted
        k = min(modes, probes.rows, probes.columns)
        found = _certain_modes(probes, k) if k else None
        if found is None:
            empty = torch.zeros((0, probes.columns), dtype=torch.float64, device=probes.device)
            zero = FixedPoint.zeros(probes.columns, probes.columns, probes.device)
            return cls(empty, zero, modes, probes.rows, 0.0, 0.0)
        basis, defect = found
        k = basis.shape[1]
        root = math.sqrt(penalty.counted(k, outputs))
        rows = root * probes.rmatmul(basis).T
        grid = 2.0 ** (exponent_of(rows) + 1 - _GRID_BITS)
        rows = torch.round(rows / grid) * grid
        size = math.sqrt(k * (1.0 + defect)) * SHORT_CHAIN
        mass = root * size * probes.frobenius()
        # Of the sums, of the product with the root, and of the grid; and underflow.
        rounding = (gamma(probes.summands) + 4 * U64) * mass + math.sqrt(rows.numel()) * grid
        dropped = root * probes.flushed_mass() * size + 4 * (1.0 + root) * rows.numel() * probes.rows * TINY64
        rounding = (rounding + dropped) * SHORT_CHAIN**2
        stretch = root * math.sqrt(1.0 + defect) * SHORT_CHAIN
        square = exact_normal(DesignMatrix(rows), (rows[:, :1],)).square
        return cls(rows, square, modes, probes.rows, stretch, rounding)

    @property
    def count(self) -> int:
        """k: the modes that are protected."""
        return self.rows.shape[0]

    def reach(
        self, energy: torch.Tensor, errors: tuple[torch.Tensor, torch.Tensor], least_weight: float | None
    ) -> torch.Tensor:
        """Upper bounds [C] of ||Z e||.

        Args:
            energy: upper bounds of ||A^1/2 e||, A at least the task's own normal matrix.
            errors: upper bounds of the norm of the weights' part of e, and of its last coefficient.
            least_weight: the smallest of the task's samples when the probes are among them, else None.
        """
        if not self.count:
            return torch.zeros_like(energy)
        weights, bias = errors
        by_norm = float(norm_upper(self.rows[:, :-1])) * weights + float(norm_upper(self.rows[:, -1])) * bias
        if not least_weight:
            return rounded_up(by_norm)
        through = self.stretch / math.sqrt(least_weight) * energy + self.rounding * (weights + bias)
        return rounded_up(torch.minimum(by_norm, through))

    def sums(self, head: Doubled) -> tuple[ExactNormal, torch.Tensor]:
        """`Z^T Z` and `Z^T T` with T = Z W^T beyond float64, and what rounding is in T: norms of its columns, [C]."""
        z = self.rows
        if not self.count:
            columns, outputs = head.high.shape
            return ExactNormal.zeros(columns, outputs, z.device), torch.zeros_like(head.high[0])
        high = accurate_sum(z, head.high, [], HIGHEST_LEVEL).value
        below = pieced_matmul(z, head.low)
        low = accurate_sum(z, head.high, [-high, below], HIGHEST_LEVEL)
        size, columns = float(norm_upper(z)), z.shape[1]
        rounding = pieced_gamma(columns) * size * norm_upper(head.low, dim=0) + 4 * z.numel() * TINY64 * (1 + size)
        normal = exact_normal(DesignMatrix(z), (high, low.value), square=self.square)
        return normal, rounded_up(low.error + rounding)


def _certain_modes(probes: DesignMatrix, k: int) -> tuple[torch.Tensor, float] | None:
    """The basis [n, k'] of the modes among the first k whose eigenvalue is certainly above 0, and its defect."""
    modes: Eigenmodes = eigenmodes(probes.features, k, bias=probes.bias, prove=None)
    certain = int((modes.values > modes.value_error).sum())
    return (modes.basis[:, :certain], modes.orthogonality) if certain else None
