"""The arguments of a plan, checked before anything is computed."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from ntkla.forgetting.forecast import check_tasks, named_tasks
from ntkla.forgetting.heads import LinearHead
from ntkla.forgetting.learning import LOSSES
from ntkla.forgetting.planning.engine import MOST_POINTS
from ntkla.forgetting.planning.grid import Grid
from ntkla.forgetting.planning.problem import Problem
from ntkla.forgetting.shared_head import outputs_of
from ntkla.forgetting.softmax.cross_entropy_targets import checked_targets
from ntkla.forgetting.tasks import Task
from ntkla.linalg import checks
from ntkla.linalg.errors import ArgumentError, RidgeError, UnsupportedTrainingError
from ntkla.linalg.precision import PLAN_TOLERANCE


def checked_problem(
    old_tasks: object,
    new_task: object,
    head: object,
    grid: Grid,
    *,
    probes: object,
    old_tests: object,
    new_test: object,
    penalize_bias: object,
    loss: object,
    tol: object,
    progress: object,
) -> Problem:
    """The problem, when every argument is what it should be; a named error otherwise."""
    if checks.choice("loss", loss, LOSSES) == "cross_entropy":
        _require_optima(grid, penalize_bias)
    checks.progress(progress, "done and total")
    olds = named_tasks("old_tasks", old_tasks)
    new, kept = checks.instance("new_task", new_task, Task), checks.instance("head", head, LinearHead)
    check_tasks(olds, new, kept)
    test = None if new_test is None else _test("new_test", new_test, new, new, kept)
    problem = Problem(
        olds,
        _probes(probes, olds),
        new,
        _old_tests(old_tests, olds, new, kept),
        test,
        kept,
        checks.flag("penalize_bias", penalize_bias),
        PLAN_TOLERANCE if tol is None else checks.positive("tol", tol),
    )
    if loss == "cross_entropy":
        _require_entropy_targets(problem)
    checks.memory("the plan", memory_estimate(problem, grid), kept.weight.device)
    return problem


def _require_optima(grid: Grid, penalize_bias: object) -> None:
    """Raises for points that have no certified optimum under cross-entropy."""
    if grid.trainings != (None,):
        raise UnsupportedTrainingError(
            "steps: expected None alone with loss='cross_entropy': training that stops early has a closed form under "
            "squared loss only."
        )
    if min(grid.ridges) == 0:
        raise RidgeError("ridges: expected numbers > 0 with loss='cross_entropy', got 0: the optimum need not exist.")
    if penalize_bias is False and any(setting.protects for setting in grid.settings):
        raise ArgumentError("penalize_bias: expected True with weights above 0 and loss='cross_entropy', got False.")


def _require_entropy_targets(problem: Problem) -> None:
    """Raises for targets that cross-entropy has no value for, by the argument that they came in."""
    tasks = {"new_task": problem.new, "new_test": problem.new_test}
    tasks |= {f"old_tasks[{name!r}]": task for name, task in problem.olds.items()}
    tasks |= {f"old_tests[{name!r}]": task for name, task in problem.old_tests.items()}
    for name, task in tasks.items():
        if task is not None and task.targets is not None:
            checked_targets(task.targets, task.features.shape[0], None, f"{name}.targets")


def _old_tests(tests: object, olds: Mapping[str, Task], new: Task, head: LinearHead) -> dict[str, Task]:
    """Other samples of old tasks, by their names."""
    if tests is None:
        return {}
    if not isinstance(tests, Mapping) or not set(tests) <= set(olds):
        came = list(tests) if isinstance(tests, Mapping) else type(tests).__name__
        raise ArgumentError(f"old_tests: expected a mapping from names among {sorted(olds)} to tasks, got {came}.")
    return {name: _test(f"old_tests[{name!r}]", task, olds[name], new, head) for name, task in tests.items()}


def _test(name: str, task: object, trained: Task, new: Task, head: LinearHead) -> Task:
    """Samples of a task: the same outputs, and something to judge them by."""
    test = checks.instance(name, task, Task)
    if test.targets is None and test.labels is None:
        raise ArgumentError(f"{name}: expected labels or targets, got neither. Use Task.from_labels.")
    check_tasks({name: test}, new, head)
    if not torch.equal(outputs_of(test, head), outputs_of(trained, head)):
        raise ArgumentError(f"{name}: expected the outputs of the task that it tests, in its order, got others.")
    return test


def _probes(probes: object, olds: Mapping[str, Task]) -> dict[str, torch.Tensor]:
    """The features that are protected, by the names of their tasks."""
    if probes is None:
        return {}
    if not isinstance(probes, Mapping) or not set(probes) <= set(olds):
        came = list(probes) if isinstance(probes, Mapping) else type(probes).__name__
        raise ArgumentError(f"probes: expected a mapping from names in {sorted(olds)} to features or rows, got {came}.")
    return {name: _probe(f"probes[{name!r}]", given, name, olds[name].features) for name, given in probes.items()}


def _probe(where: str, given: object, name: str, own: torch.Tensor) -> torch.Tensor:
    """Features of probes of one task, or its own features in the rows that are numbered."""
    if isinstance(given, torch.Tensor) and given.dtype in checks.INTEGERS:
        return own[_rows(where, given, own)]
    features = checks.matrix(where, given, columns=own.shape[1])
    checks.one_dtype(**{where: features, f"{name}.features": own})
    checks.one_device(**{where: features, f"{name}.features": own})
    return features


def _rows(where: str, given: torch.Tensor, own: torch.Tensor) -> torch.Tensor:
    """The numbers of rows of a task's own features, int64 on their device."""
    checks.dense(where, given)
    checks.with_values(where, given)
    rows, samples = given.detach().to(device=own.device, dtype=torch.int64), own.shape[0]
    if rows.ndim != 1 or not rows.numel() or int(rows.min()) < 0 or int(rows.max()) >= samples:
        raise ArgumentError(f"{where}: expected the numbers of one row or more, 0 to {samples - 1}, one dimension.")
    if torch.unique(rows).numel() < rows.numel():
        raise ArgumentError(f"{where}: expected each row once at most, got one twice or more.")
    return rows


def memory_estimate(problem: Problem, grid: Grid) -> int:
    """Bytes at the peak, beside the inputs.

    Twelve squares (S, N, Q, R, slices, the joint sum, what `eigh` works in), one more for each set of outputs; the rows
    of Z; the basis of updates, their errors and what their filters are made of; what is kept of each sample, and a
    block of outputs.
    """
    k, c = problem.design.columns, problem.trained.shape[0]
    tasks = [*problem.olds.values(), *problem.old_tests.values(), problem.new]
    tasks += [] if problem.new_test is None else [problem.new_test]
    points = min(grid.each, MOST_POINTS)
    reduced = min(points, k)
    samples = sum(task.features.shape[0] * (5 + 3 * outputs_of(task, problem.head).shape[0]) for task in tasks)
    modes = max(setting.modes for setting in grid.settings)
    rows = sum(min(modes, k, task.features.shape[0]) for task in problem.olds.values()) * k
    return 8 * (14 * k * k + 2 * rows + 3 * k * c * reduced + 12 * points * k + samples + 12 * 2**21 + 10 * len(grid))
