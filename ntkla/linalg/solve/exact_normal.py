"""`Phi^T D Phi` and `Phi^T D Y` without any rounding, whatever the order and the grouping of the samples.

The factors are cut into slices of integers whose products float64 computes exactly (`integer_slices.py`); they are
added up in float64 over 2^13 samples, still exactly, and then in fixed point (`fixed_point.py`).  For two slices s, t
of the features `s^T t + t^T s = (s + t)^T (s + t) - s^T s - t^T t`: one symmetric product, half of the operations.
Sample weights multiply the slices of the features elementwise, in slices again: `Phi^T D Phi = (D Phi)^T Phi`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain

import torch

from ntkla.linalg import checks
from ntkla.linalg.arithmetic.fixed_point import LIMB_BITS, FixedPoint, Term
from ntkla.linalg.arithmetic.integer_slices import (
    BITS,
    MOST_SUMMANDS,
    IntegerSlices,
    exponent_of,
    integer_slices,
    product_slices,
)
from ntkla.linalg.arithmetic.products import add_square
from ntkla.linalg.design import DesignMatrix, widened
from ntkla.linalg.precision import flushes_subnormals


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
    checks.memory(
        "the exact normal matrix", memory_estimate(design, targets[0].shape[1], weights is not None), design.device
    )
    found = _Sums(design, targets, weights, squares=square is None).run()
    return found if square is None else ExactNormal(square, found.right)


def memory_estimate(design: DesignMatrix, outputs: int, weighted: bool = False) -> int:
    """Bytes at the peak: sums of all pairs of slices, limbs while they are added up, and a block in slices.

    For as many slices as features of the type usually take; more where their sizes differ by more.
    """
    k, rows = design.columns, min(design.rows, design.block_rows)
    m = {torch.float64: 4, torch.float32: 3}.get(design.features.dtype, 2)
    limbs = 2 + (2 * m + (3 if weighted else 0)) * BITS // LIMB_BITS
    squares = m + 4 + 3 * limbs if weighted else m * (m + 3) // 2 + 2 * limbs
    slices = 4 * m + 12 if weighted else m + 4
    return 8 * (squares * k * k + 6 * limbs * k * outputs + rows * (slices * k + 6 * outputs))


class _Sums:
    """One pass over the rows; what is added up lies in float64 until 2^13 products are, then in fixed point."""

    def __init__(
        self, design: DesignMatrix, targets: tuple[torch.Tensor, ...], weights: torch.Tensor | None, squares: bool
    ) -> None:
        self.design, self.targets, self.weights, self.squared = design, targets, weights, squares
        self.flushed = flushes_subnormals()
        self.top = max(exponent_of(design.features), 0 if design.bias else -(2**12))
        self.target_tops = [exponent_of(y) for y in targets]
        self.weight_top = 0 if weights is None else exponent_of(weights)
        k, c = design.columns, targets[0].shape[1]
        self.total = ExactNormal.zeros(k, c, design.device)
        # Lower triangles of (s_p + s_q)^T (s_p + s_q) by the exponents of p and q; with weights, of (D s_p)^T s_q.
        self.squares: dict[tuple[int, int], torch.Tensor] = {}
        self.products: dict[int, torch.Tensor] = {}
        self.rights: dict[int, torch.Tensor] = {}
        self.summands = 0

    def run(self) -> ExactNormal:
        for rows, block in self.design.blocks():
            self._add(rows, block)
        self._settle()
        return self.total

    def _add(self, rows: slice, block: torch.Tensor) -> None:
        features = integer_slices(block, self.top, self.flushed)
        left = features
        if self.weights is not None:
            weights = integer_slices(self.weights[rows, None], self.weight_top, self.flushed)
            left = product_slices(features, weights)
        right = [
            integer_slices(widened(y[rows]), top, self.flushed)
            for y, top in zip(self.targets, self.target_tops, strict=True)
        ]
        # So many products of slices may share a level.
        shared = sum(min(len(left.parts), len(y.parts)) for y in right)
        if self.weights is not None:
            shared = max(shared, len(features.parts))
        summands = block.shape[0] * max(1, shared)
        # What a pair of slices shares is told from what each has alone: over the same samples, so of the same slices.
        other_slices = bool(self.squares) and {first for first, _ in self.squares} != set(features.exponents)
        if self.summands + summands > MOST_SUMMANDS or other_slices:
            self._settle()
        self.summands += summands
        if self.squared and self.weights is None:
            self._add_squares(features)
        elif self.squared:
            _add_products(self.products, left, features)
        for y in right:
            _add_products(self.rights, left, y)

    def _add_squares(self, features: IntegerSlices) -> None:
        slices, k = list(zip(*features, strict=True)), self.design.columns
        for p, (part, exponent) in enumerate(slices):
            for other, lower in slices[p:]:
                key = exponent, lower
                if key not in self.squares:
                    self.squares[key] = torch.zeros((k, k), dtype=torch.float64, device=part.device)
                add_square(self.squares[key], part if part is other else part + other)

    def _settle(self) -> None:
        """Moves the float64 sums into fixed point, one after another: each is let go when the next is looked at."""
        pairs, levels = [first + second for first, second in self.squares], list(self.products)
        square = FixedPoint.of_terms(chain(self._squares(), _popped(self.products)), pairs + levels, self.total.square)
        rights = list(self.rights)
        self.total = ExactNormal(square, FixedPoint.of_terms(_popped(self.rights), rights, self.total.right))
        self.summands = 0

    def _squares(self) -> Iterator[Term]:
        """From the symmetric products of two slices and of their sums to the terms of the square."""
        own = {
            first: _mirrored(self.squares.pop((first, first))) for first, second in [*self.squares] if first == second
        }
        for first, second in list(self.squares):
            both = _mirrored(self.squares.pop((first, second)))
            yield both.sub_(own[first]).sub_(own[second]), first + second
        for exponent in list(own):
            yield own.pop(exponent), 2 * exponent


def _popped(sums: dict[int, torch.Tensor]) -> Iterator[Term]:
    for exponent in list(sums):
        yield sums.pop(exponent).to(torch.int64), exponent


def _mirrored(sums: torch.Tensor) -> torch.Tensor:
    """The symmetric matrix of integers with this lower triangle."""
    whole = sums.tril_().to(torch.int64)
    whole += whole.tril(-1).T
    return whole


def _add_products(sums: dict[int, torch.Tensor], left: IntegerSlices, right: IntegerSlices) -> None:
    """Adds `left^T right` to the sums of its levels in float64, without rounding."""
    for part, exponent in zip(*left, strict=True):
        for other, lower in zip(*right, strict=True):
            level = exponent + lower
            if level in sums:
                torch.addmm(sums[level], part.T, other, out=sums[level])
            else:
                sums[level] = part.T @ other
