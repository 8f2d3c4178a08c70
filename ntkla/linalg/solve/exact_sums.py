"""`Phi^T D Phi` and `Phi^T D Y` without any rounding, whatever the order and the grouping of the samples.

The factors are cut into slices of integers whose products float64 computes exactly (`integer_slices.py`); they are
added up in float64 over 2^13 samples, still exactly, and then in fixed point (`fixed_point.py`).  For two slices s, t
of the features `s^T t + t^T s = (s + t)^T (s + t) - s^T s - t^T t`: one symmetric product, half of the operations.
Sample weights multiply the slices of the features elementwise, in slices again: `Phi^T D Phi = (D Phi)^T Phi`.

Without weights the integer kernel is another source of the same terms where Triton is wanted: slices of 7 bits in int8
(`integer_products.py`).  Numbers without rounding have one sum, and a `FixedPoint` one form: the bits are the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import NamedTuple

import torch

from ntkla.linalg.arithmetic.fixed_point import FixedPoint, Term
from ntkla.linalg.arithmetic.integer_slices import (
    MOST_SUMMANDS,
    IntegerSlices,
    exponent_of,
    integer_slices,
    product_slices,
)
from ntkla.linalg.arithmetic.products import add_square
from ntkla.linalg.backends.integer_products import add_product, integer_planes
from ntkla.linalg.design import DesignMatrix, widened
from ntkla.linalg.precision import flushes_subnormals

# Samples that the kernel adds up in one launch.
KERNEL_ROWS = 2**13


class Sums(NamedTuple):
    """Phi^T D Phi [K, K] and Phi^T D Y [K, C]."""

    square: FixedPoint
    right: FixedPoint


def exact_sums(
    design: DesignMatrix,
    targets: tuple[torch.Tensor, ...],
    weights: torch.Tensor | None = None,
    *,
    squared: bool,
    by_kernel: bool,
    tops: tuple[int, ...] | None = None,
) -> Sums:
    """`exact_normal` by a source of terms that is chosen already, without a look at the memory.

    Args:
        design, targets, weights: as there.
        squared: whether Phi^T D Phi is wanted; it is zero else.
        by_kernel: whether the integer kernel multiplies; weights must be None then.
        tops: exponents with |Phi| <= 2^top and |Y| <= 2^top of each of the targets, which fix the grids of their
            slices; None for the least.
    """
    if tops is None:
        tops = max(exponent_of(design.features), 0 if design.bias else -(2**12)), *map(exponent_of, targets)
    if by_kernel:
        return _kernel_sums(design, targets, squared, tops)
    return _FloatSums(design, targets, weights, squared, tops).run()


def _kernel_sums(design: DesignMatrix, targets: tuple[torch.Tensor, ...], squared: bool, tops: tuple[int, ...]) -> Sums:
    """Block by block of the samples, along which the kernel adds up."""
    flushed, (top, *target_tops) = flushes_subnormals(), tops
    square, right = _zeros(design, targets)
    for rows, block in design.blocks(KERNEL_ROWS):
        features = integer_planes(block.T, top, flushed)
        if squared:
            square = add_product(square, features, None)
        for y, y_top in zip(targets, target_tops, strict=True):
            right = add_product(right, features, integer_planes(widened(y[rows]).T, y_top, flushed))
    return Sums(square, right)


def _zeros(design: DesignMatrix, targets: tuple[torch.Tensor, ...]) -> Sums:
    k, device = design.columns, design.device
    return Sums(FixedPoint.zeros(k, k, device), FixedPoint.zeros(k, targets[0].shape[1], device))


class _FloatSums:
    """One pass over the rows; what is added up lies in float64 until 2^13 products are, then in fixed point."""

    def __init__(
        self,
        design: DesignMatrix,
        targets: tuple[torch.Tensor, ...],
        weights: torch.Tensor | None,
        squared: bool,
        tops: tuple[int, ...],
    ) -> None:
        self.design, self.targets, self.weights, self.squared = design, targets, weights, squared
        self.flushed = flushes_subnormals()
        self.top, *self.target_tops = tops
        self.weight_top = 0 if weights is None else exponent_of(weights)
        self.total = _zeros(design, targets)
        # Lower triangles of (s_p + s_q)^T (s_p + s_q) by the exponents of p and q; with weights, of (D s_p)^T s_q.
        self.squares: dict[tuple[int, int], torch.Tensor] = {}
        self.products: dict[int, torch.Tensor] = {}
        self.rights: dict[int, torch.Tensor] = {}
        self.summands = 0

    def run(self) -> Sums:
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
        self.total = Sums(square, FixedPoint.of_terms(_popped(self.rights), rights, self.total.right))
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
