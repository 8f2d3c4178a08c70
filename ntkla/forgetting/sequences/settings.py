"""The settings of a sequence, checked once."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ntkla.forgetting.descent.training import Training, require_training
from ntkla.forgetting.sequences.penalty import Penalty
from ntkla.forgetting.sequences.step import Pull
from ntkla.linalg import checks
from ntkla.linalg.errors import RidgeError
from ntkla.linalg.precision import DEFAULT_TOLERANCE


@dataclass(frozen=True)
class Settings:
    """How every task of a sequence is learned, and how exactly that is to be known: see `TaskSequence`."""

    ridge: float
    penalty: Penalty
    penalize_bias: bool
    weight_decay: float
    tolerance: float
    training: Training | None = None

    @classmethod
    def checked(
        cls,
        ridge: object,
        penalty: Penalty,
        penalize_bias: object = True,
        weight_decay: object = 0.0,
        tol: object = None,
        training: Training | None = None,
    ) -> Settings:
        """The settings when they are in their ranges; RidgeError or ArgumentError otherwise."""
        return cls(
            positive_ridge(ridge),
            penalty,
            checks.flag("penalize_bias", penalize_bias),
            checks.nonnegative("weight_decay", weight_decay),
            DEFAULT_TOLERANCE if tol is None else checks.positive("tol", tol),
            None if training is None else require_training(training),
        )

    def protecting(self, penalty: Penalty) -> Settings:
        """The same with another penalty."""
        return replace(self, penalty=penalty)

    def pull(self, bias: bool, ridge: float | None = None) -> Pull:
        """What draws the head back, with this ridge or another."""
        free_bias = bias and not self.penalize_bias
        return Pull(self.ridge if ridge is None else positive_ridge(ridge), self.weight_decay, free_bias)

    def __str__(self) -> str:
        decay = f", weight decay {self.weight_decay:.4g}" if self.weight_decay else ""
        what = "" if self.training is None else f"{self.training}, "
        return f"{what}ridge {self.ridge:.4g}{decay}, {self.penalty}"


def positive_ridge(ridge: object) -> float:
    """`ridge` as a float; RidgeError unless it is finite and > 0, which is what bounds a head known by its sums."""
    number = checks.nonnegative("ridge", ridge)
    if number == 0:
        raise RidgeError(
            "ridge: expected a number > 0: without samples nothing else bounds the head. A small one, such as 1e-8 of "
            "the mean eigenvalue of features^T features, comes close to none."
        )
    return number
