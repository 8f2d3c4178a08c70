"""A sequence of tasks learned by one head, every drift forecast before it happens and compared after it did.

One linear head with a bias is trained on one task after another: one-hot targets, squared loss, nothing kept from
earlier tasks.  Before each new task, for every earlier one, the drift of its held-out images is forecast twice from the
head as it stands: for the ridge optimum, and for full-batch SGD with momentum that stops after a fixed number of steps.
Then both trainings really happen.  The head that SGD trained is carried on to the next task; the optimum is solved from
the same start and set aside.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ntkla.app.demo.comparison import OPTIMUM, SGD, Comparison, Ranks
from ntkla.app.demo.data import SplitTask
from ntkla.app.demo.demo_report import Count
from ntkla.app.demo.pairs import Array, Pair
from ntkla.app.demo.reality import (
    Problem,
    Trained,
    design_of,
    optimum_exactly,
    rounding_of,
    sgd_exactly,
    solve_optimum,
    train_with_sgd,
)
from ntkla.forgetting.descent.training import GradientDescent
from ntkla.forgetting.heads import LinearHead
from ntkla.forgetting.learning import Learning
from ntkla.forgetting.shared_head import drifts_of_tasks
from ntkla.forgetting.spectrum.decompose import decompose
from ntkla.forgetting.spectrum.overlap import update_of
from ntkla.forgetting.spectrum.overlap_bound import Update, overlap_bound
from ntkla.forgetting.spectrum.ranks import Rank, effective_rank, vulnerable_rank
from ntkla.forgetting.tasks import Task
from ntkla.linalg.design import DesignMatrix
from ntkla.linalg.eigen.feature_modes import feature_modes
from ntkla.linalg.eigen.modes import Eigenmodes
from ntkla.linalg.eigen.row_space import RowSpace, certified_rank
from ntkla.linalg.eigenmodes import eigenmodes


@dataclass(frozen=True)
class Plan:
    """How the tasks are trained.

    Attributes:
        ridge_share: the ridge of the optimum, in mean eigenvalues of the new task's normal matrix.
        lr_share: SGD's learning rate, over one by the largest eigenvalue of the first task's normal matrix.
        steps, momentum: of SGD.
    """

    ridge_share: float = 1e-2
    lr_share: float = 0.02
    steps: int = 50
    momentum: float = 0.9


@dataclass(frozen=True)
class _Old:
    """An earlier task: its number, its held-out images as features and as a float64 design, their modes and rows."""

    number: int
    features: torch.Tensor
    labels: torch.Tensor
    design: Array
    modes: Eigenmodes
    rows: RowSpace
    k_gram: Count
    k_star: Count


def run_sequence(
    tasks: Sequence[SplitTask], classes: int, plan: Plan, advance: Callable[[str], None]
) -> list[Comparison]:
    """Learns the tasks one after another; one comparison for each (old task, new task, training).

    Args:
        tasks: in their order.
        classes: outputs of the head.
        plan: how each is trained.
        advance: told what comes next, before each of the `total_steps(len(tasks))` steps.

    Raises:
        What `ntkla.forecast` raises.
    """
    start = np.zeros((tasks[0].train_features.shape[1] + 1, classes))
    problem = _problem(tasks[0], start)
    largest = float(torch.linalg.matrix_norm(torch.from_numpy(problem.design), 2)) ** 2
    sgd = GradientDescent(plan.lr_share / largest, plan.steps, plan.momentum)
    advance(f"training on {tasks[0].name}")
    head = _train(problem, 0.0, sgd).head
    olds: list[_Old] = []
    comparisons: list[Comparison] = []
    for number, new in enumerate(tasks[1:], start=2):
        olds.append(_remembered(number - 1, tasks[number - 2], classes))
        problem = _problem(new, head)
        ridge = plan.ridge_share * float((problem.design**2).sum()) / problem.design.shape[1]
        for training, strength, settings in ((OPTIMUM, ridge, None), (SGD, 0.0, sgd)):
            advance(f"forecasting the {training} on {new.name}")
            expected = _forecast(olds, new, problem, strength, settings)
            advance(f"training to the {training} on {new.name}")
            trained = _train(problem, strength, settings)
            exact = _train_exactly(problem, strength, settings, trained)
            happened = _Happened(number, training, problem.start, trained, exact)
            comparisons += [_compared(old, expected, happened) for old in olds]
        head = trained.head
    return sorted(comparisons, key=lambda c: (c.new, c.old))


def total_steps(tasks: int) -> int:
    """How often `run_sequence` calls `advance`: two forecasts and two trainings a new task, and the first task."""
    return 4 * (tasks - 1) + 1


def _problem(task: SplitTask, head: Array) -> Problem:
    targets = np.zeros((len(task.train_labels), head.shape[1]))
    targets[np.arange(len(targets)), task.train_labels.numpy()] = 1.0
    return Problem(design_of(task.train_features), targets, head)


def _train(problem: Problem, ridge: float, sgd: GradientDescent | None) -> Trained:
    if sgd is None:
        return solve_optimum(problem, ridge=ridge)
    return train_with_sgd(problem, lr=sgd.lr, steps=sgd.steps, momentum=sgd.momentum)


def _train_exactly(problem: Problem, ridge: float, sgd: GradientDescent | None, trained: Trained) -> Pair:
    if sgd is None:
        return optimum_exactly(problem, ridge=ridge, near=trained.head)
    return sgd_exactly(problem, lr=sgd.lr, steps=sgd.steps, momentum=sgd.momentum)


def _remembered(number: int, task: SplitTask, classes: int) -> _Old:
    modes = eigenmodes(task.test_features, len(task.test_features), bias=True)
    return _Old(
        number,
        task.test_features,
        task.test_labels,
        design_of(task.test_features),
        modes,
        _row_space(task.test_features),
        _count(effective_rank(modes)),
        _count(vulnerable_rank(modes, classes)),
    )


def _row_space(features: torch.Tensor) -> RowSpace:
    modes = feature_modes(features, bias=True)
    return RowSpace.of(DesignMatrix(features, bias=True), modes, certified_rank(modes))


def _count(rank: Rank) -> Count:
    """The rank when the bounds decide it, else the interval that they leave."""
    return int(rank.low) if rank.low == rank.high else [int(rank.low), int(rank.high)]


@dataclass(frozen=True)
class _Expected:
    """What was forecast: drift and bound for each old task, [n, C], the update of the head, and the seconds for all."""

    drift: dict[int, torch.Tensor]
    bound: dict[int, torch.Tensor]
    update: Update
    seconds: float


def _forecast(
    olds: Sequence[_Old], new: SplitTask, problem: Problem, ridge: float, sgd: GradientDescent | None
) -> _Expected:
    """One forecast for the held-out images of all old tasks together: the update of the head is the same for each.

    It sees the old images, the new task and the head as it stands: nothing that comes after.
    """
    began = time.perf_counter()
    head = LinearHead(torch.from_numpy(problem.start[:-1].T), torch.from_numpy(problem.start[-1]))
    task = Task(new.train_features, torch.from_numpy(problem.targets))
    learning = Learning.checked(ridge=ridge, training=sgd)
    found = drifts_of_tasks([Task(old.features) for old in olds], task, head, learning)
    seconds = time.perf_counter() - began
    numbers = [old.number for old in olds]
    drift = {number: one.drift for number, one in zip(numbers, found, strict=True)}
    bound = {number: one.error_bound for number, one in zip(numbers, found, strict=True)}
    return _Expected(drift, bound, update_of(found[0]), seconds)


@dataclass(frozen=True)
class _Happened:
    """What happened: the new task's number, the training, and the head before, after, and after without rounding."""

    new: int
    training: str
    start: Array
    trained: Trained
    exact: Pair


def _compared(old: _Old, expected: _Expected, happened: _Happened) -> Comparison:
    before = old.design @ happened.start
    fact = old.design @ happened.trained.head - before
    drift, bound = expected.drift[old.number], expected.bound[old.number]
    parts = decompose(drift, old.modes, error_bound=bound)
    return Comparison(
        old=old.number,
        new=happened.new,
        training=happened.training,
        labels=old.labels.numpy(),
        before=before,
        forecast=drift.numpy(),
        bound=bound.numpy(),
        fact=fact,
        rounding=rounding_of(fact, old.design, happened.exact, happened.start),
        eigenvalues=old.modes.values.numpy(),
        energy=parts.energy.numpy(),
        ranks=Ranks(_count(parts.rank(0.5)), _count(parts.rank(0.9)), old.k_gram, old.k_star),
        overlap_bound=math.sqrt(overlap_bound(old.rows, expected.update)),
        seconds_forecast=expected.seconds,
        seconds_training=happened.trained.seconds,
    )
