"""What a sequence carries from task to task, as a value: learning a task makes a new one and leaves the old."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch

from ntkla.forgetting.heads import LinearHead
from ntkla.forgetting.sequences.curriculum import CurriculumForecast, Watch
from ntkla.forgetting.sequences.learned import LearnedTask, Prepared
from ntkla.forgetting.sequences.moments import no_moments
from ntkla.forgetting.sequences.sequence_head import SequenceHead
from ntkla.forgetting.sequences.settings import Settings
from ntkla.forgetting.sequences.step import State, absorbed, solve_step, train_step
from ntkla.linalg import checks
from ntkla.linalg.arithmetic.doubled import Doubled
from ntkla.linalg.errors import ArgumentError
from ntkla.linalg.precision import SHORT_CHAIN
from ntkla.linalg.results import wrapped
from ntkla.linalg.solve.dense import solve_dense
from ntkla.linalg.solve.exact_normal import ExactNormal


@dataclass(frozen=True, eq=False)
class Carried:
    """A sequence at some point.

    Attributes:
        settings: how tasks are learned.
        bias: whether the last coefficient is one.
        start: the head that the sequence began with, float64 [K, C].
        state: head and sums.
        errors: upper bounds, [C] each, of the norm of the error of the head's weights and of its last coefficient.
        tasks: what was learned.
    """

    settings: Settings
    bias: bool
    start: torch.Tensor
    state: State
    errors: tuple[torch.Tensor, torch.Tensor]
    tasks: tuple[LearnedTask, ...] = ()

    @classmethod
    def begin(cls, head: LinearHead, settings: Settings) -> Carried:
        """Before the first task."""
        bias, start = head.bias is not None, head.stacked().contiguous()
        columns, outputs = start.shape
        needed = 8 * 10 * (columns + outputs) * columns
        checks.memory("the sums of a sequence", needed, start.device)
        none, zero = ExactNormal.zeros(columns, outputs, start.device), torch.zeros_like(start[0])
        seen = no_moments(columns, outputs, bias, start.device)
        state = State(Doubled(start, torch.zeros_like(start)), zero, zero, zero, none, seen)
        return cls(settings, bias, start, state, (zero, zero))

    @property
    def current(self) -> SequenceHead:
        """The head as it stands."""
        return SequenceHead.of(self.state.head, self.errors, self.bias, self.settings.tolerance)

    def after(self, task: Prepared) -> Carried:
        """The sequence when it has learned a task."""
        pull, training = self.settings.pull(self.bias), self.settings.training
        if training is None:
            solved = solve_step(self.state, task.moments, pull)
        else:
            solved = train_step(self.state, task.moments, pull, training)
        state = absorbed(self.state, task.moments, task.anchor, solved, task.among_samples)
        tolerance = self.settings.tolerance
        whole = SequenceHead.of(solved.head, solved.errors, self.bias, tolerance)
        alone = SequenceHead.of(solved.head, solved.own, self.bias, tolerance)
        anchor = task.anchor
        learned = LearnedTask(
            task.name,
            task.moments.samples,
            anchor.count,
            anchor.wanted,
            anchor.probes,
            whole.relative_bound,
            alone.relative_bound,
            whole.status,
        )
        return replace(self, state=state, errors=solved.errors, tasks=(*self.tasks, learned))

    def joint(self, ridge: float | None) -> SequenceHead:
        """The head trained on all tasks at once, from their sums; ArgumentError when there are none."""
        if not self.tasks:
            raise ArgumentError("joint: expected a sequence that has learned a task. Call learn first.")
        pull = self.settings.pull(self.bias, ridge)
        start = Doubled(self.start, torch.zeros_like(self.start))
        matrix, right, floor = pull.equations(self.state.seen.normal, start)
        found = solve_dense(matrix, right, floor)
        return SequenceHead.of(found.x, floor.errors(found.energy), self.bias, self.settings.tolerance)

    def forecast(self, steps: Iterable[Prepared], watch: Watch) -> CurriculumForecast:
        """What learning these tasks in this order does to those that are watched."""
        now = self
        watch.look(now.current, None)
        for task in steps:
            now = now.after(task)
            watch.look(now.current, task.name)
        return watch.result(tuple(task.name for task in now.tasks[len(self.tasks) :]))

    def merged(self, other: Carried) -> Carried:
        """Both sets of sums and protected modes, this head.

        Raises:
            ArgumentError: other settings, another start or shape, or a name in both.  DeviceError
        """
        checks.one_device(**{"this sequence": self.start, "other": other.start})
        same = (self.settings, self.bias) == (other.settings, other.bias)
        if not same or not torch.equal(other.start, self.start):
            raise ArgumentError(
                "merge: expected two sequences that began with the same head and settings. Learn the one's tasks in "
                "the other, or pass their TaskMoments to learn."
            )
        both = {task.name for task in self.tasks} & {task.name for task in other.tasks}
        if both:
            raise ArgumentError(f"merge: both have learned {sorted(both)}. Name the tasks of each differently.")
        mine, theirs = self.state, other.state
        state = replace(
            mine,
            handed_on=torch.hypot(mine.handed_on, theirs.handed_on) * SHORT_CHAIN,
            guard=mine.guard + theirs.guard,
            seen=mine.seen + theirs.seen,
        )
        return replace(self, state=state, tasks=self.tasks + other.tasks)

    def nbytes(self) -> int:
        """Bytes that are remembered: they do not grow with the tasks, but for their names and numbers."""
        return self.state.nbytes() + 8 * self.start.numel() + sum(8 * x.numel() for x in self.errors)

    def __str__(self) -> str:
        head = self.current
        lines = [f"TaskSequence: {head.head}, {self.settings}", f"  {len(self.tasks)} tasks learned"]
        lines += [f"    {task.name}: {task.samples} samples, {task.modes} modes protected" for task in self.tasks]
        return "\n".join([*lines, *wrapped("status", str(head.status))])
