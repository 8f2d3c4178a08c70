"""How many directions carry a kernel: effective ranks, decided from certified eigenvalues or left as an interval.

Of eigenvalues s_1 >= s_2 >= ... >= 0 with sum T:

- `"share"`: the fewest leading eigenvalues that make up the share q of T;
- `"participation"`: `T^2 / sum s_i^2`;
- `"intrinsic"`: `T / s_1`;
- `"entropy"`: `exp(-sum p_i log p_i)`, `p_i = s_i / T` (Roy and Vetterli, "The effective rank", EUSIPCO 2007).

Each eigenvalue is known as an interval.  Sums of the intervals' ends, comparisons with q (the float64 number itself)
and quotients are exact integer arithmetic (`boxes.py`): only the eigenvalues' bounds leave a rank open, never the
rounding of a sum.  `-p log p` is concave, so over an interval it is least at an end and
largest at an end or at 1/e; its logarithm and the final exponential are taken from the C library, assumed right to
4 units in the last place.

In a kernel `I_C (x) G` every eigenvalue of G counts C times: participation, intrinsic and entropy rank are C times
those of G, and the share rank is counted vector by vector.  `vulnerable_rank` counts whole eigenspaces: C k_G.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from itertools import accumulate

import torch

from ntkla.forgetting.boxes import Boxes, boxes_of
from ntkla.linalg import checks
from ntkla.linalg.errors import ArgumentError
from ntkla.linalg.feature_modes import FeatureModes
from ntkla.linalg.linear_operator import LinearOperator
from ntkla.linalg.modes import Eigenmodes, Spectrum
from ntkla.linalg.precision import DEFAULT_TOLERANCE, U64
from ntkla.linalg.results import Result
from ntkla.linalg.status import ABOVE_TOLERANCE, CERTIFIED, Status

KINDS = ("share", "participation", "intrinsic", "entropy")
# An upper bound of an entropy beyond this says less than the number of eigenvalues, and its exponential overflows.
_LARGEST_LOGARITHM = 700.0


@dataclass(frozen=True)
class Rank(Result):
    """A rank as far as the bounds decide it.

    Attributes:
        value: the rank: an int for counts, None when the bounds do not decide it; a float for the other kinds, the
            one that the computed eigenvalues give.
        low, high: certified bounds of the exact rank, both included.
        kind: what was counted.
        q: the share, None where there is none.
        status: `"certified"` when decided (for a float: to the default relative tolerance), else `"above_tolerance"`.
    """

    value: float | None
    low: float
    high: float
    kind: str
    q: float | None
    status: Status

    def __str__(self) -> str:
        share = "" if self.q is None else f" at {self.q:g}"
        decided = self.value is not None and self.status.certified
        number = f"{self.value:.10g}" if decided else f"between {self.low:.12g} and {self.high:.12g}"
        return f"{self.kind} rank{share}: {number}"


def counted(low: int, high: int, kind: str, q: float) -> Rank:
    """A count that lies in [low, high], as a `Rank`."""
    if low == high:
        return Rank(low, low, high, kind, q, Status(CERTIFIED, "the bounds decide the rank"))
    message = f"the bounds leave {low} to {high} open: use the interval, or another share"
    return Rank(None, low, high, kind, q, Status(ABOVE_TOLERANCE, message))


def effective_rank(
    values_or_features: torch.Tensor | LinearOperator | Eigenmodes | FeatureModes | Spectrum,
    kind: str = "share",
    q: float = 0.9,
    *,
    bias: bool = False,
    value_error: torch.Tensor | float | None = None,
) -> Rank:
    """The effective rank of a Gram operator; zero for the zero operator.

    Args:
        values_or_features: eigenvalues [m] in any order (taken as exact, unless `value_error` is given); features
            [n, F]; a `GramOperator` or a `KroneckerGram` of one; or the result of `eigenmodes` or `feature_modes`.
        kind: `"share"`, `"participation"`, `"intrinsic"` or `"entropy"`; formulas in the module's docstring.
        q: the share, 0 < q <= 1, for `"share"`.
        bias: with features: whether a constant feature 1 is appended.
        value_error: with eigenvalues: upper bounds of their errors, [m] or a number.

    Raises:
        DtypeError, ShapeError, NonFiniteError, ScaleError, DeviceError, ArgumentError, MemoryEstimateError

    Cost: one decomposition of the smaller Gram matrix for features and operators, else about m steps.
    """
    checks.choice("kind", kind, KINDS)
    boxes = boxes_of(values_or_features, bias, value_error)
    if kind == "share":
        return _share(boxes, share_between_0_and_1(q))
    if boxes.total_high == 0:
        return _real(0.0, 0.0, 0.0, kind)
    return _entropy(boxes) if kind == "entropy" else _quotient(boxes, kind)


def vulnerable_rank(
    features: torch.Tensor | LinearOperator | Eigenmodes | FeatureModes | Spectrum,
    outputs: int,
    q: float = 0.9,
    *,
    bias: bool = False,
) -> Rank:
    """k* = C k_G: how many directions of the kernel of C outputs carry the share q, counted in whole eigenspaces.

    Args:
        features: what `effective_rank` takes, for the factor G.
        outputs: C.
        q, bias: as for `effective_rank`.

    Raises:
        As `effective_rank`; ArgumentError for a Kronecker kernel, whose outputs would count twice.
    """
    outputs = checks.integer("outputs", outputs, least=1)
    boxes = boxes_of(features, bias, None)
    if boxes.multiplicity != 1:
        raise ArgumentError("vulnerable_rank: expected the Gram operator G, got a Kronecker kernel. Pass its `.gram`.")
    factor = _share(boxes, share_between_0_and_1(q))
    return counted(outputs * int(factor.low), outputs * int(factor.high), "vulnerable", q)


def share_between_0_and_1(q: object) -> float:
    """`q` as a float with 0 < q <= 1; ArgumentError otherwise."""
    number = checks.positive("q", q)
    if number > 1:
        raise ArgumentError(f"q: expected a share in (0, 1], got {q!r}.")
    return number


def _share(boxes: Boxes, q: float) -> Rank:
    """The first count at which the share is possibly, and the first at which it is certainly, reached."""
    share, copies = Fraction(q), boxes.multiplicity
    wanted, whole = share.numerator, share.denominator
    low, high = _heads(boxes.low, boxes), _heads(boxes.high, boxes)
    everything = boxes.size * copies
    sum_low, sum_high = low(everything), high(everything)

    def certain(j: int) -> bool:
        by_tail = (whole - wanted) * low(j) >= wanted * (sum_high - high(j))
        return by_tail or whole * low(j) >= wanted * copies * boxes.total_high

    def possible(j: int) -> bool:
        by_tail = (whole - wanted) * high(j) >= wanted * (sum_low - low(j))
        return by_tail and whole * high(j) >= wanted * copies * boxes.total_low

    counts = range(everything + 1)
    return counted(bisect_left(counts, True, key=possible), bisect_left(counts, True, key=certain), "share", q)


def _heads(ends: list[int], boxes: Boxes) -> Callable[[int], int]:
    """j -> the sum of the j leading ends, each counted `multiplicity` times, then zeros."""
    copies, known = boxes.multiplicity, len(ends)
    sums = list(accumulate(ends, initial=0))

    def head(j: int) -> int:
        mode, part = divmod(j, copies)
        return copies * sums[known] if mode >= known else copies * sums[mode] + part * ends[mode]

    return head


def _quotient(boxes: Boxes, kind: str) -> Rank:
    """Participation or intrinsic rank: a quotient of integers, each end over the opposite end."""
    copies, count = boxes.multiplicity, sum(v > 0 for v in boxes.high)
    tops, bottoms = [boxes.total_low, boxes.total_high, sum(boxes.values)], [boxes.high, boxes.low, boxes.values]
    if kind == "participation":
        tops, bottom = [t * t for t in tops], [sum(v * v for v in side) for side in bottoms]
    else:
        bottom = [side[0] for side in bottoms]
    # A positive spectrum has a rank of at least 1 and at most the number of eigenvalues that may be positive.
    low = max(Fraction(tops[0], bottom[0]), Fraction(boxes.total_low > 0))
    high = min(Fraction(tops[1], bottom[1]), Fraction(count)) if bottom[1] > 0 else Fraction(count)
    value = Fraction(tops[2], bottom[2]) if bottom[2] > 0 else Fraction(0)
    return _real(float(copies * value), _below(copies * low), _above(copies * high), kind)


def _below(x: Fraction) -> float:
    nearest = float(x)
    return nearest if Fraction(nearest) <= x else math.nextafter(nearest, -math.inf)


def _above(x: Fraction) -> float:
    nearest = float(x)
    return nearest if Fraction(nearest) >= x else math.nextafter(nearest, math.inf)


def _entropy(boxes: Boxes) -> Rank:
    copies, count = boxes.multiplicity, sum(v > 0 for v in boxes.high)
    total = sum(boxes.values)
    value = math.exp(math.fsum(_information(v / total) for v in boxes.values)) if total > 0 else 0.0
    if boxes.total_low == 0:
        return _real(copies * value, 0.0, float(copies * count), "entropy")
    least, most = [], []
    for a, b in zip(boxes.low, boxes.high, strict=True):
        # Quotients of Python integers are rounded correctly; the next numbers enclose them.
        p = max(0.0, math.nextafter(a / boxes.total_high, 0.0))
        r = 1.0 if b >= boxes.total_low else math.nextafter(b / boxes.total_low, math.inf) if b > 0 else 0.0
        at_ends = (_information(p), _information(r))
        least.append(min(at_ends))
        most.append(math.exp(-1.0) if p < math.exp(-1.0) < r else max(at_ends))
    low, high = math.fsum(least), math.fsum(most)
    # Logarithm (4 units in the last place are 8 u), product and sum lose up to 10 u of the entropy; the exponential,
    # C's product and the corrections themselves at most 16 u more.
    low = math.exp(low) * (1.0 - (16 + 10 * low) * U64)
    high = math.exp(high) * (1.0 + (16 + 10 * high) * U64) if high < _LARGEST_LOGARITHM else math.inf
    return _real(copies * value, copies * max(low, 1.0), copies * min(high, float(count)), "entropy")


def _information(p: float) -> float:
    return -p * math.log(p) if p > 0 else 0.0


def _real(value: float, low: float, high: float, kind: str) -> Rank:
    """A rank that is not a count; the computed value is moved between its bounds."""
    width = (high - low) / high if high > 0 else 0.0
    code = CERTIFIED if width <= DEFAULT_TOLERANCE else ABOVE_TOLERANCE
    status = Status(code, f"the bounds of the eigenvalues determine it within {width:.2g} relative")
    return Rank(min(max(value, low), high), low, high, kind, None, status)
