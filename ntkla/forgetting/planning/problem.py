"""What a plan starts from: the tasks, what of them can be protected, and the outputs that share their penalties."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch

from ntkla.forgetting.heads import LinearHead
from ntkla.forgetting.planning.updates import Gradient
from ntkla.forgetting.shared_head import new_residual, outputs_of
from ntkla.forgetting.tasks import Task
from ntkla.linalg.arithmetic.accurate import accurate_adjoint
from ntkla.linalg.design import DesignMatrix
from ntkla.linalg.solve.weights import SampleWeights


@dataclass(frozen=True, eq=False)
class Problem:
    """The arguments of a plan, checked.

    Attributes:
        olds: the old tasks by name.
        probes: the features that are protected, by the same names.
        new: the new task, with targets.
        old_tests: other samples of old tasks, by the same names, on which they are judged.
        new_test: other samples of the new task, or None.
        head: before.
        penalize_bias: whether the ridge holds the bias.
        tolerance: for each update.
    """

    olds: Mapping[str, Task]
    probes: Mapping[str, torch.Tensor]
    new: Task
    old_tests: Mapping[str, Task]
    new_test: Task | None
    head: LinearHead
    penalize_bias: bool
    tolerance: float

    @property
    def bias(self) -> bool:
        """Whether the head has a bias."""
        return self.head.bias is not None

    @property
    def free_bias(self) -> bool:
        """Whether there is a bias that the ridge does not hold."""
        return self.bias and not self.penalize_bias

    @property
    def design(self) -> DesignMatrix:
        """The features of the new task."""
        return self.design_of(self.new.features)

    def design_of(self, features: torch.Tensor) -> DesignMatrix:
        """Features [n, F], with a column of ones where the head has a bias."""
        return DesignMatrix(features, self.bias)

    @property
    def trained(self) -> torch.Tensor:
        """The outputs of the head that the new task trains, int64."""
        return outputs_of(self.new, self.head)

    def weights_of(self, task: Task) -> SampleWeights | None:
        """The weights of a task's samples in its loss, checked with its features and targets."""
        if task.weights is None:
            return None
        assert task.targets is not None, "only tasks with targets are trained on"
        return SampleWeights.checked("weights", task.weights, self.design_of(task.features), task.targets)


def gradient_of(problem: Problem) -> Gradient:
    """g_0 of all trained outputs.  Cost: 12 n K C operations."""
    residual = new_residual(problem.new, problem.head.select(problem.new.outputs))
    weights = problem.weights_of(problem.new)
    value, error = accurate_adjoint(problem.design, residual.value, [], weights)
    return Gradient(value, error, residual.error * (1.0 if weights is None else weights.largest_root))


class Group(NamedTuple):
    """Outputs that are moved by the same normal matrix.

    Attributes:
        columns: their places among the outputs that are trained, int64 [c].
        outputs: their numbers in the head, int64 [c].
        members: the tasks whose terms hold them.
    """

    columns: torch.Tensor
    outputs: torch.Tensor
    members: tuple[str, ...]


def groups(trained: torch.Tensor, covering: Mapping[str, torch.Tensor]) -> list[Group]:
    """The trained outputs, int64 [C], grouped by which of the named sets of outputs hold them."""
    if not covering:
        return [Group(torch.arange(trained.shape[0], device=trained.device), trained, ())]
    held = torch.stack([torch.isin(trained, outputs) for outputs in covering.values()])
    patterns, which = torch.unique(held, dim=1, return_inverse=True)
    found = []
    for number, pattern in enumerate(patterns.T.tolist()):
        columns = (which == number).nonzero()[:, 0]
        members = tuple(name for name, inside in zip(covering, pattern, strict=True) if inside)
        found.append(Group(columns, trained[columns], members))
    return found


def gradient_for(gradient: Gradient, columns: torch.Tensor) -> Gradient:
    """The gradient of some of its columns."""
    return Gradient(gradient.value[:, columns], gradient.error[columns], gradient.residual_error[columns])
