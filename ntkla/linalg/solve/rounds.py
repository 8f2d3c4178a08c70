"""Corrections in rounds: several are computed before the host looks at any of them.

On a device every number that Python looks at waits until all that was asked for is computed, which takes longer than a
correction of a small problem.  So the corrections of a round follow one another unseen, as many as the predicted
contraction says are needed; one reading then tells of each what the refinement decides by, and it decides as if it had
looked after every single one: those that follow the one that met the goal, or one that failed, are dropped.  Results do
not depend on the length of the rounds, bit by bit.  On the CPU, where nothing waits, a round is one correction.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch

from ntkla.linalg import host
from ntkla.linalg.arithmetic.doubled import Doubled
from ntkla.linalg.arithmetic.products import pieced_gamma
from ntkla.linalg.arithmetic.slicing import HIGHEST_LEVEL, slice_bits
from ntkla.linalg.precision import NEGLIGIBLE, U64, UNIT_ROUNDOFF, gamma, norm_upper
from ntkla.linalg.solve.normal_problem import NormalProblem
from ntkla.linalg.solve.stability import SolutionError, Stability

# A residual at level s >= 1 bounds slices by their largest entry, not their norm: about 2^5 looser.
_SLICE_LOOSENESS = 32.0
# What is dropped costs as much as what is kept.
_MOST_AHEAD = 4

Goal = Callable[[torch.Tensor], torch.Tensor | float]


@dataclass
class State:
    """The current solution, its residual, and the bound on what rounding did to both."""

    x: Doubled
    rho: torch.Tensor
    rounding: SolutionError
    fresh: bool  # no plain update since the residual was computed in full


class Standing(NamedTuple):
    """How a state stands to its goal: the goal, and the sizes of its rounding, its error, and its error without it."""

    wanted: float
    rounding: float
    error: float
    remaining: float


class Tried(NamedTuple):
    """A correction that nobody looked at: whether the step is finite, the residual before and after, and the state."""

    finite: torch.Tensor
    before: torch.Tensor
    after: torch.Tensor
    state: State


class Seen(NamedTuple):
    """The same, read."""

    finite: bool
    before: float
    after: float
    state: State
    standing: Standing


def standing(state: State, stability: Stability, goal: Goal) -> Standing:
    """Of one state, in one reading."""
    return Standing(*host.numbers(*_figures(state, stability, goal)))


def seen(tried: Sequence[Tried], stability: Stability, goal: Goal) -> list[Seen]:
    """All that decides about a round, in one reading."""
    figures = [(*one[:3], *_figures(one.state, stability, goal)) for one in tried]
    read = iter(host.numbers(*(figure for some in figures for figure in some)))
    rows = [[next(read) for _ in some] for some in figures]
    return [
        Seen(bool(finite), before, after, one.state, Standing(*rest))
        for (finite, before, after, *rest), one in zip(rows, tried, strict=True)
    ]


def _figures(state: State, stability: Stability, goal: Goal) -> tuple[torch.Tensor, ...]:
    remaining = stability.remaining(state.rho)
    wanted = goal(state.x.high)
    if not isinstance(wanted, torch.Tensor):
        wanted = state.rho.new_full((), wanted)
    return wanted, state.rounding.norm, (remaining + state.rounding).norm, remaining.norm


def predicted_contraction(precision: torch.dtype, frobenius: float, stability: Stability) -> float:
    """What a factor of such a precision leaves of a residual: its matrix is off by about `u ||Phi||_F^2`."""
    return min(0.5, UNIT_ROUNDOFF[precision] * frobenius**2 / stability.least)


def steps_ahead(now: Standing, contraction: float, device: torch.device) -> int:
    """How many corrections the next round is made of: as many as the prediction asks for, on the CPU one."""
    if host.reads_are_free(device):
        return 1
    room = max(now.wanted - now.rounding, now.wanted / 16)
    if not (room > 0 and math.isfinite(now.remaining) and now.remaining > room):
        return 1
    needed = math.log(now.remaining / room) / -math.log(max(contraction, U64))
    return max(1, min(_MOST_AHEAD, math.ceil(needed)))


def tried(state: State, step: torch.Tensor, following: State) -> Tried:
    """A step from one state to the following one."""
    return Tried(torch.isfinite(step).all(), norm_upper(state.rho), norm_upper(following.rho), following)


def least_levels(problem: NormalProblem, stability: Stability, x: torch.Tensor, share: float) -> tuple[int, int]:
    """The least levels of the two products of a residual at x whose roundings, estimated from norms, are within it."""
    design, whole = problem.design, problem.frobenius
    length, target_norm = host.numbers(norm_upper(x), norm_upper(problem.target_norms))
    output = target_norm if problem.shift is None else target_norm + whole * length
    forward = pieced_gamma(design.columns) * whole * length * stability.gain
    adjoint = gamma(design.summands) * whole * output / stability.least
    step = 2.0 ** -slice_bits(design.columns, design.block_rows)

    def least(at_zero: float) -> int:
        sizes = [at_zero, *(at_zero * _SLICE_LOOSENESS * step**s for s in range(1, HIGHEST_LEVEL + 1))]
        return next((s for s, size in enumerate(sizes) if size <= share), HIGHEST_LEVEL)

    return least(forward), least(adjoint)


def relative_goal(tolerance: float, stability: Stability) -> Goal:
    """The goal `tolerance * ||x||_F`, halved so that roundings in assembling the bound cannot spoil it."""

    def goal(x: torch.Tensor) -> torch.Tensor:
        length = stability.length(x)
        return torch.where(torch.isfinite(length), 0.5 * tolerance * length, 0.0).clamp(min=NEGLIGIBLE)

    return goal
