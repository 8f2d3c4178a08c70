"""The tasks and heads of a command: read from files, checked against each other, moved to a device."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import torch

from ntkla.app.command_line.notation import FIT, for_each, numbers
from ntkla.app.command_line.task_options import TaskOptions
from ntkla.app.failures import before, printable
from ntkla.app.files.reading import read_head, read_task
from ntkla.app.files.task_file import TaskFile
from ntkla.app.reports.fitted import fitted_head
from ntkla.forgetting.heads import LinearHead
from ntkla.forgetting.tasks import Task
from ntkla.linalg.errors import ArgumentError, DeviceError, DtypeError, ShapeError


@dataclasses.dataclass(frozen=True, eq=False)
class Files:
    """What was named, as its files hold it; nothing but headers and the heads has been read.

    Attributes:
        olds: the old tasks by name, in the order given.
        new: the new task.
        head, after: the head before the training, and the one after it when given.
    """

    olds: dict[str, TaskFile]
    new: TaskFile
    head: LinearHead
    after: LinearHead | None


@dataclasses.dataclass(frozen=True, eq=False)
class Tasks:
    """The same as the library takes it: samples selected, features checked, all on one device.

    Attributes:
        olds, new, head, after: as in `Files`.
        rows: of each old task the rows of its file that were selected, int64; None for all.
    """

    olds: dict[str, Task]
    rows: dict[str, torch.Tensor | None]
    new: Task
    head: LinearHead
    after: LinearHead | None


def read(options: TaskOptions) -> Files:
    """Reads headers and heads, or fits a head, and checks that features and heads fit each other.

    Raises:
        FileError, DataError, DtypeError, ShapeError, NonFiniteError, ScaleError, DeviceError, ArgumentError
    """
    device = device_named(options.device)
    olds, new = [_moved(read_task(old), device) for old in options.old], _moved(read_task(options.new), device)
    if options.head == FIT and not Path(FIT).exists():
        head = fitted_head(olds, new, options.old_classes, cross_entropy=options.cross_entropy)
    else:
        head = _head(read_head(options.head), device)
    after = None if options.after is None else _head(read_head(options.after), device)
    if after is not None:
        _check_after(str(options.after), head, after)
    for file in (*olds, new):
        _check_fit(file, options.head, head)
        if file.features.dtype != new.features.dtype:
            raise DtypeError(
                f"expected one type of features, got {_dtype(file)} in {file.argument} and {_dtype(new)} in "
                f"{new.argument}. Write one of them again: numpy.save('converted.npy', x.astype('float64'))."
            )
    return Files(dict(zip(_names(olds, options.name), olds, strict=True)), new, head, after)


def tasks(files: Files, options: TaskOptions, *, old_targets: bool = False) -> Tasks:
    """Makes the tasks: outputs named, samples selected by their labels, every array checked.

    Args:
        files: what was read.
        options: as typed.
        old_targets: whether the old tasks need targets as well.

    Raises:
        ArgumentError, LabelError, ShapeError, NonFiniteError, ScaleError, MemoryEstimateError

    Cost: one pass over the features; a copy of those that are selected by class.
    """
    outputs = for_each("--old-outputs", options.old_outputs or (), len(files.olds))
    classes = for_each("--old-classes", options.old_classes or (), len(files.olds))
    olds: dict[str, Task] = {}
    rows: dict[str, torch.Tensor | None] = {}
    for (name, file), used, kept in zip(files.olds.items(), outputs, classes, strict=True):
        olds[name], rows[name] = _task(file, files.head, ("--old", used, kept), need_targets=old_targets)
    new, _ = _task(files.new, files.head, ("--new", options.new_outputs, options.new_classes), need_targets=True)
    return Tasks(olds, rows, new, files.head, files.after)


def held_out(
    files: Files, options: TaskOptions, old_tests: Sequence[str] | None, new_test: str | None
) -> tuple[dict[str, Task], Task | None]:
    """Other samples of OLD, by name, and of NEW, with the outputs and classes that were chosen for each.

    Raises:
        As `read` and `tasks`.
    """

    def task(argument: str, which: str, used: str | None, kept: str | None) -> Task:
        file = _moved(read_task(argument), files.head.weight.device)
        _check_fit(file, options.head, files.head)
        return _task(file, files.head, (which, used, kept), need_targets=True)[0]

    count = len(files.olds)
    if old_tests and len(old_tests) != count:
        raise ArgumentError(f"--old-test: expected one for each of {count} OLD, got {len(old_tests)}.")
    outputs = for_each("--old-outputs", options.old_outputs or (), count)
    classes = for_each("--old-classes", options.old_classes or (), count)
    olds = {
        name: task(argument, "--old", used, kept)
        for name, argument, used, kept in zip(files.olds, old_tests or (), outputs, classes, strict=False)
    }
    if new_test is None:
        return olds, None
    return olds, task(new_test, "--new", options.new_outputs, options.new_classes)


def device_named(name: str) -> torch.device:
    """The device of that name, when this machine has it and it computes in float64; DeviceError otherwise."""
    try:
        device = torch.device(name)
        torch.zeros(1, dtype=torch.float64, device=device).item()
    except (RuntimeError, AssertionError, TypeError, NotImplementedError, ImportError) as cause:
        # The first sentence: PyTorch goes on with what only its developers need.
        reason = str(cause).partition("\n")[0].partition(". ")[0] or type(cause).__name__
        raise DeviceError(
            f"--device: {name!r} cannot be used here ({reason}). `ntkla info` lists the devices; 'cpu' always works."
        ) from cause
    return device


def _task(
    file: TaskFile, head: LinearHead, typed: tuple[str, str | None, str | None], *, need_targets: bool
) -> tuple[Task, torch.Tensor | None]:
    """One task and the rows that were selected; `typed` is "--old" or "--new" with its outputs and classes as typed."""
    which, used, kept = typed
    outputs = None if used is None else numbers(f"{which}-outputs", used, head.outputs)
    classes = None if kept is None else numbers(f"{which}-classes", kept, head.outputs)
    rows = None
    if classes is not None:
        # Before the outputs are looked at: only the labels that are selected must be among them.
        with before(f"{which}-classes: {file.argument}"):
            file, rows = file.select(classes)
    return file.task(head.outputs, outputs=outputs, need_targets=need_targets), rows


def _moved(file: TaskFile, device: torch.device) -> TaskFile:
    arrays = {role: getattr(file, role).to(device) for role in file.paths}
    return dataclasses.replace(file, name=printable(file.name), **arrays)


def _head(head: LinearHead, device: torch.device) -> LinearHead:
    return LinearHead(head.weight.to(device), None if head.bias is None else head.bias.to(device))


def _check_fit(file: TaskFile, argument: str, head: LinearHead) -> None:
    outputs, features = head.weight.shape
    found = file.features.shape[1]
    if found == features:
        return
    turned = f" It looks transposed: save weight.T, [{features}, {outputs}]." if found == outputs else ""
    raise ShapeError(
        f"{argument}: the weight is [{outputs}, {features}], {outputs} outputs of {features} features each, and "
        f"{file.argument} holds {found} features a sample.{turned or ' Features and head must be of one backbone.'}"
    )


def _check_after(argument: str, before: LinearHead, after: LinearHead) -> None:
    """Raises before the long part what `ntkla.post_mortem` would raise at its end."""
    shape, expected = list(after.weight.shape), list(before.weight.shape)
    if shape != expected:
        raise ShapeError(f"{argument}: expected a weight {expected}, as HEAD has, got {shape}. Name the same layer.")
    if (after.bias is None) != (before.bias is None):
        came, other = ("no bias", "one") if after.bias is None else ("a bias", "none")
        raise ArgumentError(f"{argument}: this head has {came}, and HEAD has {other}. Name the same layer.")


def _dtype(file: TaskFile) -> str:
    return str(file.features.dtype).removeprefix("torch.")


def _names(files: Sequence[TaskFile], given: Sequence[str] | None) -> list[str]:
    """The names given; else the first of these that tell all files apart: stem, folder/stem, stem with a number."""
    if given is not None:
        return [printable(name) for name in given]
    stems = [file.name for file in files]
    folders = [printable(f"{file.paths['features'].parent.name}/{file.name}") for file in files]
    counted = [f"{stem} {number}" for number, stem in enumerate(stems, start=1)]
    return next(names for names in (stems, folders, counted) if len(set(names)) == len(names))
