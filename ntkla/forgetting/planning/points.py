"""The points of a plan, one by one and as columns."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import overload

import torch

from ntkla.forgetting.descent.training import Training
from ntkla.forgetting.planning.columns import TaskColumns, TaskOutcome
from ntkla.forgetting.planning.grid import Grid, Setting
from ntkla.linalg.results import Result, wrapped
from ntkla.linalg.status import RANK_DEFICIENT, Status

DIVERGES = "diverges"


@dataclass(frozen=True)
class PlanPoint(Result):
    """One way to train on the new task, and what it would do.

    Attributes:
        number: its place among the points.
        ridge: absolute, towards the head as it stands.
        weight, modes: of the spectral penalty on each old task; both 0 without one.  Where a strength was asked for and
            tasks keep different numbers of modes, the largest weight.
        strength: what each mode that is kept counts; 0 where weights were asked for.
        training: None for the optimum, else the optimiser and how far it runs.
        modes_kept: how many modes of each old task are protected: `modes`, or the certified rank of its probes where
            that is less, or 0 where the new task trains none of its outputs.
        weights: for a `SpectralPenalty` on each old task, with `modes_kept` of its modes, by name.
        new, new_test: what happens on the new task's training samples, and on its test samples or None.
        old: what happens to each old task, by name.
        relative_bound: proved of the update of the head, `||error||_F / ||update||_F`.
        largest_stable_lr: where training diverges, the largest learning rate that certainly does not; else None.
        status: `"certified"` when the bound meets the tolerance, `"above_tolerance"`, `"rank_deficient"` (ridge 0 and a
            normal matrix that is not certainly regular: the minimum-norm update, without bounds), `"uncertified"`, or
            `"diverges"`: then losses and drifts are infinite, and accuracies and flips open.
    """

    number: int
    ridge: float
    weight: float
    modes: int
    strength: float
    training: Training | None
    modes_kept: Mapping[str, int]
    weights: Mapping[str, float]
    new: TaskOutcome
    new_test: TaskOutcome | None
    old: Mapping[str, TaskOutcome]
    relative_bound: float
    largest_stable_lr: float | None
    status: Status

    @property
    def protection(self) -> str:
        """How the old tasks are protected, in words."""
        kept = {self.modes_kept[name]: weight for name, weight in self.weights.items() if self.modes_kept[name]}
        if not kept:
            return "no protection"
        parts = [f"weight {weight:.4g} on {count} modes" for count, weight in sorted(kept.items())]
        return parts[0] if len(parts) == 1 else f"{parts[0]} to {parts[-1]}"

    @property
    def settings(self) -> str:
        """The point in words."""
        training = "the optimum" if self.training is None else str(self.training)
        return f"ridge {self.ridge:.4g}, {self.protection}, {training}"

    def __str__(self) -> str:
        lines = [f"PlanPoint {self.number}: {self.settings}", f"  {'new task':<14}{self.new}"]
        lines += [] if self.new_test is None else [f"  {'new test':<14}{self.new_test}"]
        lines += [f"  {name:<14}{outcome}" for name, outcome in self.old.items()]
        return "\n".join([*lines, *wrapped("status", str(self.status))])


@dataclass(frozen=True, eq=False)
class PlanPoints(Sequence[PlanPoint], Result):
    """All points of a plan: `points[3]`, `points[-5:]`, iteration; and its settings as columns.

    Attributes:
        grid: ridges, protections and trainings.
        kept: modes protected of each old task, by name, for each of `grid.settings`.
        new, new_test, old: what happens to each task, as columns.
        relative_bound, largest_stable_lr: float64 [N], as in `PlanPoint`; the second is infinite where all is stable.
        tolerance: what the first is compared with.
    """

    grid: Grid
    kept: Mapping[Setting, Mapping[str, int]]
    new: TaskColumns
    new_test: TaskColumns | None
    old: Mapping[str, TaskColumns]
    relative_bound: torch.Tensor
    largest_stable_lr: torch.Tensor
    tolerance: float

    def __len__(self) -> int:
        return len(self.grid)

    def __iter__(self) -> Iterator[PlanPoint]:
        return (self._point(number) for number in range(len(self)))

    @overload
    def __getitem__(self, place: int) -> PlanPoint: ...

    @overload
    def __getitem__(self, place: slice) -> list[PlanPoint]: ...

    def __getitem__(self, place: int | slice) -> PlanPoint | list[PlanPoint]:
        if isinstance(place, slice):
            return [self._point(number) for number in range(len(self))[place]]
        return self._point(range(len(self))[place])

    @property
    def ridge(self) -> torch.Tensor:
        """The ridge of each point, float64 [N]."""
        return self._column([self.grid.point(number)[1] for number in range(len(self))])

    @property
    def weight(self) -> torch.Tensor:
        """The weight of each point's penalty, float64 [N]."""
        return self._column([max(self._weights(self.grid.point(number)[0]).values()) for number in range(len(self))])

    @property
    def modes(self) -> torch.Tensor:
        """How many modes each point protects, int64 [N]."""
        return self._column([self.grid.point(number)[0].modes for number in range(len(self))]).to(torch.int64)

    @property
    def diverges(self) -> torch.Tensor:
        """At which points training diverges, bool [N]."""
        return self.largest_stable_lr.isfinite()

    def _column(self, values: Sequence[float]) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.float64, device=self.relative_bound.device)

    def _weights(self, setting: Setting) -> dict[str, float]:
        """Of the penalty on each old task."""
        kept = self.kept[setting]
        return {name: setting.weight_on(self.old[name].outputs, k) if k else 0.0 for name, k in kept.items()}

    def _point(self, number: int) -> PlanPoint:
        setting, ridge, training = self.grid.point(number)
        limit, weights = float(self.largest_stable_lr[number]), self._weights(setting)
        return PlanPoint(
            number=number,
            ridge=ridge,
            weight=max(weights.values()),
            modes=setting.modes,
            strength=setting.strength,
            training=training,
            modes_kept=self.kept[setting],
            weights=weights,
            new=self.new.at(number),
            new_test=None if self.new_test is None else self.new_test.at(number),
            old={name: columns.at(number) for name, columns in self.old.items()},
            relative_bound=float(self.relative_bound[number]),
            largest_stable_lr=limit if math.isfinite(limit) else None,
            status=self.status(number),
        )

    def status(self, number: int) -> Status:
        """How one point ended."""
        _, ridge, training = self.grid.point(number)
        limit, bound = float(self.largest_stable_lr[number]), float(self.relative_bound[number])
        if math.isfinite(limit):
            return Status(DIVERGES, f"training diverges: lr must be at most {limit!r} here. Lower it.")
        if math.isinf(bound) and ridge == 0 and training is None:
            return Status(
                RANK_DEFICIENT,
                "without a ridge the normal matrix is not certainly regular: this is the minimum-norm update for the "
                "rank as computed, and nothing is proved of it. Use a ridge > 0.",
            )
        remedy = "rounding grows where ridge and lr * steps leave it room. Confirm the point with predict_forgetting."
        return Status.of_bound(bound, self.tolerance, remedy, "the relative error of the head's update")

    def __str__(self) -> str:
        grid = self.grid
        counts = {"ridge": grid.ridges, "protection": grid.settings, "training": grid.trainings}
        made = ", ".join(f"{len(values)} {name}{'s' * (len(values) != 1)}" for name, values in counts.items())
        diverging = int(self.diverges.sum())
        return f"{len(self)} points: {made}" + (f"; {diverging} of them diverge" if diverging else "")
