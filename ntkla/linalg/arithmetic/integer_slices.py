"""Float64 matrices as sums of few matrices of small integers, whose products float64 computes without rounding.

`x = sum_p parts[p] 2^exponents[p]` exactly, every entry of a part an integer of at most 2^19.  A sum of 2^13 products
of two of them, or of two sums of two of them, is at most 2^53, so that an ordinary float64 matrix product, in any order
of summation, makes no error at all (Ozaki, Ogita, Oishi and Rump, "Error-free transformations of matrix
multiplication", Numer. Algorithms 59, 2012).  Unlike those of `slicing.py` the slices leave no rest, and the grid is
one for the whole matrix.

How many parts: the bits from the largest entry down to the last bit that is stored, over 20.  Features in bfloat16 take
two, in float32 three or four, in float64 four to six.

With 7 bits instead of 20 the entries of a part are at most 64, which int8 holds: `backends/integer_products.py`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch

from ntkla.linalg.arithmetic.slicing import power_of_two
from ntkla.linalg.design import widened

BITS = 20
INT8_BITS = 7  # of slices for the integer kernel, and of those that a caller counts
# 2 BITS + 13 = 53: so many products of two slices, or of sums of two, add up exactly.
MOST_SUMMANDS = 2**13
# Subnormal numbers are decoded as if they were larger by this, where arithmetic would flush them.
_LIFT = 600
# Larger numbers are cut after they were scaled down by this: lifted, and rounded to a grid of 7 bits or more, they stay
# finite, for 360 + 600 + 52 - 6 is below 1023.
_MOST_TOP, _LOWERED = 360, 600
# Below 2^1023, the largest power of two there is.
_MOST_POWER = 1000
_MAGNITUDE = 0x7FFFFFFFFFFFFFFF  # the bits of a float64 number without its sign
_CHUNK = 1 << 22  # entries that are widened together


class IntegerSlices(NamedTuple):
    """`sum parts[p] 2^exponents[p]`: float64 integers of at most 2^19, exponents descending by multiples of 20."""

    parts: list[torch.Tensor]
    exponents: list[int]


def exponent_of(x: torch.Tensor) -> int:
    """The least e with |x| <= 2^e for all entries of a finite x; 0 for zeros."""
    return least_exponent(x) or 0


def least_exponent(x: torch.Tensor) -> int | None:
    """The same, but None for zeros, which every e bounds."""
    if x.numel() == 0:
        return None
    largest = max(-float(x.amin()), float(x.amax()))
    if largest < torch.finfo(x.dtype).tiny:
        return _exponent_by_bits(x)
    fraction, exponent = math.frexp(largest)
    return exponent - (fraction == 0.5)


def _exponent_by_bits(x: torch.Tensor) -> int | None:
    """The same of entries that are zero or subnormal, which arithmetic may take for zeros."""
    rows = max(1, _CHUNK * x.shape[0] // x.numel()) if x.ndim else 1
    parts = torch.split(x, rows) if x.ndim else (x,)
    bits = max(int((widened(part).contiguous().view(torch.int64) & _MAGNITUDE).max()) for part in parts)
    field, integer = bits >> 52, bits & (1 << 52) - 1
    integer |= int(field > 0) << 52
    # The number is integer 2^(field - 1075), of which a subnormal one has field 1.
    return integer.bit_length() + max(field, 1) - 1075 - (integer & (integer - 1) == 0) if bits else None


def integer_slices(x: torch.Tensor, top: int, flushed: bool = False) -> IntegerSlices:
    """Cuts a finite float64 x, |x| <= 2^top, into parts on the grids 2^(top - 19), 2^(top - 39), ...

    Args:
        x: float64, any shape.
        top: one for all blocks of a matrix, so that their products can be added up.
        flushed: whether this thread's arithmetic takes subnormal numbers for zeros.
    """
    found = IntegerSlices([], [])
    for part, exponent in cut_slices(x, top, BITS, flushed):
        found.parts.append(part)
        found.exponents.append(exponent)
    return found


def cut_slices(x: torch.Tensor, top: int, bits: int, flushed: bool) -> Iterator[tuple[torch.Tensor, int]]:
    """Cuts x as `integer_slices` does, into parts of at most `2^(bits - 1)` on grids `bits` apart, one after another.

    Parts without an entry are left out.  The first k grids add up to x rounded to the k-th of them.

    Adding and subtracting `1.5 * 2^52 * grid` rounds to the grid; what is left is at most half the grid and a multiple
    of the last bit of x, so it is exact.  It is then scaled up, exactly, to keep clear of the ends of the range.
    """
    if top <= _MOST_TOP:
        yield from _cut(x, top, bits, flushed)
        return
    # What is below 1 would lose digits when it is scaled down.  It has a top on the same grids, and a place of its own
    # in the parts that both have.
    large = x.abs() >= 1.0
    upper = _cut(
        torch.where(large, x, 0.0) * 2.0**-_LOWERED, top - _LOWERED, bits, flushed=False
    )  # not even its rests are subnormal
    lower = _cut(torch.where(large, 0.0, x), top % bits, bits, flushed)
    waiting = next(lower, None)
    for part, exponent in upper:
        exponent += _LOWERED
        while waiting is not None and waiting[1] >= exponent:
            other, place = waiting
            waiting = next(lower, None)
            if place == exponent:
                part = part + other
            else:
                yield other, place
        yield part, exponent
    if waiting is not None:
        yield waiting
        yield from lower


def _cut(x: torch.Tensor, top: int, bits: int, flushed: bool) -> Iterator[tuple[torch.Tensor, int]]:
    """`cut_slices` for tops up to 360."""
    rest, shift = _lifted(x) if flushed else (x, 0)
    top -= shift  # rest 2^shift = x, |rest| <= 2^top
    while bool(rest.any()):
        if top < 0:
            up = min(-top, _MOST_POWER)
            rest, shift, top = rest * _power(up, rest), shift - up, top + up
        grid = top - (bits - 1)
        rounder = 1.5 * _power(52 + grid, rest)
        part = (rest + rounder) - rounder
        rest = rest - part
        if bool(part.any()):
            yield part * _power(-grid, rest), shift + grid
        top -= bits


def product_slices(x: IntegerSlices, w: IntegerSlices) -> IntegerSlices:
    """The elementwise (broadcast) product of two matrices in slices, in slices of its own.

    Products of two parts are at most 2^38 and lie on grids 20 bits apart; their carries move up.
    """
    levels: dict[int, torch.Tensor] = {}
    for part, exponent in zip(*x, strict=True):
        for other, lower in zip(*w, strict=True):
            level, product = exponent + lower, part * other
            levels[level] = levels[level] + product if level in levels else product
    found = IntegerSlices([], [])
    level = min(levels, default=0)
    while levels:
        digits = levels.pop(level, None)
        if digits is not None:
            carry = torch.round(digits * 2.0**-BITS)
            digits = digits - carry * 2.0**BITS
            if bool(carry.any()):
                levels[level + BITS] = levels[level + BITS] + carry if level + BITS in levels else carry
            if bool(digits.any()):
                found.parts.insert(0, digits)
                found.exponents.insert(0, level)
        level += BITS
    return found


def _power(exponent: int, like: torch.Tensor) -> torch.Tensor:
    return power_of_two(torch.tensor(exponent, dtype=torch.int64, device=like.device))


def _lifted(x: torch.Tensor) -> tuple[torch.Tensor, int]:
    """(y, s) with `y 2^s = x` and no entry of y subnormal; entries of x up to 2^360, subnormal ones read as bits."""
    bits = x.contiguous().view(torch.int64)
    subnormal = (bits & 0x7FF0000000000000) == 0
    if not bool(subnormal.any()):
        return x, 0
    # An integer of 52 bits counts multiples of 2^-1074.
    magnitude = (bits & 0x000FFFFFFFFFFFFF).to(torch.float64) * 2.0 ** (_LIFT - 1074)
    decoded = torch.where(bits < 0, -magnitude, magnitude)
    return torch.where(subnormal, decoded, x * 2.0**_LIFT), -_LIFT
