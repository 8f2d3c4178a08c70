"""The normal equations of any number of samples as exact sums: `Phi^T D Phi` and `Phi^T D Y` (`exact_sums.py`)."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ntkla.linalg import checks
from ntkla.linalg.arithmetic.fixed_point import LIMB_BITS, FixedPoint
from ntkla.linalg.arithmetic.integer_slices import BITS
from ntkla.linalg.backends.dispatch import Call
from ntkla.linalg.backends.integer_products import kernel_chosen
from ntkla.linalg.design import DesignMatrix
from ntkla.linalg.solve.exact_sums import KERNEL_ROWS, exact_sums


@dataclass(frozen=True, eq=False)
class ExactNormal:
    """The exact sums of any number of samples: `square` is Phi^T D Phi [K, K], `right` is Phi^T D Y [K, C]."""

    square: FixedPoint
    right: FixedPoint

    @classmethod
    def zeros(cls, columns: int, outputs: int, device: torch.device) -> ExactNormal:
        """Of no samples."""
        return cls(FixedPoint.zeros(columns, columns, device), FixedPoint.zeros(columns, outputs, device))

    def __add__(self, other: ExactNormal) -> ExactNormal:
        """Of both sets of samples, exactly."""
        return ExactNormal(self.square + other.square, self.right + other.right)

    def equals(self, other: ExactNormal) -> bool:
        """Whether both matrices are the same, bit by bit."""
        return self.square.equals(other.square) and self.right.equals(other.right)

    def nbytes(self) -> int:
        """Bytes held."""
        return self.square.nbytes() + self.right.nbytes()


def exact_normal(
    design: DesignMatrix,
    targets: tuple[torch.Tensor, ...],
    weights: torch.Tensor | None = None,
    *,
    square: FixedPoint | None = None,
) -> ExactNormal:
    """The exact sums over the rows of `design`.

    Args:
        design: Phi, n x K.
        targets: [n, C] each, finite, any type; Y is their exact sum.
        weights: float64 [n], D; None for the identity.
        square: Phi^T D Phi, when it is known already.

    Raises:
        MemoryEstimateError

    Cost: with m slices of the features `m (m + 1) n K^2 / 2` operations (m is 2 for bfloat16, 3 or 4 for float32), with
    w slices of the weights up to `2 w m^2 n K^2`.  The bits of the result depend on the numbers alone.
    """
    by_kernel = weights is None and _kernel_chosen(design)
    needed = memory_estimate(design, targets[0].shape[1], weights is not None, by_kernel)
    checks.memory("the exact normal matrix", needed, design.device)
    found = exact_sums(design, targets, weights, squared=square is None, by_kernel=by_kernel)
    return ExactNormal(found.square if square is None else square, found.right)


def _kernel_chosen(design: DesignMatrix) -> bool:
    work = float(design.rows) * design.columns**2
    return kernel_chosen(Call("exact_normal", design.features, design.columns, "exact", work))


def memory_estimate(design: DesignMatrix, outputs: int, weighted: bool = False, by_kernel: bool = False) -> int:
    """Bytes at the peak: sums of all pairs of slices, limbs while they are added up, and a block in slices.

    For as many slices as features of the type usually take; more where their sizes differ by more.
    """
    k, rows = design.columns, min(design.rows, KERNEL_ROWS if by_kernel else design.block_rows)
    m = {torch.float64: 4, torch.float32: 3}.get(design.features.dtype, 2)
    limbs = 2 + (2 * m + (3 if weighted else 0)) * BITS // LIMB_BITS
    squares = m + 4 + 3 * limbs if weighted else m * (m + 3) // 2 + 2 * limbs
    slices = 4 * m + 12 if weighted else m + 4
    return 8 * (squares * k * k + 6 * limbs * k * outputs + rows * (slices * k + 6 * outputs))
