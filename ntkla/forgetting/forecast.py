"""One call from old tasks, a new task and a head to everything that can be said about forgetting before training."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import overload

from ntkla.forgetting.descent.training import Training
from ntkla.forgetting.heads import LinearHead
from ntkla.forgetting.learning import Learning
from ntkla.forgetting.penalties.protection import Penalty, Protection, protected_tasks
from ntkla.forgetting.penalties.spectral_penalty import SpectralPenalty
from ntkla.forgetting.reports.report import ForgettingReport, ForgettingReports
from ntkla.forgetting.reports.task_report import Wanted, report_of
from ntkla.forgetting.shared_head import drifts_of_tasks, outputs_of
from ntkla.forgetting.spectrum.ranks import share_between_0_and_1
from ntkla.forgetting.tasks import Task, require_labels_below, require_outputs
from ntkla.linalg import checks
from ntkla.linalg.eigen.feature_modes import FeatureModes
from ntkla.linalg.errors import ArgumentError

Olds = Task | Mapping[str, Task] | Sequence[Task]
Modes = FeatureModes | Mapping[str, FeatureModes]
Penalties = Penalty | Mapping[str, SpectralPenalty | Protection]


@overload
def forecast(
    old: Task,
    new: Task,
    head: LinearHead,
    *,
    ridge: float,
    penalize_bias: bool = True,
    weight_decay: float = 0.0,
    training: Training | None = None,
    penalty: Penalties | None = None,
    loss: str = "squared",
    modes: FeatureModes | None = None,
    q: float = 0.9,
    top: int = 10,
    route: str = "auto",
    tol: float | None = None,
    strict: bool = False,
) -> ForgettingReport: ...


@overload
def forecast(
    old: Mapping[str, Task] | Sequence[Task],
    new: Task,
    head: LinearHead,
    *,
    ridge: float,
    penalize_bias: bool = True,
    weight_decay: float = 0.0,
    training: Training | None = None,
    penalty: Penalties | None = None,
    loss: str = "squared",
    modes: Mapping[str, FeatureModes] | None = None,
    q: float = 0.9,
    top: int = 10,
    route: str = "auto",
    tol: float | None = None,
    strict: bool = False,
) -> ForgettingReports: ...


def forecast(
    old: Olds,
    new: Task,
    head: LinearHead,
    *,
    ridge: float,
    penalize_bias: bool = True,
    weight_decay: float = 0.0,
    training: Training | None = None,
    penalty: Penalties | None = None,
    loss: str = "squared",
    modes: Modes | None = None,
    q: float = 0.9,
    top: int = 10,
    route: str = "auto",
    tol: float | None = None,
    strict: bool = False,
) -> ForgettingReport | ForgettingReports:
    """Forecasts what training the head on the new task does to the old ones.

    Args:
        old: the task to be remembered; with labels the report has accuracies.  Or several: a mapping from names to
            tasks, or a sequence, whose tasks are named "old 1", "old 2", ...; the update is solved once for all.
        new: the task to be trained on, with targets; same number of features, dtype and device.  Outputs of the head
            that it does not use (`Task.outputs`) are not trained; its `weights` count in the loss.
        head: the head as it stands before, with the outputs of all tasks; its bias, when it has one, is trained too.
        ridge: absolute, >= 0, pulls towards the old head.
        penalize_bias: whether ridge and weight decay apply to the bias as to any weight.
        weight_decay: absolute, >= 0, pulls towards zero.
        training: None for the optimum, or `GradientDescent` / `GradientFlow` for training that stops early.
        penalty: what is added to the loss to protect old tasks, in a mapping from their names: a `SpectralPenalty`,
            whose probes are that task's samples in their order, or a `Protection`, whose probes have features of their
            own.  One of these, or a sequence, where the names play no part.  `columns` of a penalty are outputs of the
            head; a penalty without is of all, or of those that its task uses.  Its reference is compared with what the
            head says about the probes.  Needs `penalize_bias`.
        loss: `"squared"`, or `"cross_entropy"` of the softmax over the outputs that the new task uses, its targets >= 0
            (one-hot, smoothed or soft; the total of a row weighs its sample): the optimum of `softmax_regression`, as
            for `predict_forgetting`.
        modes: the old features' modes when they are known: the `modes` of an earlier report, or a mapping from names.
        q: the share for k_G and k*.
        top: how many of the samples that drift most are told one by one.
        route, tol, strict: as for `predict_forgetting`.

    Returns:
        ForgettingReport for one task, ForgettingReports for several.  Inputs are detached.

    Raises:
        ArgumentError, ShapeError, DtypeError, DeviceError, LabelError, RidgeError, ScaleError, MemoryEstimateError,
        TrainingDivergesError, UnsupportedTrainingError, NotCertifiedError

    Cost: that of `predict_forgetting`, `6 n_B F C` for the residual, and for each old task that of its modes unless
    they are given.  Deterministic but for the times.
    """
    olds = named_tasks("old", old)
    check_tasks(olds, new, head)
    learning = Learning.checked(
        ridge=ridge,
        penalize_bias=penalize_bias,
        weight_decay=weight_decay,
        training=training,
        route=route,
        tol=tol,
        strict=strict,
        loss=loss,
        protected=protected_tasks(penalty, olds, head.outputs),
    )
    wanted = Wanted(share_between_0_and_1(q), checks.integer("top", top, least=0))
    known = _named_modes({next(iter(olds)): modes} if isinstance(old, Task) else modes, olds)
    seconds: dict[str, float] = {}
    with _timed("total", seconds):
        with _timed("drift", seconds):
            found = drifts_of_tasks(list(olds.values()), new, head, learning)
        with _timed("modes", seconds):
            reports = {
                name: report_of(task, head, one, learning, known.get(name), wanted, seconds)
                for (name, task), one in zip(olds.items(), found, strict=True)
            }
    if isinstance(old, Task):
        return next(iter(reports.values()))
    told = tuple(one.told for one in learning.protected)
    return ForgettingReports(reports, str(learning), seconds, told)


def named_tasks(argument: str, old: object) -> dict[str, Task]:
    """The old tasks of a caller's argument by name, at least one."""
    if isinstance(old, Task):
        return {"old": old}
    if isinstance(old, Mapping):
        named = dict(old)
    elif isinstance(old, Sequence) and not isinstance(old, (str, bytes)):
        named = {f"old {number}": task for number, task in enumerate(old, start=1)}
    else:
        named = {}
    if not all(isinstance(name, str) for name in named):
        raise ArgumentError(f"{argument}: expected the names of tasks as strings, got {list(named)}.")
    wrong = [type(x).__name__ for x in named.values() if not isinstance(x, Task)]
    if not named or wrong:
        came = ", ".join(wrong) if wrong else type(old).__name__
        raise ArgumentError(f"{argument}: expected an ntkla.Task, or a mapping or sequence of one or more, got {came}.")
    return named


def _named_modes(modes: object, olds: Mapping[str, Task]) -> Mapping[str, FeatureModes | None]:
    """The modes that are known, by the names of their tasks."""
    if modes is None:
        return {}
    if not isinstance(modes, Mapping) or not set(modes) <= set(olds):
        came = list(modes) if isinstance(modes, Mapping) else type(modes).__name__
        raise ArgumentError(f"modes: expected a mapping from names among {sorted(olds)}, got {came}.")
    return modes


def check_tasks(olds: Mapping[str, Task], new: object, head: object) -> None:
    """Raises a named error where the tasks do not fit the head, or each other."""
    new, head = checks.instance("new", new, Task), checks.instance("head", head, LinearHead)
    if new.targets is None:
        raise ArgumentError("new: expected a task with targets to train on. Use Task.from_labels, or pass targets=.")
    # The tasks have checked their entries; a second look would read all features again.
    for name, task in [*olds.items(), ("new", new)]:
        checks.lengths(f"{name}.features", task.features, columns=head.weight.shape[1])
        if task.outputs is not None:
            require_outputs(f"{name}.outputs", task.outputs, head.outputs)
        elif task.targets is not None:
            checks.lengths(f"{name}.targets", task.targets, columns=head.outputs)
        if task.labels is not None:
            require_labels_below(task.labels, head.outputs)
        checks.one_dtype(**{f"{name}.features": task.features, "the new features": new.features})
        checks.one_device(**{f"{name}.features": task.features, "the new features": new.features, "head": head.weight})
    entries = sum(task.features.shape[0] * outputs_of(task, head).shape[0] for task in olds.values())
    checks.memory("the forecast of all old predictions", memory_estimate(entries), head.weight.device)


def memory_estimate(entries: int) -> int:
    """Bytes for so many old predictions: six arrays in the reports, and three more while classes are compared."""
    return 8 * 9 * entries


@contextmanager
def _timed(name: str, seconds: dict[str, float]) -> Iterator[None]:
    began = time.perf_counter()
    yield
    seconds[name] = seconds.get(name, 0.0) + time.perf_counter() - began
