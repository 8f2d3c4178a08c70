"""How a new task is learned: the settings that `predict_forgetting` and `forecast` share, checked once."""

from __future__ import annotations

from dataclasses import dataclass

from ntkla.forgetting.protection import Protected
from ntkla.forgetting.training import Training, require_training
from ntkla.linalg import checks
from ntkla.linalg.errors import ArgumentError
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
    protected: tuple[Protected, ...] = ()

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
        protected: tuple[Protected, ...] = (),
    ) -> Learning:
        """The settings when they are in their ranges; RidgeError or ArgumentError otherwise."""
        if training is not None:
            require_training(training)
        if protected and checks.flag("penalize_bias", penalize_bias) is False:
            raise ArgumentError(
                "penalize_bias: with a penalty expected True, got False. The forecast eliminates a free bias through "
                "its column of ones, and the penalty has another column there. Use penalize_bias=True with a small "
                "ridge, or a head without a bias."
            )
        return cls(
            checks.nonnegative("ridge", ridge),
            checks.flag("penalize_bias", penalize_bias),
            checks.nonnegative("weight_decay", weight_decay),
            training,
            checks.choice("route", route, ROUTES),
            DEFAULT_TOLERANCE if tol is None else checks.positive("tol", tol),
            checks.flag("strict", strict),
            protected,
        )

    def __str__(self) -> str:
        what = "the optimum" if self.training is None else str(self.training)
        decay = f", weight decay {self.weight_decay:.4g}" if self.weight_decay > 0 else ""
        protected = "".join(f", {one.told}" for one in self.protected)
        return f"{what}, ridge {self.ridge:.4g}{decay}{protected}"
