"""`exact_gram`: a Gram matrix without any rounding, in two words, whole or of the leading bits of its factors.

The exact tiles come from `exact_products.py`.  `high` is the float64 number nearest to the exact one, `low` the nearest
to `exact - high`; what is left then, if anything, is at most `u |low|`, half a unit in its last place.

Fewer slices: x is rounded first, to multiples of `2^(e + 1 - 7 k)` for `|x| <= 2^e`, which is what k slices of 7 bits
keep, and the Gram matrix of what is kept is exact.  An entry moves by at most half the grid, `h = 2^(e - 7 k)`, and by
nothing in rows that the grid holds.  With `x' = x - d` and `y' = y - f`,

    |x y^T - x' y'^T| = |x f^T + d y^T - d f^T|  <=  h_y ||x||_1 + h_x ||y||_1 + F h_x h_y.

Source: Ozaki, Ogita, Oishi and Rump, "Error-free transformations of matrix multiplication", Numer. Algorithms 59
(2012); the bound without their matrix norms, entry by entry.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ntkla.linalg import checks
from ntkla.linalg.arithmetic.fixed_point import FixedPoint
from ntkla.linalg.arithmetic.integer_slices import INT8_BITS, exponent_of, least_exponent
from ntkla.linalg.arithmetic.nearest import fixed_point, nearest
from ntkla.linalg.backends.checked import require_product, vectors_wanted
from ntkla.linalg.backends.dispatch import Call, record
from ntkla.linalg.backends.integer_products import by_kernel_or_torch
from ntkla.linalg.backends.primitive import primitive_input, same_kind
from ntkla.linalg.backends.references import gram_reference
from ntkla.linalg.design import widened
from ntkla.linalg.errors import ArgumentError, ScaleError, ShapeError
from ntkla.linalg.exact_products import finite_inputs, kept, products, put, tiling_for
from ntkla.linalg.precision import TINY64, U64, flushes_subnormals, gamma, rounded_up
from ntkla.linalg.results import Result

# Grids and tops between these keep everything that is rounded to them in the range of float64's normal numbers.
_LEAST_GRID, _MOST_TOP = -1000, 1000


@dataclass(frozen=True, eq=False)
class ExactGram(Result):
    """`x y^T`, the bias included, as the unevaluated sum high + low of float64 matrices [n, m].

    Attributes:
        high: the float64 number nearest to the exact entry (of x and y as they were rounded, with `slices`).
        low: the float64 number nearest to what `high` leaves.
        error_bound: upper bound of `|high + low - x y^T|`, entry by entry; 0 where that is exact.
        slices: how many leading slices of 7 bits were kept; None for all.
        exponents: the e of `|x| <= 2^e` and `|y| <= 2^e` that fix the grids of the slices.
    """

    high: torch.Tensor
    low: torch.Tensor
    error_bound: torch.Tensor
    slices: int | None
    exponents: tuple[int, int]

    def __str__(self) -> str:
        rows, columns = self.high.shape
        exact = int((self.error_bound == 0).sum())
        largest = float(self.error_bound.max()) if self.error_bound.numel() else 0.0
        kept_slices = "all slices" if self.slices is None else f"{self.slices} slices of 7 bits"
        return (
            f"ExactGram: {rows} x {columns} from {kept_slices}; {exact} of {rows * columns} entries exact, "
            f"the others within {largest:.3g}"
        )

    __repr__ = __str__


def exact_gram(
    x: torch.Tensor,
    y: torch.Tensor | None = None,
    *,
    bias: bool = False,
    slices: int | None = None,
    exponent: int | None = None,
) -> ExactGram:
    """The Gram matrix `x y^T` (of `x` with itself when `y` is None) without any rounding but the last.

    Args:
        x: [n, F], float64, float32, bfloat16 or float16, finite, any strides.
        y: [m, F], same dtype and device as `x`, or None.
        bias: adds 1 to every entry.
        slices: keeps only so many leading slices of 7 bits of each factor, from its largest entry down; the kernel's
            cost is their square.  None keeps all bits.
        exponent: with `slices`, an e with |x|, |y| <= 2^e that fixes the grids; None takes the least for each factor.
            Parts of a matrix, or processes with a part each, name one to have the bits of the whole.

    Returns:
        ExactGram, float64 on the inputs' device, detached.  `high` and `low` have the same bits for any layout, order
        of the features, number of threads, cut of the rows, device and backend.

    Raises:
        DtypeError, ShapeError, DeviceError, ArgumentError, BackendError, MemoryEstimateError
        NonFiniteError: a NaN or an infinity, of which there is no exact product; other precisions of `gram` pass it on.
        ScaleError: an entry of the result, or the grid of `slices`, is beyond the range of float64.

    Cost: with m slices of 20 bits (two for bfloat16, three or four for float32, four to six for float64)
    `m (m + 1) n^2 F / 2` float64 operations for y=None, else `2 m^2 n m' F`; by the kernel, s slices of 7 bits,
    `2 s^2 n m' F` int8 operations, half of them for y=None.
    """
    x = primitive_input("x", x).detach().resolve_neg()
    if y is not None:
        y = primitive_input("y", y).detach().resolve_neg()
        same_kind("x", x, "y", y)
        if x.shape[1] != y.shape[1]:
            raise ShapeError(f"exact_gram: expected as many features in x and y, got {x.shape[1]} and {y.shape[1]}.")
    checks.flag("bias", bias)
    other = finite_inputs(x, y)
    bits = None if slices is None else INT8_BITS * checks.integer("slices", slices, least=1, most=_MOST_TOP)
    tops = _tops(x, other, bits, exponent)
    moved = None if bits is None else [_moved(z, top, bits) for z, top in zip((x, other), tops, strict=True)]

    def compute(by_kernel: bool) -> torch.Tensor:
        tiling = tiling_for(x, other, by_kernel, arrays=6, cut=bits is not None)
        found = torch.empty((3, x.shape[0], other.shape[0]), dtype=torch.float64, device=x.device)
        for rows, columns, exact in products(x, y, bias, tiling, tops, bits):
            high, low, left = _two_words(exact)
            bound = torch.where(left, rounded_up(U64 * low.abs()), 0.0)
            if moved is not None:
                shift = _shift(moved[0], rows, moved[1], columns, x.shape[1])
                bound = torch.where(shift > 0, rounded_up(bound + shift), bound)
            for out, tile in zip(found, (high, low, bound), strict=True):
                put(out, rows, columns, tile, y is None)
        return found

    call = Call("gram", x, x.shape[1], "exact", work=float(x.shape[0]) * other.shape[0] * x.shape[1])
    found, by_kernel = by_kernel_or_torch(call, compute)
    record("gram", "triton" if by_kernel else "torch", "exact")
    if by_kernel and vectors_wanted():
        flushed = flushes_subnormals()
        right = None if y is None else kept(y, tops[1], bits, flushed)
        reference = gram_reference(kept(x, tops[0], bits, flushed), right, bias, "exact")
        require_product("triton:gram:exact", found[0], reference, vectors_wanted())
    return ExactGram(found[0], found[1], found[2], slices, tops)


def _tops(x: torch.Tensor, y: torch.Tensor, bits: int | None, exponent: int | None) -> tuple[int, int]:
    """The exponents that fix the grids."""
    tops = exponent_of(x), exponent_of(y)
    if bits is None:
        if exponent is not None:
            raise ArgumentError("exponent: fixes the grid of slices, and slices is None: nothing is cut. Leave it out.")
        return tops
    if max(tops) > _MOST_TOP:
        raise ScaleError(
            f"exact_gram: entries up to 2^{max(tops)} and slices of them need numbers beyond the range of float64. "
            "Divide the inputs by a power of two."
        )
    if exponent is not None:
        # A part that is all zeros has a place on every grid.
        needed = [e for e in map(least_exponent, (x, y)) if e is not None]
        tops = (checks.integer("exponent", exponent, least=max(needed, default=_LEAST_GRID), most=_MOST_TOP),) * 2
    if min(tops) + 1 - bits < _LEAST_GRID:
        raise ScaleError(
            f"exact_gram: {bits // INT8_BITS} slices below 2^{min(tops)} need numbers beyond the range of float64. "
            "Multiply the inputs by a power of two, or ask for fewer slices."
        )
    return tops


def _two_words(exact: FixedPoint) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The nearest float64 numbers, the nearest to what is left, and where something is left even then."""
    high = nearest(exact)
    rest = exact - fixed_point(high)
    low = nearest(rest)
    return high, low, (rest - fixed_point(low)).limbs.ne(0).any(0)


def _moved(x: torch.Tensor, top: int, bits: int) -> tuple[torch.Tensor, torch.Tensor]:
    """For each row how far an entry can have moved, 0 where none did, and an upper bound of its 1-norm."""
    flushed, features = flushes_subnormals(), x.shape[1]
    step, sums = torch.empty((2, x.shape[0]), dtype=torch.float64, device=x.device)
    length = max(1, 2**22 // max(1, features))
    for start in range(0, x.shape[0], length):
        inside = slice(start, start + length)
        wide = widened(x[inside])
        # Compared as bits, but for the sign of zeros: flushed arithmetic takes subnormal numbers for equal.
        found, stored = (z.contiguous().view(torch.int64) for z in (kept(wide, top, bits, flushed), wide))
        changed = (found != stored) & ((found | stored) << 1 != 0)
        step[inside] = changed.any(1).to(torch.float64) * 2.0 ** (top - bits)
        sums[inside] = wide.abs().sum(1) * (1.0 + gamma(features)) + features * TINY64
    return step, rounded_up(sums)


def _shift(
    left: tuple[torch.Tensor, torch.Tensor],
    rows: slice,
    right: tuple[torch.Tensor, torch.Tensor],
    columns: slice,
    features: int,
) -> torch.Tensor:
    """`h_y ||x||_1 + h_x ||y||_1 + F h_x h_y` of a tile, rounded up; zero only where no entry moved."""
    (step, norm), (other_step, other_norm) = ((z[rows, None] for z in left), (z[None, columns] for z in right))
    zero = torch.zeros_like(step * other_step)
    # A row that did not move adds nothing, however large the other one is: not 0 times infinity.
    first, second = torch.where(other_step > 0, other_step * norm, zero), torch.where(step > 0, step * other_norm, zero)
    shift = first + second + features * step * other_step
    return torch.where((step > 0) | (other_step > 0), rounded_up(shift), zero)
