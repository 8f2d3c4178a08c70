"""The normal equations of any number of samples as exact sums: `Phi^T D Phi` and `Phi^T D Y` (`exact_sums.py`)."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ntkla.linalg import checks
from ntkla.linalg.arithmetic.fixed_point import LIMB_BITS, FixedPoint
from ntkla.linalg.arithmetic.integer_slices import BITS
from ntkla.linalg.arithmetic.nearest import nearest
from ntkla.linalg.backends.checked import require_product, vectors_wanted
from ntkla.linalg.backends.dispatch import Call
from ntkla.linalg.backends.freivalds import Expected, Factor, product_reference
from ntkla.linalg.backends.integer_products import by_kernel_or_torch
from ntkla.linalg.design import DesignMatrix
from ntkla.linalg.errors import ShapeError
from ntkla.linalg.precision import gamma
from ntkla.linalg.solve.exact_sums import KERNEL_ROWS, Sums, exact_sums
from ntkla.linalg.solve.weights import sample_weights

_RAN = "triton:exact_normal:exact"


@dataclass(frozen=True, eq=False)
class ExactNormal:
    """The exact sums `Phi^T D Phi` and `Phi^T D Y` of any number of samples, for streams: no bit depends on the cuts.

    `ExactNormal.of(a, y_a) + ExactNormal.of(b, y_b)` is that of the samples of both, in any order, on any machine.

    Attributes:
        square: Phi^T D Phi, [K, K].
        right: Phi^T D Y, [K, C].
    """

    square: FixedPoint
    right: FixedPoint

    @classmethod
    def zeros(cls, columns: int, outputs: int, device: torch.device) -> ExactNormal:
        """Of no samples.

        Args:
            columns: features, and one more with a bias.
            outputs: columns of the targets.
            device: where the sums lie.

        Raises:
            ArgumentError: numbers that are no integers, or below 0.
        """
        columns = checks.integer("columns", columns, least=0)
        outputs = checks.integer("outputs", outputs, least=0)
        return cls(FixedPoint.zeros(columns, columns, device), FixedPoint.zeros(columns, outputs, device))

    @classmethod
    def of(
        cls, features: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor | None = None, *, bias: bool = False
    ) -> ExactNormal:
        """Of some samples.

        Args:
            features: Phi, [n, F], float64, float32, bfloat16 or float16, any strides.
            targets: Y, [n, C], on the same device, any of these types.
            weights: D, [n], >= 0 and one above 0; None for 1 each.
            bias: appends a column of ones to Phi: K = F + 1.

        Raises:
            ShapeError, DtypeError, DeviceError, NonFiniteError, ScaleError, ArgumentError, MemoryEstimateError
            BackendError: Triton is forced and cannot run; weighted sums take none.

        Cost: `exact_normal`.  Detached from autograd.
        """
        design = DesignMatrix(checks.matrix("features", features), checks.flag("bias", bias))
        y = checks.matrix("targets", targets, rows=design.rows)
        counts = None if weights is None else sample_weights("weights", weights, design.rows)
        checks.one_device(features=features, targets=y, weights=counts)
        return exact_normal(design, (y,), counts)

    def add(
        self,
        features: torch.Tensor,
        targets: torch.Tensor,
        weights: torch.Tensor | None = None,
        *,
        bias: bool = False,
    ) -> ExactNormal:
        """New sums, `self + ExactNormal.of(...)`; `self` stays as it is: `s = s.add(x, y)`."""
        return self + ExactNormal.of(features, targets, weights, bias=bias)

    def __add__(self, other: ExactNormal) -> ExactNormal:
        """Of both sets of samples, exactly.

        Raises:
            ShapeError, DeviceError: sums of other features or outputs, or on another device.
        """
        if not isinstance(other, ExactNormal):
            return NotImplemented
        mine, others = (x.right.limbs.shape[1:] for x in (self, other))
        if mine != others:
            raise ShapeError(
                f"exact sums: expected {mine[0]} features (the bias counted) and {mine[1]} outputs, got {others[0]} "
                f"and {others[1]}. Sum up both parts with the same features, outputs and bias."
            )
        checks.one_device(sums=self.right.limbs, others=other.right.limbs)
        return ExactNormal(self.square + other.square, self.right + other.right)

    def rounded(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Both matrices, S and R, in float64, each entry rounded once, to nearest and even.

        The ridge solution of the samples is that of `(S + ridge I) X = R`: `torch.linalg.solve`; certified, from the
        features themselves: `ridge_solve`.

        Raises:
            ScaleError: an entry is beyond the range of float64.
        """
        return nearest(self.square), nearest(self.right)

    def equals(self, other: ExactNormal) -> bool:
        """Whether both matrices are the same, bit by bit."""
        return self.square.equals(other.square) and self.right.equals(other.right)

    def nbytes(self) -> int:
        """Bytes held."""
        return self.square.nbytes() + self.right.nbytes()

    def __str__(self) -> str:
        columns, outputs = self.right.limbs.shape[1:]
        return f"ExactNormal: {columns} features (the bias counted), {outputs} outputs, {self.nbytes()} bytes"

    __repr__ = __str__


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

    def compute(by_kernel: bool) -> Sums:
        needed = memory_estimate(design, targets[0].shape[1], weights is not None, by_kernel)
        checks.memory("the exact normal matrix", needed, design.device)
        return exact_sums(design, targets, weights, squared=square is None, by_kernel=by_kernel)

    if weights is None:
        work = float(design.rows) * design.columns**2
        call = Call("exact_normal", design.features, design.columns, "exact", work)
        found, by_kernel = by_kernel_or_torch(call, compute)
        if by_kernel and vectors_wanted():
            _require(design, targets, found, square is None)
    else:
        found = compute(False)
    return ExactNormal(found.square if square is None else square, found.right)


def _require(design: DesignMatrix, targets: tuple[torch.Tensor, ...], found: Sums, squared: bool) -> None:
    """Compares the kernel's sums with their factors, for `checked_products`."""
    left, vectors = Factor(design, transposed=True), vectors_wanted()
    if squared:
        reference = product_reference((left, Factor(design)), gamma(1))
        require_product(_RAN, nearest(found.square), reference, vectors)

    def right(v: torch.Tensor) -> Expected:
        # One rounding of the sum, and one for each of the targets that are added up here.
        error = gamma(1 + len(targets))
        parts = [product_reference((left, Factor(DesignMatrix(y))), error)(v) for y in targets]
        return Expected(torch.stack([x.value for x in parts]).sum(0), torch.stack([x.allowed for x in parts]).sum(0))

    require_product(_RAN, nearest(found.right), right, vectors)


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
