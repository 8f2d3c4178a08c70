"""How many protected modes a real sequence of tasks needs: a curve of final accuracies, computed without training.

Five tasks of two digits, learned one after another by one linear head with a bias on frozen features, in closed form.
After each task, `modes` modes of the kernel of some of its images are protected in all later ones.  Between nothing
protected and the head that is trained on all tasks at once lies what a spectral penalty can save.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from ntkla.app.demo.data import CLASSES, CLASSES_PER_TASK
from ntkla.forgetting.heads import LinearHead
from ntkla.forgetting.sequences.curriculum import CurriculumForecast
from ntkla.forgetting.sequences.sequence import TaskSequence
from ntkla.forgetting.tasks import Task
from ntkla.linalg.decisions import Decision
from ntkla.linalg.results import Result

MODES = (0, 2, 5, 20, 100, 400)
_TRAIN_SHARE = 0.8
_RIDGE_SHARE = 1e-2
_PROBES = 400


@dataclass(frozen=True)
class ProtectionRow(Result):
    """One point of the curve.

    Attributes:
        modes: protected of each task; 0 for none.
        weight: of the penalty where k modes are protected, C k / 2: each counts as in its task's own loss.
        final_accuracy: on the held-out images of all tasks, after the last one.
        forgetting: mean over the earlier tasks of the accuracy just after learning less the final one.
    """

    modes: int
    weight: float
    final_accuracy: Decision
    forgetting: Decision


@dataclass(frozen=True)
class ProtectionCurve(Result):
    """The curve and its upper end.

    Attributes:
        rows: by the number of modes.
        joint_accuracy: of the head trained on all tasks at once, at the same ridge.
        ridge: absolute; 1 % of the mean eigenvalue of the first task's normal matrix.
        train_images, test_images, probes: how many; the last for each task.
        certified: whether every head is proved to be within 1e-10 of the exact one.
        seconds: for all of it.
    """

    rows: tuple[ProtectionRow, ...]
    joint_accuracy: Decision
    ridge: float
    train_images: int
    test_images: int
    probes: int
    certified: bool
    seconds: float

    def __str__(self) -> str:
        lines = [f"  {row.modes:>5}  {row.final_accuracy!s:>14}  {row.forgetting!s:>14}" for row in self.rows]
        head = f"  {'modes':>5}  {'final accuracy':>14}  {'forgetting':>14}"
        return "\n".join([head, *lines, f"  {'joint':>5}  {self.joint_accuracy!s:>14}"])


def protection_curve(
    features: torch.Tensor,
    labels: torch.Tensor,
    seed: int,
    modes: Sequence[int] = MODES,
    progress: Callable[[int, int], None] | None = None,
) -> ProtectionCurve:
    """Learns the sequence once for each number of modes, in closed form.

    Args:
        features: [n, F], of images of all ten digits.
        labels: int64 [n].
        seed: of the cut into 80 % training and 20 % held-out images, and of the probes.
        modes: how many are protected, ascending.
        progress: called as `progress(done, total)`, counting numbers of modes.

    Raises:
        What `ntkla.TaskSequence` raises.

    Cost: with F features, 5 (len(modes) + 1) systems of F x F; a minute for 1,280 features on one core.
    """
    began = time.perf_counter()
    tasks, tests, probes = _cut(features, labels, seed)
    first = next(iter(tasks.values())).features.to(torch.float64)
    ridge = _RIDGE_SHARE * (float(first.square().sum()) + len(first)) / (first.shape[1] + 1)
    zeros = torch.zeros((CLASSES, first.shape[1]), dtype=torch.float64)
    start = LinearHead(zeros, zeros[:, 0])
    sequence = TaskSequence(start, ridge=ridge)
    found = sequence.forecast_modes(tasks, modes, tests=tests, probes=probes, progress=progress)
    for name, task in tasks.items():
        sequence.learn(task, name)
    joint = sequence.joint()
    held_out = torch.cat([test.features for test in tests.values()])
    truth = torch.cat([test.labels for test in tests.values() if test.labels is not None])
    return ProtectionCurve(
        tuple(_row(k, forecast) for k, forecast in found.items()),
        joint.predict(held_out).accuracy(truth),
        ridge,
        sum(len(task.features) for task in tasks.values()),
        len(held_out),
        min(len(rows) for rows in probes.values()),
        joint.status.certified and all(one.status.certified for one in found.values()),
        time.perf_counter() - began,
    )


def _row(modes: int, found: CurriculumForecast) -> ProtectionRow:
    assert found.final_accuracy is not None, "the images have labels"
    assert found.forgetting is not None, "there is more than one task"
    return ProtectionRow(modes, CLASSES * modes / 2, found.final_accuracy, found.forgetting)


def _cut(
    features: torch.Tensor, labels: torch.Tensor, seed: int
) -> tuple[dict[str, Task], dict[str, Task], dict[str, torch.Tensor]]:
    """The tasks by name, their held-out images, and the rows of the training images that are probes."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(labels), generator=generator)
    tasks, tests, probes = {}, {}, {}
    for first in range(0, CLASSES, CLASSES_PER_TASK):
        name = "/".join(str(digit) for digit in range(first, first + CLASSES_PER_TASK))
        rows = order[torch.div(labels[order], CLASSES_PER_TASK, rounding_mode="floor") == first // CLASSES_PER_TASK]
        count = round(_TRAIN_SHARE * len(rows))
        train, test = rows[:count], rows[count:]
        tasks[name] = Task.from_labels(features[train], labels[train], CLASSES)
        tests[name] = Task.from_labels(features[test], labels[test], CLASSES)
        probes[name] = torch.randperm(len(train), generator=generator)[:_PROBES]
    return tasks, tests, probes
