"""Training settings: what is accepted, what is refused, and torch's conventions against torch itself."""

from __future__ import annotations

import pytest
import torch

from ntkla.forgetting.descent.convention import from_torch_sgd
from ntkla.forgetting.descent.gains import gains
from ntkla.forgetting.descent.trained import trained_update
from ntkla.forgetting.descent.training import MOST_STEPS, GradientDescent, GradientFlow
from ntkla.linalg.design import DesignMatrix
from ntkla.linalg.errors import ArgumentError, RidgeError, UnsupportedTrainingError
from ntkla.linalg.precision import SHORT_CHAIN, U64, gamma
from ntkla.testing import FeatureSpec
from ntkla.testing.spectra import normal

# The project promises that a real float64 run of torch's optimiser agrees with the forecast to this, relative.
AGREEMENT = 1e-9
SAMPLES, FEATURES, OUTPUTS = 40, 12, 3
PHI = FeatureSpec(SAMPLES, FEATURES, condition=1e3, scale=3.0).tensor
TARGETS, START = normal(SAMPLES, OUTPUTS, 5), normal(FEATURES, OUTPUTS, 6)


@pytest.mark.parametrize(
    "wrong",
    [
        {"lr": 0.0},
        {"lr": -1.0},
        {"lr": float("nan")},
        {"lr": float("inf")},
        {"lr": 2.0**700},
        {"lr": "fast"},
        {"lr": None},
        {"steps": 0},
        {"steps": 1.5},
        {"steps": True},
        {"steps": MOST_STEPS + 1},
        {"momentum": 1.0},
        {"momentum": -0.1},
        {"momentum": float("nan")},
        {"nesterov": True},
        {"momentum": 0.9, "nesterov": 1},
    ],
)
def test_descent_refuses(wrong: dict) -> None:
    with pytest.raises(ArgumentError):
        GradientDescent(**{"lr": 0.1, "steps": 10, **wrong})


@pytest.mark.parametrize("time", [0.0, -1.0, float("nan"), float("inf"), 2.0**700, "long", None])
def test_flow_refuses(time: object) -> None:
    with pytest.raises(ArgumentError):
        GradientFlow(time)


def test_settings_are_plain_numbers() -> None:
    training = GradientDescent(torch.tensor(0.5), torch.tensor(3), momentum=torch.tensor(0.25))
    assert training == GradientDescent(0.5, 3, 0.25)
    assert hash(training) == hash(GradientDescent(0.5, 3, 0.25))


def test_largest_stable_lr() -> None:
    assert GradientDescent(1.0, 1).largest_stable_lr(0.0) == float("inf")
    for training, limit in [
        (GradientDescent(1.0, 1), 2.0),
        (GradientDescent(1.0, 1, 0.5), 3.0),
        (GradientDescent(1.0, 1, 0.5, True), 1.5),
    ]:
        assert limit / 4 / SHORT_CHAIN**2 <= training.largest_stable_lr(4.0) < limit / 4


@pytest.mark.parametrize(
    ("setting", "named"),
    [
        ({"optimizer": "AdamW"}, "decoupled"),
        ({"optimizer": "Adam"}, "SGD"),
        ({"dampening": 0.1}, "dampening"),
    ],
)
def test_converter_refuses_what_has_no_closed_form(setting: dict, named: str) -> None:
    with pytest.raises(UnsupportedTrainingError, match=named):
        from_torch_sgd(**{"lr": 0.1, "steps": 1, "samples": 2, "outputs": 3, **setting})


@pytest.mark.parametrize(
    ("setting", "error"),
    [
        ({"reduction": "none"}, ArgumentError),
        ({"samples": 0}, ArgumentError),
        ({"outputs": -1}, ArgumentError),
        ({"weight_decay": -1.0}, RidgeError),
        ({"weight_decay": 1e70, "samples": 10**7}, RidgeError),
        ({"samples": 10**400}, ArgumentError),
        ({"lr": 10**400}, ArgumentError),
        ({"lr": 0.0}, ArgumentError),
        ({"dampening": float("nan")}, ArgumentError),
    ],
)
def test_converter_refuses_bad_values(setting: dict, error: type[Exception]) -> None:
    with pytest.raises(error):
        from_torch_sgd(**{"lr": 0.1, "steps": 1, "samples": 2, "outputs": 3, **setting})


def test_converter_formulas() -> None:
    mean = from_torch_sgd(lr=3.0, steps=7, samples=8, outputs=4, weight_decay=0.5, momentum=0.9, nesterov=True)
    assert mean.training == GradientDescent(2 * 3.0 / 32, 7, 0.9, True)
    assert mean.weight_decay == 0.5 * 32 / 2
    total = from_torch_sgd(lr=3.0, steps=7, samples=8, outputs=4, weight_decay=0.5, reduction="sum")
    assert total.training == GradientDescent(6.0, 7)
    assert total.weight_decay == 0.25
    assert str(mean).startswith("GradientDescent(lr=0.1875, steps=7")


def run_torch(reduction: str, setting: dict) -> torch.Tensor:
    """The change of the head [F, C] that torch's own loss and optimiser make."""
    layer = torch.nn.Linear(FEATURES, OUTPUTS, bias=False, dtype=torch.float64)
    with torch.no_grad():
        layer.weight.copy_(START.T)
    loss = torch.nn.MSELoss(reduction=reduction)
    steps = setting.pop("steps")
    optimizer = torch.optim.SGD(layer.parameters(), **setting)
    for _ in range(steps):
        optimizer.zero_grad()
        loss(layer(PHI), TARGETS).backward()
        optimizer.step()
    return layer.weight.detach().T - START


@pytest.mark.parametrize("steps", [1, 10, 1000])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("weight_decay", [0.0, 0.01])
@pytest.mark.parametrize(("momentum", "nesterov"), [(0.0, False), (0.9, False), (0.9, True)])
def test_a_real_run_agrees(steps: int, reduction: str, weight_decay: float, momentum: float, nesterov: bool) -> None:
    lr = 0.02 * (SAMPLES * OUTPUTS if reduction == "mean" else 1)
    decay = weight_decay / (SAMPLES * OUTPUTS if reduction == "mean" else 1)
    setting = {"lr": lr, "steps": steps, "weight_decay": decay, "momentum": momentum, "nesterov": nesterov}
    converted = from_torch_sgd(samples=SAMPLES, outputs=OUTPUTS, reduction=reduction, **setting)
    decays = torch.full((FEATURES,), converted.weight_decay, dtype=torch.float64)
    residual = PHI @ START - TARGETS
    update = trained_update(DesignMatrix(PHI), residual, START, torch.zeros_like(decays), decays, converted.training)
    happened = run_torch(reduction, setting)
    difference = torch.linalg.vector_norm(update.update - happened, dim=0)
    size = torch.linalg.vector_norm(happened, dim=0)
    assert bool((difference <= AGREEMENT * size).all())
    assert bool((difference <= update.error_bound + rounding_of_the_run(converted, update.largest_eigenvalue)).all())


def rounding_of_the_run(converted, largest: float) -> float:
    """What float64 does to the run itself, to first order: each step's rounding times the gain of a lasting push.

    A step rounds the predictions, the gradient (sums of F and n terms) and the weights; lr' and decay' are rounded as
    well.  `push` carries lr, so the rounding of the weights is divided by it.
    """
    bound = gains(converted.training, 0.0, largest)
    phi, weight = float(torch.linalg.vector_norm(PHI)), 2 * float(torch.linalg.vector_norm(START) + 10)
    gradient = (phi**2 + converted.weight_decay) * weight + phi * float(torch.linalg.vector_norm(TARGETS))
    each = gamma(SAMPLES + FEATURES + 16) * gradient + 8 * U64 * weight / converted.training.lr
    return bound.push * each
