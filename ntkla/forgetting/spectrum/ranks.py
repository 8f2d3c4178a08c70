"""How many directions carry a kernel: effective ranks, decided from certified eigenvalues or left as an interval.

Of eigenvalues s_1 >= s_2 >= ... >= 0 with sum T:

- `"share"`: the fewest leading eigenvalues that make up the share q of T;
- `"participation"`: `T^2 / sum s_i^2`;
- `"intrinsic"`: `T / s_1`;
- `"entropy"`: `exp(-sum p_i log p_i)`, `p_i = s_i / T` (Roy and Vetterli, "The effective rank", EUSIPCO 2007).

Each eigenvalue is known as an interval.  Sums of the intervals' ends, comparisons with q (the float64 number itself)
and quotients are exact integer arithmetic (`boxes.py`): only the eigenvalues' bounds leave a rank open, never the
rounding of a sum.  Of k leading modes the others are known by a common bound and by what is left of the trace; where
neither bounds them, only their number does.  Derivations: `share_ranks.py`, `real_ranks.py`.

In a kernel `I_C (x) G` every eigenvalue of G counts C times: participation, intrinsic and entropy rank are C times
those of G, and the share rank is counted vector by vector.  `vulnerable_rank` counts whole eigenspaces: C k_G.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ntkla.forgetting.spectrum.boxes import boxes_of
from ntkla.forgetting.spectrum.real_ranks import computed_rank, rank_bounds
from ntkla.forgetting.spectrum.share_ranks import share_counts
from ntkla.linalg import checks
from ntkla.linalg.eigen.feature_modes import FeatureModes
from ntkla.linalg.eigen.modes import Eigenmodes, Spectrum
from ntkla.linalg.errors import ArgumentError
from ntkla.linalg.linear_operator import LinearOperator
from ntkla.linalg.precision import DEFAULT_TOLERANCE
from ntkla.linalg.results import Result
from ntkla.linalg.status import ABOVE_TOLERANCE, CERTIFIED, CONDITIONAL, Status

KINDS = ("share", "participation", "intrinsic", "entropy")


@dataclass(frozen=True)
class Rank(Result):
    """A rank as far as the bounds decide it.

    Attributes:
        value: the rank: an int for counts, None when the bounds do not decide it; a float for the other kinds, the
            one that the computed eigenvalues give, with what they leave of the trace spread evenly over the others.
        low, high: certified bounds of the exact rank, both included.
        kind: what was counted.
        q: the share, None where there is none.
        status: `"certified"` when decided (for a float: to the default relative tolerance), else `"above_tolerance"`;
            `"conditional"` when decided for a foreign operator as evaluated.
    """

    value: float | None
    low: float
    high: float
    kind: str
    q: float | None
    status: Status

    def __str__(self) -> str:
        share = "" if self.q is None else f" at {self.q:g}"
        decided = self.value is not None and self.status.code != ABOVE_TOLERANCE
        number = f"{self.value:.10g}" if decided else f"between {self.low:.12g} and {self.high:.12g}"
        return f"{self.kind} rank{share}: {number}"


def counted(low: int, high: int, kind: str, q: float, conditional: bool = False) -> Rank:
    """A count that lies in [low, high], as a `Rank`."""
    if low == high:
        return Rank(low, low, high, kind, q, _decided("the bounds decide the rank", conditional))
    message = f"the bounds leave {low} to {high} open: use the interval, or another share"
    return Rank(None, low, high, kind, q, Status(ABOVE_TOLERANCE, message))


def _decided(message: str, conditional: bool) -> Status:
    if not conditional:
        return Status(CERTIFIED, message)
    return Status(CONDITIONAL, f"{message}; they hold for the operator as evaluated: it says nothing of its rounding")


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
            [n, F]; a `GramOperator` or a `KroneckerGram` of one; the result of `eigenmodes`, of any number of modes,
            or of `feature_modes`; or any positive semidefinite operator of at most 2048 rows.
        kind: `"share"`, `"participation"`, `"intrinsic"` or `"entropy"`; formulas in the module's docstring.
        q: the share, 0 < q <= 1, for `"share"`.
        bias: with features: whether a constant feature 1 is appended.
        value_error: with eigenvalues: upper bounds of their errors, [m] or a number.

    Raises:
        DtypeError, ShapeError, NonFiniteError, ScaleError, DeviceError, ArgumentError, MemoryEstimateError

    Cost: one decomposition of the smaller Gram matrix for features and Gram operators, `eigenmodes` of all modes for
    other operators, else about m steps.
    """
    checks.choice("kind", kind, KINDS)
    boxes = boxes_of(values_or_features, bias, value_error)
    if kind == "share":
        q = share_between_0_and_1(q)
        return counted(*share_counts(boxes, q), kind, q, boxes.conditional)
    value = boxes.multiplicity * computed_rank(boxes, kind)
    return _real(value, *rank_bounds(boxes, kind), kind, boxes.conditional)


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
    q = share_between_0_and_1(q)
    low, high = share_counts(boxes, q)
    return counted(outputs * low, outputs * high, "vulnerable", q, boxes.conditional)


def share_between_0_and_1(q: object) -> float:
    """`q` as a float with 0 < q <= 1; ArgumentError otherwise."""
    number = checks.positive("q", q)
    if number > 1:
        raise ArgumentError(f"q: expected a share in (0, 1], got {q!r}.")
    return number


def _real(value: float, low: float, high: float, kind: str, conditional: bool) -> Rank:
    """A rank that is not a count; the computed value is moved between its bounds."""
    width = (high - low) / high if high > 0 else 0.0
    message = f"the bounds of the eigenvalues determine it within {width:.2g} relative"
    narrow = width <= DEFAULT_TOLERANCE
    status = _decided(message, conditional) if narrow else Status(ABOVE_TOLERANCE, message)
    return Rank(min(max(value, low), high), low, high, kind, None, status)
