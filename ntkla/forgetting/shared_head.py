"""From tasks that use some outputs of one head to the drift of each in its own outputs.

The residual `R_B = Phi_B W_A^T - Y_B` is formed here beyond float64 and rounded once; what that rounding can do to the
drift is in the bounds: `||A^-1 Phi^T||` times it for the optimum, `||h_T(A) Phi^T||` times it for training that stops
early (`linalg.solve.stability`, `forgetting.descent.gains`).

Under cross-entropy the targets themselves are handed on, and the softmax is over the outputs that the new task uses.

The new task trains the outputs that it uses and leaves the others as they are: an old prediction drifts in an output
that both tasks use, and by exactly 0 in every other.  What a penalty protects of those plays no part.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from ntkla.forgetting.drifts import Forgetting, View
from ntkla.forgetting.heads import LinearHead
from ntkla.forgetting.learning import Learning
from ntkla.forgetting.softmax.cross_entropy import entropy_drifts
from ntkla.forgetting.softmax.cross_entropy_targets import checked_targets
from ntkla.forgetting.squared import squared_drifts
from ntkla.forgetting.tasks import Task, positions
from ntkla.linalg.arithmetic.accurate import Bounded, accurate_outputs
from ntkla.linalg.design import DesignMatrix, widened


def new_residual(new: Task, head: LinearHead) -> Bounded:
    """`Phi_B W_A^T - Y_B` in float64 [n_B, C] and the 2-norm bound of each column's rounding [C]."""
    assert new.targets is not None, "a new task has targets"
    return accurate_outputs(DesignMatrix(new.features, head.bias is not None), head.stacked(), widened(new.targets))


def drifts_of_tasks(olds: Sequence[Task], new: Task, head: LinearHead, learning: Learning) -> list[Forgetting]:
    """The drift of each old task's own outputs, and the update of the whole head."""
    bias, trained = head.bias is not None, head.select(new.outputs)
    both = [_shared(task.outputs, new.outputs, head) for task in olds]
    views = [
        View(DesignMatrix(task.features, bias), None if shared is None else positions(shared, outputs_of(new, head)))
        for task, shared in zip(olds, both, strict=True)
    ]
    design = DesignMatrix(new.features, bias)
    protected = [one.among(new.outputs, head.outputs) for one in learning.protected]
    learning = replace(learning, protected=tuple(one for one in protected if one is not None))
    if learning.loss == "cross_entropy":
        targets = checked_targets(new.targets, design.rows, None)
        found = entropy_drifts(views, design, targets, learning, trained, weights=new.weights)
    else:
        residual = new_residual(new, trained)
        found = squared_drifts(
            views, design, residual.value, learning, head=trained, residual_error=residual.error, weights=new.weights
        )
    return [
        _spread(one, outputs_of(task, head), shared, outputs_of(new, head), head.outputs)
        for one, task, shared in zip(found, olds, both, strict=True)
    ]


def outputs_of(task: Task, head: LinearHead) -> torch.Tensor:
    """The outputs of the head that a task uses, int64."""
    if task.outputs is not None:
        return task.outputs
    return torch.arange(head.outputs, dtype=torch.int64, device=head.weight.device)


def _shared(old: torch.Tensor | None, new: torch.Tensor | None, head: LinearHead) -> torch.Tensor | None:
    """The outputs that both tasks use, in the old one's order; None when both use all."""
    if old is None:
        return None if new is None else new.sort().values
    return old if new is None else old[torch.isin(old, new)]


def _spread(
    found: Forgetting, old: torch.Tensor, shared: torch.Tensor | None, trained: torch.Tensor, outputs: int
) -> Forgetting:
    """The same forecast with a column for each of the old task's outputs, and an update of all outputs of the head."""
    if shared is None:
        return found

    def spread(x: torch.Tensor, places: torch.Tensor, dim: int, size: int) -> torch.Tensor:
        shape = list(x.shape)
        shape[dim] = size
        return x.new_zeros(shape).index_copy_(dim, places, x)

    columns = positions(shared, old)
    return replace(
        found,
        drift=spread(found.drift, columns, 1, old.shape[0]),
        error_bound=spread(found.error_bound, columns, 1, old.shape[0]),
        head_update=spread(found.head_update, trained, 0, outputs),
        bias_update=None if found.bias_update is None else spread(found.bias_update, trained, 0, outputs),
        update_error_bound=spread(found.update_error_bound, trained, 0, outputs),
    )
