"""Iterative refinement that stops on a proof: factor fast, correct with residuals through the features, certify.

One residual of the full solution is computed at the level of accuracy that the goal asks for.  A correction d then
changes it by A d, and the rounding of that product is proportional to d, not to the solution: the plain float64
product is accurate enough, and its rounding is added to the bound.  A kernel may make that product; what is certified
then is a full residual once more, in which there is none.  When a factor contracts the residual by less than
1/2 a step, or cannot be built, the next stronger one takes over and the escalation is recorded.

Source of the scheme: Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed., chapter 12; Carson and Higham,
"Accelerating the solution of linear systems by iterative refinement in three precisions" (2018).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

from ntkla.linalg import host
from ntkla.linalg.arithmetic.doubled import Doubled, add
from ntkla.linalg.arithmetic.slicing import HIGHEST_LEVEL
from ntkla.linalg.precision import U64, norm_upper, rounded_up
from ntkla.linalg.solve import rounds
from ntkla.linalg.solve.factor import Factor
from ntkla.linalg.solve.normal_problem import NormalProblem, Residual
from ntkla.linalg.solve.one_pass import one_pass_change, one_pass_wanted
from ntkla.linalg.solve.residual import residual
from ntkla.linalg.solve.rounds import Goal, Seen, Standing, State
from ntkla.linalg.solve.stability import SolutionError, Stability
from ntkla.linalg.solve.summed_residual import ResidualSource

# Two products round, and the rest of the goal is left to the residual itself.
_SHARE = 0.45
# Each step at least halves the residual, and 106 bits is all that the solution holds.
_MOST_STEPS = 106
_CONTRACTION = 0.5

Candidate = tuple[str, Callable[[], Factor | None]]


class Refinement:
    """A certified solution of a `NormalProblem`, improved on request.

    Attributes:
        escalations: why stronger factors took over, in order.
        corrections: how many corrections were applied.
        levels: the levels of the last full residual.
    """

    def __init__(self, problem: NormalProblem, stability: Stability, candidates: Sequence[Candidate]) -> None:
        self.problem, self.stability = problem, stability
        self.escalations: list[str] = []
        self.corrections = 0
        self.levels = (0, 0)
        self._candidates = list(candidates)
        self._factor: Factor | None = None
        self._state: State | None = None
        self._source = ResidualSource()
        zeros = torch.zeros((), dtype=torch.float64, device=problem.targets.device).expand_as(problem.targets)
        self._homogeneous = replace(problem, targets=zeros, shift=None)
        self._parts: tuple[torch.Tensor, ...] = ()  # what the two products of the last full residual add to the error
        self._kernels = True  # whether kernels may correct
        self._by_kernel = False  # whether one did since the last full residual
        self._ahead = _MOST_STEPS  # the longest round that pays: rounding cut the last one there
        self._contraction = _CONTRACTION  # what the factor is expected to leave of a residual

    @property
    def factor_name(self) -> str:
        """The factor that is in use."""
        return "none" if self._factor is None else self._factor.name

    @property
    def x(self) -> Doubled:
        """The current solution [K, C]."""
        assert self._state is not None, "reach() comes first"
        return self._state.x

    @property
    def error(self) -> SolutionError:
        """The certified error of `x`."""
        assert self._state is not None, "reach() comes first"
        return self.stability.remaining(self._state.rho) + self._state.rounding

    def reach(self, goal: Goal) -> bool:
        """Improves `x` until its error is at most `goal(x.high)`; False when rounding or the factors forbid it."""
        if self._state is None:
            self._begin()
        self._kernels = True
        done = self._improve(goal)
        if self._by_kernel:
            # Nothing certified rests on a kernel of ours: a residual without one says where x stands, and what may be
            # left is done without one.
            self._kernels = False
            self._measure(self.levels)
            done = self._improve(goal)
        return done

    def _improve(self, goal: Goal) -> bool:
        assert self._state is not None
        now, left = self._standing(goal), _MOST_STEPS
        while left > 0:
            if not self._state.fresh and now.rounding > 2 * _SHARE * now.wanted:
                forward, adjoint = rounds.least_levels(self.problem, self.stability, self.x.high, _SHARE * now.wanted)
                self._measure((max(forward, self.levels[0]), max(adjoint, self.levels[1])))
                now = self._standing(goal)
            if now.error <= now.wanted:
                return True
            if now.rounding > 2 * _SHARE * now.wanted:
                raised = self._raise_levels(now.wanted)
                now = self._standing(goal)
                if raised:
                    left -= 1
                    continue
                # No level reaches the goal: corrections pay only until rho is down to its own rounding.
                if now.remaining <= now.rounding:
                    return False
            before = self.corrections
            now, going_on = self._round(now, goal, left)
            if not going_on:
                return now.error <= now.wanted
            left -= max(1, self.corrections - before)
        return False

    def _standing(self, goal: Goal) -> Standing:
        assert self._state is not None
        return rounds.standing(self._state, self.stability, goal)

    def move_right_side(self, shift: Doubled) -> None:
        """Goes on with another `shift` of the same matrix; the solution so far is where the next one starts."""
        self.problem = replace(self.problem, shift=shift)
        unknown = torch.full_like(shift.high[0], math.inf)
        self._state = State(self.x, self.x.high, SolutionError(unknown, unknown), fresh=False)

    def _begin(self) -> None:
        while True:
            if not self._next_factor("could not be built"):
                zero = torch.zeros_like(self.problem.targets[:1]).expand(self.problem.design.columns, -1).clone()
                self._start_from(zero)
                return
            assert self._factor is not None
            x = self._factor.start(self.problem)
            if bool(torch.isfinite(x).all()):
                self._start_from(x)
                return
            self.escalations.append(f"{self._factor.name} overflowed")

    def _start_from(self, x: torch.Tensor) -> None:
        # Nothing is known of its residual yet: an infinite rounding makes `reach` measure it, however small x is.
        unknown = torch.full(x.shape[1:], math.inf, dtype=torch.float64, device=x.device)
        self._state = State(Doubled(x, torch.zeros_like(x)), x, SolutionError(unknown, unknown), fresh=False)

    def _next_factor(self, reason: str) -> bool:
        """Moves on to the next candidate that can be built; False when none is left (the old one then stays)."""
        while self._candidates:
            name, build = self._candidates.pop(0)
            factor = build()
            if factor is not None:
                self._factor = factor
                self._contraction = rounds.predicted_contraction(
                    factor.precision, self.problem.frobenius, self.stability
                )
                return True
            self.escalations.append(f"{name} {reason}")
        return False

    def _measure(self, levels: tuple[int, int]) -> None:
        assert self._state is not None
        self.levels, self._by_kernel = levels, False
        summed = self._source.residual(self.problem, self._state.x, levels)
        r = residual(self.problem, self._state.x, levels) if summed is None else summed
        zero = torch.zeros_like(r.output_error)
        products = replace(r, adjoint_error=zero, bias_error=zero), replace(r, output_error=zero)
        self._parts = tuple(self.stability.rounding(part).norm for part in products)
        self._state = State(self._state.x, r.value, self.stability.rounding(r), fresh=True)

    def _raise_levels(self, wanted: float) -> bool:
        """Measures again, one level higher in the products whose rounding is above its share; False at the top."""
        assert self._state is not None
        if not self._state.fresh or self._source.leave_sums():
            self._measure(self.levels)
            return True
        *parts, before = host.numbers(*self._parts, self._state.rounding.norm)
        raised = [part > min(_SHARE * wanted, max(parts)) / 2 for part in parts]
        forward, adjoint = (min(s + r, HIGHEST_LEVEL) for s, r in zip(self.levels, raised, strict=True))
        if (forward, adjoint) == self.levels:
            return False
        self._measure((forward, adjoint))
        return self._state.rounding.size() < before

    def _round(self, now: Standing, goal: Goal, most: int) -> tuple[Standing, bool]:
        """Corrections until the prediction says that the goal is met; False when no factor contracts the residual."""
        if self._factor is None:
            return now, False
        assert self._state is not None
        steps, state = [], self._state
        for _ in range(min(most, self._ahead, rounds.steps_ahead(now, self._contraction, state.rho.device))):
            step = self._factor.solve(state.rho)
            following = self._following(state, step)
            steps.append(rounds.tried(state, step, following))
            state = following
        for kept, one in enumerate(rounds.seen(steps, self.stability, goal), start=1):
            if not one.finite or not one.after <= _CONTRACTION * one.before:
                return now, self._escalate(one)
            self._state, now = one.state, one.standing
            self._contraction = one.after / one.before
            self.corrections += 1
            cut = now.rounding > 2 * _SHARE * now.wanted
            self._ahead = kept if cut else _MOST_STEPS
            if cut or now.error <= now.wanted:
                break
        return now, True

    def _escalate(self, failed: Seen) -> bool:
        """Goes on to the next factor after a correction that did not help; False when there is none."""
        assert self._factor is not None
        name, reason = self._factor.name, "overflowed"
        if failed.finite:
            reason = f"contracted the residual by {failed.after / failed.before:.2g}, less than 1/2"
        if not self._next_factor("could not be built"):
            return False
        self.escalations.append(f"{name} {reason}")
        return True

    def _apply(self, step: torch.Tensor) -> Residual:
        """-A step in plain float64, with the bound of its rounding; by a kernel where one is wanted."""
        if self._kernels and one_pass_wanted(self._homogeneous, step.shape[1]):
            self._by_kernel = True
            return one_pass_change(self._homogeneous, step)
        return residual(self._homogeneous, Doubled(step, torch.zeros_like(step)), (0, 0))

    def _following(self, state: State, step: torch.Tensor) -> State:
        """The state after a step, its rounding included."""
        applied = self._apply(step)
        rho = state.rho + applied.value
        applied = replace(
            applied,
            adjoint_error=rounded_up(applied.adjoint_error + U64 * norm_upper(rho, dim=0)),
            bias_error=rounded_up(applied.bias_error + U64 * rho[-1].abs()),
        )
        x = add(state.x, step)
        lost = 4 * U64**2 * (state.x.high.abs() + step.abs())
        rounding = state.rounding + self.stability.rounding(applied) + self.stability.moved(lost)
        return State(x, rho, rounding, fresh=False)
