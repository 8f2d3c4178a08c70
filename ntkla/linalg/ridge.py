"""Ridge regression with a proof: `argmin_X 1/2 sum_i w_i ||phi_i X - y_i||^2 + ridge/2 ||X||_F^2`.

The bound.  The exact residual rho of the returned solution, in the regularised normal equations, gives
`||X - X*|| <= ||rho|| / ridge` column by column, because `||(Phi^T D Phi + ridge I)^-1|| <= 1 / ridge`, D = diag(w)
(Higham, Accuracy and Stability, section 7.1, with the exact inverse bounded by the ridge).  `stability.py` says how the
rounding of rho itself enters, `residual.py` how large it can be, `refine.py` how rho is driven down.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from ntkla.linalg import checks, host
from ntkla.linalg.design import DesignMatrix, widened
from ntkla.linalg.precision import DEFAULT_TOLERANCE, NEGLIGIBLE, norm_upper, norms_below, ratio
from ntkla.linalg.results import Result
from ntkla.linalg.solve.normal_solver import NormalSolve, SolveDiagnostics, prepare
from ntkla.linalg.solve.rounds import relative_goal
from ntkla.linalg.solve.stability import SolutionError
from ntkla.linalg.solve.weights import SampleWeights
from ntkla.linalg.status import Status


@dataclass(frozen=True, eq=False)
class RidgeSolution(Result):
    """The minimiser, and how far it can be from the exact one.

    Attributes:
        solution: float64 [F, C].
        bias: float64 [C], or None without a bias.
        error_bound: float64 [F, C], entrywise: `|solution - exact| <= error_bound`.
        bias_error_bound: float64 [C], or None.
        route: `"primal"` or `"dual"`.
        status: `certified` when `||error||_F <= tol ||X||_F` is proved.
        diagnostics: factor, escalations, corrections, the rank for `ridge=0`, and the bound in relative form.
    """

    solution: torch.Tensor
    bias: torch.Tensor | None
    error_bound: torch.Tensor
    bias_error_bound: torch.Tensor | None
    route: str
    status: Status
    diagnostics: SolveDiagnostics

    def __str__(self) -> str:
        features, outputs = self.solution.shape
        d = self.diagnostics
        return (
            f"RidgeSolution: {features} features, {outputs} outputs{', with bias' if self.bias is not None else ''}\n"
            f"  route {self.route}, factor {d.factor}, {d.corrections} corrections, levels {d.residual_levels}\n"
            f"  relative error bound {d.relative_bound:.2e} (tolerance {d.tolerance:.1e})\n"
            f"  {self.status}"
        )


def ridge_solve(
    features: torch.Tensor,
    targets: torch.Tensor,
    *,
    ridge: float,
    bias: bool = False,
    penalize_bias: bool = True,
    weights: torch.Tensor | None = None,
    route: str = "auto",
    tol: float | None = None,
    strict: bool = False,
) -> RidgeSolution:
    """Minimises `1/2 sum_i weights_i ||features_i X - targets_i||^2 + ridge/2 ||X||_F^2`, with a proved error bound.

    Args:
        features: [n, F], float64, float32, bfloat16 or float16, any strides; taken as exact numbers.
        targets: [n, C], any of these types, same device.
        ridge: absolute, added to `features^T diag(weights) features`, >= 0.  Zero means the minimum-norm solution
            (Moore-Penrose) with the numerical rank that is reported in `diagnostics`.
        bias: appends a constant feature 1; its coefficients are `.bias`.
        penalize_bias: whether the ridge applies to the bias as to any coefficient.
        weights: [n], of each sample in the loss, any of these types, taken as exact: each 0 (the sample is left out) or
            at least 1.2e-271, one at least above 0; None for 1 each.
        route: `"primal"` (F x F), `"dual"` (n x n) or `"auto"` (the cheaper by `linalg.solve.cost.route_cost`).
        tol: wanted relative error in the Frobenius norm, default 1e-10.  A looser one is faster.
        strict: whether a status that is not certified raises `NotCertifiedError` instead of being returned.

    Returns:
        RidgeSolution, float64 on the features' device; inputs are detached.

    Raises:
        DtypeError, ShapeError, DeviceError, NonFiniteError, ScaleError, RidgeError, ArgumentError, MemoryEstimateError,
        NotCertifiedError

    Cost: `n F min(n, F)` operations for the factor and `4 n F C` for each residual (3 or 6 times that at level 1 or 2).
    Deterministic for fixed inputs (strides included), device, versions and thread count.
    """
    features = checks.matrix("features", features)
    targets = checks.matrix("targets", targets, rows=features.shape[0])
    checks.one_device(features=features, targets=targets)
    ridge = checks.nonnegative("ridge", ridge)
    tolerance = DEFAULT_TOLERANCE if tol is None else checks.positive("tol", tol)
    strict = checks.flag("strict", strict)
    design = DesignMatrix(features, checks.flag("bias", bias))
    free_bias = not checks.flag("penalize_bias", penalize_bias) and bias
    wide = widened(targets)
    solve = prepare(
        design,
        wide,
        ridge=ridge,
        free_bias=free_bias,
        route=route,
        tolerance=tolerance,
        weights=None if weights is None else SampleWeights.checked("weights", weights, design, targets),
        targets_copied=wide.dtype != targets.dtype,
    )
    solve.solution.reach(relative_goal(tolerance, solve.stability))
    error, relative = _measured(solve)
    if tolerance < relative < math.inf:
        # A free bias inherits the error of the weights times the feature mean: they have to be better by that.
        wanted = max(error.size() * tolerance / relative / 2, NEGLIGIBLE)
        solve.solution.reach(lambda _: wanted)
        error, relative = _measured(solve)
    x = solve.solution.x.high
    bounds = error.weights.expand(design.columns, -1).clone()
    if solve.stability.centre is not None:
        bounds[-1] = solve.stability.bias_part(error)
    f = features.shape[1]
    return RidgeSolution(
        solution=x[:f],
        bias=x[f] if bias else None,
        error_bound=bounds[:f],
        bias_error_bound=bounds[f] if bias else None,
        route=solve.route,
        status=solve.status(relative).require(strict),
        diagnostics=solve.diagnostics(relative),
    )


def _measured(solve: NormalSolve) -> tuple[SolutionError, float]:
    """The error of the solution, and its 2-norm over the solution's, biases included in both."""
    error = solve.error
    x = solve.solution.x.high
    length = norms_below(norm_upper(x), x.numel())
    return error, ratio(*host.numbers(norm_upper(solve.stability.whole(error)), length))
