"""Sets up the certified solution of `(Phi^T D Phi + (ridge + decay) I) X = Phi^T D Y - decay X_start`.

D holds the samples' weights; it is the identity without any, and `ridge_solve` has decay 0.  Picks the route and the
chain of factors.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from ntkla.linalg import checks
from ntkla.linalg.arithmetic.doubled import two_product
from ntkla.linalg.design import Design
from ntkla.linalg.precision import DEFAULT_TOLERANCE, UNIT_ROUNDOFF
from ntkla.linalg.results import Result
from ntkla.linalg.solve.compensated import CompensatedSolution
from ntkla.linalg.solve.cost import memory_estimate, route_cost
from ntkla.linalg.solve.factor import CholeskyFactor, DualFactor, Factor, QRFactor
from ntkla.linalg.solve.inexact_rows import Inexactness
from ntkla.linalg.solve.minimum_norm import RankDecision, Solution, minimum_norm
from ntkla.linalg.solve.normal_problem import NormalProblem
from ntkla.linalg.solve.refine import Candidate, Refinement
from ntkla.linalg.solve.stability import SolutionError, Stability
from ntkla.linalg.solve.weights import SampleWeights
from ntkla.linalg.status import RANK_DEFICIENT, Status

# A float32 factor pays when it leaves at least two digits a correction.
_FLOAT32_CONTRACTION = 1e-2


@dataclass(frozen=True)
class SolveDiagnostics(Result):
    """How a solution was reached.

    Attributes:
        factor: the factor of the last correction, such as `"cholesky:float64"` or `"qr:float64"`, and what formed its
            matrix where that was a kernel: `"cholesky:float32 of triton:gram:ieee"`.
        escalations: why stronger factors took over, in order; empty when the first sufficed.
        corrections: how many refinement steps were applied.
        residual_levels: accuracy levels of the last full residual (features times solution, and its transpose);
            0 is plain float64, each level adds about 21 bits; None where no residual was refined, as for training that
            stops early.
        relative_bound: the certified error in the tolerance's own measure.
        tolerance: what was asked for.
        rank, rank_threshold, rank_gap: for `ridge=0` the numerical rank, the singular value below which one counts as
            zero, and the ratio of the last kept singular value to the first dropped; None otherwise.
        memory_estimate: bytes, made before the solve.
    """

    factor: str
    escalations: tuple[str, ...]
    corrections: int
    residual_levels: tuple[int, int] | None
    relative_bound: float
    tolerance: float
    memory_estimate: int
    rank: int | None = None
    rank_threshold: float | None = None
    rank_gap: float | None = None


@dataclass(frozen=True)
class NormalSolve:
    """A prepared solve: `solution.reach(goal)` drives it, the rest is what a result reports of it."""

    solution: Solution | CompensatedSolution
    stability: Stability
    route: str
    memory: int
    tolerance: float
    rank: RankDecision | None = None
    targets_error: torch.Tensor | None = None

    def with_inexact_rows(self, inexactness: Inexactness) -> NormalSolve:
        """The same for a design whose last rows, and whose targets, are known to within a rounding only."""
        assert not isinstance(self.solution, CompensatedSolution)
        ridge = self.rank is None
        return replace(self, solution=CompensatedSolution(self.solution, self.stability, inexactness, ridge))

    @property
    def error(self) -> SolutionError:
        """The certified error of the high part of the solution alone, which is what a result holds.

        It includes what an inexact right-hand side adds (`targets_error`, a 2-norm bound per column).
        """
        error = self.solution.error + self.stability.moved(self.solution.x.low)
        return error if self.targets_error is None else error + self.stability.inherited(self.targets_error)

    def diagnostics(self, relative_bound: float) -> SolveDiagnostics:
        """What was done, for the result."""
        return SolveDiagnostics(
            factor=self.solution.factor_name,
            escalations=tuple(self.solution.escalations),
            corrections=self.solution.corrections,
            residual_levels=self.solution.levels,
            relative_bound=relative_bound,
            tolerance=self.tolerance,
            memory_estimate=self.memory,
            rank=None if self.rank is None else self.rank.rank,
            rank_threshold=None if self.rank is None else self.rank.threshold,
            rank_gap=None if self.rank is None else self.rank.gap,
        )

    def status(self, relative_bound: float) -> Status:
        """Certified, above the tolerance, rank deficient or uncertified, each with its numbers and the remedy."""
        if self.rank is not None and math.isinf(self.error.size()):
            return Status(
                RANK_DEFICIENT,
                f"ridge=0 and full rank is not certified: {self.rank.rank} singular values lie above "
                f"{self.rank.threshold:.2e} (gap {self.rank.gap:.2e}), and the minimum-norm solution of that rank "
                "has no finite error bound. Use a ridge > 0.",
            )
        return Status.of_bound(
            relative_bound,
            self.tolerance,
            "the problem is too ill-conditioned for this ridge. Use a larger ridge, or a larger tol if this bound "
            "suffices.",
        )


def prepare(
    design: Design,
    targets: torch.Tensor,
    *,
    ridge: float,
    decay: float = 0.0,
    start: torch.Tensor | None = None,
    free_bias: bool = False,
    route: str = "auto",
    tolerance: float = DEFAULT_TOLERANCE,
    weights: SampleWeights | None = None,
    targets_copied: bool = False,
    rows_predicted: int = 0,
) -> NormalSolve:
    """Checks memory, picks the route, and builds the solution to refine.

    Args:
        design: Phi, n x K (K counts the bias).
        targets: float64 [n, C].
        ridge, decay: >= 0; both zero means the minimum-norm solution.
        start: float64 [K, C], the head that the decay pulls towards zero; needed when decay > 0.
        free_bias: whether the bias column goes unpenalised.
        weights: of the samples, or None for 1 each.
        targets_copied: whether `targets` is a copy that the caller made (for the memory estimate).
        rows_predicted: for how many samples the caller will multiply the solution out (likewise).
    """
    if ridge == 0 and decay == 0:
        solution, stability, picked, rank, needed = minimum_norm(
            design, targets, free_bias=free_bias, route=route, weights=weights
        )
        return NormalSolve(solution, stability, picked, needed, tolerance, rank)
    picked = route_cost(design.rows, design.columns, targets.shape[1], route).route
    needed = memory_estimate(
        design,
        targets.shape[1],
        picked,
        targets_copied=targets_copied,
        rows_predicted=rows_predicted,
        weighted=weights is not None,
    )
    checks.memory("the ridge solve", needed, design.device)
    mask = torch.ones(design.columns, dtype=torch.float64, device=design.device)
    if free_bias:
        mask[-1] = 0.0
    diagonals = tuple(mask * value for value in (ridge, decay) if value > 0)
    shift = None
    if decay > 0:
        assert start is not None, "a decay needs the head it acts on"
        shift = two_product(-decay * mask[:, None], start)
    frobenius = design.frobenius() if weights is None else weights.frobenius
    problem = NormalProblem(design, targets, diagonals, shift, frobenius, weights)
    stability = Stability.ridge(ridge + decay, design, free_bias, weights, frobenius)
    chain = _candidates(problem, ridge + decay, free_bias, picked)
    return NormalSolve(Refinement(problem, stability, chain), stability, picked, needed, tolerance)


def _candidates(problem: NormalProblem, penalty: float, free_bias: bool, route: str) -> list[Candidate]:
    """The chain of factors, cheapest first."""

    def cholesky(dtype: torch.dtype) -> Callable[[], Factor | None]:
        return lambda: CholeskyFactor.build(problem, dtype)

    chain: list[Candidate] = []
    if route == "dual":
        chain.append(("dual cholesky:float64", lambda: DualFactor.build(problem, free_bias)))
    else:
        # A float32 Gram is off by about u tr(S): with tr(S) / penalty that bounds how much a correction leaves.
        left = UNIT_ROUNDOFF[torch.float32] * problem.frobenius**2 / penalty
        if problem.design.dtype != torch.float64 and left < _FLOAT32_CONTRACTION:
            chain.append(("cholesky:float32", cholesky(torch.float32)))
        chain.append(("cholesky:float64", cholesky(torch.float64)))
    chain.append(("qr:float64", lambda: QRFactor.build(problem)))
    return chain
