"""The forecast under squared loss: the update is solved once, for any number of old tasks.

The objective is that of `predict.py`; outputs that different penalties cover are solved apart (`pseudo_samples.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from ntkla.forgetting.descent.trained import TrainedUpdate, trained_update
from ntkla.forgetting.drifts import Forgetting, View, drifts_after_training, drifts_at_the_optimum
from ntkla.forgetting.heads import LinearHead, stacked_head
from ntkla.forgetting.learning import Learning
from ntkla.forgetting.penalties.grouped import GroupedSolve, grouped_training
from ntkla.forgetting.penalties.pseudo_samples import PseudoSamples, System, systems
from ntkla.linalg import checks
from ntkla.linalg.design import DesignMatrix, widened
from ntkla.linalg.solve.normal_solver import NormalSolve, prepare
from ntkla.linalg.solve.weights import SampleWeights

_WHY = "weight_decay pulls it towards zero, and a penalty compares what it says about the probes."


def squared_drifts(
    views: Sequence[View],
    new: DesignMatrix,
    residual: torch.Tensor,
    learning: Learning,
    *,
    head: LinearHead | None = None,
    residual_error: torch.Tensor | None = None,
    weights: torch.Tensor | None = None,
) -> list[Forgetting]:
    """The drift of several old tasks when the new one is learned under squared loss; the update is solved once.

    Args:
        views: the old tasks.
        new: the new task's features.
        residual: [n, C], at the old head.
        learning: the settings.
        head: W_A, of the trained outputs; checked here, where weight decay or a penalty needs it.
        residual_error: float64 [C], bounds of the 2-norm of each residual column's own error, or None.
        weights: [n], of the new samples, or None; checked here.
    """
    # The drifts, their bounds, and what lies between while they are made.
    outputs = residual.shape[1]
    entries = sum(view.design.rows * view.of(residual[:1]).shape[1] for view in views)
    checks.memory("the drift of the old predictions", 8 * 3 * entries, new.device)
    needed = learning.weight_decay > 0 or (head is not None and len(learning.protected) > 0)
    start = stacked_head("head", head, new, outputs, features="features_new", why=_WHY) if needed else None
    counted = None if weights is None else SampleWeights.checked("weights", weights, new, residual)
    known = head if start is not None else None
    for guard in learning.protected:
        probes = guard.protection.features
        checks.lengths("penalty's features", probes, columns=new.features.shape[1])
        checks.one_device(penalty=probes, features_new=new.features)
    samples = [PseudoSamples.of(one, known, new.bias) for one in learning.protected]
    parts = systems(samples, new, widened(residual), residual_error, counted)
    if learning.training is not None:
        runs = [(part.outputs, _trained(part, start, learning, residual_error)) for part in parts]
        found = drifts_after_training(views, grouped_training(runs, outputs), learning.tolerance)
    else:
        rows = sum(view.design.rows for view in views)
        solves = [(part.outputs, _optimum(part, start, learning, residual_error, rows)) for part in parts]
        found = drifts_at_the_optimum(views, GroupedSolve(solves, outputs))
    for one in found:
        one.status.require(learning.strict)
    return found


def _trained(
    part: System, start: torch.Tensor | None, learning: Learning, residual_error: torch.Tensor | None
) -> TrainedUpdate:
    """The update of a group of outputs by training that stops early."""
    assert learning.training is not None
    mask = torch.ones(part.design.columns, dtype=torch.float64, device=part.design.device)
    if part.design.bias and not learning.penalize_bias:
        mask[-1] = 0.0
    update = trained_update(
        part.design,
        part.residual,
        None if start is None or learning.weight_decay == 0 else part.of(start),
        learning.ridge * mask,
        learning.weight_decay * mask,
        learning.training,
        learning.tolerance,
        part.weights,
        part.inexactness,
    )
    if part.inexactness is not None or residual_error is None:
        return update
    return update.with_residual_error(part.of(residual_error))


def _optimum(
    part: System, start: torch.Tensor | None, learning: Learning, residual_error: torch.Tensor | None, rows: int
) -> NormalSolve:
    """The optimum of a group of outputs, prepared for predictions of so many samples."""
    solve = prepare(
        part.design,
        -part.residual,
        ridge=learning.ridge,
        decay=learning.weight_decay,
        start=None if start is None else part.of(start),
        free_bias=part.design.bias and not learning.penalize_bias,
        route=learning.route,
        tolerance=learning.tolerance,
        weights=part.weights,
        targets_copied=True,
        rows_predicted=rows,
    )
    if part.inexactness is not None:
        return solve.with_inexact_rows(part.inexactness)
    return replace(solve, targets_error=None if residual_error is None else part.of(residual_error))
