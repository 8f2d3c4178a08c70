"""From torch's conventions to ntkla's: what `MSELoss` and `SGD` settings mean for the summed loss.

`torch.nn.MSELoss(reduction="sum")` is `||Phi W^T - Y||_F^2` without the factor 1/2, and `reduction="mean"` divides
that by n C.  With `L = 1/2 ||Phi W^T - Y||_F^2` torch's loss is `f L`, f = 2 or 2/(n C), and its `SGD` steps along
`f grad L + wd W`, so `lr' = f lr` and `weight_decay' = wd / f` describe the same steps on L.
"""

from __future__ import annotations

from dataclasses import dataclass

from ntkla.forgetting.descent.training import GradientDescent
from ntkla.linalg import checks
from ntkla.linalg.errors import UnsupportedTrainingError
from ntkla.linalg.results import Result


@dataclass(frozen=True)
class ConvertedTraining(Result):
    """Settings for the summed loss; pass them on as `training=` and `weight_decay=`.

    Attributes:
        training: with the converted learning rate.
        weight_decay: the converted weight decay.
    """

    training: GradientDescent
    weight_decay: float

    def __str__(self) -> str:
        return f"{self.training}, weight_decay={self.weight_decay!r}, for the summed loss"


def from_torch_sgd(
    *,
    lr: float,
    steps: int,
    samples: int,
    outputs: int,
    reduction: str = "mean",
    weight_decay: float = 0.0,
    momentum: float = 0.0,
    nesterov: bool = False,
    dampening: float = 0.0,
    optimizer: str = "SGD",
) -> ConvertedTraining:
    """Converts the settings of full-batch training with `torch.nn.MSELoss` and `torch.optim.SGD`.

    Args:
        lr, weight_decay, momentum, nesterov, dampening: as given to `torch.optim.SGD`.
        steps: optimiser steps, each on all samples at once.
        samples, outputs: n and C, the shape of the targets.
        reduction: of `MSELoss`.  `"mean"`: `lr' = 2 lr / (n C)`, `weight_decay' = weight_decay n C / 2`;
            `"sum"`: `lr' = 2 lr`, `weight_decay' = weight_decay / 2`.
        optimizer: the name of the optimiser's class; anything but `"SGD"` is refused with the reason.

    Returns:
        The settings for ntkla's loss; each is rounded once.

    Raises:
        UnsupportedTrainingError: an adaptive optimiser, decoupled weight decay, or dampening.
        ArgumentError, RidgeError: a value outside its range.
    """
    if optimizer != "SGD":
        raise UnsupportedTrainingError(f"optimizer: expected 'SGD', got {optimizer!r}: {_reason(optimizer)}")
    if checks.number("dampening", dampening) != 0:
        raise UnsupportedTrainingError(
            f"dampening: expected 0, got {dampening!r}: the first step of torch.optim.SGD is not dampened, the others "
            "are, which the filters here do not describe. Use dampening=0."
        )
    checks.choice("reduction", reduction, ("mean", "sum"))
    entries = checks.integer("samples", samples, least=1) * checks.integer("outputs", outputs, least=1)
    divisor = entries if reduction == "mean" else 1
    decay = checks.nonnegative("weight_decay", weight_decay)
    training = GradientDescent(2 * checks.positive("lr", lr) / divisor, steps, momentum=momentum, nesterov=nesterov)
    return ConvertedTraining(training, checks.nonnegative("the converted weight_decay", decay * divisor / 2))


def _reason(optimizer: str) -> str:
    if optimizer == "AdamW":
        return (
            "its weight decay is decoupled (W is multiplied by 1 - lr weight_decay beside the step), so it is not the "
            "gradient of any term of the loss, and its step is adaptive. Train with SGD, or measure instead."
        )
    return "only steps of a fixed rate and momentum are linear in the gradients. Train with SGD, or measure instead."
