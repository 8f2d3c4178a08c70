"""From a task as a caller gives it to what a sequence learns: checks, sums and protected modes."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch

from ntkla.forgetting.heads import LinearHead
from ntkla.forgetting.sequences.anchor import Anchor
from ntkla.forgetting.sequences.learned import Kept, LearnedTask, Prepared
from ntkla.forgetting.sequences.moments import TaskMoments
from ntkla.forgetting.sequences.settings import Settings
from ntkla.forgetting.tasks import Task, require_labels_below
from ntkla.linalg import checks
from ntkla.linalg.design import DesignMatrix
from ntkla.linalg.errors import ArgumentError, DtypeError, ShapeError

# Beyond four tasks there are more orders than a person reads.
_ALL_ORDERS = 4


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
    features, among = _probes(probes, samples, head, settings.penalty.wanted > 0)
    anchor = Anchor.of(DesignMatrix(features, head.bias is not None), settings.penalty, head.outputs)
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


def new_name(name: object, learned: Sequence[LearnedTask]) -> str:
    """The name of a task that is to be learned after these; "task 1", "task 2", ... when None."""
    names = {task.name for task in learned}
    if name is None:
        return next(n for n in (f"task {i}" for i in itertools.count(len(names) + 1)) if n not in names)
    if not isinstance(name, str) or not name:
        raise ArgumentError(f"name: expected a text, got {name!r}.")
    if name in names:
        raise ArgumentError(f"name: {name!r} has been learned already. Parts of one task are merged before.")
    return name


def new_tasks(tasks: object, learned: Sequence[LearnedTask]) -> dict[str, Task]:
    """The tasks of a curriculum by name; those without one are counted on from the tasks that were learned."""
    named: dict[object, object] = {}
    if isinstance(tasks, Mapping):
        named = dict(tasks)
    elif isinstance(tasks, Sequence) and not isinstance(tasks, (str, bytes)):
        named = {f"task {number}": task for number, task in enumerate(tasks, start=len(learned) + 1)}
    wrong = [type(x).__name__ for x in named.values() if not isinstance(x, Task)]
    wrong += [repr(name) for name in named if not isinstance(name, str) or not name]
    if not named or wrong:
        came = ", ".join(wrong) if wrong else type(tasks).__name__
        raise ArgumentError(f"tasks: expected a mapping or sequence of one ntkla.Task or more, got {came}.")
    return {new_name(name, learned): task for name, task in named.items() if isinstance(task, Task)}


def require_samples(task: object) -> None:
    """Raises ArgumentError for moments, whose samples are gone, where a task's samples are to be kept."""
    if isinstance(task, TaskMoments):
        raise ArgumentError("keep: expected an ntkla.Task whose samples can be kept, got moments.")


def kept_of(name: object, kept: Mapping[str, Kept], learned: Sequence[LearnedTask]) -> Kept:
    """What was kept of a task; ArgumentError when there is no such task, or its samples were let go."""
    found = kept.get(name) if isinstance(name, str) else None
    if found is None:
        known = [task.name for task in learned]
        what = "its samples were let go" if name in known else f"the sequence has learned {known}"
        raise ArgumentError(f"drift: {name!r}: {what}. Samples stay with learn(..., keep=True).")
    return found


def by_name(what: str, values: object, among: Iterable[str] | None = None) -> dict[str, Any]:
    """The values by name, none for None; ArgumentError for what is no mapping, or names that are not among these."""
    if values is None:
        return {}
    if not isinstance(values, Mapping):
        raise ArgumentError(f"{what}: expected a mapping by the names of tasks, or None, got {type(values).__name__}.")
    allowed = None if among is None else list(among)
    strangers = [x for x in values if not isinstance(x, str) or not x or not (allowed is None or x in allowed)]
    if strangers:
        known = "names" if allowed is None else f"names among {sorted(allowed)}"
        raise ArgumentError(f"{what}: expected {known}, got {', '.join(map(repr, strangers))}.")
    return dict(values)


def several(what: str, values: object) -> list[Any]:
    """The values as a list; ArgumentError for what holds none."""
    flat = isinstance(values, torch.Tensor) and values.ndim == 0
    if not isinstance(values, Iterable) or isinstance(values, (str, bytes)) or flat:
        raise ArgumentError(f"{what}: expected one or more in a row, such as a list, got {values!r}.")
    found = list(values)
    if not found:
        raise ArgumentError(f"{what}: expected one or more, got none.")
    return found


def orders_of(names: tuple[str, ...], orders: object) -> list[tuple[str, ...]]:
    """The orders, each once; ArgumentError for one that does not name every task once."""
    if orders is None:
        return _orders(names)
    found = several("orders", orders)
    for order in found:
        row = list(order) if isinstance(order, Sequence) and not isinstance(order, (str, bytes)) else []
        if not all(isinstance(name, str) for name in row) or sorted(row) != sorted(names):
            raise ArgumentError(f"orders: expected each to name all of {list(names)} in a row, once, got {order!r}.")
    return list(dict.fromkeys(map(tuple, found)))


def _orders(names: tuple[str, ...]) -> list[tuple[str, ...]]:
    if len(names) <= _ALL_ORDERS:
        return list(itertools.permutations(names))
    return [names, names[::-1], *(names[i:] + names[:i] for i in range(1, len(names)))]


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
    checks.dense("probes", probes)
    checks.with_values("probes", probes)
    rows = probes.to(device=task.features.device, dtype=torch.int64)
    samples = task.features.shape[0]
    if rows.ndim != 1 or not rows.numel() or int(rows.min()) < 0 or int(rows.max()) >= samples:
        raise ArgumentError(f"probes: expected the numbers of one row or more, 0 to {samples - 1}, one dimension.")
    if len(set(rows.tolist())) < rows.numel():
        raise ArgumentError("probes: expected each row once at most, got one twice or more.")
    return task.features[rows], True
