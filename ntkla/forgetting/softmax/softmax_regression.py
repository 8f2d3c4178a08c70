"""Softmax regression with a proof: the head that cross-entropy with a ridge makes, when it is trained to the end.

    argmin_W  sum_i w_i (-<y_i, log softmax(W phi_i)>) + ridge/2 ||W - W_A||_F^2

The bound is that of strong convexity, every rounding counted: `linalg/entropy/certificate.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from ntkla.forgetting.heads import LinearHead, stacked_head
from ntkla.forgetting.softmax.cross_entropy_targets import checked_targets
from ntkla.linalg import checks
from ntkla.linalg.design import DesignMatrix
from ntkla.linalg.entropy.solve import EntropyDiagnostics, EntropySolve, prepare_entropy
from ntkla.linalg.precision import ENTROPY_TOLERANCE, SHORT_CHAIN, U64, norm_lower, norm_upper, ratio
from ntkla.linalg.results import Result
from ntkla.linalg.solve.weights import SampleWeights
from ntkla.linalg.status import Status


@dataclass(frozen=True, eq=False)
class SoftmaxRegression(Result):
    """The optimum, and how far it can be from the exact one; every tensor is float64 on the features' device.

    Attributes:
        weight: [C, F].
        bias: [C], or None without a bias.
        head_update: [C, F], its change from the head that the ridge pulls to; the weight itself without one.
        bias_update: [C], or None.
        error_bound: upper bound of the Frobenius norm of the error of weight and bias together, so of each entry's.
        update_error_bound: the same of head_update and bias_update.
        relative_bound: `update_error_bound` over the Frobenius norm of the update.
        status: `certified` when `relative_bound <= tol`; it also says when the data are separable.
        diagnostics: how the optimum was reached.
    """

    weight: torch.Tensor
    bias: torch.Tensor | None
    head_update: torch.Tensor
    bias_update: torch.Tensor | None
    error_bound: float
    update_error_bound: float
    relative_bound: float
    status: Status
    diagnostics: EntropyDiagnostics

    @property
    def head(self) -> LinearHead:
        """The optimum as a head."""
        return LinearHead(self.weight, self.bias)

    def __str__(self) -> str:
        outputs, features = self.weight.shape
        d, biased = self.diagnostics, "" if self.bias is None else ", with bias"
        return (
            f"SoftmaxRegression: {features} features, {outputs} outputs{biased}\n"
            f"  {d.corrections} Newton steps, {d.hessian_products} products with the Hessian, {d.factor}\n"
            f"  training accuracy {d.accuracy:.4g}, relative error bound {d.relative_bound:.2e} "
            f"(tolerance {d.tolerance:.1e})\n"
            f"  {self.status}"
        )


def softmax_regression(
    features: torch.Tensor,
    targets: torch.Tensor,
    *,
    ridge: float,
    classes: int | None = None,
    bias: bool = False,
    penalize_bias: bool = True,
    head: LinearHead | None = None,
    start: LinearHead | None = None,
    weights: torch.Tensor | None = None,
    tol: float | None = None,
    strict: bool = False,
    progress: Callable[[int, float], None] | None = None,
) -> SoftmaxRegression:
    """Minimises the cross-entropy of a linear head plus `ridge/2 ||W - head||^2`, with a proved error bound.

    Args:
        features: [n, F], float64, float32, bfloat16 or float16, any strides; taken as exact numbers.
        targets: labels, integers [n], with `classes`; or soft targets [n, C] >= 0, any of these types, taken as exact.
            Rows need not sum to 1: the total of a row weighs its sample (`cross_entropy_targets` makes use of it).
        ridge: absolute, > 0.  The loss is a sum over the samples: for a loss that is their mean, multiply by n.  In
            scikit-learn's terms it is `1 / C`.
        classes: C, for labels; a class without a sample is an output like any other, whose probability training lowers.
        bias: whether the head has a bias, one more feature that is 1 for every sample.
        penalize_bias: whether the ridge applies to it; without, every class needs a sample, and the update of the
            biases is taken to sum to zero, because the loss does not depend on their sum.
        head: what the ridge pulls to, [C, F], with a bias exactly when `bias`; None for zero.
        start: where the search begins, such as the optimum for another ridge; None for `head`.
        weights: [n], of each sample in the loss, any of these types, taken as exact: each 0 (the sample is left out) or
            at least 1.2e-271, one at least above 0; None for 1 each.
        tol: wanted relative error of the update in the Frobenius norm, default 1e-7.
        strict: whether a status that is not certified raises `NotCertifiedError` instead of being returned.
        progress: called as `progress(steps, gradient)` with the Newton steps so far and the gradient's norm over its
            largest.

    Returns:
        SoftmaxRegression; inputs are detached.

    Raises:
        DtypeError, ShapeError, DeviceError, NonFiniteError, ScaleError, LabelError, RidgeError, ArgumentError,
        MemoryEstimateError, NotCertifiedError

    Cost: `4 n F C` operations for each product with the Hessian, of which there are some tens to hundreds (float32 for
    features narrower than float64), the same in float64 for each of about ten Newton steps, and `n F^2 + 30 F^3` for
    each preconditioner.  Deterministic for fixed inputs (strides included), device, versions and thread count.
    """
    features = checks.matrix("features", features)
    wanted = checked_targets(targets, features.shape[0], classes)
    checks.one_device(features=features, targets=wanted)
    design = DesignMatrix(features, checks.flag("bias", bias))
    free_bias = not checks.flag("penalize_bias", penalize_bias) and bias
    checks.progress(progress, "steps and gradient")
    strict = checks.flag("strict", strict)
    centre = None if head is None else stacked_head("head", head, design, wanted.shape[1])
    begin = None if start is None else stacked_head("start", start, design, wanted.shape[1])
    if begin is not None and centre is not None:
        begin = begin - centre
    solve = prepare_entropy(
        design,
        wanted,
        ridge=checks.nonnegative("ridge", ridge),
        head=centre,
        start=begin,
        free_bias=free_bias,
        weights=None if weights is None else SampleWeights.checked("weights", weights, design, wanted).values,
        tolerance=ENTROPY_TOLERANCE if tol is None else checks.positive("tol", tol),
        progress=progress,
    )
    solve.reach_tolerance()
    return _result(solve, design, centre, strict)


def _result(solve: EntropySolve, design: DesignMatrix, centre: torch.Tensor | None, strict: bool) -> SoftmaxRegression:
    """Splits the stacked update [K, C] into weights and bias, and adds it to the head."""
    update, f = solve.x, design.features.shape[1]
    relative = ratio(solve.error, norm_lower(update))
    whole = update if centre is None else centre + update
    rounding = 0.0 if centre is None else U64 * float(norm_upper(whole))
    return SoftmaxRegression(
        weight=whole[:f].T.contiguous(),
        bias=whole[f] if design.bias else None,
        head_update=update[:f].T.contiguous(),
        bias_update=update[f] if design.bias else None,
        error_bound=(solve.error + rounding) * SHORT_CHAIN,
        update_error_bound=solve.error,
        relative_bound=relative,
        status=solve.status(relative).require(strict),
        diagnostics=solve.diagnostics(relative),
    )
