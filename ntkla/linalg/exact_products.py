"""Tiles of Gram matrices without any rounding, and the one rounding to float64: the same bits however they came about.

Every entry is the exact real sum `x_i y_j^T + bias` of the stored numbers, added up in fixed point (`exact_sums.py`,
the features in the place of its samples) from products of small integers: in float64 on any device, or by the integer
kernel.  An exact number has one form, so neither tiles nor blocks, neither threads nor devices, neither the layout nor
the order of the features can change a bit.  Then it is rounded once, to nearest and even: `nearest.py` shows it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from ntkla.linalg import checks
from ntkla.linalg.arithmetic.fixed_point import LIMB_BITS, FixedPoint
from ntkla.linalg.arithmetic.integer_slices import BITS, INT8_BITS, cut_slices, exponent_of
from ntkla.linalg.arithmetic.nearest import nearest
from ntkla.linalg.design import DesignMatrix, widened
from ntkla.linalg.errors import NonFiniteError
from ntkla.linalg.precision import flushes_subnormals
from ntkla.linalg.solve.exact_sums import KERNEL_ROWS, exact_sums

# Memory that a tile's sums and limbs may take, and the longest edge of one.
_TILE_BYTES = 2**30
_LONGEST_EDGE = {False: 1024, True: 4096}
# What cutting rows to some slices holds of them at once, in float64.
_COPIES = 6
_CHUNK = 1 << 22  # numbers that are looked at together
_SIGNIFICAND = {torch.float64: 53, torch.float32: 24, torch.float16: 11, torch.bfloat16: 8}


@dataclass(frozen=True)
class Tiling:
    """How a Gram matrix is computed; it changes no bit.

    Attributes:
        by_kernel: whether the integer kernel multiplies, else float64.
        edge: rows and columns of a tile.
    """

    by_kernel: bool
    edge: int

    @classmethod
    def of(cls, x: torch.Tensor, y: torch.Tensor, by_kernel: bool) -> tuple[Tiling, int]:
        """Tiles whose sums fit the memory, however far apart the numbers lie; and the bytes that one takes."""
        bits = max(_spread(x), _spread(y))
        slices, limbs = bits // BITS + 2, 2 * bits // LIMB_BITS + 4
        words = 4 * limbs + 8 + (0 if by_kernel else slices * (slices + 3) // 2)
        inner = 8 * min(x.shape[1], KERNEL_ROWS) * (slices + 6)
        edge = min(_LONGEST_EDGE[by_kernel], math.isqrt(_TILE_BYTES // (8 * words)), max(x.shape[0], y.shape[0], 1))
        return cls(by_kernel, edge), edge * (8 * words * edge + 2 * inner)


def gram_values(x: torch.Tensor, y: torch.Tensor | None, bias: bool, by_kernel: bool) -> torch.Tensor:
    """The exact Gram matrix rounded to nearest, float64, for `gram` with `precision="exact"`.

    Raises:
        NonFiniteError, ScaleError, MemoryEstimateError
    """
    other = finite_inputs(x, y)
    tiling = tiling_for(x, other, by_kernel, arrays=1)
    out = torch.empty((x.shape[0], other.shape[0]), dtype=torch.float64, device=x.device)
    tops = exponent_of(x), exponent_of(other)
    for rows, columns, exact in products(x, y, bias, tiling, tops):
        put(out, rows, columns, nearest(exact), y is None)
    return out


def products(
    x: torch.Tensor, y: torch.Tensor | None, bias: bool, tiling: Tiling, tops: tuple[int, int], bits: int | None = None
) -> Iterator[tuple[slice, slice, FixedPoint]]:
    """The exact tiles of `x y^T + bias`; without y those on and below the diagonal.

    Args:
        x, y: [n, F] and [m, F], finite.
        bias: adds 1 to every entry.
        tiling: the tiles, and who multiplies.
        tops: exponents with |x| <= 2^top and |y| <= 2^top.
        bits: how many of the bits below those are kept, a multiple of 7; None for all.
    """
    flushed = flushes_subnormals()
    for start in range(0, x.shape[0], tiling.edge):
        rows = slice(start, start + tiling.edge)
        left = kept(x[rows], tops[0], bits, flushed)
        design, stop = DesignMatrix(left.T), (x if y is None else y).shape[0]
        for first in range(0, stop if y is not None else start + 1, tiling.edge):
            columns = slice(first, first + tiling.edge)
            symmetric = y is None and first == start
            right = left[:0] if symmetric else kept((x if y is None else y)[columns], tops[1], bits, flushed)
            sums = exact_sums(design, (right.T,), squared=symmetric, by_kernel=tiling.by_kernel, tops=tops)
            exact = sums.square if symmetric else sums.right
            if bias:
                ones = torch.ones(exact.limbs.shape[1:], dtype=torch.int64, device=x.device)
                exact = FixedPoint.of_terms([(ones, 0)], [0], exact)
            yield rows, columns, exact


def kept(x: torch.Tensor, top: int, bits: int | None, flushed: bool) -> torch.Tensor:
    """x itself for None, else in float64 rounded to multiples of 2^(top + 1 - bits)."""
    if bits is None:
        return x
    wide = widened(x)
    found = torch.zeros_like(wide)
    for part, exponent in cut_slices(wide, top, INT8_BITS, flushed):
        if exponent < top + 1 - bits:
            break
        found += part * 2.0**exponent
    return found


def put(out: torch.Tensor, rows: slice, columns: slice, tile: torch.Tensor, mirrored: bool) -> None:
    """Writes a tile, and its mirror image."""
    out[rows, columns] = tile
    if mirrored:
        out[columns, rows] = tile.T


def finite_inputs(x: torch.Tensor, y: torch.Tensor | None) -> torch.Tensor:
    """y, or x in its place, when both have finite entries."""
    for name, z in (("x", x), ("y", y)):
        if z is None or z.numel() == 0:
            continue
        checks.certifiable(name, z)
        if not (math.isfinite(float(z.amin())) and math.isfinite(float(z.amax()))):
            raise NonFiniteError(
                f"{name}: expected finite entries, got {int((~torch.isfinite(z)).sum())} NaN or infinite of "
                f"{z.numel()}, of which there is no exact product. Clean them, or use another precision."
            )
    return x if y is None else y


def tiling_for(x: torch.Tensor, other: torch.Tensor, by_kernel: bool, arrays: int, cut: bool = False) -> Tiling:
    """The tiles; MemoryEstimateError where one, its rows where they are cut, or so many results, would not fit."""
    tiling, needed = Tiling.of(x, other, by_kernel)
    if cut:
        needed += 8 * _COPIES * x.shape[1] * (min(tiling.edge, x.shape[0]) + min(tiling.edge, other.shape[0]))
    checks.memory("the exact Gram matrix", needed + 8 * arrays * x.shape[0] * other.shape[0], x.device)
    return tiling


def _spread(x: torch.Tensor) -> int:
    """Bits from the largest entry down to the last that the smallest one can have; for the memory only."""
    if x.numel() == 0:
        return 0
    parts = torch.split(x, max(1, _CHUNK // x.shape[1]))
    least = min(float(torch.where(part == 0, torch.inf, part.abs()).amin()) for part in parts)
    lowest = math.frexp(least)[1] if math.isfinite(least) else 0
    return max(0, exponent_of(x) - lowest) + _SIGNIFICAND[x.dtype]
