"""A head that learns one task after another in closed form, and can say beforehand where a curriculum ends."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from os import PathLike

import torch

from ntkla.forgetting.heads import LinearHead
from ntkla.forgetting.sequences.carried import Carried
from ntkla.forgetting.sequences.curriculum import CurriculumForecast, OrderForecasts, Watch, drift_size
from ntkla.forgetting.sequences.files import read_tensors, saved_in, write_tensors
from ntkla.forgetting.sequences.learned import Kept, LearnedTask, Prepared
from ntkla.forgetting.sequences.moments import TaskMoments
from ntkla.forgetting.sequences.preparing import names_of, orders_of, prepared, require_fitting, require_names
from ntkla.forgetting.sequences.saved import carried_of, state_of
from ntkla.forgetting.sequences.sequence_head import SequenceHead
from ntkla.forgetting.sequences.settings import Settings
from ntkla.forgetting.tasks import Task
from ntkla.linalg import checks
from ntkla.linalg.errors import ArgumentError
from ntkla.linalg.results import wrapped

# Beyond four tasks there are more orders than a person reads.
_ALL_ORDERS = 4


class TaskSequence:
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
        tol: float | None = None,
    ) -> None:
        settings = Settings.checked(
            ridge=ridge, weight=weight, modes=modes, penalize_bias=penalize_bias, weight_decay=weight_decay, tol=tol
        )
        self._carried = Carried.begin(checks.instance("head", head, LinearHead), settings)
        self._kept: dict[str, Kept] = {}

    @property
    def tasks(self) -> tuple[LearnedTask, ...]:
        """What has been learned, in order."""
        return self._carried.tasks

    @property
    def current(self) -> SequenceHead:
        """The head as it stands, with its bound."""
        return self._carried.current

    @property
    def head(self) -> LinearHead:
        """The head as it stands, float64."""
        return self.current.head

    @property
    def moments(self) -> TaskMoments:
        """Those of all tasks learned so far, together."""
        return self._carried.state.seen

    @property
    def nbytes(self) -> int:
        """Bytes that are remembered, kept samples aside."""
        return self._carried.nbytes()

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
        ready = self._prepared(named, probes)
        return self._carried.forecast(ready.values(), self._watch(named, tests))

    def forecast_orders(
        self,
        tasks: Mapping[str, Task] | Sequence[Task],
        orders: Iterable[Sequence[str]] | None = None,
        *,
        tests: Mapping[str, Task] | None = None,
        probes: Mapping[str, torch.Tensor] | None = None,
    ) -> OrderForecasts:
        """`forecast` for the same tasks in several orders; what does not depend on the order is computed once.

        Args:
            tasks, tests, probes: as for `forecast`.
            orders: the names of all tasks each; None for all orders of up to four tasks, and of more for the one given,
                its reverse, and those that begin with another task and go on in turn.

        Raises:
            ArgumentError: an order that does not name every task once.  Else as `forecast`.
        """
        named = self._named(tasks)
        wanted = orders_of(tuple(named), _orders(tuple(named)) if orders is None else orders)
        ready = self._prepared(named, probes)
        return OrderForecasts(
            {
                order: self._carried.forecast([ready[name] for name in order], self._watch(named, tests))
                for order in wanted
            }
        )

    def joint(self, ridge: float | None = None) -> SequenceHead:
        """The head trained on all tasks at once: the minimiser of the sum of all their losses, and one ridge.

        `1/2 sum_t ||Phi_t W^T - Y_t||_D^2 + ridge/2 ||W - W_0||^2 + weight_decay/2 ||W||^2`, with W_0 the head that the
        sequence began with: no penalty, no order, nothing forgotten.  The sums are exact: they depend on the samples
        alone, not on their order.

        Args:
            ridge: > 0; None for that of the sequence.

        Raises:
            ArgumentError: no task was learned yet.
            RidgeError

        Cost: K^3 / 3 + 300 K^2 C operations.
        """
        if not self.tasks:
            raise ArgumentError("joint: expected a sequence that has learned a task. Call learn first.")
        return self._carried.joint(ridge)

    def drift(self, name: str) -> tuple[float, float]:
        """What happened to a kept task's outputs since it was learned: root mean square, and the bound of its error.

        Raises:
            ArgumentError: no such task, or its samples were let go.
        """
        kept = self._kept.get(name)
        if kept is None:
            known = [task.name for task in self.tasks]
            what = "its samples were let go" if name in known else f"the sequence has learned {known}"
            raise ArgumentError(f"drift: {name!r}: {what}. Samples stay with learn(..., keep=True).")
        return drift_size(kept.learned, self.current.predict(kept.task.features))

    def merge(self, other: TaskSequence) -> TaskSequence:
        """A sequence that remembers what both do, with this one's head: sums and protected modes add up exactly.

        So `joint()` is that of all tasks of both, to the bit, and later tasks are kept from harming any of them.
        Parts of *one* task are merged before they are learned: `TaskMoments.of(a, ...) + TaskMoments.of(b, ...)`.

        Raises:
            ArgumentError: other settings, another start or shape, or a name in both.
        """
        carried = self._carried.merged(checks.instance("other", other, TaskSequence)._carried)
        return self._of(carried, {**self._kept, **other._kept})

    def state_dict(self) -> dict[str, torch.Tensor]:
        """All that is remembered as tensors by name, for `from_state_dict`; samples that were kept are not in it."""
        return state_of(self._carried)

    @classmethod
    def from_state_dict(cls, state: Mapping[str, torch.Tensor]) -> TaskSequence:
        """The sequence that a `state_dict` is of: it goes on to the same bits.

        Raises:
            SavedStateError: written by another version, or not what it should be.
        """
        return cls._of(carried_of(state), {})

    def save(self, path: str | PathLike[str]) -> None:
        """Writes the sequence to a `.safetensors` file, all or nothing; samples that were kept are not in it.

        Raises:
            MissingPackageError: safetensors is not installed.
            SavedStateError: the file cannot be written.
        """
        write_tensors(path, self.state_dict())

    @classmethod
    def load(cls, path: str | PathLike[str]) -> TaskSequence:
        """The sequence in a file of `save`: it goes on to the same bits.

        Raises:
            MissingPackageError: safetensors is not installed.
            SavedStateError: no such file, damaged, of another version, or no sequence.
        """
        with saved_in(path):
            return cls.from_state_dict(read_tensors(path))

    @classmethod
    def _of(cls, carried: Carried, kept: dict[str, Kept]) -> TaskSequence:
        found = cls.__new__(cls)
        found._carried, found._kept = carried, kept
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

    def _prepared(self, named: dict[str, Task], probes: Mapping[str, torch.Tensor] | None) -> dict[str, Prepared]:
        given = {} if probes is None else dict(probes)
        require_names("probes", given, named)
        settings, head = self._carried.settings, self.head
        return {name: prepared(name, task, given.get(name), settings, head, where=name) for name, task in named.items()}

    def _watch(self, named: dict[str, Task], tests: Mapping[str, Task] | None) -> Watch:
        given = {} if tests is None else dict(tests)
        for name, task in given.items():
            require_fitting(f"tests[{name!r}]", task, self.head)
        kept = {name: one for name, one in self._kept.items() if name not in given}
        own = {name: one.task for name, one in kept.items()}
        watched = {**own, **{name: given.get(name, task) for name, task in named.items()}}
        return Watch({**watched, **given}, {name: one.learned for name, one in kept.items()})

    def __str__(self) -> str:
        lines = [f"TaskSequence: {self.head}, {self._carried.settings}", f"  {len(self.tasks)} tasks learned"]
        lines += [f"    {task.name}: {task.samples} samples, {task.modes} modes protected" for task in self.tasks]
        return "\n".join([*lines, *wrapped("status", str(self.current.status))])

    __repr__ = __str__


def _orders(names: tuple[str, ...]) -> list[tuple[str, ...]]:
    if len(names) <= _ALL_ORDERS:
        return list(itertools.permutations(names))
    return [names, names[::-1], *(names[i:] + names[:i] for i in range(1, len(names)))]
