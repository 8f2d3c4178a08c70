"""Sample weights in the forecast: what they mean, inexact residuals, and the training that torch really does."""

from __future__ import annotations

import pytest
import torch

from ntkla.forgetting.descent.gains import gains
from ntkla.forgetting.descent.training import GradientDescent, GradientFlow
from ntkla.forgetting.drifts import Forgetting
from ntkla.forgetting.heads import LinearHead
from ntkla.forgetting.predict import predict_forgetting
from ntkla.linalg.errors import ArgumentError, ShapeError, TrainingDivergesError
from ntkla.linalg.precision import U64, gamma
from ntkla.testing import dense_drift_primal, looped_gradient_descent, with_bias
from ntkla.testing.samples import sample_weights
from ntkla.testing.spectra import normal

OLD, N, F, C = 5, 12, 4, 3
PHI_OLD, PHI, R = normal(OLD, F, 1), normal(N, F, 2), normal(N, C, 3)
HEAD = LinearHead(normal(C, F, 4), normal(1, C, 5)[0])
WEIGHTS = sample_weights("uniform", N, seed=6)
TRAININGS = [
    None,
    GradientDescent(lr=0.01, steps=50),
    GradientDescent(lr=0.01, steps=50, momentum=0.9, nesterov=True),
    GradientFlow(time=0.7),
]
OPTIONS = [
    {"bias": bias, "penalize_bias": penalize, **decay}
    for bias, penalize in ((False, True), (True, True), (True, False))
    for decay in ({}, {"weight_decay": 0.2})
]


def forecast(features: torch.Tensor, residual: torch.Tensor, **options: object) -> Forgetting:
    head = HEAD if options.get("bias") else LinearHead(HEAD.weight)
    return predict_forgetting(PHI_OLD, features, residual, **{"ridge": 0.3, "head": head, **options})


def agree(left: Forgetting, right: Forgetting) -> None:
    """Two forecasts of one problem: no further apart than their bounds, which are worth something."""
    assert left.status.certified
    assert right.status.certified
    assert bool(((left.drift - right.drift).abs() <= left.error_bound + right.error_bound).all())


@pytest.mark.parametrize("training", TRAININGS, ids=str)
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_what_weights_mean(options: dict, training: object) -> None:
    counts = torch.tensor([1, 3, 2, 0, 1, 4, 0, 1, 1, 2, 0, 1])
    repeated, counted = torch.repeat_interleave(torch.arange(N), counts), counts > 0
    options = {"training": training, **options}
    weighted = forecast(PHI, R, weights=counts.to(torch.bfloat16), **options)
    agree(weighted, forecast(PHI[repeated], R[repeated], **options))
    agree(weighted, forecast(PHI[counted], R[counted], weights=counts[counted].to(torch.float64), **options))
    agree(forecast(PHI, R, weights=torch.ones(N), **options), forecast(PHI, R, **options))


@pytest.mark.parametrize("exponent", [-300, -1, 2, 150])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_a_common_factor_of_the_whole_objective_changes_nothing(options: dict, exponent: int) -> None:
    factor = 2.0**exponent
    scaled = {**options, "ridge": 0.3 * factor, "weight_decay": options.get("weight_decay", 0.0) * factor}
    agree(forecast(PHI, R, weights=WEIGHTS, **options), forecast(PHI, R, weights=WEIGHTS * factor, **scaled))


@pytest.mark.parametrize("exponent", [-60, 3])
def test_a_common_factor_is_a_factor_of_the_learning_rate(exponent: int) -> None:
    factor = 2.0**exponent
    plain = forecast(PHI, R, weights=WEIGHTS, training=GradientDescent(0.02, 30, 0.5))
    training = GradientDescent(0.02 / factor, 30, 0.5)
    agree(plain, forecast(PHI, R, weights=WEIGHTS * factor, ridge=0.3 * factor, training=training))


@pytest.mark.parametrize("weight_decay", [0.0, 0.2])
def test_the_dense_formulas_agree(weight_decay: float) -> None:
    head = LinearHead(HEAD.weight)
    options = {"ridge": 0.3, "weight_decay": weight_decay, "head": head, "weights": WEIGHTS}
    arrays = with_bias(PHI)[:, :F], R
    found = predict_forgetting(PHI_OLD, *arrays, **options)
    expected = dense_drift_primal(PHI_OLD, *arrays, 0.3, weight_decay, HEAD.weight, WEIGHTS)
    # A backward stable solve of a matrix whose condition number is below 2^10, and a few products.
    assert float((found.drift - expected).norm()) <= 2.0**20 * U64 * float(expected.norm())
    steps = GradientDescent(0.02, 30, 0.9)
    trained = predict_forgetting(PHI_OLD, *arrays, training=steps, **options)
    shared = {"lr": 0.02, "steps": 30, "momentum": 0.9, "penalty": 0.3, "decay": weight_decay, "start": HEAD.weight.T}
    looped = looped_gradient_descent(*arrays, weights=WEIGHTS, **shared)
    assert float((trained.head_update.T - looped).norm()) <= 2.0**20 * U64 * float(looped.norm())


@pytest.mark.parametrize("steps", [1, 10, 1000])
@pytest.mark.parametrize("kind", ["uniform", "counts", "zeros"])
@pytest.mark.parametrize(("momentum", "nesterov"), [(0.0, False), (0.9, False), (0.9, True)])
def test_a_real_run_on_the_weighted_loss_agrees(steps: int, kind: str, momentum: float, nesterov: bool) -> None:
    """torch.optim.SGD on `1/2 sum_i w_i ||phi_i W^T - y_i||^2` with weight decay; the run's own rounding is allowed."""
    weights, targets, decay = sample_weights(kind, N, seed=6), PHI @ HEAD.weight.T - R, 0.05
    parameter = HEAD.weight.clone().requires_grad_()
    optimizer = torch.optim.SGD([parameter], lr=0.01, momentum=momentum, nesterov=nesterov, weight_decay=decay)
    for _ in range(steps):
        optimizer.zero_grad()
        (0.5 * (weights[:, None] * (PHI @ parameter.T - targets) ** 2).sum()).backward()
        optimizer.step()
    happened = (parameter.detach() - HEAD.weight).T
    training = GradientDescent(0.01, steps, momentum, nesterov)
    options = {"ridge": 0.0, "weight_decay": decay, "head": LinearHead(HEAD.weight), "weights": weights}
    found = predict_forgetting(PHI_OLD, PHI, R, training=training, **options)
    difference = (found.head_update.T - happened).norm(dim=0)
    # To first order: what one step rounds (sums of F and n terms, the residual that R stands for, and the head itself),
    # times what a lasting push of that size makes of the run.
    hessian = (PHI * weights[:, None]).T @ PHI
    sizes = float(hessian.norm()) * 2 * float(HEAD.weight.norm() + 10) + float((weights[:, None] * targets).norm()) * 10
    each = gamma(N + F + 16) * sizes + 8 * U64 * float(HEAD.weight.norm() + 10) / training.lr
    push = gains(training, 0.0, float(torch.linalg.matrix_norm(hessian, 2)) * (1 + gamma(N)) + decay).push
    assert bool((difference <= found.update_error_bound + push * each).all())
    assert float(difference.norm()) <= 2.0**24 * U64 * float(happened.norm())


@pytest.mark.parametrize("training", TRAININGS, ids=str)
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_an_inexact_residual_is_within_the_bound(options: dict, training: object) -> None:
    """A residual that is off in the sample of the largest weight, and a bound that knows only by how much."""
    weights = sample_weights("uniform", N, seed=6) * 100
    options = {"training": training, "weights": weights, **options}
    if isinstance(training, GradientDescent):
        options["training"] = GradientDescent(training.lr / 100, training.steps, training.momentum, training.nesterov)
    off = torch.zeros_like(R)
    off[int(weights.argmax())] = 1e-3
    error = off.norm(dim=0) * (1 + gamma(N))
    exact, found = forecast(PHI, R, **options), forecast(PHI, R + off, residual_error=error, **options)
    difference = (exact.drift - found.drift).abs()
    assert bool((difference <= exact.error_bound + found.error_bound).all())
    # The bound is that of the worst sample and direction, and not far from what happened.
    assert float((difference / found.error_bound).max()) > 2.0**-10


def test_learning_rates_are_judged_by_the_weighted_matrix() -> None:
    largest = float(torch.linalg.matrix_norm(PHI * WEIGHTS.sqrt()[:, None], 2)) ** 2 + 0.3
    training = GradientDescent(1.9 / largest, 3)
    assert forecast(PHI, R, weights=WEIGHTS, training=training).status.certified
    for weights in (WEIGHTS * 2, None):
        with pytest.raises(TrainingDivergesError):
            forecast(PHI, R, weights=weights, training=training)


def test_weights_are_checked_and_no_gradient_flows() -> None:
    with pytest.raises(ShapeError, match="weights"):
        forecast(PHI, R, weights=WEIGHTS[:-1])
    with pytest.raises(ArgumentError, match="weights"):
        forecast(PHI, R, weights=-WEIGHTS)
    assert not forecast(PHI, R, weights=WEIGHTS.clone().requires_grad_()).drift.requires_grad
