"""A task whose predictions a plan watches: its samples, and what the head says of them before."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import torch

from ntkla.forgetting.heads import LinearHead
from ntkla.forgetting.planning.updates import Updates
from ntkla.forgetting.reports.predictions import Predictions
from ntkla.forgetting.shared_head import outputs_of
from ntkla.forgetting.tasks import Task, positions
from ntkla.linalg.design import DesignMatrix, widened
from ntkla.linalg.precision import TINY64


@dataclass(frozen=True, eq=False)
class Watched:
    """The samples of one task, and what the head says of them before.

    Attributes:
        design: their features.
        outputs: int64 [C], the outputs of the head that the task uses.
        base: their predictions, float64 [n, C].
        offsets: bounds of the error of base, [n], the largest of each row.
        targets: [n, C] in their own element type, or None.
        residual: base minus target, float64, or None without targets.
        labels: int64 [n], the place of each label among the outputs, or None.
        classes: int64 [n], the predicted class; undecided: the rows where another one is possible, int64 [u], and
            possible: which ones are, bool [u, C].
        norms: upper bounds of the norms of the rows of the features, float64 [n].
    """

    design: DesignMatrix
    outputs: torch.Tensor
    base: torch.Tensor
    offsets: torch.Tensor
    targets: torch.Tensor | None
    residual: torch.Tensor | None
    labels: torch.Tensor | None
    classes: torch.Tensor
    undecided: torch.Tensor
    possible: torch.Tensor
    norms: torch.Tensor

    @classmethod
    def of(cls, task: Task, head: LinearHead) -> Watched:
        """The predictions of one task.  Cost: 2 n K C operations."""
        design, outputs = DesignMatrix(task.features, head.bias is not None), outputs_of(task, head)
        before = Predictions(*head.select(task.outputs).predict(task.features))
        possible = before.possible_classes()
        undecided = (possible.sum(dim=1) > 1).nonzero()[:, 0]
        return cls(
            design,
            outputs,
            before.value,
            before.error_bound.amax(dim=1),
            task.targets,
            None if task.targets is None else before.value - widened(task.targets),
            None if task.labels is None else positions(task.labels, outputs),
            before.value.argmax(dim=1),
            undecided,
            possible[undecided],
            design.row_norms().clamp(min=TINY64),
        )

    def from_zero(self) -> Watched:
        """The same for updates of a head that is zero: the residual is minus the target, exact."""
        nothing = torch.zeros_like(self.base)
        # Not residual minus base: that would bring back the target with the rounding of a base of any size.
        residual = None if self.targets is None else -widened(self.targets)
        return replace(self, base=nothing, offsets=torch.zeros_like(self.offsets), residual=residual)


class Part(NamedTuple):
    """Updates of some of a task's outputs: their places among them, int64 [c], and the updates in that order."""

    places: torch.Tensor
    updates: Updates
