"""From the drift of one old task to its report: predictions, classes, samples, ranks, and the modes they live in."""

from __future__ import annotations

from typing import NamedTuple

import torch

from ntkla.forgetting.drifts import Forgetting
from ntkla.forgetting.heads import LinearHead
from ntkla.forgetting.learning import Learning
from ntkla.forgetting.reports.classes import per_class
from ntkla.forgetting.reports.predictions import Flips, Predictions
from ntkla.forgetting.reports.report import ForgettingReport
from ntkla.forgetting.reports.samples import Home, most_drifting
from ntkla.forgetting.shared_head import outputs_of
from ntkla.forgetting.spectrum.decompose_update import decompose_update
from ntkla.forgetting.spectrum.ranks import effective_rank, vulnerable_rank
from ntkla.forgetting.spectrum.sample_modes import homes_of
from ntkla.forgetting.tasks import Task, positions
from ntkla.linalg.design import DesignMatrix
from ntkla.linalg.eigen.feature_modes import FeatureModes, feature_modes
from ntkla.linalg.errors import ArgumentError, ShapeError
from ntkla.linalg.precision import NEGLIGIBLE, gamma, norm_upper


class Wanted(NamedTuple):
    """What a report tells beside the drift: the ranks at a share q, and how many samples one by one."""

    q: float
    top: int


def report_of(
    old: Task,
    head: LinearHead,
    found: Forgetting,
    learning: Learning,
    modes: FeatureModes | None,
    wanted: Wanted,
    seconds: dict[str, float],
) -> ForgettingReport:
    """What a drift means for one old task."""
    outputs = outputs_of(old, head)
    modes_of_old = _modes_of(old, head.bias is not None, modes)
    drift, bound = found.drift, found.error_bound
    update, update_error = found.update(outputs), found.update_error_bound[outputs]
    parts = decompose_update(
        drift, update, modes_of_old, error_bound=bound, update_error=update_error, tol=learning.tolerance
    )
    before = Predictions(*head.select(old.outputs).predict(old.features))
    after = before.moved(drift, bound)
    labels = None if old.labels is None else positions(old.labels, outputs)

    def homes(rows: torch.Tensor) -> list[Home]:
        return homes_of(rows, old.features, drift, bound, update, update_error, modes_of_old)

    return ForgettingReport(
        drift=drift,
        error_bound=bound,
        outputs=outputs,
        before=before,
        after=after,
        accuracy_before=None if labels is None else before.accuracy(labels),
        accuracy_forecast=None if labels is None else after.accuracy(labels),
        flips=Flips.between(before, after),
        classes=None if labels is None else per_class(before, after, labels, outputs, drift, bound),
        samples=most_drifting(before, after, labels, outputs, drift, bound, wanted.top, homes),
        r_50=parts.rank(0.5),
        r_90=parts.rank(0.9),
        k_G=effective_rank(modes_of_old, q=wanted.q),
        k_star=vulnerable_rank(modes_of_old, outputs.shape[0], wanted.q),
        forgetting=found,
        decomposition=parts,
        modes=modes_of_old,
        training=str(learning),
        seconds=seconds,
        status=found.status,
        protected=tuple(one.told for one in learning.protected),
    )


def _modes_of(old: Task, bias: bool, modes: FeatureModes | None) -> FeatureModes:
    """The modes of the old features: those given, checked, or new ones."""
    if modes is None:
        return feature_modes(old.features, bias=bias)
    if not isinstance(modes, FeatureModes):
        raise ArgumentError(f"modes: expected the result of ntkla.feature_modes, got {type(modes).__name__}.")
    samples, columns = old.features.shape[0], old.features.shape[1] + bias
    if (modes.spectrum.size, modes.columns, modes.bias) != (samples, columns, bias):
        raise ShapeError(
            f"modes: expected those of {samples} samples in {columns} columns (bias={bias}), got those of "
            f"{modes.spectrum.size} in {modes.columns} (bias={modes.bias}). Pass ntkla.feature_modes(old.features, "
            f"bias={bias})."
        )
    if not _may_belong(modes, DesignMatrix(old.features, bias)):
        raise ArgumentError(
            "modes: these are of other features than the old task's. Pass ntkla.feature_modes(old.features, "
            f"bias={bias}), or leave modes out."
        )
    return modes


def _may_belong(modes: FeatureModes, design: DesignMatrix) -> bool:
    """Whether the features do to v, the sum of all vectors, what the modes say: one product with the features.

    With the smaller side M, `M V = V L + R` and omega the orthogonality, `v^T M v = ||Phi v||^2` is within
    `m ((1 + omega) ||R|| + omega l_1)` of the sum of the m values; the rest of the allowance is rounding.
    """
    size, v = modes.values.shape[0], modes.vectors.sum(1, keepdim=True)
    product = design.matmul(v) if modes.side == "features" else design.rmatmul(v)
    rounding = 16.0 * gamma(design.rows + design.columns + size) * design.frobenius() ** 2
    proved = 2.0 * float(norm_upper(modes.residual_norms)) + modes.orthogonality * float(modes.values[0])
    found = float(norm_upper(product))
    return abs(found * found - float(modes.values.sum())) <= size**2 * (proved + rounding) + NEGLIGIBLE
