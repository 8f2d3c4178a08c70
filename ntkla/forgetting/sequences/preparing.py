"""From a task as a caller gives it to what a sequence learns: checks, sums and protected modes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch

from ntkla.forgetting.heads import LinearHead
from ntkla.forgetting.sequences.anchor import Anchor
from ntkla.forgetting.sequences.learned import Prepared
from ntkla.forgetting.sequences.moments import TaskMoments
from ntkla.forgetting.sequences.settings import Settings
from ntkla.forgetting.tasks import Task, require_labels_below
from ntkla.linalg import checks
from ntkla.linalg.design import DesignMatrix
from ntkla.linalg.errors import ArgumentError, DtypeError, ShapeError


def prepared(
    name: str, task: object, probes: object, settings: Settings, head: LinearHead, where: str = "task"
) -> Prepared:
    """A task with its moments and its anchor, all checked against the head.

    Raises:
        ArgumentError, ShapeError, DtypeError, DeviceError, LabelError, MemoryEstimateError
    """
    bias = head.bias is not None
    if isinstance(task, TaskMoments):
        _require_shape(where, task, head)
        samples, moments = None, task
    else:
        samples = require_fitting(where, task, head)
        moments = TaskMoments.of(samples, bias=bias)
    return anchored(name, samples, moments, probes, settings, head)


def anchored(
    name: str, samples: Task | None, moments: TaskMoments, probes: object, settings: Settings, head: LinearHead
) -> Prepared:
    """A task whose sums are known, with the modes that these settings protect."""
    protected = settings.modes > 0 and settings.weight > 0
    features, among = _probes(probes, samples, head, protected)
    design = DesignMatrix(features, head.bias is not None)
    anchor = Anchor.of(design, settings.modes if protected else 0, settings.weight, head.outputs)
    return Prepared(name, samples, moments, anchor, among)


def require_fitting(where: str, task: object, head: LinearHead) -> Task:
    """The task, when its features, targets and labels fit the head."""
    checked = checks.instance(where, task, Task)
    checks.lengths(f"{where}.features", checked.features, columns=head.weight.shape[1])
    if checked.labels is not None:
        require_labels_below(checked.labels, head.outputs)
    if checked.targets is not None and checked.outputs is None:
        checks.lengths(f"{where}.targets", checked.targets, columns=head.outputs)
    checks.one_device(**{f"{where}.features": checked.features, "head": head.weight})
    return checked


def names_of(tasks: object, learned: int) -> dict[str, Task]:
    """The tasks of a curriculum by name; those without one are counted on from the tasks that were learned."""
    if isinstance(tasks, Mapping):
        named = dict(tasks)
    elif isinstance(tasks, Sequence) and not isinstance(tasks, (str, bytes)):
        named = {f"task {number}": task for number, task in enumerate(tasks, start=learned + 1)}
    else:
        named = {}
    wrong = [type(x).__name__ for x in named.values() if not isinstance(x, Task)]
    wrong += [repr(name) for name in named if not isinstance(name, str) or not name]
    if not named or wrong:
        came = ", ".join(wrong) if wrong else type(tasks).__name__
        raise ArgumentError(f"tasks: expected a mapping or sequence of one ntkla.Task or more, got {came}.")
    return named


def require_names(what: str, names: Iterable[str], among: Iterable[str]) -> None:
    """Raises ArgumentError when some of the names are none of the others."""
    strangers, known = sorted(set(names) - set(among)), sorted(among)
    if strangers:
        raise ArgumentError(f"{what}: expected names among {known}, got {strangers}.")


def orders_of(names: tuple[str, ...], orders: Iterable[Sequence[str]]) -> list[tuple[str, ...]]:
    """The orders, each once; ArgumentError for one that does not name every task once."""
    found = [tuple(order) for order in orders]
    for order in found:
        if sorted(order) != sorted(names):
            raise ArgumentError(f"orders: expected each to name all of {list(names)} once, got {list(order)}.")
    if not found:
        raise ArgumentError("orders: expected one order or more, got none.")
    return list(dict.fromkeys(found))


def _require_shape(where: str, moments: TaskMoments, head: LinearHead) -> None:
    features, bias = head.weight.shape[1], head.bias is not None
    if (moments.columns - moments.bias, moments.outputs, moments.bias) != (features, head.outputs, bias):
        raise ShapeError(
            f"{where}: expected moments of {features} features and {head.outputs} outputs, "
            f"{'with' if bias else 'without'} bias, as the head has; got {moments}."
        )
    checks.one_device(**{where: moments.normal.square.limbs, "head": head.weight})


def _probes(probes: object, task: Task | None, head: LinearHead, protected: bool) -> tuple[torch.Tensor, bool]:
    """The features of the probes, and whether they are samples of the task, each once at most."""
    if probes is None:
        if task is None and protected:
            raise ArgumentError(
                "probes: moments hold no samples to take protected modes from. Pass probes=features [n, F], or make "
                "the sequence with modes=0."
            )
        return (head.weight[:1], False) if task is None else (task.features, True)
    if not isinstance(probes, torch.Tensor):
        raise DtypeError(f"probes: expected a torch.Tensor, of rows or of features, got {type(probes).__name__}.")
    if probes.dtype not in checks.INTEGERS:
        features = checks.matrix("probes", probes, columns=head.weight.shape[1])
        checks.one_device(probes=features, head=head.weight)
        return features, False
    if task is None:
        raise ArgumentError("probes: moments hold no samples whose rows could be named. Pass features [n, F].")
    rows = probes.to(device=task.features.device, dtype=torch.int64)
    samples = task.features.shape[0]
    if rows.ndim != 1 or not rows.numel() or int(rows.min()) < 0 or int(rows.max()) >= samples:
        raise ArgumentError(f"probes: expected the numbers of one row or more, 0 to {samples - 1}, one dimension.")
    if len(set(rows.tolist())) < rows.numel():
        raise ArgumentError("probes: expected each row once at most, got one twice or more.")
    return task.features[rows], True
