"""The forecast itself: what training on a new task does to every prediction on the old one.

Objective (Prop. 1 of "Catastrophic Forgetting is Low-Rank", arXiv 2606.18024; sums, absolute ridge), with
`R_B = Phi_B W_A^T - Y_B` the residual of the new task at the old head:

    L_B(W) = 1/2 ||Phi_B W^T - Y_B||_F^2 + ridge/2 ||W - W_A||_F^2 + weight_decay/2 ||W||_F^2

Its minimiser moves the head by
`dW^T = -(Phi_B^T Phi_B + (ridge + weight_decay) I)^-1 (Phi_B^T R_B + weight_decay W_A^T)`
and the old predictions by `dF_A = Phi_A dW^T`.

The bound of every drift is derived in `drift.py`.  Its relative form divides the Frobenius norm of the bound by
`max(||dF_A||_F, || |Phi_A| |dW|^T ||_F)`: the two differ when the drift cancels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch

from ntkla.forgetting.drift import Drift, RowSizes, drift_of, drift_scale
from ntkla.forgetting.tasks import LinearHead
from ntkla.forgetting.trained import TrainedUpdate, trained_update
from ntkla.forgetting.training import Training, require_training
from ntkla.linalg import checks
from ntkla.linalg.cost import ROUTES
from ntkla.linalg.design import DesignMatrix, widened
from ntkla.linalg.errors import ArgumentError, ShapeError
from ntkla.linalg.normal_solver import NormalSolve, SolveDiagnostics, prepare, ratio
from ntkla.linalg.precision import DEFAULT_TOLERANCE, NEGLIGIBLE, norm_lower, norm_upper
from ntkla.linalg.refine import relative_goal
from ntkla.linalg.results import Result
from ntkla.linalg.stability import SolutionError
from ntkla.linalg.status import Status


@dataclass(frozen=True, eq=False)
class Forgetting(Result):
    """The forecast of `predict_forgetting`; every tensor is float64 on the features' device.

    Attributes:
        drift: [n_A, C], the change of every old prediction.
        head_update: [C, F], the change of the head's weights.
        bias_update: [C], or None without a bias.
        error_bound: [n_A, C], `|drift - exact drift| <= error_bound` entry by entry.
        update_error_bound: [C], 2-norm bound of the error of one output's weights (and bias).
        relative_bound: `||error_bound||_F / max(||drift||_F, || |Phi_A| |dW|^T ||_F)`.
        route: `"primal"`, `"dual"`, or the spectral route of finite training.
        status: `certified` when `relative_bound <= tol`.
        diagnostics: how the update was reached.
    """

    drift: torch.Tensor
    head_update: torch.Tensor
    bias_update: torch.Tensor | None
    error_bound: torch.Tensor
    update_error_bound: torch.Tensor
    relative_bound: float
    route: str
    status: Status
    diagnostics: SolveDiagnostics

    def __str__(self) -> str:
        samples, outputs = self.drift.shape
        size = norm_lower(self.drift) / (samples * outputs) ** 0.5
        return (
            f"Forgetting: drift of {samples} old samples in {outputs} outputs\n"
            f"  root mean square drift {size:.4g}, largest {float(self.drift.abs().max()):.4g}\n"
            f"  largest error bound {float(self.error_bound.max()):.2e}, relative {self.relative_bound:.2e}\n"
            f"  route {self.route}, factor {self.diagnostics.factor}, {self.diagnostics.corrections} corrections\n"
            f"  {self.status}"
        )


def predict_forgetting(
    features_old: torch.Tensor,
    features_new: torch.Tensor,
    residual_new: torch.Tensor,
    *,
    ridge: float,
    bias: bool = False,
    penalize_bias: bool = True,
    weight_decay: float = 0.0,
    head: LinearHead | None = None,
    training: Training | None = None,
    residual_error: torch.Tensor | None = None,
    route: str = "auto",
    tol: float | None = None,
    strict: bool = False,
) -> Forgetting:
    """Forecasts the drift of the old predictions under training on a new task, with a proved error bound.

    Args:
        features_old: [n_A, F], float64, float32, bfloat16 or float16, any strides; taken as exact numbers.
        features_new: [n_B, F], same dtype and device.
        residual_new: [n_B, C], prediction minus target on the new task at the old head; any of these dtypes.
        ridge: absolute, >= 0, pulls towards the old head.  Zero means the minimum-norm update.
        bias: whether the head has a bias, one more feature that is 1 for every sample.
        penalize_bias: whether ridge and weight decay apply to the bias as to any weight.
        weight_decay: absolute, >= 0, pulls towards zero; needs `head`.  `from_torch_sgd` converts torch's convention.
        head: the old head W_A; used only with `weight_decay`.
        training: None for the optimum, or `GradientDescent` / `GradientFlow` for training that stops early.
        residual_error: [C], bounds of the 2-norm of each residual column's own error, which the bounds then include;
            None takes `residual_new` as exact.
        route: `"primal"`, `"dual"` or `"auto"` (the cheaper); ignored with `training`.
        tol: wanted relative bound, default 1e-10; a looser one is faster.
        strict: whether a status that is not certified raises `NotCertifiedError` instead of being returned.

    Returns:
        Forgetting.  Inputs are detached; no gradient flows through.

    Raises:
        DtypeError, ShapeError, DeviceError, NonFiniteError, ScaleError, RidgeError, ArgumentError, MemoryEstimateError,
        TrainingDivergesError, NotCertifiedError

    Cost: `n_B F min(n_B, F)` operations for the factor, `4 n_B F C` for each residual (3 or 6 times that at level 1 or
    2), `2 n_A F C` for the drift.  Deterministic for fixed inputs (strides included), device, versions and threads.
    """
    features_old = checks.matrix("features_old", features_old)
    features_new = checks.matrix("features_new", features_new, columns=features_old.shape[1])
    residual_new = checks.matrix("residual_new", residual_new, rows=features_new.shape[0])
    checks.one_dtype(features_old=features_old, features_new=features_new)
    checks.one_device(features_old=features_old, features_new=features_new, residual_new=residual_new)
    ridge, weight_decay = checks.nonnegative("ridge", ridge), checks.nonnegative("weight_decay", weight_decay)
    tolerance = DEFAULT_TOLERANCE if tol is None else checks.positive("tol", tol)
    old = DesignMatrix(features_old, checks.flag("bias", bias))
    new = DesignMatrix(features_new, bias)
    free_bias = not checks.flag("penalize_bias", penalize_bias) and bias
    strict = checks.flag("strict", strict)
    checks.choice("route", route, ROUTES)
    # The drift, its bound, and what lies between while they are made.
    checks.memory("the drift of the old predictions", 8 * 3 * old.rows * residual_new.shape[1], old.device)
    start = _start(head, new, residual_new.shape[1]) if weight_decay > 0 else None
    inexact = None if residual_error is None else _residual_error(residual_error, residual_new)
    if training is not None:
        require_training(training)
    if training is None:
        targets = -widened(residual_new)
        solve = prepare(
            new,
            targets,
            ridge=ridge,
            decay=weight_decay,
            start=start,
            free_bias=free_bias,
            route=route,
            tolerance=tolerance,
            targets_copied=True,
            rows_predicted=old.rows,
        )
        found = _optimum(old, replace(solve, targets_error=inexact))
        found.status.require(strict)
        return found
    mask = torch.ones(new.columns, dtype=torch.float64, device=new.device)
    if free_bias:
        mask[-1] = 0.0
    update = trained_update(new, widened(residual_new), start, ridge * mask, weight_decay * mask, training, tolerance)
    found = _trained(old, update if inexact is None else update.with_residual_error(inexact), tolerance)
    found.status.require(strict)
    return found


def _start(head: LinearHead | None, design: DesignMatrix, outputs: int) -> torch.Tensor:
    """W_A^T with its bias row, [K, C], checked against the problem."""
    if not isinstance(head, LinearHead):
        raise ArgumentError(
            f"head: weight_decay pulls the head towards zero and needs the old LinearHead, got {type(head).__name__}."
        )
    if (head.bias is not None) != design.bias:
        raise ArgumentError(
            f"head: bias={design.bias} was asked for, and the head has {'a' if head.bias is not None else 'no'} bias."
        )
    stacked = head.stacked()
    if stacked.shape != (design.columns, outputs):
        raise ShapeError(
            f"head: expected weight [{outputs}, {design.features.shape[1]}], got {tuple(head.weight.shape)}."
        )
    checks.one_device(head=stacked, features_new=design.features)
    return stacked


def _residual_error(error: object, residual: torch.Tensor) -> torch.Tensor:
    """The 2-norm bounds [C] of the residual's own error, checked."""
    if not isinstance(error, torch.Tensor) or error.shape != residual.shape[1:]:
        came = tuple(error.shape) if isinstance(error, torch.Tensor) else type(error).__name__
        raise ShapeError(f"residual_error: expected one bound a column, shape {tuple(residual.shape[1:])}, got {came}.")
    error = checks.matrix("residual_error", error[None])[0]
    checks.one_device(residual_error=error, residual_new=residual)
    if bool((error < 0).any()):
        raise ArgumentError("residual_error: expected bounds >= 0, got a negative one.")
    return widened(error)


def _optimum(old: DesignMatrix, solve: NormalSolve) -> Forgetting:
    """Refines until the relative bound of the drift, not only of the update, meets the tolerance."""
    tolerance, solution = solve.tolerance, solve.solution
    sizes = RowSizes.of(old, solve.stability)
    solution.reach(relative_goal(tolerance, solve.stability))
    drift = drift_of(old, solution.x.high, solve.error, sizes)
    scale = drift_scale(old, solution.x.high, drift, float(norm_upper(drift.bound)) / tolerance)
    room = tolerance * scale - drift.from_rounding
    if 0 < room < drift.from_update < math.inf:
        # The drift is smaller than the norms suggest: the update has to be better by the ratio.
        wanted = max(solve.error.size() * room / drift.from_update / 4, NEGLIGIBLE)
        solution.reach(lambda _: wanted)
        drift = drift_of(old, solution.x.high, solve.error, sizes)
        scale = drift_scale(old, solution.x.high, drift, float(norm_upper(drift.bound)) / tolerance)
    relative = ratio(float(norm_upper(drift.bound)), scale)
    error = solve.error
    update_bound = solve.stability.whole(error)
    return _forgetting(
        old,
        solution.x.high,
        drift,
        update_bound,
        relative,
        solve.route,
        solve.status(relative),
        solve.diagnostics(relative),
    )


def _trained(old: DesignMatrix, update: TrainedUpdate, tolerance: float) -> Forgetting:
    """The drift of a finite training run."""
    error = SolutionError(update.error_bound, torch.zeros_like(update.error_bound))
    drift = drift_of(old, update.update, error, RowSizes.of(old))
    size = float(norm_upper(drift.bound))
    relative = ratio(size, drift_scale(old, update.update, drift, size / tolerance))
    return _forgetting(
        old,
        update.update,
        drift,
        update.error_bound,
        relative,
        "spectral",
        update.status(relative, tolerance),
        update.diagnostics(relative, tolerance),
    )


def _forgetting(
    old: DesignMatrix,
    x: torch.Tensor,
    drift: Drift,
    update_bound: torch.Tensor,
    relative: float,
    route: str,
    status: Status,
    diagnostics: SolveDiagnostics,
) -> Forgetting:
    """Splits the stacked update [K, C] into weights and bias."""
    features = old.features.shape[1]
    return Forgetting(
        drift=drift.value,
        head_update=x[:features].T.contiguous(),
        bias_update=x[features] if old.bias else None,
        error_bound=drift.bound,
        update_error_bound=update_bound,
        relative_bound=relative,
        route=route,
        status=status,
        diagnostics=diagnostics,
    )
