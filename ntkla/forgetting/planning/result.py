"""What a plan says: its points, the best of them, and what they are compared with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from ntkla.forgetting.planning.choice import Choice
from ntkla.forgetting.planning.columns import Scores, TaskColumns
from ntkla.forgetting.planning.joint import JointOptimum, Standing
from ntkla.forgetting.planning.points import PlanPoint, PlanPoints
from ntkla.linalg import checks
from ntkla.linalg.errors import ArgumentError
from ntkla.linalg.results import Result, wrapped
from ntkla.linalg.status import Status

SATISFIED, CLOSEST = "satisfied", "closest"
# Rows of the front that `print` shows.
_SHOWN = 8


@dataclass(frozen=True)
class Recommendation(Result):
    """The point to train at.

    Attributes:
        point: the best for the new task among those that certainly forget no more than allowed; where there is none,
            the one that forgets least.
        forgotten: the most that it may forget, in `unit`.
        unit: `"accuracy"` (before less after), `"loss"` (after less before) or `"drift"` (root mean square): the first
            that every old task has what it needs for.
        max_forgetting, on: what was asked for.
        status: `"satisfied"`, or `"closest"` when no point satisfies it.
    """

    point: PlanPoint
    forgotten: float
    unit: str
    max_forgetting: float
    on: str
    status: Status

    @property
    def satisfied(self) -> bool:
        """Whether the point keeps what was asked for."""
        return self.status.code == SATISFIED

    def __str__(self) -> str:
        return "\n".join([f"Recommendation: {self.status.message}", *str(self.point).splitlines()])


@dataclass(frozen=True, eq=False)
class Plan(Result):
    """What every point of a grid would do, before any of it is trained.

    Attributes:
        points: all points; `points[3]` is one, with all its numbers; `points.ridge`, `.weight`, `.modes`, `.new`,
            `.new_test`, `.old[name]`, `.relative_bound` are columns.
        before: how well the head does each task as it stands.
        joint: the optimum of all tasks together at each ridge, the reference line; None where an old task has no
            targets.
        tolerance: the relative error of an update that counts as certified.
        seconds: wall time of each part, and `"total"`.
    """

    points: PlanPoints
    before: Standing
    joint: tuple[JointOptimum, ...] | None
    tolerance: float
    seconds: dict[str, float]

    @property
    def judged(self) -> TaskColumns:
        """What a point is good for is told by the new task's test samples where they say it, else its training ones."""
        test, train = self.points.new_test, self.points.new
        if test is None or (test.hits_low is None and train.hits_low is not None):
            return train
        return test

    @property
    def pareto(self) -> list[PlanPoint]:
        """`front("worst")`."""
        return self.front("worst")

    def forgotten(self, on: str = "worst") -> torch.Tensor:
        """The most that each point may forget, float64 [N], in the unit of `recommend`; infinite where it diverges.

        Args:
            on: of the old task that loses most, `"worst"`, or the `"mean"` of all.

        Raises:
            ArgumentError
        """
        return self._choice(on).forgotten

    def front(self, on: str = "worst") -> list[PlanPoint]:
        """The points that no other beats in the new task and in what is forgotten, the one that forgets least first.

        Args:
            on: whether the old task that loses most counts, `"worst"`, or their `"mean"`.

        Raises:
            ArgumentError
        """
        return [self.points[number] for number in self._choice(on).front()]

    def recommend(self, max_forgetting: float = 0.01, on: str = "worst") -> Recommendation:
        """The best point for the new task among those that certainly forget at most so much.

        Args:
            max_forgetting: the most that may be lost, >= 0: in accuracy where every old task has labels, so 0.01 is one
                percent of the samples; else in mean loss where every one has targets, else in root mean square drift.
            on: whether no old task may lose more, `"worst"`, or their `"mean"`.

        Returns:
            Recommendation: of the best certain accuracy on the new task (the least loss without labels), and of points
            that agree in it the one that forgets least, so it is on the front; where no point satisfies the constraint
            the status says so, and the point is the one that forgets least.

        Raises:
            ArgumentError
        """
        allowed = checks.number("max_forgetting", max_forgetting)
        if allowed < 0:
            raise ArgumentError(f"max_forgetting: expected a number >= 0, got {max_forgetting!r}.")
        choice = self._choice(on)
        forgotten = choice.forgotten.tolist()
        order = choice.order()
        kept = next((number for number in order if forgotten[number] <= allowed), None)
        chosen = min(order, key=lambda number: forgotten[number]) if kept is None else kept
        who = {"worst": "an old task", "mean": "the mean old task"}[on]
        lost = f"{who} loses at most {forgotten[chosen]:.4g} of {choice.unit}"
        if choice.unit == "drift":
            lost = f"{who} drifts by at most {forgotten[chosen]:.4g} (root mean square)"
        said = f"{lost} (allowed {allowed:.4g})."
        if kept is None:
            said = (
                f"no point of the grid keeps to {allowed:.4g}; at the closest one {lost}. Try larger weights or ridges."
            )
        status = Status(CLOSEST if kept is None else SATISFIED, said)
        return Recommendation(self.points[chosen], forgotten[chosen], choice.unit, allowed, on, status)

    def to_dict(self) -> dict[str, Any]:
        """Plain Python values: every point with its numbers, and the numbers of those on the front."""
        choice = self._choice("worst")
        return {
            "points": [point.to_dict() for point in self.points],
            "pareto": choice.front(),
            "unit": choice.unit,
            "before": self.before.to_dict(),
            "joint": None if self.joint is None else [one.to_dict() for one in self.joint],
            "tolerance": self.tolerance,
            "seconds": dict(self.seconds),
        }

    def _choice(self, on: str) -> Choice:
        return Choice.among(self.points.old, self.before.old, self.judged, self.points.diverges, on)

    def __str__(self) -> str:
        choice = self._choice("worst")
        front = choice.front()
        lines = [f"Plan: {self.points}", *wrapped("before", _line(self.before))]
        if self.joint is not None:
            best = max(self.joint, key=_quality)
            lines += wrapped("joint", f"{_line(best)}, at ridge {best.ridge:.4g}")
        lines += [f"  {'front':<14}{len(front)} points that no other beats, the one that forgets least first:"]
        every = max(1, -(-len(front) // _SHOWN))
        for number in sorted({*front[::every], *front[-1:]}, key=front.index):
            lines.append(self._row(number, choice))
        said = self.recommend()
        lines += wrapped("recommended", said.status.message)
        lines += [f"    {said.point.settings}"] if said.satisfied else []
        parts = ", ".join(f"{name} {value:.2f}" for name, value in self.seconds.items() if name != "total")
        return "\n".join([*lines, f"  {'seconds':<14}{self.seconds['total']:.2f} ({parts})"])

    def _row(self, number: int, choice: Choice) -> str:
        point = self.points[number]
        value = self.judged.scores(number)
        gained = f"accuracy {value.accuracy}" if value.accuracy is not None else f"loss {value.loss:.4g}"
        return f"    {gained}, at most {float(choice.forgotten[number]):.4g} forgotten: {point.settings}"


def _quality(standing: Standing) -> float:
    """How well the new task is done, for the choice of one line."""
    scores = standing.new_test or standing.new
    return scores.accuracy.low if scores.accuracy is not None else -(scores.loss or 0.0)


def _line(standing: Standing) -> str:
    """The new task, and the old one that is done worst."""
    new = standing.new_test or standing.new
    olds = dict(standing.old)
    return f"new task {new}; old tasks {_range(list(olds.values()))}"


def _range(scores: list[Scores]) -> str:
    """From the worst to the best."""
    known = [one.accuracy for one in scores if one.accuracy is not None]
    if len(known) == len(scores):
        low, high = min(known, key=lambda a: a.low), max(known, key=lambda a: a.high)
        return f"accuracy {low} ... {high}" if len(known) > 1 else f"accuracy {low}"
    losses = [one.loss for one in scores if one.loss is not None]
    return f"loss {min(losses):.4g} ... {max(losses):.4g}" if losses else "without labels and targets"
