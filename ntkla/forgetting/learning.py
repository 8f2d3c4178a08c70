"""How a new task is learned: the settings that `predict_forgetting` and `forecast` share, checked once."""

from __future__ import annotations

from dataclasses import dataclass

from ntkla.forgetting.training import Training, require_training
from ntkla.linalg import checks
from ntkla.linalg.precision import DEFAULT_TOLERANCE
from ntkla.linalg.solve.cost import ROUTES


@dataclass(frozen=True)
class Learning:
    """How the new task is learned and how exactly that is to be known: the settings of `predict_forgetting`."""

    ridge: float
    penalize_bias: bool
    weight_decay: float
    training: Training | None
    route: str
    tolerance: float
    strict: bool

    @classmethod
    def checked(
        cls,
        *,
        ridge: object,
        penalize_bias: object = True,
        weight_decay: object = 0.0,
        training: Training | None = None,
        route: object = "auto",
        tol: object = None,
        strict: object = False,
    ) -> Learning:
        """The settings when they are in their ranges; RidgeError or ArgumentError otherwise."""
        if training is not None:
            require_training(training)
        return cls(
            checks.nonnegative("ridge", ridge),
            checks.flag("penalize_bias", penalize_bias),
            checks.nonnegative("weight_decay", weight_decay),
            training,
            checks.choice("route", route, ROUTES),
            DEFAULT_TOLERANCE if tol is None else checks.positive("tol", tol),
            checks.flag("strict", strict),
        )

    def __str__(self) -> str:
        what = "the optimum" if self.training is None else str(self.training)
        decay = f", weight decay {self.weight_decay:.4g}" if self.weight_decay > 0 else ""
        return f"{what}, ridge {self.ridge:.4g}{decay}"
