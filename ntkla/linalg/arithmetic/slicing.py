"""Matrix products more accurate than float64, by error-free splitting into slices of few bits.

A float64 matrix is written as a sum of slices on fixed-point grids, `A = A_1 + ... + A_s + remainder`, where slice p
holds `bits` bits per entry relative to a power of two per row.  A product of two slices over K terms is an integer of
at most `bits_A + bits_B + log2 K <= 53` bits times a power of two, so an ordinary float64 matrix product computes it
*exactly*, in any order of summation.  At level s the products of slices p, q with p + q <= s + 1 are exact; what is
left is multiplied in ordinary float64, where its rounding error is smaller by the factor 2^(-s bits) than that of the
plain product.  Level 0 is the plain product, level s costs (s + 1)(s + 2) / 2 of them.

Sources: Ozaki, Ogita, Oishi and Rump, "Error-free transformations of matrix multiplication", Numer. Algorithms 59
(2012); Ogita, Rump and Oishi (2005) for the sums.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ntkla.linalg.arithmetic.doubled import Doubled, two_sum

SIGNIFICAND = 53
# Four slices and a rest hold more bits than a solution of two float64 numbers.
HIGHEST_LEVEL = 4
# Exponents below this are raised to it: the grid then is coarser than it could be, never wrong, and 2^-700 stays
# representable after several slices are taken off.
_LEAST_EXPONENT = -700


@dataclass(frozen=True)
class Slices:
    """A matrix in slices: `parts[p - 1]` is slice p, `rest[q]` what is left after q slices, rounded to float64."""

    parts: list[torch.Tensor]
    rest: list[torch.Tensor]


def exponents(x: torch.Tensor, dim: int) -> torch.Tensor:
    """Integers e with |x| < 2^e along `dim` (kept, as length 1), at least -700, which is also that of zeros."""
    largest = x.abs().amax(dim, keepdim=True)
    exponent = torch.frexp(largest).exponent.clamp(min=_LEAST_EXPONENT)
    return exponent.masked_fill(largest == 0, _LEAST_EXPONENT)  # frexp calls the exponent of zero 0


def power_of_two(exponent: torch.Tensor) -> torch.Tensor:
    """2^exponent exactly, float64, for integers in [-1022, 1023].

    Written as bits: `torch.ldexp` forms the power in the default dtype, where it overflows.
    """
    return ((exponent.to(torch.int64) + 1023) << 52).view(torch.float64)


def slice_bits(*lengths: int) -> int:
    """Bits for the slices of a matrix that enters sums of these lengths, leaving its partner as many or one more."""
    return (SIGNIFICAND - max(length_bits(length) for length in lengths)) // 2


def length_bits(length: int) -> int:
    """ceil(log2(length)): the carry bits of a sum of `length` terms."""
    return max(length - 1, 0).bit_length()


def cut(x: Doubled | torch.Tensor, exponent: torch.Tensor, bits: int, count: int) -> Slices:
    """Cuts x, |x| < 2^exponent, into `count` slices of `bits` bits, each a multiple of 2^(exponent - p bits).

    Adding and subtracting `1.5 * 2^52 * grid` rounds to the grid; what is left is exact, because it is at most
    half the grid and a multiple of the last bit of x.
    """
    high, low = x if isinstance(x, Doubled) else (x, None)
    parts, rest = [], [high]
    for p in range(1, count + 1):
        rounder = 1.5 * power_of_two(exponent + (SIGNIFICAND - 1 - p * bits))
        part = (high + rounder) - rounder
        high = high - part
        if low is not None:
            high, low = two_sum(high, low)
        parts.append(part)
        rest.append(high)
    return Slices(parts, rest)


def right_factors(b: Slices, level: int) -> list[torch.Tensor]:
    """For p = 1 .. level: slices 1 .. level + 1 - p of b and the rest after them, side by side; last, b itself.

    Entry p - 1 is what slice p of a left factor is multiplied with; the last is what its remainder is.
    """
    wide = [torch.cat([*b.parts[: level + 1 - p], b.rest[level + 1 - p]], dim=1) for p in range(1, level + 1)]
    return [*wide, b.rest[0]]


def product_terms(left: list[torch.Tensor], right: list[torch.Tensor], width: int) -> list[torch.Tensor]:
    """All partial products [rows, width] of `left[p] @ right[p]`; they add up to the product."""
    terms: list[torch.Tensor] = []
    for a, b in zip(left, right, strict=True):
        terms.extend(torch.split(a @ b, width, dim=1))
    return terms
