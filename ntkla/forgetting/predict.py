"""The forecast itself: what training on a new task does to every prediction on the old one.

Objective (Prop. 1 of "Catastrophic Forgetting is Low-Rank", arXiv 2606.18024; sums, absolute ridge), with
`R_B = Phi_B W_A^T - Y_B` the residual of the new task at the old head:

    L_B(W) = 1/2 sum_i w_i ||phi_i W^T - y_i||^2 + ridge/2 ||W - W_A||_F^2 + weight_decay/2 ||W||_F^2

over the samples i of the new task, w_i = 1 unless weights are given.  With D = diag(w), its minimiser moves the head by
`dW^T = -(Phi_B^T D Phi_B + (ridge + weight_decay) I)^-1 (Phi_B^T D R_B + weight_decay W_A^T)`
and the old predictions by `dF_A = Phi_A dW^T`.  Penalties that protect modes of old tasks are further samples of the
same objective (`pseudo_samples.py`).
"""

from __future__ import annotations

import torch

from ntkla.forgetting.descent.training import Training
from ntkla.forgetting.drifts import Forgetting, View
from ntkla.forgetting.heads import LinearHead, stacked_head
from ntkla.forgetting.learning import Learning
from ntkla.forgetting.penalties.protection import Penalty, protected_outputs
from ntkla.forgetting.softmax.cross_entropy import entropy_drifts, targets_of_residual
from ntkla.forgetting.squared import squared_drifts
from ntkla.linalg import checks
from ntkla.linalg.design import DesignMatrix, widened
from ntkla.linalg.errors import ArgumentError, ShapeError
from ntkla.linalg.solve.weights import SampleWeights


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
    penalty: Penalty | None = None,
    loss: str = "squared",
    weights: torch.Tensor | None = None,
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
        head: the old head W_A; used only with `weight_decay`, `penalty` and cross-entropy, which needs it.
        training: None for the optimum, or `GradientDescent` / `GradientFlow` for training that stops early.
        penalty: a `SpectralPenalty` that is added to the loss, whose probes are the old features in their order; or a
            `Protection`, whose probes have features of their own; or several of either.  It compares its reference with
            what `head` says about the probes; without a head the reference is taken to be exactly that.  `columns` of
            a penalty are the residual's.  Needs `penalize_bias`.
        loss: `"squared"`, or `"cross_entropy"`: then `residual_new` is `softmax(outputs) - target` at the old head,
            targets >= 0 that sum to 1 in each row, and the forecast is that of the optimum of `softmax_regression`
            (`cross_entropy.py`); `diagnostics.gauss_newton_difference` tells how far the one-step prediction is from
            it.  Without `training`; `forecast` and `softmax_regression` take targets of any total.
        weights: [n_B], of each new sample in the loss, any of these dtypes, taken as exact: each 0 (the sample is left
            out) or at least 1.2e-271, one at least above 0; None for 1 each.
        residual_error: [C], bounds of the 2-norm of each residual column's own error, which the bounds then include;
            None takes `residual_new` as exact.
        route: `"primal"`, `"dual"` or `"auto"` (the cheaper); ignored with `training`.
        tol: wanted relative bound, default 1e-10 (1e-7 under cross-entropy); a looser one is faster.
        strict: whether a status that is not certified raises `NotCertifiedError` instead of being returned.

    Returns:
        Forgetting.  Inputs are detached; no gradient flows through.

    Raises:
        DtypeError, ShapeError, DeviceError, NonFiniteError, ScaleError, RidgeError, ArgumentError, MemoryEstimateError,
        TrainingDivergesError, UnsupportedTrainingError, NotCertifiedError

    Cost: `n_B F min(n_B, F)` operations for the factor, `4 n_B F C` for each residual (3 or 6 times that at level 1 or
    2), `2 n_A F C` for the drift.  A penalty of k modes counts as k more samples, whose features cost `6 n F k`;
    outputs that different penalties cover are solved apart.
    Deterministic for fixed inputs (strides included), device, versions and threads.
    """
    features_old = checks.matrix("features_old", features_old)
    features_new = checks.matrix("features_new", features_new, columns=features_old.shape[1])
    residual_new = checks.matrix("residual_new", residual_new, rows=features_new.shape[0])
    checks.one_dtype(features_old=features_old, features_new=features_new)
    checks.one_device(features_old=features_old, features_new=features_new, residual_new=residual_new)
    learning = Learning.checked(
        ridge=ridge,
        penalize_bias=penalize_bias,
        weight_decay=weight_decay,
        training=training,
        route=route,
        tol=tol,
        strict=strict,
        protected=protected_outputs(penalty, features_old, residual_new.shape[1]),
        loss=loss,
    )
    bias = checks.flag("bias", bias)
    inexact = None if residual_error is None else _residual_error(residual_error, residual_new)
    view, new = View(DesignMatrix(features_old, bias)), DesignMatrix(features_new, bias)
    if learning.loss == "cross_entropy":
        return _softmax_forecast(view, new, residual_new, inexact, learning, head, weights)
    found = squared_drifts([view], new, residual_new, learning, head=head, residual_error=inexact, weights=weights)
    return found[0]


def _softmax_forecast(
    view: View,
    new: DesignMatrix,
    residual: torch.Tensor,
    residual_error: torch.Tensor | None,
    learning: Learning,
    head: LinearHead | None,
    weights: torch.Tensor | None,
) -> Forgetting:
    """The same under cross-entropy."""
    why = "Under cross-entropy the softmax of its outputs is where training starts."
    start = stacked_head("head", head, new, residual.shape[1], features="features_new", why=why)
    counted = None if weights is None else SampleWeights.checked("weights", weights, new, residual).values
    targets, error = targets_of_residual(residual, residual_error, new, start, counted)
    assert head is not None, "there is a start"
    return entropy_drifts([view], new, targets, learning, head, weights=weights, gradient_error=error)[0]


def _residual_error(error: object, residual: torch.Tensor) -> torch.Tensor:
    """The 2-norm bounds [C] of the residual's own error, checked."""
    if isinstance(error, torch.Tensor):
        checks.dense("residual_error", error)
    if not isinstance(error, torch.Tensor) or error.shape != residual.shape[1:]:
        came = tuple(error.shape) if isinstance(error, torch.Tensor) else type(error).__name__
        raise ShapeError(f"residual_error: expected one bound a column, shape {tuple(residual.shape[1:])}, got {came}.")
    error = checks.matrix("residual_error", error[None])[0]
    checks.one_device(residual_error=error, residual_new=residual)
    if bool((error < 0).any()):
        raise ArgumentError("residual_error: expected bounds >= 0, got a negative one.")
    return widened(error)
