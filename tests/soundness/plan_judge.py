"""The judge of plans: drifts, losses, accuracies and flips of every point, of the head before and of the joint optimum.

Numbers are held against their bounds by ball arithmetic, counts against the classes that the exact outputs have.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch

import ntkla
from ntkla.forgetting.planning.columns import Scores, TaskOutcome
from ntkla.forgetting.planning.joint import JointOptimum, Standing
from ntkla.linalg.decisions import Decision
from ntkla.testing import Comparison, Exact, compare
from ntkla.testing.balls import ball_matrix, euclidean_norm, flint
from tests.soundness.plans import Planned, design

# Of the outputs that classes are read off: what stays open at this precision is a tie, or as good as one.
_BITS = 1024


class Counted(NamedTuple):
    """What a decision says held against the exact outputs: whether they agree, and whether the outputs decide it."""

    holds: bool
    decided: bool

    @classmethod
    def of(cls, said: Decision, certain: int, possible: int) -> Counted:
        return cls(said.low <= possible and said.high >= certain, certain == possible)


def _leaders(outputs: Any) -> list[set[int]]:
    """Which classes each row of balls may predict."""
    return [{j for j, one in enumerate(row) if not any(x > one for x in row)} for row in outputs.tolist()]


def judged(planned: Planned, point: ntkla.PlanPoint, scale: float = 1.0, moved: float = 0.0) -> list[Comparison]:
    """Drift and loss of both tasks where bounds are finite; `scale` shrinks the bounds, and `moved` shifts each
    value by so many of its bounds, to plant errors."""
    update, found = planned.exact(point), []
    for task, outcome in zip(planned.tasks, (point.old["old"], point.new), strict=True):
        if math.isfinite(outcome.drift_error):
            said = [outcome.drift, outcome.loss], [outcome.drift_error, outcome.loss_error]
            found.append(_compared(*said, _sizes(planned, task, update, ball_matrix(planned.start)), scale, moved))
    return found


def judged_standing(planned: Planned, one: Standing, scale: float = 1.0, moved: float = 0.0) -> list[Comparison]:
    """The same for the losses before, or of the joint optimum."""
    found = []
    for task, scores in zip(planned.tasks, (one.old["old"], one.new), strict=True):
        if math.isfinite(scores.loss_error):
            exact = _sizes(planned, task, *_standing(planned, one), drift=False)
            found.append(_compared([scores.loss], [scores.loss_error], exact, scale, moved))
    return found


def counted(planned: Planned, point: ntkla.PlanPoint) -> Iterator[Counted]:
    """Accuracy and flips of the old task."""
    yield from _counted(planned, point.old["old"], planned.exact(point), ball_matrix(planned.start))


def counted_standing(planned: Planned, one: Standing) -> Iterator[Counted]:
    """The old task's accuracy before, or at the joint optimum."""
    yield from _counted(planned, one.old["old"], *_standing(planned, one))


def _standing(planned: Planned, one: Standing) -> tuple[Exact, Any]:
    """A change of a head, and the head that it changes."""
    nothing = flint().arb_mat(*planned.start.shape)
    if isinstance(one, JointOptimum):
        return planned.joint, nothing
    return Exact(lambda: nothing), ball_matrix(planned.start)


def _sizes(planned: Planned, task: ntkla.Task, update: Exact, start: Any, drift: bool = True) -> Exact:
    """Norm of the drift, where it is asked for, and loss."""
    phi, targets = ball_matrix(design(task.features, planned.problem.bias)), ball_matrix(task.targets)

    def compute() -> Any:
        change = update.compute()
        left = phi * (start + change) - targets
        loss = sum((x * x for x in left.entries()), flint().arb(0)) / (2 * left.nrows())
        return flint().arb_mat([[*([euclidean_norm((phi * change).entries())] if drift else []), loss]])

    return Exact(compute)


def _counted(planned: Planned, said: Scores, update: Exact, start: Any) -> Iterator[Counted]:
    task = planned.tasks[0]
    phi = ball_matrix(design(task.features, planned.problem.bias))
    outputs = Exact(lambda: phi * (start + update.compute())).at(_BITS)
    if outputs is None:
        return
    after, labels, n = _leaders(outputs), task.labels.tolist(), task.features.shape[0]
    hits = Decision(round(said.accuracy.low * n), round(said.accuracy.high * n))
    certain = sum(one == {label} for one, label in zip(after, labels, strict=True))
    yield Counted.of(hits, certain, sum(label in one for one, label in zip(after, labels, strict=True)))
    if isinstance(said, TaskOutcome):
        pairs = list(zip(_leaders(Exact(lambda: phi * start).at(_BITS)), after, strict=True))
        stays = sum(one == other and len(one) == 1 for one, other in pairs)
        yield Counted.of(said.flips, sum(not one & other for one, other in pairs), n - stays)


def _compared(values: list[float], errors: list[float], exact: Exact, scale: float, moved: float) -> Comparison:
    """Numbers and their bounds; see `judged`."""
    value, error = (torch.tensor([x], dtype=torch.float64, device="cpu") for x in (values, errors))
    return compare(value + moved * error, error * scale, exact, "drift and loss")
