"""The fewest leading eigenvalues that make up a share of their sum, from enclosures: the least and the largest count.

With S_j the sum of the j largest eigenvalues and t_j that of all others, `S_j >= q (S_j + t_j)` is the question, and
`f = (1 - q) S_j - q t_j` its sign.  S_j and t_j lie between the sums of their ends, and S_j + t_j between the bounds of
the trace; f grows with S_j and falls with t_j, so over that polygon

- it is least at the least S_j that leaves the trace possible, with the largest t_j beside it: where it is still >= 0,
  the share is certainly reached;
- it is largest at the largest S_j, with the least t_j: where it is >= 0, the share is possibly reached.

Of the N eigenvalues that are not listed the first i hold at least the part `i / N` of their sum t: after the m listed
ones f is at least `(1 - q) S_m + (i / N - q) t`.  In the same way the first j of all n hold at least the part `j / n`
of the trace, so no spectrum needs more than q n of them, rounded up.

All numbers are integers: q is a fraction, and sums are in units of 2^-1074.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from fractions import Fraction
from itertools import accumulate

from ntkla.forgetting.spectrum.boxes import Boxes, LowerEnds


def share_counts(ends: LowerEnds, q: float) -> tuple[int, int]:
    """The least and the largest count that the enclosures allow, every copy of an eigenvalue counted."""
    share = Fraction(q)
    # By the order of eigenvalues alone.
    most = -(-share.numerator * ends.everything // share.denominator)
    if not isinstance(ends, Boxes):
        positive = sum(a > 0 for a in ends.low) * ends.multiplicity
        # The first one may hold any share but all of it.
        return (positive if share == 1 else min(positive, 1)), most
    counts = range(ends.everything + 1)
    possible, certain = _tests(ends, share)
    return bisect_left(counts, True, key=possible), min(bisect_left(counts, True, key=certain), most)


def _tests(boxes: Boxes, share: Fraction) -> tuple[Callable[[int], bool], Callable[[int], bool]]:
    """Whether so many eigenvalues possibly, and certainly, hold the share."""
    wanted, whole, copies = share.numerator, share.denominator, boxes.multiplicity
    low, high = _heads(boxes.low, 0, copies), _heads(boxes.high, boxes.rest, copies)
    total_low, total_high = copies * boxes.total_low, copies * boxes.total_high
    listed, all_low, all_high = copies * len(boxes.low), low(boxes.everything), high(boxes.everything)

    def possible(j: int) -> bool:
        tail = all_low - low(j)
        head = min(high(j), total_high - tail)
        return (whole - wanted) * head >= wanted * max(tail, total_low - head)

    def certain(j: int) -> bool:
        first = min(j, listed)
        tail = all_high - high(first)
        head = max(low(first), total_low - tail)
        tail = min(tail, total_high - head)
        behind, others = j - first, max(1, boxes.everything - listed)
        return others * (whole - wanted) * head >= (others * wanted - behind * whole) * tail

    return possible, certain


def _heads(ends: list[int], rest: int, copies: int) -> Callable[[int], int]:
    """j -> the sum of the j leading ends, each counted so many times; `rest` for every one that is not listed."""
    known = len(ends)
    sums = list(accumulate(ends, initial=0))

    def head(j: int) -> int:
        if j >= known * copies:
            return copies * sums[known] + (j - known * copies) * rest
        mode, part = divmod(j, copies)
        return copies * sums[mode] + part * ends[mode]

    return head
