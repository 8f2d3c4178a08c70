"""From the options of `ntkla forecast` to the library's own units: a summed loss with the factor 1/2, absolute ridge.

Mean loss.  `torch.nn.MSELoss(reduction="mean")` over n samples and C trained outputs is `f L`, f = 2/(n C), with
`L = 1/2 ||Phi W^T - Y||_F^2`.  Dividing the whole objective by f leaves its minimiser where it is, so a weight decay or
ridge of w becomes `w / f`; a step of lr along `f grad L` is one of `f lr` along `grad L`, and a time likewise.  A ridge
in mean eigenvalues is the same in both.  Under cross-entropy, the sum over samples, f = 1/n.

Mean eigenvalue: `tr(Phi_B^T D Phi_B) / K`, D the samples' weights, K columns with that of the bias.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from ntkla.app.command_line import notation
from ntkla.app.command_line.forecast_options import ForecastOptions
from ntkla.app.failures import before
from ntkla.forgetting.descent.convention import from_torch_sgd
from ntkla.forgetting.descent.training import GradientDescent, GradientFlow, Training
from ntkla.forgetting.heads import LinearHead
from ntkla.forgetting.tasks import Task
from ntkla.linalg import checks
from ntkla.linalg.design import DesignMatrix
from ntkla.linalg.errors import TrainingDivergesError
from ntkla.linalg.precision import DEFAULT_TOLERANCE, ENTROPY_TOLERANCE


@dataclass(frozen=True)
class Settings:
    """How the new task is trained, for `ntkla.forecast`.

    Attributes:
        ridge, weight_decay: absolute, of the summed loss.
        training: None for the optimum.
        mean_eigenvalue: of the new task's normal matrix.
        halves: n C / 2 (n under cross-entropy), by which the library's loss is larger than the mean loss that the
            options meant; 1 where they meant the library's.
        penalize_bias, tolerance, loss: as for `ntkla.forecast`.
    """

    ridge: float
    weight_decay: float
    training: Training | None
    mean_eigenvalue: float
    halves: float
    penalize_bias: bool
    tolerance: float
    loss: str


def settle(options: ForecastOptions, new: Task, head: LinearHead) -> Settings:
    """The settings in the library's units.

    Raises:
        ArgumentError, RidgeError: a value outside its range.

    Cost: one pass over the new features.
    """
    outputs = head.outputs if new.outputs is None else new.outputs.shape[0]
    samples = new.features.shape[0]
    decay = checks.nonnegative("--weight-decay", options.weight_decay)
    loss, exact = ("cross_entropy", ENTROPY_TOLERANCE) if options.cross_entropy else ("squared", DEFAULT_TOLERANCE)
    halves = mean_factor(samples, outputs, loss) if options.mean_loss else 1.0
    eigenvalue = mean_eigenvalue(new, head.bias is not None)
    if options.relative_ridge is not None:
        ridge = checks.nonnegative("--relative-ridge", options.relative_ridge) * eigenvalue
    else:
        ridge = checks.nonnegative("--ridge", options.ridge or 0.0) * halves
    return Settings(
        ridge=ridge,
        weight_decay=decay * halves,
        training=_training(options, samples, outputs),
        mean_eigenvalue=eigenvalue,
        halves=halves,
        penalize_bias=not options.free_bias,
        tolerance=exact if options.tol is None else options.tol,
        loss=loss,
    )


def _training(options: ForecastOptions, samples: int, outputs: int) -> Training | None:
    if options.flow is not None:
        time = checks.positive("--flow", options.flow)
        return GradientFlow(2 * time / (samples * outputs) if options.mean_loss else time)
    if options.sgd is None:
        return None
    typed = notation.sgd(options.sgd)
    with before("--sgd"):
        if not options.mean_loss:
            return GradientDescent(typed.lr, typed.steps, typed.momentum, typed.nesterov)
        return from_torch_sgd(
            lr=typed.lr,
            steps=typed.steps,
            samples=samples,
            outputs=outputs,
            momentum=typed.momentum,
            nesterov=typed.nesterov,
        ).training


def in_typed_units(options: ForecastOptions, error: TrainingDivergesError, settings: Settings) -> TrainingDivergesError:
    """The same error about the learning rate as it was typed; the rate that it names is stable, rounded down."""
    typed, used = notation.sgd(str(options.sgd)), settings.training
    assert isinstance(used, GradientDescent), "only steps can diverge"
    limit = error.largest_stable_lr * (typed.lr / used.lr)
    unit = 10.0 ** (math.floor(math.log10(limit)) - 3)
    beside = "" if options.protect is None else " with its penalties"
    meant = "" if options.mean_loss else " If it is meant for torch's MSELoss(), the mean, add --mean-loss."
    stable = f"up to {math.floor(limit / unit) * unit:.4g} is stable"
    return TrainingDivergesError(
        f"--sgd: a learning rate of {typed.lr!r} diverges on this task{beside}; {stable}.{meant}",
        limit,
    )


def mean_factor(samples: int, outputs: int, loss: str) -> float:
    """By how much the library's loss is larger than torch's mean: 1/f."""
    return float(samples) if loss == "cross_entropy" else samples * outputs / 2


def mean_eigenvalue(task: Task, bias: bool) -> float:
    """The mean eigenvalue of the task's normal matrix, in float64, to rounding."""
    design = DesignMatrix(task.features, bias)
    total = torch.zeros((), dtype=torch.float64, device=design.device)
    for rows, block in design.blocks():
        squares = torch.linalg.vector_norm(block, dim=1).square_()
        total += squares.sum() if task.weights is None else squares @ task.weights[rows]
    return float(total) / design.columns
