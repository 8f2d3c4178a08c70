"""One plan on its way: tasks, decompositions, tables that fill, and the time that it takes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeVar

import torch

from ntkla.forgetting.planning.columns import Table, before
from ntkla.forgetting.planning.effects import effects
from ntkla.forgetting.planning.engine import Engine
from ntkla.forgetting.planning.grid import Grid, Setting
from ntkla.forgetting.planning.joint import JointOptimum, JointSum, Standing, parts_for, tasks_of
from ntkla.forgetting.planning.leading_modes import LeadingModes, leading_modes
from ntkla.forgetting.planning.points import PlanPoints
from ntkla.forgetting.planning.problem import Group, Problem, gradient_of, groups
from ntkla.forgetting.planning.result import Plan
from ntkla.forgetting.planning.watched import Watched
from ntkla.forgetting.shared_head import outputs_of
from ntkla.linalg.errors import TrainingDivergesError
from ntkla.linalg.solve.normal import BoundedMatrix, normal_matrix

T = TypeVar("T")
Progress = Callable[[int, int], None]


@dataclass(eq=False)
class Run:
    """One plan.

    Attributes:
        problem, grid, progress: the arguments.
        watched, new, new_test: the tasks as they are judged.
        seconds: wall time of each part.
        done, total: decompositions.
    """

    problem: Problem
    grid: Grid
    progress: Progress | None
    watched: dict[str, Watched]
    new: Watched
    new_test: Watched | None
    seconds: dict[str, float] = field(default_factory=dict)
    done: int = 0
    total: int = 0

    @classmethod
    def of(cls, problem: Problem, grid: Grid, progress: Progress | None) -> Run:
        """Before anything but the predictions of the head as it stands is computed."""
        head = problem.head
        judged = {**problem.olds, **problem.old_tests}
        watched = {name: Watched.of(task, head) for name, task in judged.items()}
        test = None if problem.new_test is None else Watched.of(problem.new_test, head)
        return cls(problem, grid, progress, watched, Watched.of(problem.new, head), test)

    @property
    def all_watched(self) -> list[Watched]:
        """The new task, its test samples, and the old tasks."""
        return [self.new, *([] if self.new_test is None else [self.new_test]), *self.watched.values()]

    def tables(self, points: int) -> list[Table]:
        """An empty table for each of them."""
        return [Table.empty(watched, points) for watched in self.all_watched]

    def result(self) -> Plan:
        """Everything, from the tasks to the points; TrainingDivergesError where every point diverges."""
        with self._timed("total"):
            with self._timed("modes"):
                joint, protection, normal = self._tasks()
            covering = {name: outputs_of(self.problem.olds[name], self.problem.head) for name in protection}
            found = groups(self.problem.trained, covering)
            engine = Engine(self.problem, self.grid, protection, found, gradient_of(self.problem), normal)
            self.total += engine.steps + (joint is not None)
            tables = self.tables(len(self.grid))
            with self._timed("points"):
                bounds, limits = self._points(engine, tables)
            with self._timed("joint"):
                reference = None if joint is None else self._joint(joint)
        new, test, olds = self._named([table.columns for table in tables])
        points = PlanPoints(
            self.grid, self._kept(protection, found), new, test, olds, bounds, limits, self.problem.tolerance
        )
        return Plan(points, self._before(), reference, self.problem.tolerance, self.seconds)

    def _tasks(self) -> tuple[JointSum | None, dict[str, LeadingModes], BoundedMatrix]:
        """Each task's share of the joint optimum, what of it can be protected, and S of the new task."""
        problem, most = self.problem, max(setting.modes for setting in self.grid.settings)
        complete = all(task.targets is not None for task in problem.olds.values())
        joint = JointSum.empty(problem) if complete else None
        self.total = len(problem.olds) if most else 0
        protection: dict[str, LeadingModes] = {}
        for name, task in problem.olds.items():
            design = problem.design_of(task.features)
            plain = normal_matrix(design) if joint is not None and (most or task.weights is None) else None
            if joint is not None:
                weights = problem.weights_of(task)
                joint.add(name, normal_matrix(design, weights) if plain is None or weights is not None else plain)
            if most:
                own = name not in problem.probes
                held = design if own else problem.design_of(problem.probes[name])
                outputs = outputs_of(task, problem.head)
                protection[name] = leading_modes(held, outputs.shape[0], most, plain if own else None)
                self._advance()
        normal = normal_matrix(problem.design, problem.weights_of(problem.new))
        if joint is not None:
            joint.add(list(tasks_of(problem))[-1], normal)
        return joint, protection, normal

    def _points(self, engine: Engine, tables: Sequence[Table]) -> tuple[torch.Tensor, torch.Tensor]:
        """Fills the tables; bounds of the relative errors, and the largest stable learning rates where needed."""
        bounds, limits = (torch.full_like(tables[0].columns.drift, torch.inf) for _ in range(2))
        for shared in engine.batches():
            for batch in shared:
                for number, limit in batch.limits.items():
                    limits[number] = limit
                if batch.parts:
                    bounds[batch.points] = batch.relative
                    for table in tables:
                        parts = parts_for(table.watched, batch.parts)
                        table.fill(batch.points, effects(table.watched, parts, batch.points.shape[0]))
            self._advance()
        if bool(limits.isfinite().all()):
            limit = float(limits.max())
            raise TrainingDivergesError(
                f"lr: training diverges at every point of the grid; at most {limit!r} is stable somewhere. Lower lr, "
                "or add None (the optimum) to steps.",
                limit,
            )
        return bounds, limits

    def _joint(self, joint: JointSum) -> tuple[JointOptimum, ...]:
        ridges = self.grid.ridges
        tables = [Table.empty(watched.from_zero(), len(ridges)) for watched in self.all_watched]
        bounds = joint.solve(ridges, [table.watched for table in tables], tables)
        self._advance()
        found = []
        for number, ridge in enumerate(ridges):
            new, test, olds = self._named([table.columns.scores(number) for table in tables])
            found.append(JointOptimum(new, test, olds, ridge, float(bounds[number])))
        return tuple(found)

    def _before(self) -> Standing:
        new, test, olds = self._named([before(watched, effects(watched, [], 1)) for watched in self.all_watched])
        return Standing(new, test, olds)

    def _kept(self, protection: Mapping[str, LeadingModes], found: Sequence[Group]) -> dict[Setting, dict[str, int]]:
        felt = {name for group in found for name in group.members}
        return {
            setting: {
                name: protection[name].kept(setting.modes) if name in felt and setting.protects else 0
                for name in self.problem.olds
            }
            for setting in self.grid.settings
        }

    def _advance(self) -> None:
        self.done += 1
        if self.progress is not None:
            self.progress(self.done, self.total)

    def _named(self, found: Sequence[T]) -> tuple[T, T | None, dict[str, T]]:
        """What was found of `all_watched`: of the new task, of its test samples, and of the old tasks by name."""
        first = 1 if self.new_test is None else 2
        return found[0], found[1] if first == 2 else None, dict(zip(self.watched, found[first:], strict=True))

    @contextmanager
    def _timed(self, name: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self.seconds[name] = time.perf_counter() - began
