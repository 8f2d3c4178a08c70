"""The demo's last question: how to teach the head the last task so that it keeps the others; planned, then trained.

The head knows all tasks but the last (one ridge regression on their training images).  `ntkla.plan` works out, in
closed form, what every ridge, strength and number of protected modes would do to the held-out images of every task.
At its choice `ntkla.predict_forgetting` then says every single output beforehand, and the head is really trained there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

from ntkla.app.command_line.settings import mean_eigenvalue
from ntkla.app.demo.data import SplitTask
from ntkla.app.demo.plan_training import Outputs, train_and_compare
from ntkla.forgetting.heads import LinearHead
from ntkla.forgetting.planning.plan import plan
from ntkla.forgetting.planning.result import Plan, Recommendation
from ntkla.forgetting.tasks import Task
from ntkla.linalg.ridge import ridge_solve


@dataclass(frozen=True)
class Asked:
    """What is planned.

    Attributes:
        ridges: in mean eigenvalues of the last task's normal matrix.
        strengths: of the penalty; at 1 a protected mode counts as in the loss of the samples that it was made of.
        modes: how many of each old task are protected.
        max_forgetting: the most accuracy that any old task may lose on its held-out images.
        fit: the ridge of the head before, in mean eigenvalues of the old tasks' normal matrix.
        iterations: of LBFGS.
    """

    ridges: tuple[float, ...] = (1e-3, 1e-2, 0.1, 1.0)
    strengths: tuple[float, ...] = (0.1, 0.3, 1.0, 3.0)
    modes: tuple[int, ...] = (10, 30, 100, 300)
    max_forgetting: float = 0.02
    fit: float = 1e-2
    iterations: int = 1000


@dataclass(frozen=True, eq=False)
class Planned:
    """The plan, its choice, and what training there did.

    Attributes:
        plan, choice: what was said beforehand.
        mean_eigenvalue: of the last task, the unit of the ridges.
        accuracy: what was measured after training, by name of the task, on held-out images; the last is the new one.
        outputs: every output on them, forecast and trained.
    """

    plan: Plan
    choice: Recommendation
    mean_eigenvalue: float
    accuracy: Mapping[str, float]
    outputs: Outputs

    @property
    def forecast(self) -> dict[str, tuple[float, float]]:
        """The accuracy that the plan says of the choice, by name, its lower and upper end."""
        point = self.choice.point
        assert point.new_test is not None, "the demo holds images of the new task out"
        new = list(self.accuracy)[-1]
        scores = {**point.old, new: point.new_test}
        return {name: (s.accuracy.low, s.accuracy.high) for name, s in scores.items() if s.accuracy is not None}

    @property
    def holds(self) -> bool:
        """Whether every accuracy is one that the plan said is possible, and every output is as near as was proved."""
        accurate = all(low <= self.accuracy[name] <= high for name, (low, high) in self.forecast.items())
        return accurate and self.outputs.holds


def plan_and_train(
    tasks: Sequence[SplitTask], classes: int, asked: Asked, advance: Callable[[int, int], None]
) -> Planned:
    """Plans the last task, chooses, and trains at the choice.

    Args:
        tasks: in their order; the last is to be learned by a head that knows the others.
        classes: outputs of the head.
        asked: the grid and the constraint.
        advance: called with the decompositions done and in all.

    Raises:
        What `ntkla.plan` raises.
    """
    *olds, new = tasks
    head = _head(olds, classes, asked.fit)
    unit = mean_eigenvalue(Task(new.train_features), bias=True)
    found = plan(
        {old.name: Task.from_labels(old.train_features, old.train_labels, classes) for old in olds},
        Task.from_labels(new.train_features, new.train_labels, classes),
        head,
        ridges=[unit * ridge for ridge in asked.ridges],
        strengths=asked.strengths,
        modes=asked.modes,
        old_tests={old.name: Task.from_labels(old.test_features, old.test_labels, classes) for old in olds},
        new_test=Task.from_labels(new.test_features, new.test_labels, classes),
        progress=advance,
    )
    choice = found.recommend(asked.max_forgetting)
    outputs = train_and_compare(tasks, head, choice.point, asked.iterations)
    rows = torch.split(outputs.trained.argmax(1), [len(task.test_labels) for task in tasks])
    hits = {task.name: (row == task.test_labels).double().mean() for task, row in zip(tasks, rows, strict=True)}
    return Planned(found, choice, unit, {name: float(share) for name, share in hits.items()}, outputs)


def _head(olds: Sequence[SplitTask], classes: int, ridge: float) -> LinearHead:
    """One ridge regression on the training images of all old tasks."""
    features = torch.cat([old.train_features for old in olds])
    task = Task.from_labels(features, torch.cat([old.train_labels for old in olds]), classes)
    assert task.targets is not None, "tasks from labels have targets"
    fitted = ridge_solve(features, task.targets, ridge=ridge * mean_eigenvalue(task, bias=True), bias=True)
    return LinearHead(fitted.solution.T, fitted.bias)
