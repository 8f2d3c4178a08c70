"""What a sequence tells of a task that it has learned, or is about to learn."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ntkla.forgetting.reports.predictions import Predictions
from ntkla.forgetting.sequences.anchor import Anchor
from ntkla.forgetting.sequences.moments import TaskMoments
from ntkla.forgetting.tasks import Task
from ntkla.linalg.results import Result
from ntkla.linalg.status import Status


@dataclass(frozen=True)
class LearnedTask(Result):
    """One task of a sequence, without its samples.

    Attributes:
        name: of the task.
        samples: how many it had.
        modes: how many modes of its probes' kernel are protected from now on.
        modes_wanted: how many were asked for: more than `modes` where fewer eigenvalues are certainly above 0.
        probes: how many samples the modes are of.
        relative_bound: of the head after it, with all errors inherited from earlier heads.
        step_bound: what this step alone adds to it, for the heads before it as they are stored.
        status: of `relative_bound`.
    """

    name: str
    samples: int
    modes: int
    modes_wanted: int
    probes: int
    relative_bound: float
    step_bound: float
    status: Status

    def __str__(self) -> str:
        wanted = "" if self.modes == self.modes_wanted else f" of {self.modes_wanted} wanted, no more are certain"
        return (
            f"LearnedTask: {self.name}, {self.samples} samples, {self.modes} modes of {self.probes} probes protected"
            f"{wanted}\n  {self.status}"
        )


@dataclass(frozen=True, eq=False)
class Kept:
    """A task whose samples were kept on request, and what the head said of them when it had just been learned."""

    task: Task
    learned: Predictions


@dataclass(frozen=True, eq=False)
class Prepared:
    """A task on its way into a sequence: all that does not depend on the head, computed once for any order.

    Attributes:
        task: its samples, or None when only its moments were given.
        among_samples: whether the anchor's probes are samples of the task, each at most once.
    """

    name: str
    task: Task | None
    moments: TaskMoments
    anchor: Anchor
    among_samples: bool


def rows_of(probes: torch.Tensor) -> torch.Tensor | None:
    """The probes as numbers of rows, when that is what they are."""
    return None if probes.is_floating_point() or probes.is_complex() else probes
