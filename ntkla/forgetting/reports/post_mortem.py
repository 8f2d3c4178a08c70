"""After the training: what it really did to the old predictions, beside what was forecast.

The fact is `Phi_A (W_after - W_A)^T` for the two heads as stored.  Their difference is formed without an error, as an
unevaluated sum of two float64 numbers; its small part counts as an error of the large one, and the bound of the
product is that of `drift_bound.py`.

A trained head has been rounded at every step, which no forecast knows.  `head_rounding` gives the measure: rounding
each of its numbers once more, by the unit roundoff u of its own type, moves the predictions by at most
`u || ||[phi_i, 1]|| ||w_c|| ||_F`.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch

from ntkla.forgetting.drift_bound import Drift, RowSizes, drift_of, drift_scale
from ntkla.forgetting.heads import LinearHead
from ntkla.forgetting.reports.agreement import Agreement, agreement
from ntkla.forgetting.reports.classes import per_class
from ntkla.forgetting.reports.post_mortem_result import AS_FORECAST, CLOSE, DIFFERENT, PostMortem
from ntkla.forgetting.reports.predictions import Flips, Predictions
from ntkla.forgetting.reports.report import ForgettingReport
from ntkla.forgetting.shared_head import outputs_of
from ntkla.forgetting.spectrum.decompose_update import decompose_update
from ntkla.forgetting.spectrum.decomposition import Decomposition
from ntkla.forgetting.tasks import Task, positions, require_labels_below, require_outputs
from ntkla.linalg import checks
from ntkla.linalg.arithmetic.doubled import two_sum
from ntkla.linalg.design import DesignMatrix
from ntkla.linalg.errors import ArgumentError, ShapeError
from ntkla.linalg.precision import (
    DEFAULT_TOLERANCE,
    SHORT_CHAIN,
    TINY64,
    UNIT_ROUNDOFF,
    norm_upper,
    ratio,
    rounded_up,
)
from ntkla.linalg.solve.stability import SolutionError
from ntkla.linalg.status import Status


def post_mortem(
    report: ForgettingReport, old: Task, head: LinearHead, after: LinearHead, *, tol: float | None = None
) -> PostMortem:
    """Compares the forecast for an old task with what the training really did to it.

    Args:
        report: the forecast; one of `ForgettingReports` when it was made for several tasks.
        old: the old task that it was made for.
        head: the head that it was made for, as it stood before the training.
        after: the head after the training; any of the floating types, same shape, bias and device.
        tol: wanted relative bound of the fact, default 1e-10.

    Returns:
        PostMortem.  Inputs are detached.

    Raises:
        ArgumentError: an argument of another kind, or `report`, `old` and `head` that do not belong together.
        ShapeError, DeviceError, LabelError, ScaleError, MemoryEstimateError

    Cost: `6 n F C` operations and `4 n k C` for the energies in the k modes of the report.  Deterministic for fixed
    inputs (strides included), device, versions and thread count.
    """
    tolerance = DEFAULT_TOLERANCE if tol is None else checks.positive("tol", tol)
    _check(report, old, head, after)
    fact = _fact(DesignMatrix(old.features, head.bias is not None), head, after, old.outputs, tolerance)
    drift, bound = fact.drift.value, fact.drift.bound
    seen = Predictions(*after.select(old.outputs).predict(old.features))
    compared = agreement(report.drift, report.error_bound, drift, bound)
    parts = decompose_update(
        drift, fact.update, report.modes, error_bound=bound, update_error=fact.update_error, tol=tolerance
    )
    top = int(report.r_90.high)
    (inside_forecast, outside_forecast), (inside_fact, outside_fact) = (
        _split(d, top) for d in (report.decomposition, parts)
    )
    outputs = outputs_of(old, head)
    labels = None if old.labels is None else positions(old.labels, outputs)
    return PostMortem(
        drift=drift,
        error_bound=bound,
        outputs=outputs,
        after=seen,
        accuracy_before=None if labels is None else report.before.accuracy(labels),
        accuracy_forecast=None if labels is None else report.after.accuracy(labels),
        accuracy_after=None if labels is None else seen.accuracy(labels),
        flips=Flips.between(report.before, seen),
        flips_forecast=report.flips.count,
        **compared._asdict(),
        head_rounding=fact.rounding,
        verdict=_verdict(report, compared, fact.rounding, after),
        decomposition=parts,
        top_modes=top,
        inside_forecast=inside_forecast,
        outside_forecast=outside_forecast,
        inside_fact=inside_fact,
        outside_fact=outside_fact,
        classes=None if labels is None else per_class(report.before, seen, labels, outputs, drift, bound),
        training=report.training,
        status=fact.status,
    )


def _check(report: object, old: object, head: object, after: object) -> None:
    """Kinds, shapes, devices, and that the head's predictions are those that the report began with."""
    report, old = checks.instance("report", report, ForgettingReport), checks.instance("old", old, Task)
    head, after = checks.instance("head", head, LinearHead), checks.instance("after", after, LinearHead)
    checks.matrix("old.features", old.features, columns=head.weight.shape[1])
    checks.matrix("after.weight", after.weight, rows=head.outputs, columns=head.weight.shape[1])
    if (head.bias is None) != (after.bias is None):
        has = {True: "no bias", False: "a bias"}
        raise ArgumentError(f"after: the head before has {has[head.bias is None]}, this one {has[after.bias is None]}.")
    checks.one_device(old=old.features, head=head.weight, after=after.weight, report=report.drift)
    if old.outputs is not None:
        require_outputs("old.outputs", old.outputs, head.outputs)
    if old.labels is not None:
        require_labels_below(old.labels, head.outputs)
    shape = (old.features.shape[0], outputs_of(old, head).shape[0])
    if tuple(report.drift.shape) != shape:
        raise ShapeError(
            f"report: expected a forecast of {shape[0]} old samples in {shape[1]} outputs, got "
            f"{tuple(report.drift.shape)}. Pass the report that was made for this old task."
        )
    checks.memory("the comparison with the forecast", 8 * 8 * report.drift.numel(), report.drift.device)
    value, bound = head.select(old.outputs).predict(old.features)
    if bool(((value - report.before.value).abs() > rounded_up(bound + report.before.error_bound) * SHORT_CHAIN).any()):
        raise ArgumentError(
            "report, old and head do not belong together: the head does not predict for these samples what the "
            "forecast began with. Pass the old task and the head that the forecast was made for."
        )


class _Fact(NamedTuple):
    """What happened, and how exactly it is known.

    Attributes:
        drift: of the old predictions; update: of the head, [columns, C], off by at most `update_error` (2-norms, [C]).
        rounding: what one rounding of the head can add to the drift, as a norm.
        status: of the drift.
    """

    drift: Drift
    update: torch.Tensor
    update_error: torch.Tensor
    rounding: float
    status: Status


def _fact(
    design: DesignMatrix, head: LinearHead, after: LinearHead, outputs: torch.Tensor | None, tolerance: float
) -> _Fact:
    now = after.select(outputs).stacked()
    change = two_sum(now, -head.select(outputs).stacked())
    # Flushed arithmetic may drop a subnormal number in each operation of the sum.
    left = rounded_up(norm_upper(change.low, dim=0) + 8 * TINY64 * math.sqrt(design.columns))
    sizes = RowSizes(design)
    drift = drift_of(design, change.high, SolutionError(left, torch.zeros_like(left)), sizes)
    size = float(norm_upper(drift.bound))
    relative = ratio(size, drift_scale(design, change.high, drift, size / tolerance))
    remedy = "the two heads are all but equal, and their difference is known no better in float64."
    once = UNIT_ROUNDOFF[after.weight.dtype] * float(norm_upper(sizes.distances)) * float(norm_upper(now))
    return _Fact(drift, change.high, left, once * SHORT_CHAIN, Status.of_bound(relative, tolerance, remedy))


def _split(parts: Decomposition, top: int) -> tuple[float, float]:
    """The energy in the leading modes, and what is outside of them."""
    return float(parts.energy[:top].sum()), float(parts.energy[top:].sum()) + parts.tail


def _verdict(report: ForgettingReport, compared: Agreement, rounding: float, after: LinearHead) -> str:
    """Bounds that are infinite agree with everything, and say nothing."""
    if compared.beyond_bounds == 0 and bool(torch.isfinite(report.error_bound).all()):
        return AS_FORECAST
    half_of_the_digits = compared.relative_difference <= math.sqrt(UNIT_ROUNDOFF[after.weight.dtype])
    return CLOSE if half_of_the_digits or compared.difference <= rounding else DIFFERENT
