"""Participation, intrinsic and entropy rank from enclosures of the eigenvalues.

The listed eigenvalues s_i have the sum S, between S- and S+, and the N others the sum t; T = S + t lies between T- and
T+.  Each of the others is at most R, so t lies between `t- = max(0, T- - S+)` and `t+ = min(N R, T+ - S-)`.

- **Participation**, `T^2 / (sum s_i^2 + Q)`: spread evenly, the others have Q = t^2 / N, the least; Q is at most R t,
  none being larger than R.  With X- and X+ the sums of the squared ends, `max(S- + t, T-)^2 / (X+ + R t)` is a lower
  bound: it falls up to `t = T- - S-` and rises from there, because no upper end is below R, so that `X+ >= R S-`.
  `min(S+ + t, T+)^2 / (X- + t^2 / N)` is an upper bound: it rises up to `t = min(T+ - S+, X- N / S+)` and falls from
  there.  Both turning points are moved into [t-, t+].
- **Intrinsic**, `1 + (T - s_1) / s_1`: falls with s_1 when either T or the other eigenvalues are given.
- **Entropy**: `-p log p` is concave, so over an interval it is least at an end and largest at an end or at 1/e.
  The others share `p = t / T = 1 - S / T`.  Spread evenly they have the entropy `-p log (p / N)`, the largest; each of
  them is at most R / T, so they have at least `-p log (R / T-)`.

A rank is at least 1 for a positive trace, and at most the number of eigenvalues that may be positive.  Quotients are of
exact integers; the logarithm and the exponential are taken from the C library, assumed right to 4 units in the last
place.  All of this is for the factor G: in `I_C (x) G` each of these ranks is C times as large.
"""

from __future__ import annotations

import math
from fractions import Fraction

from ntkla.forgetting.spectrum.boxes import Boxes, LowerEnds
from ntkla.linalg.precision import U64

# An upper bound of an entropy beyond this says less than the number of eigenvalues, and its exponential overflows.
_LARGEST_LOGARITHM = 700.0


def computed_rank(ends: LowerEnds, kind: str) -> float:
    """The rank that the computed eigenvalues give, with what they leave of the trace spread evenly over the others."""
    values, tail, others = ends.values, ends.tail, max(1, ends.size - len(ends.values))
    total = sum(values) + tail
    if values[0] == 0:
        return 0.0
    if kind == "participation":
        return float(total * total / (sum(v * v for v in values) + Fraction(tail * tail, others)))
    if kind == "intrinsic":
        return float(min(Fraction(total, values[0]), Fraction(ends.size)))
    spread = others * _information(tail / (others * total))
    return math.exp(math.fsum([spread, *(_information(v / total) for v in values)]))


def rank_bounds(ends: LowerEnds, kind: str) -> tuple[float, float]:
    """Lower and upper bound of a rank, `"participation"`, `"intrinsic"` or `"entropy"`, times the multiplicity."""
    copies = ends.multiplicity
    if not isinstance(ends, Boxes):
        return float(copies * (ends.low[0] > 0)), float(ends.everything)
    if ends.total_high == 0:
        return 0.0, 0.0
    if kind == "entropy":
        return _entropy(ends)
    low, high = _participation(ends) if kind == "participation" else _intrinsic(ends)
    low = max(low, Fraction(1)) if ends.total_low > 0 else Fraction(0)
    high = Fraction(ends.count) if high is None else min(high, Fraction(ends.count))
    return _below(copies * low), _above(copies * high)


def _participation(boxes: Boxes) -> tuple[Fraction, Fraction | None]:
    """Bounds of `T^2 / sum s^2`, the upper one None when there is none."""
    (low, high), others = _sums(boxes), boxes.others
    squares_low, squares_high = (sum(v * v for v in side) for side in (boxes.low, boxes.high))
    least, most = (Fraction(end) for end in _tail(boxes))
    t = min(max(Fraction(boxes.total_low - low), least), most)
    bottom = max(low + t, Fraction(boxes.total_low)) ** 2 / (squares_high + boxes.rest * t)
    turn = min(Fraction(boxes.total_high - high), Fraction(squares_low * others, high))
    t = min(max(turn, least), most)
    below = squares_low + t * t / max(1, others)
    return bottom, min(high + t, Fraction(boxes.total_high)) ** 2 / below if below > 0 else None


def _intrinsic(boxes: Boxes) -> tuple[Fraction, Fraction | None]:
    """Bounds of `T / s_1`, the upper one None when there is none."""
    (low, high), (first, last) = _sums(boxes), (boxes.low[0], boxes.high[0])
    bottom = 1 + Fraction(max(low - first, boxes.total_low - last), last)
    if first == 0:
        return bottom, None
    return bottom, 1 + Fraction(min(high - last + boxes.others * boxes.rest, boxes.total_high - first), first)


def _entropy(boxes: Boxes) -> tuple[float, float]:
    copies, count = boxes.multiplicity, boxes.count
    if boxes.total_low == 0:
        return 0.0, float(copies * count)
    least, most = [], []
    for a, b in zip(boxes.low, boxes.high, strict=True):
        bottom, top = _of_interval(*_quotients(a, boxes.total_high, b, boxes.total_low))
        least.append(bottom)
        most.append(top)
    bottom, top = _of_others(boxes)
    low, high = math.fsum([*least, bottom]), math.fsum([*most, top])
    # Logarithm (4 units in the last place are 8 u), products and sum lose up to 11 u of the entropy; the exponential,
    # C's product and the corrections themselves at most 16 u more.
    low = math.exp(low) * (1.0 - (16 + 11 * low) * U64)
    high = math.exp(high) * (1.0 + (16 + 11 * high) * U64) if high < _LARGEST_LOGARITHM else math.inf
    return copies * max(low, 1.0), copies * min(high, float(count))


def _of_others(boxes: Boxes) -> tuple[float, float]:
    """Bounds of the entropy of the eigenvalues that are not listed."""
    if boxes.others == 0:
        return 0.0, 0.0
    low, (least, most) = sum(boxes.low), _tail(boxes)
    # t / T is least beside the largest S and the least T, and largest beside the least S.
    share, cap = _quotients(least, boxes.total_low, boxes.rest, boxes.total_low)
    _, each = _quotients(0, 1, most, (low + most) * boxes.others)
    return share * -math.log(cap), boxes.others * _of_interval(0.0, each)[1]


def _sums(boxes: Boxes) -> tuple[int, int]:
    return sum(boxes.low), sum(boxes.high)


def _tail(boxes: Boxes) -> tuple[int, int]:
    """Bounds of the sum of the eigenvalues that are not listed."""
    low, high = _sums(boxes)
    return max(0, boxes.total_low - high), min(boxes.others * boxes.rest, boxes.total_high - low)


def _quotients(a: int, below_a: int, b: int, below_b: int) -> tuple[float, float]:
    """Bounds of a / below_a from below, >= 0, and of b / below_b from above, <= 1.

    Quotients of Python integers are rounded correctly; the next numbers enclose them.
    """
    low = max(0.0, math.nextafter(a / below_a, 0.0))
    return low, 1.0 if b >= below_b else math.nextafter(b / below_b, math.inf) if b > 0 else 0.0


def _of_interval(p: float, r: float) -> tuple[float, float]:
    """The least and the largest `-x log x` for p <= x <= r."""
    ends = _information(p), _information(r)
    return min(ends), math.exp(-1.0) if p < math.exp(-1.0) < r else max(ends)


def _information(p: float) -> float:
    return -p * math.log(p) if p > 0 else 0.0


def _below(x: Fraction) -> float:
    nearest = float(x)
    return nearest if Fraction(nearest) <= x else math.nextafter(nearest, -math.inf)


def _above(x: Fraction) -> float:
    nearest = float(x)
    return nearest if Fraction(nearest) >= x else math.nextafter(nearest, math.inf)
