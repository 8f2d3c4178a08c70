"""From a problem and a grid to what each point does: one eigendecomposition for each protection and group of outputs.

With ridge and bias penalised alike, the normal matrix of a protection, `N = S + weight B_k`, is decomposed once: every
ridge shifts its eigenvalues, every stopping time is a filter of them.  A bias that is not penalised makes the ridge no
multiple of the identity, so each ridge has its own decomposition.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch

from ntkla.forgetting.descent.training import Training
from ntkla.forgetting.planning.decomposed import Decomposed, decomposed
from ntkla.forgetting.planning.filter_bank import filters, largest_stable_lr
from ntkla.forgetting.planning.grid import Grid, Setting
from ntkla.forgetting.planning.leading_modes import LeadingModes, penalty_matrix, weighted_sum
from ntkla.forgetting.planning.problem import Group, Problem, gradient_for
from ntkla.forgetting.planning.updates import Gradient, Updates, updates
from ntkla.linalg.arithmetic.accurate import accurate_normal_matrix
from ntkla.linalg.precision import SHORT_CHAIN, U64, norm_upper, rounded_up
from ntkla.linalg.solve.normal import BoundedMatrix

# A ridge beside that of the matrix, and a training.
Point = tuple[float, Training | None]
# Of one decomposition at a time: the filters of more are no cheaper a point.
MOST_POINTS = 256


class Batch(NamedTuple):
    """The points of one decomposition that do not diverge, and their updates.

    Attributes:
        points: their numbers in the grid, int64 [P].
        parts: for each group of outputs its updates.
        relative: bounds of the relative error of each whole update, float64 [P].
        limits: the largest stable learning rate of each point that diverges, by its number.
    """

    points: torch.Tensor
    parts: list[tuple[Group, Updates]]
    relative: torch.Tensor
    limits: dict[int, float]


@dataclass(eq=False)
class Engine:
    """Computes batch by batch; what several of them share is kept.

    Attributes:
        problem, grid, protection, groups, gradient: what is planned.
        normal: S of the new task, as formed in float64.
    """

    problem: Problem
    grid: Grid
    protection: Mapping[str, LeadingModes]
    groups: Sequence[Group]
    gradient: Gradient
    normal: BoundedMatrix
    _sharp: BoundedMatrix | None = None
    _free: dict[float, Decomposed] = field(default_factory=dict)

    @property
    def steps(self) -> int:
        """How many batches there are."""
        return len(self.grid.settings) * (1 if self.shifts_only else len(self.grid.ridges))

    @property
    def shifts_only(self) -> bool:
        """Whether every ridge is a multiple of the identity."""
        return not self.problem.free_bias

    def batches(self) -> Iterator[Iterator[Batch]]:
        """All points of the grid, in its order, decomposition by decomposition."""
        trainings = self.grid.trainings
        for number, setting in enumerate(self.grid.settings):
            first = number * self.grid.each
            if self.shifts_only:
                yield self._shared(setting, 0.0, first, [(r, t) for r in self.grid.ridges for t in trainings])
                continue
            for place, ridge in enumerate(self.grid.ridges):
                yield self._shared(setting, ridge, first + place * len(trainings), [(0.0, t) for t in trainings])

    def _shared(self, setting: Setting, held: float, first: int, points: list[Point]) -> Iterator[Batch]:
        """The points from `first` on, each the rest of its ridge and its training; the matrix holds `held` of it."""
        found = [self._decomposed(group, setting, held) for group in self.groups]
        parts = [points[start : start + MOST_POINTS] for start in range(0, len(points), MOST_POINTS)]
        return (self._batch(setting, held, first + MOST_POINTS * n, some, found) for n, some in enumerate(parts))

    def _batch(
        self, setting: Setting, held: float, first: int, points: list[Point], found: Sequence[Decomposed]
    ) -> Batch:
        """Some of them."""
        limits: dict[int, float] = {}
        for number, (ridge, training) in enumerate(points):
            tried = [limit for one in found if (limit := largest_stable_lr(one, ridge, training)) is not None]
            if tried:
                limits[first + number] = min(tried)
        stable = [number for number in range(len(points)) if first + number not in limits]
        numbers = torch.tensor([first + n for n in stable], dtype=torch.int64, device=self.normal.matrix.device)
        if not stable:
            return Batch(numbers, [], self.normal.matrix.new_zeros(0), limits)
        kept = [points[number] for number in stable]
        parts = [
            (group, self._updates(group, setting, held, one, kept))
            for group, one in zip(self.groups, found, strict=True)
        ]
        return Batch(numbers, parts, relative_bounds([update for _, update in parts]), limits)

    def _updates(
        self,
        group: Group,
        setting: Setting,
        held: float,
        found: Decomposed,
        points: Sequence[Point],
    ) -> Updates:
        """The updates of one group; judged beyond float64 where a bound does not meet the tolerance."""
        gradient, tolerance = gradient_for(self.gradient, group.columns), self.problem.tolerance
        made = updates(found, filters(found, points), gradient, tolerance)
        relative = relative_bounds([made])
        if bool((relative.isfinite() & (relative > tolerance)).any()):
            sharper = found.sharpened(self._matrix(group, setting, held, accurate=True))
            limits = (largest_stable_lr(sharper, ridge, training) for ridge, training in points)
            if all(limit is None for limit in limits):
                made = updates(sharper, filters(sharper, points), gradient, tolerance)
        return made

    def _decomposed(self, group: Group, setting: Setting, held: float) -> Decomposed:
        if self._protected(group, setting):
            return decomposed(self._matrix(group, setting, held, accurate=False))
        if held not in self._free:
            self._free.clear()
            self._free[held] = decomposed(self._matrix(group, setting, held, accurate=False))
        return self._free[held]

    def _protected(self, group: Group, setting: Setting) -> list[LeadingModes]:
        """The tasks whose penalty the outputs of a group feel."""
        if not setting.protects:
            return []
        tasks = [self.protection[name] for name in group.members]
        return [task for task in tasks if task.kept(setting.modes)]

    def _matrix(self, group: Group, setting: Setting, held: float, accurate: bool) -> BoundedMatrix:
        """N of one group of outputs, with as much of the ridge as is no multiple of the identity."""
        base = self.normal
        if accurate:
            if self._sharp is None:
                weights = self.problem.weights_of(self.problem.new)
                self._sharp = accurate_normal_matrix(self.problem.design, weights)
            base = self._sharp
        tasks = self._protected(group, setting)
        if tasks:
            base = weighted_sum(base, setting.strength or setting.weight, penalty_matrix(tasks, setting, accurate))
        return held_by(base, held)


def held_by(normal: BoundedMatrix, ridge: float) -> BoundedMatrix:
    """The matrix with a ridge on all columns but the last, the bias; two roundings of each diagonal entry."""
    if ridge == 0.0:
        return normal
    matrix = normal.matrix.clone()
    matrix.diagonal()[:-1].add_(ridge)
    return BoundedMatrix(matrix, (normal.error + 2 * U64 * float(matrix.diagonal().max())) * SHORT_CHAIN)


def relative_bounds(parts: Sequence[Updates]) -> torch.Tensor:
    """Bounds of the relative error of whole updates, float64 [P]: 0 where nothing moves, infinite without a bound."""
    errors = norm_upper(torch.cat([part.errors for part in parts], dim=1), dim=1)
    norms = torch.linalg.vector_norm(torch.cat([part.norms for part in parts], dim=1), dim=1) / SHORT_CHAIN
    known = norms > 0.0
    relative = torch.where(known, errors / torch.where(known, norms, 1.0), torch.inf)
    still = torch.stack([part.sizes.amax() for part in parts]).amax() == 0.0
    return torch.zeros_like(relative) if bool(still) else rounded_up(relative)
