"""A head that learns one task after another in closed form, and can say beforehand where a curriculum ends."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from os import PathLike

import torch

from ntkla.forgetting.descent.training import Training
from ntkla.forgetting.heads import LinearHead
from ntkla.forgetting.sequences.carried import Carried
from ntkla.forgetting.sequences.curriculum import CurriculumForecast, OrderForecasts, drift_size
from ntkla.forgetting.sequences.files import read_tensors, saved_in, write_tensors
from ntkla.forgetting.sequences.learned import Kept, LearnedTask
from ntkla.forgetting.sequences.moments import TaskMoments
from ntkla.forgetting.sequences.penalty import Penalty
from ntkla.forgetting.sequences.preparing import kept_of, new_name, prepared, require_samples
from ntkla.forgetting.sequences.rehearsal import Orders, Probes, Progress, Rehearsal, Tasks, Tests
from ntkla.forgetting.sequences.saved import carried_of, state_of
from ntkla.forgetting.sequences.sequence_head import SequenceHead
from ntkla.forgetting.sequences.settings import Settings
from ntkla.forgetting.tasks import Task
from ntkla.linalg import checks


class TaskSequence:
    """Carries a linear head through any number of tasks, in memory that does not grow with them.

    Task t is learned by its closed form: the minimiser of

        1/2 ||Phi_t W^T - Y_t||_D^2 + ridge/2 ||W - W_{t-1}||^2 + weight_decay/2 ||W||^2
            + sum over earlier tasks i of  strength/2 ||U_i^T (Phi_i W^T - F_i)||_F^2,

    the last line the spectral penalty: U_i the k_i leading modes of the kernel of task i's probes, F_i what the head
    said of them when it had just learned task i.  (All modes at strength 1: task 2 ends in the joint optimum of both, a
    later one near that of all, which would give up what was said.)  What is kept are four matrices, K x K and K x C
    twice (K features, bias included; C outputs): the normal equations of the penalties and of the tasks, exact, in
    fixed point.  Neither the order of the samples nor the way they are cut into parts changes a bit.

    Args:
        head: the head before the first task; `ntkla.LinearHead(torch.zeros(C, F), torch.zeros(C))` to start from zero.
        ridge: absolute, > 0, the same for every task; pulls towards the head as it stands before the task.
        modes: k, how many modes of each task's probes are protected, each for all outputs; 0 for none.
        strength: of the penalty, >= 0, 1 when None: each protected mode then counts as in its task's own loss.
        weight: of the penalty in the unit of `SpectralPenalty`, in the place of a strength: `weight / (C k_i)` for
            `strength / 2`.  A strength s is the weight `s C k / 2`, as in `ntkla.plan`.
        penalize_bias: whether ridge and weight decay apply to the bias as to any weight.
        weight_decay: absolute, >= 0, pulls towards zero.
        training: None for each task's optimum; `GradientDescent` or `GradientFlow`, begun afresh for each, stop early.
        tol: a head's relative bound up to which its status is certified, default 1e-10.

    Raises RidgeError and ArgumentError, for strength and weight together too.

    Heads carry a bound of their distance to those of exact arithmetic from the first task on (derived in `step.py`).
    Deterministic: the sums to the last bit, however samples are cut and ordered; the heads for fixed versions and
    threads.
    """

    def __init__(
        self,
        head: LinearHead,
        *,
        ridge: float,
        modes: int = 0,
        strength: float | None = None,
        weight: float | None = None,
        penalize_bias: bool = True,
        weight_decay: float = 0.0,
        training: Training | None = None,
        tol: float | None = None,
    ) -> None:
        penalty = Penalty.checked(modes, strength, weight)
        settings = Settings.checked(ridge, penalty, penalize_bias, weight_decay, tol, training)
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
        Raises ArgumentError, ShapeError, DtypeError, DeviceError, LabelError, MemoryEstimateError: the sequence then is
        as it was.  Cost: `TaskMoments.of`, the modes of the probes, and K^3 / 3 + 300 K^2 C operations.
        """
        called = new_name(name, self.tasks)
        if checks.flag("keep", keep):
            require_samples(task)
        found = prepared(called, task, probes, self._carried.settings, self.head)
        carried = self._carried.after(found)
        if keep and found.task is not None:
            self._kept[called] = Kept(found.task, carried.current.predict(found.task.features))
        self._carried = carried
        return self.tasks[-1]

    def forecast(self, tasks: Tasks, *, tests: Tests = None, probes: Probes = None) -> CurriculumForecast:
        """What learning these tasks in this order would do to each of them, and to those that were kept.

        Args:
            tasks: by name, or in a row.
            tests: by name, the samples that accuracies and drifts are told of; a task that is not named here is judged
                by its own.  Names that are no tasks are looked at as well.
            probes: by name, as for `learn`.

        The sequence is left as it is.  Raises and costs what `learn` does for every task.
        """
        return self._rehearsal(tasks, tests, probes).forecast()

    def forecast_orders(
        self,
        tasks: Tasks,
        orders: Orders = None,
        *,
        tests: Tests = None,
        probes: Probes = None,
        progress: Progress = None,
    ) -> OrderForecasts:
        """`forecast` for the same tasks in several orders; what does not depend on the order is computed once.

        Args:
            tasks, tests, probes: as for `forecast`.
            orders: the names of all tasks each; None for all orders of up to four tasks, and of more for the one given,
                its reverse, and those that begin with another task and go on in turn.
            progress: called as `progress(done, total)`, counting orders.
        Raises what `forecast` does, and ArgumentError for an order that does not name every task once.
        """
        return self._rehearsal(tasks, tests, probes).orders(orders, progress)

    def forecast_modes(
        self,
        tasks: Tasks,
        modes: Iterable[int],
        *,
        strength: float | None = None,
        weights: Iterable[float] | None = None,
        tests: Tests = None,
        probes: Probes = None,
        progress: Progress = None,
    ) -> dict[int, CurriculumForecast]:
        """`forecast` for several numbers of protected modes, by that number: how many a curriculum needs.

        What it says of k is what a sequence that is made with `modes=k` (and this strength or weight) then does.

        Args:
            tasks, tests, probes: as for `forecast`.
            modes: k, in place of those of the sequence, each >= 0 and once.
            strength: in place of that of the sequence; None for what the sequence has, strength or weight.
            weights: in place of a strength, one for each k.
            progress: called as `progress(done, total)`, counting numbers of modes.
        Raises what `forecast` does, and ArgumentError for a k twice, another number of weights, or both units.
        """
        return self._rehearsal(tasks, tests, probes).modes(modes, strength, weights, progress)

    def joint(self, ridge: float | None = None) -> SequenceHead:
        """The head trained on all tasks at once: the minimiser of the sum of all their losses, and one ridge.

        `1/2 sum_t ||Phi_t W^T - Y_t||_D^2 + ridge/2 ||W - W_0||^2 + weight_decay/2 ||W||^2`, with W_0 the head that the
        sequence began with and the given ridge > 0, or that of the sequence: no penalty, no order, nothing forgotten.
        From a head of zeros it is what ACIL computes, and RanPAC after its random projection.
        Raises RidgeError, and ArgumentError when no task was learned yet.  Cost: K^3 / 3 + 300 K^2 C operations.
        """
        return self._carried.joint(ridge)

    def drift(self, name: str) -> tuple[float, float]:
        """What happened to a kept task's outputs since it was learned: root mean square, and the bound of its error.
        Raises ArgumentError when there is no such task, or its samples were let go.
        """
        kept = kept_of(name, self._kept, self.tasks)
        return drift_size(kept.learned, self.current.predict(kept.task.features))

    def merge(self, other: TaskSequence) -> TaskSequence:
        """A sequence that remembers what both do, with this one's head: sums and protected modes add up exactly.

        So `joint()` is that of all tasks of both, to the bit, and later tasks are kept from harming any of them.
        Parts of *one* task are merged before they are learned: `TaskMoments.of(a, ...) + TaskMoments.of(b, ...)`.
        Raises ArgumentError for other settings, another start or shape, or a name in both.
        """
        carried = self._carried.merged(checks.instance("other", other, TaskSequence)._carried)
        return self._of(carried, {**self._kept, **other._kept})

    def state_dict(self) -> dict[str, torch.Tensor]:
        """All that is remembered as tensors by name, for `from_state_dict`; samples that were kept are not in it."""
        return state_of(self._carried)

    @classmethod
    def from_state_dict(cls, state: Mapping[str, torch.Tensor]) -> TaskSequence:
        """The sequence that a `state_dict` is of, on to the same bits; SavedStateError for anything else."""
        return cls._of(carried_of(state), {})

    def save(self, path: str | PathLike[str]) -> None:
        """Writes the sequence to a `.safetensors` file, all or nothing; samples that were kept are not in it.
        Raises MissingPackageError without safetensors, SavedStateError when the file cannot be written.
        """
        write_tensors(path, self.state_dict())

    @classmethod
    def load(cls, path: str | PathLike[str]) -> TaskSequence:
        """The sequence in a file of `save`: it goes on to the same bits.
        Raises MissingPackageError without safetensors, SavedStateError for what is no file of a sequence, or damaged.
        """
        with saved_in(path):
            return cls.from_state_dict(read_tensors(path))

    def _rehearsal(self, tasks: Tasks, tests: Tests, probes: Probes) -> Rehearsal:
        return Rehearsal.of(self._carried, self._kept, tasks, tests, probes)

    @classmethod
    def _of(cls, carried: Carried, kept: dict[str, Kept]) -> TaskSequence:
        found = cls.__new__(cls)
        found._carried, found._kept = carried, kept
        return found

    def __repr__(self) -> str:
        return str(self._carried)
