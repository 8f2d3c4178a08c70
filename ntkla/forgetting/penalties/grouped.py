"""One update of the head from groups of outputs that are solved apart, because different penalties cover them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import torch

from ntkla.forgetting.descent.trained import TrainedUpdate
from ntkla.linalg.solve.normal_solver import NormalSolve, SolveDiagnostics
from ntkla.linalg.solve.rounds import relative_goal
from ntkla.linalg.solve.stability import SolutionError, Stability
from ntkla.linalg.status import Status

# The outputs of each group, int64 [c]; None for all of them.
Outputs = torch.Tensor | None


class GroupedSolve(NamedTuple):
    """The optimum, group by group; without penalties it is one group of all outputs.

    Attributes:
        groups: the outputs and the solve of each.
        outputs: how many there are in all.
    """

    groups: Sequence[tuple[Outputs, NormalSolve]]
    outputs: int

    @property
    def tolerance(self) -> float:
        """What is wanted of each."""
        return self.groups[0][1].tolerance

    @property
    def stability(self) -> Stability:
        """Of the first; they share their centre: no bias is free where there is more than one."""
        return self.groups[0][1].stability

    @property
    def route(self) -> str:
        """How they were solved."""
        return ", ".join(dict.fromkeys(solve.route for _, solve in self.groups))

    @property
    def x(self) -> torch.Tensor:
        """The update, float64 [K, C]."""
        return _placed([(outputs, solve.solution.x.high) for outputs, solve in self.groups], self.outputs)

    @property
    def error(self) -> SolutionError:
        """Its certified error."""
        errors = [(outputs, solve.error) for outputs, solve in self.groups]
        weights = _placed([(outputs, error.weights) for outputs, error in errors], self.outputs)
        offset = _placed([(outputs, error.offset) for outputs, error in errors], self.outputs)
        return SolutionError(weights, offset, errors[0][1].radius)

    def reach_tolerance(self) -> None:
        """Refines every group to its tolerance."""
        for _, solve in self.groups:
            solve.solution.reach(relative_goal(solve.tolerance, solve.stability))

    def reach(self, size: float) -> None:
        """Refines until the size of the whole error is at most this, as far as each group's share allows."""
        share = size / math.sqrt(len(self.groups))
        for _, solve in self.groups:
            solve.solution.reach(lambda _: share)

    @property
    def _worst(self) -> NormalSolve:
        return max((solve for _, solve in self.groups), key=lambda solve: solve.error.size())

    def status(self, relative_bound: float) -> Status:
        """In the words of the group whose error is largest."""
        return self._worst.status(relative_bound)

    def diagnostics(self, relative_bound: float) -> SolveDiagnostics:
        """Of the group whose error is largest."""
        return self._worst.diagnostics(relative_bound)


def grouped_training(groups: Sequence[tuple[Outputs, TrainedUpdate]], outputs: int) -> TrainedUpdate:
    """The updates of training that stops early as one."""
    updates = [update for _, update in groups]
    return replace(
        updates[0],
        update=_placed([(places, update.update) for places, update in groups], outputs),
        error_bound=_placed([(places, update.error_bound) for places, update in groups], outputs),
        escalations=tuple(dict.fromkeys(said for update in updates for said in update.escalations)),
        largest_eigenvalue=max(update.largest_eigenvalue for update in updates),
        memory_estimate=max(update.memory_estimate for update in updates),
    )


def _placed(parts: Sequence[tuple[Outputs, torch.Tensor]], outputs: int) -> torch.Tensor:
    """Columns [..., c] of the groups where they belong in [..., C]."""
    places, first = parts[0]
    if places is None:
        return first
    out = first.new_empty((*first.shape[:-1], outputs))
    for places, part in parts:
        assert places is not None, "several groups name their outputs"
        out[..., places] = part
    return out
