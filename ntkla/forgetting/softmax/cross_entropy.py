"""The forecast under cross-entropy: the exact optimum of the softmax head, and the one-step prediction beside it.

Objective, in the terms of `predict.py`, over the samples i of the new task with targets y_i (rows >= 0):

    L_B(W) = -sum_i w_i <y_i, log softmax(W phi_i)> + ridge/2 ||W - W_A||_F^2 + weight_decay/2 ||W||_F^2

It has no closed form: the optimum is found by Newton's method and certified by strong convexity (`linalg/entropy`).

The one-step (Gauss-Newton, empirical NTK) prediction takes the kernel at W_A for the kernel all the way: with H_A the
Hessian of L_B at W_A, `dW = -H_A^-1 grad L_B(W_A)`.  How far its drift is from the exact one says how nonlinear the
softmax made this training; that number is an estimate, the certificate does not use it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from ntkla.forgetting.drifts import Forgetting, View, drifts_at_the_optimum
from ntkla.forgetting.heads import LinearHead
from ntkla.forgetting.learning import Learning
from ntkla.forgetting.penalties.protection import Protected
from ntkla.forgetting.penalties.pseudo_samples import PseudoSamples, rows_of
from ntkla.linalg import checks
from ntkla.linalg.arithmetic.accurate import Bounded, accurate_outputs
from ntkla.linalg.design import DesignMatrix, widened
from ntkla.linalg.entropy.gauss_newton import gauss_newton_step
from ntkla.linalg.entropy.probabilities import softmax_of, softmax_rounding
from ntkla.linalg.entropy.quadratic import Quadratic
from ntkla.linalg.entropy.solve import EntropyDiagnostics, EntropySolve, prepare_entropy
from ntkla.linalg.errors import ArgumentError
from ntkla.linalg.precision import SHORT_CHAIN, U64, gamma, norm_upper
from ntkla.linalg.solve.stability import SolutionError, Stability
from ntkla.linalg.solve.weights import SampleWeights
from ntkla.linalg.status import Status

# A residual may be rounded to bfloat16; what is further off is the residual of something else.
_OFF = 0.05


@dataclass(frozen=True)
class SoftmaxDiagnostics(EntropyDiagnostics):
    """How the optimum of a forecast was reached, and how far training is from linear.

    Attributes:
        gauss_newton_difference: how far the drift of the one-step prediction is from the exact one, over the norm of
            that; an estimate.  None where nothing drifts.
    """

    gauss_newton_difference: float | None = None


class EntropyUpdate:
    """The optimum under cross-entropy, as `drifts_at_the_optimum` drives any optimum."""

    route = "newton"

    def __init__(self, solve: EntropySolve) -> None:
        self.solve = solve
        problem = solve.minimum.problem
        least = problem.least_penalty
        # Errors of all columns are bounded at once, so nothing is centred.
        self.stability = Stability(least, 1.0 / least, float(problem.design.rows))

    @property
    def tolerance(self) -> float:
        """What is wanted of the drift, relative."""
        return self.solve.tolerance

    @property
    def x(self) -> torch.Tensor:
        """The update, float64 [K, C]."""
        return self.solve.x

    @property
    def error(self) -> SolutionError:
        """Its certified error: in each column at most that of all."""
        weights = torch.full_like(self.x[0], self.solve.error)
        return SolutionError(weights, torch.zeros_like(weights))

    def reach_tolerance(self) -> None:
        """Improves the update until it meets the tolerance."""
        self.solve.reach_tolerance()

    def reach(self, size: float) -> None:
        """Improves it until the size of `error` is at most this."""
        self.solve.reach(size / math.sqrt(self.x.shape[1]) / SHORT_CHAIN)

    def status(self, relative_bound: float) -> Status:
        """How it ended."""
        return self.solve.status(relative_bound)

    def diagnostics(self, relative_bound: float) -> SoftmaxDiagnostics:
        """How it was reached."""
        return SoftmaxDiagnostics(**vars(self.solve.diagnostics(relative_bound)))


def entropy_drifts(
    views: Sequence[View],
    new: DesignMatrix,
    targets: torch.Tensor,
    learning: Learning,
    head: LinearHead,
    *,
    weights: torch.Tensor | None = None,
    gradient_error: float = 0.0,
) -> list[Forgetting]:
    """The drift of several old tasks at the new task's optimum under cross-entropy; the update is solved once.

    Args:
        views: the old tasks.
        new: the new task's features.
        targets: float64 [n, C].
        learning: the settings.
        head: W_A, of the trained outputs.
        weights: [n], of the new samples, or None.
        gradient_error: bound of what an error of the targets does to the gradient, in norm.
    """
    entries = sum(view.design.rows * view.of(targets[:1]).shape[1] for view in views)
    checks.memory("the drift of the old predictions", 8 * 4 * entries, new.device)
    solve = prepare_entropy(
        new,
        targets,
        ridge=learning.ridge,
        decay=learning.weight_decay,
        head=head.stacked(),
        free_bias=new.bias and not learning.penalize_bias,
        weights=None if weights is None else SampleWeights.checked("weights", weights, new, targets).values,
        tolerance=learning.tolerance,
        gradient_error=gradient_error,
        quadratics=tuple(term for one in learning.protected for term in _quadratics(one, head, new.bias)),
    )
    step = gauss_newton_step(solve.minimum.problem)
    found = drifts_at_the_optimum(views, EntropyUpdate(solve))
    told = [_with_difference(one, view, step) for one, view in zip(found, views, strict=True)]
    for one in told:
        one.status.require(learning.strict)
    return told


def _quadratics(protected: Protected, head: LinearHead, bias: bool) -> list[Quadratic]:
    """A penalty as terms of the objective: one for the outputs that feel all of its modes, one for the others."""
    samples = PseudoSamples.of(protected, head, bias)
    terms = []
    for seen in sorted(set(samples.seen) - {0}):
        outputs = [output for output, felt in zip(samples.outputs, samples.seen, strict=True) if felt == seen]
        places = torch.tensor(outputs, dtype=torch.int64, device=samples.rows.high.device)
        terms.append(Quadratic(rows_of(samples, seen, outputs), places))
    return terms


def _with_difference(found: Forgetting, view: View, step: torch.Tensor) -> Forgetting:
    """The same, with how far the drift of the one-step prediction is from it, over its norm."""
    size = float(torch.linalg.vector_norm(found.drift))
    if not size > 0.0:
        return found
    apart = float(torch.linalg.vector_norm(view.design.matmul(view.of(step)) - found.drift)) / size
    said = f"{found.status.message} The one-step (Gauss-Newton) prediction differs by {apart:.2g} of its norm."
    assert isinstance(found.diagnostics, SoftmaxDiagnostics), "Newton's method says how it went"
    diagnostics = replace(found.diagnostics, gauss_newton_difference=apart)
    return replace(found, status=Status(found.status.code, said), diagnostics=diagnostics)


def targets_of_residual(
    residual: torch.Tensor,
    error: torch.Tensor | None,
    new: DesignMatrix,
    head: torch.Tensor,
    weights: torch.Tensor | None,
) -> tuple[torch.Tensor, float]:
    """Targets `softmax(outputs) - residual`, [n, C], and what their error does to the gradient, in norm.

    Args:
        residual: [n, C], taken as exact but for `error`.
        error: float64 [C], bounds of the 2-norm of each column's own error, or None.
        new: the new task's features.
        head: W_A^T with its bias row, float64 [K, C].
        weights: float64 [n], of the samples, or None.

    The gradient holds `s p - y` with s the total of y.  With the probabilities off by `dp`, y is off by as much, and s
    by at most `sqrt(C)` of that: `(1 + sqrt(C)) ||dp||` in all, as well for errors of the residual.  dp is half the
    error of the outputs, because `||diag(p) - p p^T|| <= 1/2`, and the rounding of the softmax.

    Raises:
        ArgumentError: the residual is not `softmax - target` of this head.
    """
    outputs = accurate_outputs(new, head, torch.zeros_like(residual, dtype=torch.float64))
    found = softmax_of(outputs.value)
    targets = found.probabilities - widened(residual)
    least, totals = float(targets.min()), targets.sum(1)
    if least < -_OFF / targets.shape[1] or not bool(((totals - 1.0).abs() <= _OFF).all()):
        raise ArgumentError(
            "residual_new: with cross-entropy expected softmax(outputs of the head) - target, targets >= 0 that sum to "
            f"1 in each row; taken so, the least target is {least:.3g}, the totals {float(totals.min()):.4g} to "
            f"{float(totals.max()):.4g}. Is it the residual of this head? Other totals belong into weights=."
        )
    return targets, _gradient_error(outputs, found.moved, targets, error, new, weights)


def _gradient_error(
    outputs: Bounded,
    moved: torch.Tensor,
    targets: torch.Tensor,
    error: torch.Tensor | None,
    new: DesignMatrix,
    weights: torch.Tensor | None,
) -> float:
    """Bound of `sum_i w_i ||phi_i|| ||e_i||`, e_i the row of the error of `s p - y`."""
    norms = new.row_norms()
    weighted = norms if weights is None else norms * weights
    # Row by row what rounding did, and by columns what the outputs and the residual bring.
    relative = 4.0 * (softmax_rounding(targets.shape[1]) + U64)
    rounding = weighted * (moved + relative * (1.0 + norm_upper(targets, dim=1)))
    columns = 0.5 * float(norm_upper(outputs.error)) + (0.0 if error is None else float(norm_upper(error)))
    total = float(norm_upper(weighted)) * columns + float(rounding.sum()) * (1.0 + gamma(new.rows + 8))
    return (1.0 + math.sqrt(targets.shape[1])) * total * SHORT_CHAIN
