"""Matrices of exact numbers: every entry an integer of any length times a power of two, in limbs of 44 bits.

Entry (i, j) is `sum_l limbs[l, i, j] 2^(44 (lowest + l))`, each limb in [-2^43, 2^43), no outer limb zero throughout.
A number has one such form only: two sums of the same terms are equal bit by bit, whatever the order in which they were
added and however they were cut.  So partial sums can be kept, sent and added later without any loss.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import reduce

import torch

from ntkla.linalg.arithmetic.doubled import total
from ntkla.linalg.arithmetic.enclosure import Enclosed
from ntkla.linalg.precision import TINY64, U64, rounded_up

LIMB_BITS = 44
_HALF = 1 << (LIMB_BITS - 1)
# Terms below 2^54 in magnitude, cut in two, that one limb of 63 bits takes before its carry has to move on.
_MOST_TERMS = 2**8
# Powers of two beyond this are applied in two steps: one factor stays a normal number.
_LEAST_EXPONENT = -1000

Term = tuple[torch.Tensor, int]


@dataclass(frozen=True, eq=False)
class FixedPoint:
    """An exact matrix [m, c].

    Attributes:
        limbs: int64 [L, m, c], digits in [-2^43, 2^43); L = 0 for the zero matrix.
        lowest: limb 0 counts multiples of 2^(44 lowest); 0 for the zero matrix.
    """

    limbs: torch.Tensor
    lowest: int

    @classmethod
    def zeros(cls, rows: int, columns: int, device: torch.device) -> FixedPoint:
        """The zero matrix."""
        return cls(torch.zeros((0, rows, columns), dtype=torch.int64, device=device), 0)

    @classmethod
    def of_terms(cls, terms: Iterable[Term], exponents: Iterable[int], like: FixedPoint) -> FixedPoint:
        """`like + sum of values 2^exponent`, for int64 values [m, c] below 2^54 in magnitude.

        Args:
            terms: values with their exponents, taken one at a time and let go.
            exponents: those that occur.
            like: what they are added to.
        """
        places = [exponent // LIMB_BITS for exponent in exponents]
        if not places:
            return like
        lowest = min(places)
        # One limb for the upper halves of the highest term, one for the carry out of it.
        limbs = like.limbs.new_zeros((max(places) - lowest + 3, *like.limbs.shape[1:]))
        for count, (value, exponent) in enumerate(terms, start=1):
            place, shift = divmod(exponent, LIMB_BITS)
            upper = value >> (LIMB_BITS - shift)
            limbs[place - lowest + 1] += upper
            limbs[place - lowest] += value.sub_(upper.bitwise_left_shift_(LIMB_BITS - shift)).bitwise_left_shift_(shift)
            if count % _MOST_TERMS == 0:
                _carry(limbs)
        return like + _canonical(limbs, lowest)

    def __add__(self, other: FixedPoint) -> FixedPoint:
        """The exact sum."""
        if not self.limbs.shape[0] or not other.limbs.shape[0]:
            return self if self.limbs.shape[0] else other
        lowest = min(self.lowest, other.lowest)
        highest = max(x.lowest + x.limbs.shape[0] for x in (self, other))
        limbs = self.limbs.new_zeros((highest - lowest + 1, *self.limbs.shape[1:]))
        for x in (self, other):
            limbs[x.lowest - lowest : x.lowest - lowest + x.limbs.shape[0]] += x.limbs
        return _canonical(limbs, lowest)

    def __sub__(self, other: FixedPoint) -> FixedPoint:
        """The exact difference."""
        # The opposite of a digit -2^43 is none: its carry needs a limb.
        opposite = torch.cat([-other.limbs, other.limbs.new_zeros((1, *other.limbs.shape[1:]))])
        return self + _canonical(opposite, other.lowest)

    def equals(self, other: FixedPoint) -> bool:
        """Whether the numbers are the same, and with them every bit of what is stored."""
        return self.lowest == other.lowest and torch.equal(self.limbs, other.limbs)

    def rounded(self) -> Enclosed:
        """The matrix as a sum high + low of float64 numbers, and what that leaves out.

        The digits of an entry weigh together at most three times the entry (its leading digit is at least 1, and the
        others at most one half each in the place above), so `total` is off by at most `6 L^2 u^2` of it.
        """
        count = self.limbs.shape[0]
        if count == 0:
            zero = torch.zeros(self.limbs.shape[1:], dtype=torch.float64, device=self.limbs.device)
            return Enclosed(total([zero]), zero.clone())
        places = range(count - 1, -1, -1)
        terms = [_scaled(self.limbs[i].to(torch.float64), LIMB_BITS * (self.lowest + i)) for i in places]
        magnitude = reduce(torch.add, (term.abs() for term in terms))
        radius = rounded_up(2.0 * count**2 * U64**2 * magnitude)
        # Only digits below the range of float64 are lost, and what flushed arithmetic drops near its end.
        ends = 4.0 * count * TINY64 if LIMB_BITS * self.lowest < _LEAST_EXPONENT else 0.0
        return Enclosed(total(terms), radius + ends)

    def nbytes(self) -> int:
        """Bytes that the limbs take."""
        return 8 * self.limbs.numel()


def _scaled(x: torch.Tensor, exponent: int) -> torch.Tensor:
    """x 2^exponent, exact but for what falls below the range of float64."""
    while exponent < _LEAST_EXPONENT:
        x, exponent = x * 2.0**_LEAST_EXPONENT, exponent - _LEAST_EXPONENT
    return x * 2.0**exponent


def _carry(limbs: torch.Tensor) -> None:
    """Moves the carries up, in place; the last limb has room for its own."""
    for place in range(limbs.shape[0] - 1):
        carry = (limbs[place] + _HALF) >> LIMB_BITS
        limbs[place + 1] += carry
        limbs[place] -= carry.bitwise_left_shift_(LIMB_BITS)


def _canonical(limbs: torch.Tensor, lowest: int) -> FixedPoint:
    """The one form of a number: carries moved up, in place, and outer limbs that are zero dropped."""
    _carry(limbs)
    used = [place for place in range(limbs.shape[0]) if bool(limbs[place].any())]
    if not used:
        return FixedPoint(limbs[:0].clone(), 0)
    return FixedPoint(limbs[used[0] : used[-1] + 1].clone(), lowest + used[0])
