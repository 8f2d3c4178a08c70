"""How a new task is learned: the settings that `predict_forgetting` and `forecast` share, checked once."""

from __future__ import annotations

from dataclasses import dataclass

from ntkla.forgetting.descent.training import Training, require_training
from ntkla.forgetting.penalties.protection import Protected
from ntkla.linalg import checks
from ntkla.linalg.errors import ArgumentError, UnsupportedTrainingError
from ntkla.linalg.precision import DEFAULT_TOLERANCE, ENTROPY_TOLERANCE
from ntkla.linalg.solve.cost import ROUTES

LOSSES = ("squared", "cross_entropy")


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
    loss: str = "squared"

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
        loss: object = "squared",
    ) -> Learning:
        """The settings when they are in their ranges; RidgeError or ArgumentError otherwise."""
        if training is not None:
            require_training(training)
        if checks.choice("loss", loss, LOSSES) == "cross_entropy":
            _require_optimum(training)
        exact = DEFAULT_TOLERANCE if loss == "squared" else ENTROPY_TOLERANCE
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
            exact if tol is None else checks.positive("tol", tol),
            checks.flag("strict", strict),
            protected,
            str(loss),
        )

    def __str__(self) -> str:
        what = "the optimum" if self.training is None else str(self.training)
        what += " under cross-entropy" if self.loss == "cross_entropy" else ""
        decay = f", weight decay {self.weight_decay:.4g}" if self.weight_decay > 0 else ""
        protected = "".join(f", {one.told}" for one in self.protected)
        return f"{what}, ridge {self.ridge:.4g}{decay}{protected}"


def _require_optimum(training: Training | None) -> None:
    """Raises for training that stops early, of which nothing is known under cross-entropy."""
    if training is not None:
        raise UnsupportedTrainingError(
            f"training: expected None with loss='cross_entropy', got {training}. Training that stops early has a "
            "closed form under squared loss only: the softmax makes every step depend on the last. Forecast the "
            "optimum, or use loss='squared'."
        )
