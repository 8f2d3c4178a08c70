"""A head that learns one task after another in closed form, and can say beforehand where a curriculum ends."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

import torch

from ntkla.forgetting.descent.training import Training
from ntkla.forgetting.heads import LinearHead
from ntkla.forgetting.sequences.carried import Carried
from ntkla.forgetting.sequences.curriculum import CurriculumForecast, OrderForecasts, Watch
from ntkla.forgetting.sequences.learned import Kept, LearnedTask, Prepared
from ntkla.forgetting.sequences.memory import Memory
from ntkla.forgetting.sequences.moments import TaskMoments
from ntkla.forgetting.sequences.preparing import (
    anchored,
    names_of,
    orders_of,
    prepared,
    require_fitting,
    require_names,
)
from ntkla.forgetting.sequences.settings import Settings
from ntkla.forgetting.tasks import Task
from ntkla.linalg import checks
from ntkla.linalg.errors import ArgumentError

Progress = Callable[[int, int], None]
# Beyond four tasks there are more orders than a person reads.
_ALL_ORDERS = 4


class TaskSequence(Memory):
    """Carries a linear head through any number of tasks, in memory that does not grow with them.

    Task t is learned by its closed form: the minimiser of

        1/2 ||Phi_t W^T - Y_t||_D^2 + ridge/2 ||W - W_{t-1}||^2 + weight_decay/2 ||W||^2
            + sum over earlier tasks i of  weight / (C k_i) ||U_i^T (Phi_i W^T - F_i)||_F^2,

    the last line the spectral penalty: U_i the leading modes of the kernel of task i's probes, F_i what the head said
    of them when it had just learned task i.  What is kept of all tasks together are four matrices, K x K and K x C
    twice (K features, bias included; C outputs): the normal equations of the penalties and of the tasks.  They are
    exact, in fixed point: neither the order of the samples nor the way they are cut into parts changes a bit.

    Args:
        head: the head before the first task; `ntkla.LinearHead(torch.zeros(C, F), torch.zeros(C))` to start from zero.
        ridge: absolute, > 0, the same for every task; pulls towards the head as it stands before the task.
        weight: of the spectral penalty, >= 0.
        modes: k, how many modes of each task's probes are protected, each for all outputs; 0 for none.
        penalize_bias: whether ridge and weight decay apply to the bias as to any weight.
        weight_decay: absolute, >= 0, pulls towards zero.
        training: None for the optimum of each task, or `GradientDescent` / `GradientFlow` for training that stops
            early, with a fresh optimiser for each.
        tol: a head's relative bound up to which its status is certified, default 1e-10.

    Raises:
        ArgumentError, RidgeError

    Heads carry a bound of their distance to those of exact arithmetic from the first task on (derived in `step.py`).
    Deterministic: the sums to the last bit on any machine, the heads for fixed versions and thread count.
    """

    def __init__(
        self,
        head: LinearHead,
        *,
        ridge: float,
        weight: float = 1.0,
        modes: int = 0,
        penalize_bias: bool = True,
        weight_decay: float = 0.0,
        training: Training | None = None,
        tol: float | None = None,
    ) -> None:
        settings = Settings.checked(
            ridge=ridge,
            weight=weight,
            modes=modes,
            penalize_bias=penalize_bias,
            weight_decay=weight_decay,
            training=training,
            tol=tol,
        )
        self._carried = Carried.begin(checks.instance("head", head, LinearHead), settings)
        self._kept: dict[str, Kept] = {}

    def learn(
        self,
        task: Task | TaskMoments,
        name: str | None = None,
        probes: torch.Tensor | None = None,
        *,
        keep: bool = False,
    ) -> LearnedTask:
        """Learns a task, then remembers it by its sums and its protected modes; its samples are let go.

        Args:
            task: with targets for all outputs; or the `TaskMoments` of one, summed up elsewhere.
            name: as it is called from now on; "task 1", "task 2", ... when None.
            probes: what its modes are of: integers, the rows of the task's own samples; or features [n, F]; None for
                all of its samples.  With moments, features are needed as soon as modes are protected.
            keep: whether to keep the samples, so that `drift(name)` can be asked later and forecasts tell of the task.

        Raises:
            ArgumentError, ShapeError, DtypeError, DeviceError, LabelError, MemoryEstimateError: the sequence then is
                as it was.

        Cost: `TaskMoments.of`, the modes of the probes, and K^3 / 3 + 300 K^2 C operations.
        """
        called = self._new_name(name)
        if checks.flag("keep", keep) and not isinstance(task, Task):
            raise ArgumentError("keep: expected an ntkla.Task whose samples can be kept, got moments.")
        found = prepared(called, task, probes, self._carried.settings, self.head)
        self._carried = self._carried.after(found)
        if keep and found.task is not None:
            self._kept[called] = Kept(found.task, self.current.predict(found.task.features))
        return self.tasks[-1]

    def forecast(
        self,
        tasks: Mapping[str, Task] | Sequence[Task],
        *,
        tests: Mapping[str, Task] | None = None,
        probes: Mapping[str, torch.Tensor] | None = None,
    ) -> CurriculumForecast:
        """What learning these tasks in this order would do to each of them, and to those that were kept.

        Args:
            tasks: by name, or in a row.
            tests: by name, the samples that accuracies and drifts are told of; a task that is not named here is judged
                by its own.  Names that are no tasks are looked at as well.
            probes: by name, as for `learn`.

        The sequence is left as it is.  Raises and costs what `learn` does for every task.
        """
        named = self._named(tasks)
        ready = self._prepared(named, probes, self._carried.settings)
        return self._carried.forecast(ready.values(), self._watch(named, tests))

    def forecast_orders(
        self,
        tasks: Mapping[str, Task] | Sequence[Task],
        orders: Iterable[Sequence[str]] | None = None,
        *,
        tests: Mapping[str, Task] | None = None,
        probes: Mapping[str, torch.Tensor] | None = None,
        progress: Progress | None = None,
    ) -> OrderForecasts:
        """`forecast` for the same tasks in several orders; what does not depend on the order is computed once.

        Args:
            tasks, tests, probes: as for `forecast`.
            orders: the names of all tasks each; None for all orders of up to four tasks, and of more for the one given,
                its reverse, and those that begin with another task and go on in turn.
            progress: called as `progress(done, total)`, counting orders.

        Raises:
            ArgumentError: an order that does not name every task once.  Else as `forecast`.
        """
        named = self._named(tasks)
        wanted = orders_of(tuple(named), _orders(tuple(named)) if orders is None else orders)
        ready = self._prepared(named, probes, self._carried.settings)
        found = {}
        for order in wanted:
            found[order] = self._carried.forecast([ready[name] for name in order], self._watch(named, tests))
            if progress is not None:
                progress(len(found), len(wanted))
        return OrderForecasts(found)

    def forecast_modes(
        self,
        tasks: Mapping[str, Task] | Sequence[Task],
        modes: Sequence[int],
        weights: Sequence[float] | None = None,
        *,
        tests: Mapping[str, Task] | None = None,
        probes: Mapping[str, torch.Tensor] | None = None,
        progress: Progress | None = None,
    ) -> dict[int, CurriculumForecast]:
        """`forecast` for several numbers of protected modes, by that number: how many a curriculum needs.

        Args:
            tasks, tests, probes: as for `forecast`.
            modes: k, in place of those of the sequence, each >= 0 and once.
            weights: of the penalty, one for each k; None for C k / 2, with which a protected direction counts as much
                as in the probes' own loss.
            progress: called as `progress(done, total)`, counting numbers of modes.

        Raises:
            ArgumentError: a k twice, or another number of weights.  Else as `forecast`.
        """
        ks = [checks.integer("modes", k, least=0) for k in modes]
        if not ks or len(set(ks)) < len(ks):
            raise ArgumentError(f"modes: expected one number or more, each once, got {list(modes)}.")
        given = [self.head.outputs * k / 2 for k in ks] if weights is None else list(weights)
        if len(given) != len(ks):
            raise ArgumentError(f"weights: expected one for each of {ks}, got {len(given)}.")
        named, found = self._named(tasks), {}
        first = self._prepared(named, probes, self._carried.settings.protecting(0, 0.0))
        for k, weight in zip(ks, given, strict=True):
            settings = self._carried.settings.protecting(k, weight)
            rows = {} if probes is None else probes
            ready = [
                anchored(name, one.task, one.moments, rows.get(name), settings, self.head)
                for name, one in first.items()
            ]
            found[k] = replace(self._carried, settings=settings).forecast(ready, self._watch(named, tests))
            if progress is not None:
                progress(len(found), len(ks))
        return found

    def _new_name(self, name: str | None) -> str:
        names = {task.name for task in self.tasks}
        if name is None:
            return next(n for n in (f"task {i}" for i in itertools.count(len(self.tasks) + 1)) if n not in names)
        if not isinstance(name, str) or not name:
            raise ArgumentError(f"name: expected a text, got {name!r}.")
        if name in names:
            raise ArgumentError(f"name: {name!r} has been learned already. Parts of one task are merged before.")
        return name

    def _named(self, tasks: object) -> dict[str, Task]:
        named = names_of(tasks, len(self.tasks))
        for name in named:
            self._new_name(name)
        return named

    def _prepared(
        self, named: dict[str, Task], probes: Mapping[str, torch.Tensor] | None, settings: Settings
    ) -> dict[str, Prepared]:
        given, head = {} if probes is None else dict(probes), self.head
        require_names("probes", given, named)
        return {name: prepared(name, task, given.get(name), settings, head, where=name) for name, task in named.items()}

    def _watch(self, named: dict[str, Task], tests: Mapping[str, Task] | None) -> Watch:
        given = {} if tests is None else dict(tests)
        for name, task in given.items():
            require_fitting(f"tests[{name!r}]", task, self.head)
        kept = {name: one for name, one in self._kept.items() if name not in given}
        own = {name: one.task for name, one in kept.items()}
        watched = {**own, **{name: given.get(name, task) for name, task in named.items()}}
        return Watch({**watched, **given}, {name: one.learned for name, one in kept.items()})


def _orders(names: tuple[str, ...]) -> list[tuple[str, ...]]:
    if len(names) <= _ALL_ORDERS:
        return list(itertools.permutations(names))
    return [names, names[::-1], *(names[i:] + names[:i] for i in range(1, len(names)))]
