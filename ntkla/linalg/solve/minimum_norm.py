"""The minimum-norm solution: least squares without a ridge, and why its bound is finite only at full rank.

The pseudo-inverse is discontinuous where the rank changes, so an error bound needs a *certified* rank.

- The rank is decided from the singular values in float64: one counts as zero below `max(n, K) 2u s_1` (the convention
  of LAPACK's users; Golub and Van Loan, section 5.4.1), with a free bias below `max(n, K) 2u ||Phi||` once centred.
- Full rank is certified by Cholesky: if `M - mu I`, M the smaller Gram matrix as computed, factors to completion in
  float64, then `lambda_min(M) >= mu - gamma_{k+2} / (1 - gamma) tr(M)` (Rump, "Verification of positive definiteness",
  BIT 46 (2006)); subtracting the rounding of M itself bounds the exact least eigenvalue.
- Full column rank: the refinement of `refine.py` with that eigenvalue in place of the ridge.
- Full row rank: with X = Phi^T alpha + eta, `X* - X = Phi^T G^-1 (Y - Phi X) - P eta`, P the projector onto the null
  space, so `||X* - X|| <= ||Y - Phi X|| / sqrt(lambda_min(G)) + ||eta||`.
- Otherwise the truncated singular value solution is returned with an infinite bound.

With sample weights, samples of weight 0 are left out.  At full row rank the others are fitted exactly, whatever their
weights, which then play no part; otherwise everything is that of the features and targets times `sqrt(w)`, and the
residual and the least eigenvalue are certified for the exact weights.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch

from ntkla.linalg import checks
from ntkla.linalg.arithmetic.doubled import Doubled, add
from ntkla.linalg.arithmetic.slicing import HIGHEST_LEVEL
from ntkla.linalg.checks import LARGEST_ENTRY, LEAST_PENALTY
from ntkla.linalg.design import Design
from ntkla.linalg.errors import ScaleError
from ntkla.linalg.precision import SHORT_CHAIN, TINY64, U64, gamma, norm_upper, rounded_up
from ntkla.linalg.solve.cost import ROUTES
from ntkla.linalg.solve.factor import CholeskyFactor, QRFactor
from ntkla.linalg.solve.normal import gram_matrix, normal_matrix
from ntkla.linalg.solve.normal_problem import NormalProblem, adjoint_underflow
from ntkla.linalg.solve.refine import Refinement
from ntkla.linalg.solve.residual import residual
from ntkla.linalg.solve.rounds import Goal
from ntkla.linalg.solve.stability import SolutionError, Stability
from ntkla.linalg.solve.weights import SampleWeights

_MOST_CORRECTIONS = 8
# Dividing by a singular value next to 0 reaches infinity; the least ridge stays below this by `1 / (2 sqrt(ridge))`.
_LARGEST_SOLUTION = LARGEST_ENTRY / LEAST_PENALTY**0.5


@dataclass(frozen=True)
class RankDecision:
    """The numerical rank, the threshold that decided it, and the ratio of the last kept singular value to the next."""

    rank: int
    threshold: float
    gap: float


class TruncatedSolution:
    """The truncated singular value solution, for which no finite bound exists."""

    factor_name = "svd:float64"
    corrections = 0
    levels = (0, 0)

    def __init__(self, x: torch.Tensor) -> None:
        self.x = Doubled(x, torch.zeros_like(x))
        self.escalations: list[str] = []
        infinite = torch.full_like(x[0], math.inf)
        self.error = SolutionError(infinite, torch.zeros_like(infinite))

    def reach(self, goal: Goal) -> bool:
        """Always False: the bound is infinite."""
        return False


class RowRankRefinement:
    """The minimum-norm solution of a system with certified full row rank, improved on request."""

    factor_name = "cholesky:float64"

    def __init__(self, problem: NormalProblem, triangle: torch.Tensor, least: float) -> None:
        self.problem, self.triangle = problem, triangle
        self.stability = Stability.full_rank(least, problem.design)
        self.escalations: list[str] = []
        self.corrections = 0
        self.levels = (0, 0)
        # X = Phi^T alpha with its rounding eta: the adjoint half of a residual whose outputs are alpha.
        alpha = torch.cholesky_solve(problem.targets, triangle)
        zero = torch.zeros((problem.design.columns, alpha.shape[1]), dtype=torch.float64, device=alpha.device)
        start = residual(replace(problem, targets=alpha), Doubled(zero, zero), (0, 2))
        self.x = Doubled(start.value, zero)
        self._displacement = start.adjoint_error
        self._measure(0)

    @property
    def error(self) -> SolutionError:
        """The certified error of `x`."""
        outside = self.stability.gain * (self._outputs.output_norm + self._outputs.output_error)
        weights = rounded_up(outside + self._displacement)
        return SolutionError(weights, torch.zeros_like(weights))

    def reach(self, goal: Goal) -> bool:
        """Improves `x` until the size of its error is at most `goal(x.high)`; False when it stops improving."""
        for _ in range(_MOST_CORRECTIONS):
            wanted, size = float(goal(self.x.high)), self.error.size()
            if size <= wanted:
                return True
            if self.stability.gain * float(norm_upper(self._outputs.output_error)) > wanted / 4:
                if self.levels[0] == HIGHEST_LEVEL:
                    return False
                self._measure(self.levels[0] + 1)
                continue
            self._correct()
            if self.error.size() > size / 2:
                break
        return self.error.size() <= float(goal(self.x.high))

    def _measure(self, level: int) -> None:
        self.levels = (level, 0)
        self._outputs = residual(self.problem, self.x, self.levels, keep_outputs=True)

    def _correct(self) -> None:
        assert self._outputs.outputs is not None
        step = torch.cholesky_solve(self._outputs.outputs, self.triangle)
        moved = self.problem.design.rmatmul(step)
        size = norm_upper(step, dim=0)
        rounding = gamma(self.problem.design.summands + 1) * self.problem.frobenius * size
        rounding = rounding + adjoint_underflow(self.problem, size, products=1)
        lost = 4 * U64**2 * (norm_upper(self.x.high, dim=0) + norm_upper(moved, dim=0))
        self._displacement = rounded_up(self._displacement + rounding + lost)
        self.x = add(self.x, moved)
        self.corrections += 1
        self._measure(self.levels[0])


Solution = Refinement | RowRankRefinement | TruncatedSolution


def minimum_norm(
    design: Design, targets: torch.Tensor, *, free_bias: bool, route: str, weights: SampleWeights | None = None
) -> tuple[Solution, Stability, str, RankDecision, int]:
    """Decides the rank, certifies it where it is full, and returns (solution, stability, route, rank, memory estimate).

    Args:
        design: Phi, n x K (K counts the bias).
        targets: float64 [n, C].
        free_bias: whether the bias is left out of the norm that is minimised.
        route: checked, and then decided by the rank: "primal" for full column rank, "dual" for full row rank.
        weights: of the samples, or None.

    Raises:
        ArgumentError, MemoryEstimateError; ScaleError for a truncated solution that is next to infinite.

    Cost: one singular value decomposition of a float64 copy of the features.
    """
    checks.choice("route", route, ROUTES)
    n, k = design.rows, design.columns
    needed = 8 * ((3 if weights is None else 5) * n * k + 4 * min(n, k) ** 2 + 4 * (n + k) * targets.shape[1])
    checks.memory("the minimum-norm solve", needed, design.device)
    if weights is not None:
        design, targets, weights = weights.counted(design, targets)
        n = design.rows
    # At full row rank the weights do not matter, and without them the samples are no worse conditioned.
    fits = weights is not None and n <= k and not free_bias
    decision, truncated = _truncated(design, targets, free_bias, None if fits else weights)
    full_columns = decision.rank == k - int(free_bias) and k <= n and not fits
    if full_columns and (least := certified_least(normal_matrix(design, weights))) > 0:
        frobenius = design.frobenius() if weights is None else weights.frobenius
        problem = NormalProblem(design, targets, (), None, frobenius, weights)
        stability = Stability.full_rank(least, design, weights)
        chain = [
            ("cholesky:float64", lambda: CholeskyFactor.build(problem, torch.float64)),
            ("qr:float64", lambda: QRFactor.build(problem)),
        ]
        return Refinement(problem, stability, chain), stability, "primal", decision, needed
    if decision.rank == n <= k and not free_bias:
        gram = gram_matrix(design)
        least = certified_least(gram)
        triangle, info = torch.linalg.cholesky_ex(gram.matrix)
        if least > 0 and int(info) == 0:
            problem = NormalProblem(design, targets, (), None, design.frobenius())
            rows = RowRankRefinement(problem, triangle, least)
            return rows, rows.stability, "dual", decision, needed
    if fits:
        decision, truncated = _truncated(design, targets, free_bias, weights)
    if not float(truncated.abs().max()) <= _LARGEST_SOLUTION:
        raise ScaleError(
            "ridge=0: the minimum-norm solution is too large for its products with features to stay finite. "
            "Scale the features up or the targets down by a power of two, or use a ridge > 0."
        )
    stability = Stability.full_rank(1.0, design)  # only its geometry is used: the bound is infinite
    return TruncatedSolution(truncated), stability, "primal" if k <= n else "dual", decision, needed


def certified_least(gram: tuple[torch.Tensor, float]) -> float:
    """A lower bound of the least eigenvalue of the exact matrix behind (matrix, error), or 0 when none > 0 is proved.

    Tries half the computed least eigenvalue as the shift mu.
    """
    matrix, error = gram
    k = matrix.shape[0]
    shift = float(torch.linalg.eigvalsh(matrix)[0]) / 2
    if not shift > 0:
        return 0.0
    shifted = matrix.clone()
    shifted.diagonal().sub_(shift)
    if int(torch.linalg.cholesky_ex(shifted).info) != 0:
        return 0.0
    trace = float(matrix.diagonal().sum()) * (1.0 + gamma(k))
    rounding = (gamma(k + 2) / (1.0 - gamma(k + 2)) * trace + U64 * trace + 4 * k * (k + 2) * TINY64) * SHORT_CHAIN
    least = shift - (rounding + error) * SHORT_CHAIN
    return max(least / SHORT_CHAIN, 0.0)


def _truncated(
    design: Design, targets: torch.Tensor, free_bias: bool, weights: SampleWeights | None
) -> tuple[RankDecision, torch.Tensor]:
    """The numerical rank of the (centred) features and the truncated singular value solution [K, C]."""
    dense = torch.cat([block.clone() for _, block in design.blocks()])
    right = targets
    means = None
    if free_bias:
        features = dense[:, :-1]
        means, target_means = (x.mean(0) if weights is None else weights.mean(x) for x in (features, targets))
        dense, right = features - means, targets - target_means
        size = float(norm_upper(features if weights is None else weights.bounded(slice(None), features)))
    if weights is not None:
        dense, right = dense * weights.roots[:, None], right * weights.roots[:, None]
    u, s, vh = torch.linalg.svd(dense, full_matrices=False)
    # Centring leaves roundings of the size of what was centred, not of what is left.
    largest = float(s[0]) if means is None else size
    threshold = max(dense.shape) * 2 * U64 * largest
    rank = int((s > threshold).sum())
    following = float(s[rank]) if rank < len(s) else 0.0
    gap = math.inf if following == 0.0 or rank == 0 else float(s[rank - 1]) / following
    x = vh[:rank].T @ ((u[:, :rank].T @ right) / s[:rank, None])
    if means is not None:
        x = torch.cat([x, (target_means - means @ x)[None, :]])
    return RankDecision(rank, threshold, gap), x
