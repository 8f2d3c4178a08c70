"""Training that stops early, as data: which optimiser, how far, and for which learning rates it is stable.

Both classes mean *full-batch* training from the old head with a fresh optimiser: a run of mini-batches has no closed
form.  The loss is the summed one of ntkla (half the squared error, absolute ridge and weight decay), so its Hessian per
output is `A = Phi^T Phi + diag(ridge + weight_decay)`; `ntkla.from_torch_sgd` converts the settings of torch's
`MSELoss` and `SGD`.

Stability.  With eigenvalue a of A and w = lr a, one step of `torch.optim.SGD` (dampening 0) has the characteristic
polynomial `z^2 - (1 + m - w) z + m`, with Nesterov `z^2 - (1 + m)(1 - w) z + m (1 - w)` (m the momentum).  By the Jury
conditions, both roots lie inside the unit circle exactly for `0 < w < 2 (1 + m)`, with Nesterov for
`0 < w < 2 (1 + m) / (1 + 2 m)`; at w = 0 one root is 1 and the component grows linearly, as it should.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from ntkla.linalg import checks
from ntkla.linalg.errors import ArgumentError, TrainingDivergesError
from ntkla.linalg.precision import SHORT_CHAIN

# Beyond these no product of a step size, a number of steps and a gradient is sure to stay finite.
LARGEST_STEP = 2.0**600
MOST_STEPS = 2**30


@dataclass(frozen=True)
class GradientDescent:
    """Full-batch gradient descent as `torch.optim.SGD` does it (dampening 0, fresh state).

    Attributes:
        lr: learning rate for the summed loss, finite and > 0.
        steps: number of steps, >= 1.
        momentum: in [0, 1).
        nesterov: Nesterov momentum; needs momentum > 0.

    Raises:
        ArgumentError: a value outside its range.
    """

    lr: float
    steps: int
    momentum: float = 0.0
    nesterov: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "lr", _step_size("lr", self.lr))
        object.__setattr__(self, "steps", checks.integer("steps", self.steps, least=1, most=MOST_STEPS))
        momentum = checks.number("momentum", self.momentum)
        if not 0 <= momentum < 1:
            raise ArgumentError(f"momentum: expected a number >= 0 and < 1, got {self.momentum!r}.")
        object.__setattr__(self, "momentum", momentum)
        if not isinstance(self.nesterov, bool):
            raise ArgumentError(f"nesterov: expected True or False, got {self.nesterov!r}.")
        if self.nesterov and momentum == 0:
            raise ArgumentError("nesterov: expected a momentum > 0 with it, as torch.optim.SGD does, got momentum=0.")

    @property
    def stability_limit(self) -> float:
        """The number that `lr * largest_eigenvalue` must stay below."""
        m = self.momentum
        return 2 * (1 + m) / (1 + 2 * m) if self.nesterov else 2 * (1 + m)

    def largest_stable_lr(self, largest_eigenvalue: float) -> float:
        """A learning rate that is surely stable, at most a few roundings below the limit.

        Args:
            largest_eigenvalue: of A (or an upper bound of it), >= 0; 0 gives infinity.
        """
        if largest_eigenvalue == 0:
            return math.inf
        return self.stability_limit / largest_eigenvalue / SHORT_CHAIN

    def require_stable(self, largest_eigenvalue: float, objective: str = "the summed loss") -> None:
        """Refuses a learning rate that is not certainly stable.

        Args:
            largest_eigenvalue: an upper bound of the largest eigenvalue of A.  Between the true eigenvalue and
                this bound lies a relative gap of about `K^2 u` (K columns) in which the decision is: refused.
            objective: whose it is, for the message.

        Raises:
            TrainingDivergesError: names the largest learning rate that is certainly stable.
        """
        limit = self.largest_stable_lr(largest_eigenvalue)
        if self.lr > limit:
            raise TrainingDivergesError(
                f"lr: expected at most {limit!r}, which is {self.stability_limit:.6g} over the largest eigenvalue "
                f"{largest_eigenvalue:.6g} of {objective}, got {self.lr!r}: training would diverge. Lower lr; for "
                "settings of torch.nn.MSELoss convert first with ntkla.from_torch_sgd.",
                limit,
            )


@dataclass(frozen=True)
class GradientFlow:
    """Gradient descent with infinitely small steps, run for a time: `dW/dt = -gradient`.

    Attributes:
        time: finite and > 0; `lr * steps` of a gradient descent with small steps.

    Raises:
        ArgumentError: a time outside its range.
    """

    time: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "time", _step_size("time", self.time))


Training = GradientDescent | GradientFlow


def _step_size(name: str, value: object) -> float:
    number = checks.positive(name, value)
    if number > LARGEST_STEP:
        raise ArgumentError(f"{name}: expected at most {LARGEST_STEP:.3g}, got {number:.3g}. Scale the features up.")
    return number


def require_training(training: object) -> Training:
    """`training` when it is one of the two kinds; ArgumentError otherwise."""
    if isinstance(training, (GradientDescent, GradientFlow)):
        return training
    raise ArgumentError(
        f"training: expected ntkla.GradientDescent, ntkla.GradientFlow or None (the optimum), got "
        f"{type(training).__name__}. Convert torch settings with ntkla.from_torch_sgd."
    )
