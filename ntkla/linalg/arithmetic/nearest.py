"""The float64 number nearest to each entry of an exact matrix: one rounding, to even where two are as near.

In integers only, so no state of the floating-point arithmetic (flushed subnormals, another rounding) can touch it:

1. The magnitude in digits of 44 bits in [0, 2^44): the leading limb of the canonical form has the sign of the number,
   for the others weigh together less than one unit of it; carries move up once.
2. With t the place of the leading digit and b >= 1 its bits, digits t, t - 1 and t - 2 hold 88 + b bits.  The first 62
   of them are `N` in [2^61, 2^62), in units of `2^E`, `E = 44 (lowest + t) + b - 62`; whether anything lies behind
   them, in these digits or below, is the sticky bit.
3. float64 keeps 53 bits and nothing below 2^-1074: `drop = max(9, -1074 - E)` bits of N go.  What goes is compared with
   half a unit of what stays; the sticky bit decides between half and more than half, and a tie goes to even.
4. With q what stays, `q 2^(E + drop)` has the bits `q + (E + drop + 1074) 2^52`: for `q >= 2^52` that is q without its
   leading bit below the exponent field, for a subnormal number, E + drop = -1074, q itself; a carry to the next power
   of two comes out right by itself.

Source of the rounding rule: IEEE 754-2019, section 4.3.1.
"""

from __future__ import annotations

import torch

from ntkla.linalg.arithmetic.fixed_point import LIMB_BITS, FixedPoint
from ntkla.linalg.arithmetic.integer_slices import BITS, cut_slices, exponent_of
from ntkla.linalg.errors import ScaleError
from ntkla.linalg.precision import flushes_subnormals

_MASK = (1 << LIMB_BITS) - 1
_KEPT, _SIGNIFICAND, _LEAST = 62, 53, -1074
_INFINITY = 0x7FF
_SIGN = -(1 << 63)
# Entries whose digits a cache holds.
_CHUNK = 2**13


def nearest(x: FixedPoint) -> torch.Tensor:
    """Float64 [m, c], each entry rounded once, to nearest, ties to even.

    Raises:
        ScaleError: an entry rounds beyond the largest float64 number.
    """
    if x.limbs.shape[0] == 0:
        return torch.zeros(x.limbs.shape[1:], dtype=torch.float64, device=x.limbs.device)
    limbs = x.limbs.flatten(1)
    out, beyond = torch.empty_like(limbs[0]), limbs.new_zeros(())
    length = _CHUNK if limbs.device.type == "cpu" else max(1, limbs.shape[1])
    for chunk, found in zip(torch.split(limbs, length, 1), torch.split(out, length), strict=True):
        beyond += _nearest(chunk, x.lowest, found)
    if int(beyond):
        raise ScaleError(
            f"an exact result: {int(beyond)} entries are beyond the largest float64 number. Divide the inputs by a "
            "power of two."
        )
    return out.view(torch.float64).view(x.limbs.shape[1:])


def _nearest(limbs: torch.Tensor, lowest: int, out: torch.Tensor) -> torch.Tensor:
    """Writes the bits of entries with these limbs [L, N]; how many are beyond the range."""
    negative, digits = _magnitude(limbs)
    zero = torch.zeros_like(digits[0])
    lead, second, third, place = zero, zero, zero, zero
    below = sticky = torch.zeros_like(negative)
    for t, digit in enumerate(digits):
        here = digit != 0
        lead, place = torch.where(here, digit, lead), torch.where(here, t, place)
        second = torch.where(here, digits[t - 1] if t > 0 else zero, second)
        third = torch.where(here, digits[t - 2] if t > 1 else zero, third)
        sticky = torch.where(here, below, sticky)
        if t > 1:
            below = below | (digits[t - 2] != 0)
    bits = torch.frexp(lead.to(torch.float64)).exponent.to(torch.int64)
    number, behind = _leading(lead, second, third, bits)
    unit = LIMB_BITS * (lowest + place) + bits - _KEPT
    drop = (_LEAST - unit).clamp(_KEPT - _SIGNIFICAND, _KEPT + 1)
    kept = number >> drop
    lost, half = number - (kept << drop), 1 << (drop - 1)
    up = (lost > half) | ((lost == half) & (sticky | behind | (kept & 1 == 1)))
    field = (unit + drop - _LEAST).clamp(min=0)
    kept = kept + up.to(torch.int64)
    found = torch.where(lead > 0, kept + (field << _SIGNIFICAND - 1), zero)
    out.copy_(torch.where(negative, found | _SIGN, found))
    return ((lead > 0) & (field + (kept >> _SIGNIFICAND - 1) >= _INFINITY)).sum()


def fixed_point(values: torch.Tensor) -> FixedPoint:
    """Finite float64 numbers [m, c] as an exact matrix."""
    zero = FixedPoint.zeros(values.shape[0], values.shape[1], values.device)
    slices = list(cut_slices(values, exponent_of(values), BITS, flushes_subnormals()))
    terms = ((part.to(torch.int64), exponent) for part, exponent in slices)
    return FixedPoint.of_terms(terms, [exponent for _, exponent in slices], zero)


def _magnitude(limbs: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Where entries are negative, and the digits of their magnitudes from the lowest on, each in [0, 2^44)."""
    lead = torch.zeros_like(limbs[0])
    for limb in limbs:
        lead = torch.where(limb != 0, limb, lead)
    negative, carry, digits = lead < 0, torch.zeros_like(lead), []
    for limb in limbs:
        whole = torch.where(negative, -limb, limb) + carry
        digits.append(whole & _MASK)
        carry = whole >> LIMB_BITS
    return negative, digits


def _leading(
    lead: torch.Tensor, second: torch.Tensor, third: torch.Tensor, bits: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The first 62 bits of three digits, the first of them of so many bits, and whether others follow."""
    up = _KEPT - bits  # 18 to 61 places for the digits behind; 62 for a zero, which counts nowhere
    low = up - LIMB_BITS  # of them for the third digit, where it is positive
    few, many = (-low).clamp(min=0), low.clamp(0, LIMB_BITS)
    number = (lead << up.clamp(max=_KEPT - 1)) + ((second << many) >> few) + (third >> (LIMB_BITS - many))
    behind = ((second & ((1 << few) - 1)) | (third & ((1 << (LIMB_BITS - many)) - 1))) != 0
    return number, behind
