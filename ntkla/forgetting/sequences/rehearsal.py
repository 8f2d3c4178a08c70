"""Tasks that a sequence may learn, gone through without learning them: in one order, in several, with other modes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from ntkla.forgetting.heads import LinearHead
from ntkla.forgetting.sequences.carried import Carried
from ntkla.forgetting.sequences.curriculum import CurriculumForecast, OrderForecasts, Watch
from ntkla.forgetting.sequences.learned import Kept, Prepared
from ntkla.forgetting.sequences.penalty import Penalty, one_unit
from ntkla.forgetting.sequences.preparing import (
    anchored,
    by_name,
    new_tasks,
    orders_of,
    prepared,
    require_fitting,
    several,
)
from ntkla.forgetting.sequences.settings import Settings
from ntkla.forgetting.tasks import Task
from ntkla.linalg import checks
from ntkla.linalg.errors import ArgumentError

Tasks = Mapping[str, Task] | Sequence[Task]
Tests = Mapping[str, Task] | None
Probes = Mapping[str, torch.Tensor] | None
Orders = Iterable[Sequence[str]] | None
Progress = Callable[[int, int], None] | None


@dataclass(frozen=True, eq=False)
class Rehearsal:
    """Tasks, tests and probes by name, checked against the sequence as it stands.

    Attributes:
        carried: the sequence before them.
        tasks: those that it may learn.
        probes: for some of them.
        watched: the samples that accuracies and drifts are told of.
        kept: of the tasks before, those that are watched too.
    """

    carried: Carried
    tasks: Mapping[str, Task]
    probes: Mapping[str, torch.Tensor]
    watched: Mapping[str, Task]
    kept: Mapping[str, Kept]

    @classmethod
    def of(cls, carried: Carried, kept: Mapping[str, Kept], tasks: object, tests: object, probes: object) -> Rehearsal:
        """Raises ArgumentError, ShapeError, DeviceError or LabelError for what does not fit."""
        named = new_tasks(tasks, carried.tasks)
        rows, head = by_name("probes", probes, named), carried.current.head
        judged = {
            name: require_fitting(f"tests[{name!r}]", task, head) for name, task in by_name("tests", tests).items()
        }
        olds = {name: one for name, one in kept.items() if name not in judged}
        watched = {name: one.task for name, one in olds.items()}
        watched |= {name: judged.get(name, task) for name, task in named.items()}
        return cls(carried, named, rows, {**watched, **judged}, olds)

    def forecast(self) -> CurriculumForecast:
        """In the order in which they are given."""
        return self._through(self.carried, self._prepared(self.carried.settings).values())

    def orders(self, orders: object, progress: Progress) -> OrderForecasts:
        """In these orders; what does not depend on the order is computed once."""
        wanted = orders_of(tuple(self.tasks), orders)
        checks.progress(progress, "done and total")
        ready = self._prepared(self.carried.settings)
        found: dict[tuple[str, ...], CurriculumForecast] = {}
        for order in wanted:
            found[order] = self._through(self.carried, [ready[name] for name in order])
            if progress is not None:
                progress(len(found), len(wanted))
        return OrderForecasts(found)

    def modes(
        self, modes: object, strength: object, weights: object, progress: Progress
    ) -> dict[int, CurriculumForecast]:
        """With so many protected modes each, in place of those of the sequence."""
        penalties = _penalties(self.carried.settings.penalty, modes, strength, weights)
        checks.progress(progress, "done and total")
        head, found = self.head, {}
        first = self._prepared(self.carried.settings.protecting(Penalty.checked(0)))
        for penalty in penalties:
            settings = self.carried.settings.protecting(penalty)
            ready = [
                anchored(name, one.task, one.moments, self.probes.get(name), settings, head)
                for name, one in first.items()
            ]
            found[penalty.modes] = self._through(replace(self.carried, settings=settings), ready)
            if progress is not None:
                progress(len(found), len(penalties))
        return found

    @property
    def head(self) -> LinearHead:
        """The head before the tasks."""
        return self.carried.current.head

    def _prepared(self, settings: Settings) -> dict[str, Prepared]:
        return {
            name: prepared(name, task, self.probes.get(name), settings, self.head, where=name)
            for name, task in self.tasks.items()
        }

    def _through(self, carried: Carried, steps: Iterable[Prepared]) -> CurriculumForecast:
        before = [task.name for task in carried.tasks]
        watch = Watch(self.watched, {name: one.learned for name, one in self.kept.items()}, before)
        return carried.forecast(steps, watch)


def _penalties(own: Penalty, modes: object, strength: object, weights: object) -> list[Penalty]:
    """One for each number of modes: in the unit that is given, or in that of the sequence."""
    one_unit(strength=strength, weights=weights)
    ks = [checks.integer("modes", k, least=0) for k in several("modes", modes)]
    if len(set(ks)) < len(ks):
        raise ArgumentError(f"modes: expected each number once, got {ks}.")
    if weights is not None:
        given = several("weights", weights)
        if len(given) != len(ks):
            raise ArgumentError(f"weights: expected one for each of {ks}, got {len(given)}.")
        numbers = [checks.number("weights", weight) for weight in given]
        return [Penalty.checked(k, weight=weight) for k, weight in zip(ks, numbers, strict=True)]
    return [own.of_modes(k) if strength is None else Penalty.checked(k, strength) for k in ks]
