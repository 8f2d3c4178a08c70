"""Rows of float32 numbers as two planes of float16, which tensor cores multiply exactly.

A row x is scaled by a power of two s = 2^p, exactly, so that its largest magnitude lies in [2^14, 2^15).  Then

    high = fp16(s x),    low = fp16(2^11 (s x - high)),    x^ = 2^-p (high + 2^-11 low).

What is lost.  Let v = s x be one number and 2^e <= |v| < 2^(e+1).  float16 holds 11 bits of numbers from 2^-14 on, and
multiples of 2^-24 below; everything is rounded to nearest.

    v >= 2^-14 (in magnitude): |v - high| <= 2^(e-11), a difference that float32 holds.  So |2^11 (v - high)| <= 2^e:
        within float16, and |low| <= 2^e <= |v|.  Its 11 bits leave at most 2^(e-12), or 2^-25 where low is subnormal:
        |v - (high + 2^-11 low)| <= max(2^(e-23), 2^-36), which from |v| >= 2^-13 on, 2^-28 of the row's largest, is at
        most 2^-23 |v|: two unit roundoffs of float32.
    v below that: high and low are subnormal, and what is lost is at most 2^-36, 2^-50 of the row's largest.

A row is kept as planes only where each of its numbers, small ones included, is found to satisfy

    |x^ - x| <= 2^-23 |x|    and    |low| <= |s x|,

so that the bounds of products need no term for the largest number of a row.  (The second is what makes low times low
negligible: a number below 2^-25 lies in low alone.)  Other rows FALL BACK: they are kept as they are, in float32, and
their planes are zero.  So do rows with a NaN, an infinity or a subnormal float32 number, and rows whose largest
magnitude is below 2^-98, for which 2^p or the product of two scales would leave float32.  A row of zeros is kept.
Rows of more than 2^24 numbers all fall back, for the kernels count inside a tile in 32 bits.

The matrix units that multiply planes have to read subnormal float16 numbers as they are.  NVIDIA's do, and AMD's from
gfx942 on; those of gfx90a flush them (PyTorch, Notes, Numerical accuracy): `reads_subnormals`.

Elementwise arithmetic on normal float32 numbers, exact but for the two roundings to float16 (whose subnormals are no
float32 subnormals): the planes are the same on every device, and where arithmetic flushes subnormal numbers.
Exponents and maxima are taken from the bits, as integers, for the same reason.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

# low counts in units 2^-11 of high's.
LOW_BITS = 11
# Rows of planes start and end at multiples of so many numbers, the depth of the kernels' tiles: they need no masks.
ALIGNED = 64

MOST_FEATURES = 1 << 24

LARGEST = 14  # the exponent of the largest magnitude of a scaled row
BIAS, FRACTION, _NOT_FINITE = 127, 23, 255  # of float32: the offset of exponents, bits of the fraction, NaN and inf
LEAST = -98  # the exponent of the largest magnitude of rows that are kept
_MAGNITUDE = 0x7FFFFFFF
_CHUNK = 1 << 22  # numbers that are split together: the copies in between stay small


class RowPlanes(NamedTuple):
    """Rows as planes; tensors only, so that it passes through operators.

    Attributes:
        high, low: float16 [n, W], W the features filled up with zeros to a multiple of 64; zero where rows fell back.
        exponents: int32 [n], the p of each row.
        fallen: int64 [k], which rows fell back, ascending.
        rows: float32 [k, F], those rows as they are.
    """

    high: torch.Tensor
    low: torch.Tensor
    exponents: torch.Tensor
    fallen: torch.Tensor
    rows: torch.Tensor


def split(x: torch.Tensor) -> RowPlanes:
    """The planes of the rows of `x`, see above.

    Args:
        x: float32 [n, F], any strides and device.

    Cost: about fifteen passes over x, in chunks of 4 million numbers, and one synchronisation with the device.
    """
    x = x.detach().resolve_neg()
    n, features = x.shape
    high, low, exponents = (part.zero_() for part in empty_planes(x))
    fallen = torch.zeros(n, dtype=torch.bool, device=x.device)
    if features > MOST_FEATURES:
        fallen.fill_(True)
    elif features:
        step = max(1, _CHUNK // features)
        for rows in (slice(start, min(start + step, n)) for start in range(0, n, step)):
            parts = _split(x[rows])
            high[rows, :features], low[rows, :features], exponents[rows], fallen[rows] = parts
    where = fallen.nonzero().flatten()
    return RowPlanes(high, low, exponents, where, x[where])


def empty_planes(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """high, low and the exponents of as many rows as x has, not filled."""
    shape = x.shape[0], -(-x.shape[1] // ALIGNED) * ALIGNED
    high, low = (torch.empty(shape, dtype=torch.float16, device=x.device) for _ in range(2))
    return high, low, torch.empty(shape[0], dtype=torch.int32, device=x.device)


def _split(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """high, low, the exponents and which rows fall back."""
    magnitudes = x.contiguous().view(torch.int32) & _MAGNITUDE
    top = magnitudes.amax(1)
    field = top >> FRACTION
    kept = ((field >= BIAS + LEAST) & (field < _NOT_FINITE)) | (top == 0)
    exponents = torch.where(kept & (top > 0), LARGEST + BIAS - field, 0)
    scaled = torch.where(kept[:, None], x, 0.0) * power_of_two(exponents)[:, None]
    high = scaled.to(torch.float16)
    rest = scaled - high.float()
    low = (rest * 2.0**LOW_BITS).to(torch.float16)
    lost = (rest - low.float() * 2.0**-LOW_BITS).abs() > scaled.abs() * 2.0**-23
    lost |= low.float().abs() > scaled.abs()
    # Not caught above, for what arithmetic takes for zero is lost without a difference.
    lost |= (magnitudes != 0) & ((high == 0) & (low == 0) | (magnitudes < 1 << FRACTION))
    fallen = ~kept | lost.any(1)
    exponents = torch.where(fallen, 0, exponents)
    return high.masked_fill(fallen[:, None], 0.0), low.masked_fill(fallen[:, None], 0.0), exponents, fallen


def reads_subnormals(architecture: str) -> bool:
    """Whether matrix units of an architecture read subnormal float16 numbers, see above."""
    return architecture not in ("gfx908", "gfx90a")


def power_of_two(exponents: torch.Tensor) -> torch.Tensor:
    """2^p in float32 for int32 p from -126 to 127, from its bits."""
    return ((exponents + BIAS) << FRACTION).view(torch.float32)


def restored(planes: RowPlanes) -> torch.Tensor:
    """x^ as float32 [n, F]: exact, for high + 2^-11 low has at most 23 bits; rows that fell back are what they were."""
    features = planes.rows.shape[1]
    x = planes.low[:, :features].float().mul_(2.0**-LOW_BITS).add_(planes.high[:, :features])
    x.mul_(power_of_two(-planes.exponents)[:, None])
    x[planes.fallen] = planes.rows
    return x
