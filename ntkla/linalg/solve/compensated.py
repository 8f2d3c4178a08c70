"""The solution of a stacked problem whose pseudo-samples are inexact, brought as close to the exact one as is wanted.

Notation: `inexact_rows.py`, which bounds how far the stored problem's solution is from the exact one.  That suffices
until `c ||Z||^2` is some 1e12 times the ridge.  Where it does not, the refinement goes on with another right side: at a
trial solution x_0 the stored problem is off by b(x_0), known but for dZ, dY and rounding.  The solution x of
`A x = B + b(x_0)` has, in the exact equations, the residual

    b(x) - (b(x_0) as computed)  =  -(A* - A) (x - x_0)  +  c* Z*^T (dY - dZ x_0)  +  c dZ^T (t + d)  +  roundings,

of which the first is small because x and x_0 are next to each other, and the rest by the square of a rounding.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from ntkla.linalg.arithmetic.doubled import Doubled, add
from ntkla.linalg.precision import SHORT_CHAIN, U64, norm_upper, rounded_up
from ntkla.linalg.solve.inexact_rows import Inexactness
from ntkla.linalg.solve.minimum_norm import RowRankRefinement, TruncatedSolution
from ntkla.linalg.solve.refine import Refinement
from ntkla.linalg.solve.rounds import Goal
from ntkla.linalg.solve.stability import SolutionError, Stability

# The share of a goal that is left to the stored problem's own error.
_SHARE = 0.75
_MOST_COMPENSATIONS = 3


@dataclass(frozen=True)
class _Known:
    """A compensation: where it was made, and the bound of its own error through A*^-1, [C]."""

    x: torch.Tensor
    error: torch.Tensor


class CompensatedSolution:
    """A solution of the stored problem as one of the exact problem.

    Attributes:
        solution: of the stored problem.
        compensations: how often its right side was moved.
    """

    def __init__(
        self,
        solution: Refinement | RowRankRefinement | TruncatedSolution,
        stability: Stability,
        inexactness: Inexactness,
        ridge: bool,
    ) -> None:
        self.solution, self.stability, self.inexactness = solution, stability, inexactness
        self.compensations = 0
        self._known: _Known | None = None
        self._shift = solution.problem.shift if isinstance(solution, Refinement) else None
        self._least, self._gain = stability.least, stability.gain
        if ridge:
            moved = sum(rows.root * rows.rows_error for rows in inexactness.inexact)
            self._gain += moved / self._least * SHORT_CHAIN
        else:
            self._least = max(self._least - inexactness.matrix_error * SHORT_CHAIN, 0.0)
            self._gain = SHORT_CHAIN / math.sqrt(self._least) if self._least > 0 else math.inf

    @property
    def x(self) -> Doubled:
        """The solution [K, C]."""
        return self.solution.x

    @property
    def factor_name(self) -> str:
        """The factor that is in use."""
        return self.solution.factor_name

    @property
    def escalations(self) -> list[str]:
        """Why stronger means took over, in order."""
        moved = ["what rounding left of the penalty's features was added"] if self.compensations else []
        return self.solution.escalations + moved

    @property
    def corrections(self) -> int:
        """How many corrections were applied."""
        return self.solution.corrections

    @property
    def levels(self) -> tuple[int, int]:
        """The levels of the last full residual."""
        return self.solution.levels

    @property
    def error(self) -> SolutionError:
        """The certified error of `x` as a solution of the exact problem."""
        error = self.solution.error
        return error + self._added(error)

    def reach(self, goal: Goal) -> bool:
        """Improves `x` until the size of its error is at most `goal(x.high)`; False when it stops improving."""
        self.solution.reach(lambda x: _SHARE * goal(x))
        while self.error.size() > (wanted := float(goal(self.x.high))):
            added = self._added(self.solution.error).size()
            if added <= (1.0 - _SHARE) * wanted or not self._compensate():
                return False
            self.solution.reach(lambda x: _SHARE * goal(x))
            if not self._added(self.solution.error).size() <= added / 2:
                break
        return self.error.size() <= float(goal(self.x.high))

    def _compensate(self) -> bool:
        """Moves the right side to what the exact problem has at x; False where there is no ridge, or no more use."""
        if not isinstance(self.solution, Refinement) or self._least == 0 or self.compensations == _MOST_COMPENSATIONS:
            return False
        x = self.x.high
        shift = self._shift if self._shift is not None else Doubled(torch.zeros_like(x), torch.zeros_like(x))
        error = self._gain * self.inexactness.others(x[0], self.inexactness.others_root)
        length = norm_upper(x, dim=0)
        for rows in self.inexactness.inexact:
            value, rounding = rows.correction(x)
            fit = rows.misfit(x, torch.zeros_like(length)) + rows.targets_error + rows.rows_error * length
            added = 4 * U64**2 * (norm_upper(shift.high, dim=0) + norm_upper(value, dim=0))
            adjoint = rounding + added + 2 * rows.weight[0] * rows.rows_rest * fit
            output = rows.root * (rows.targets_rest + rows.rows_rest * length)
            error = rounded_up(error + self._gain * output + adjoint / self._least)
            shift = add(shift, value)
        self._known = _Known(x.clone(), error)
        self.solution.move_right_side(shift)
        self.compensations += 1
        return True

    def _added(self, error: SolutionError) -> SolutionError:
        """How far the stored problem's solution, known as x within `error`, can be from the exact one's."""
        x = self.x.high
        if isinstance(self.solution, RowRankRefinement):
            weights = self._of_a_fit(norm_upper(x, dim=0) + error.weights)
        elif not bool(torch.isfinite(error.weights).all()) or self._least == 0:
            weights = torch.full_like(error.weights, math.inf)
        elif self._known is not None:
            apart = norm_upper(x - self._known.x, dim=0) + U64 * norm_upper(x, dim=0) + error.weights
            weights = self._known.error + self.inexactness.matrix_error / self._least * apart
        else:
            weights = self._of_the_stored(x, error.weights)
        return SolutionError(rounded_up(weights), torch.zeros_like(weights))

    def _of_the_stored(self, x: torch.Tensor, error: torch.Tensor) -> torch.Tensor:
        """The bound without a compensation."""
        whole = norm_upper(x, dim=0) + error
        outputs = self.inexactness.others(whole, self.inexactness.others_root)
        adjoint = torch.zeros_like(whole)
        for rows in self.inexactness.inexact:
            misfit = rows.misfit(x, error)
            outputs = outputs + rows.root * (rows.targets_error + rows.rows_error * whole + 2 * U64 * misfit)
            adjoint = adjoint + rows.weight[0] * rows.rows_error * misfit
        return self._gain * outputs + adjoint / self._least

    def _of_a_fit(self, whole: torch.Tensor) -> torch.Tensor:
        """The bound at full row rank, for solutions of norms up to `whole`."""
        moved = self.inexactness.rows_error
        room = 1.0 / self.stability.gain / SHORT_CHAIN - moved
        gain = SHORT_CHAIN / room if room > 0 else math.inf
        targets = torch.zeros_like(whole)
        for rows in self.inexactness.inexact:
            targets = targets + rows.targets_error
        outputs = self.inexactness.others(whole, 1.0) + targets + moved * whole
        return gain * outputs + self.stability.gain * moved * whole
