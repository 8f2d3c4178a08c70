"""Training that stops early: its certificate against ball arithmetic, its limits, and the errors planted in it."""

from __future__ import annotations

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from ntkla.forgetting.descent.trained import TrainedUpdate, trained_update
from ntkla.forgetting.descent.training import GradientDescent, GradientFlow, Training
from ntkla.linalg.design import DesignMatrix, widened
from ntkla.linalg.errors import MemoryEstimateError, TrainingDivergesError
from ntkla.linalg.precision import DEFAULT_TOLERANCE, gamma
from ntkla.testing import (
    Comparison,
    Exact,
    FeatureSpec,
    Problem,
    ambient_state,
    compare_columns,
    gradient_descent,
    gradient_flow,
    hostile_states,
    problems,
)

FAST = Problem(FeatureSpec(1, 6), FeatureSpec(9, 6, condition=1e3), outputs=2, ridge_relative=1e-3)
STEPS = st.one_of(st.integers(1, 5), st.sampled_from([30, 1000]))
# How far along the stable range the learning rate lies, for the largest eigenvalue.
SHARES = st.sampled_from([0.5, 0.05, 1e-6, 0.9, 0.999])
KINDS = st.sampled_from(["plain", "momentum", "nesterov", "flow"])


def per_column(problem: Problem, value: float) -> torch.Tensor:
    columns = problem.new.features + int(problem.bias)
    values = torch.full((columns,), value, dtype=torch.float64, device="cpu")
    if problem.bias and not problem.penalize_bias:
        values[-1] = 0.0
    return values


def start_of(problem: Problem) -> torch.Tensor | None:
    if problem.head_weight is None:
        return None
    rows = [problem.head_weight.T] if problem.head_bias is None else [problem.head_weight.T, problem.head_bias[None]]
    return torch.cat(rows)


def training_of(problem: Problem, kind: str, share: float, steps: int) -> Training:
    """A learning rate at `share` of the stable range, from a float64 eigenvalue that is moved up by its rounding."""
    x = widened(problem.features_new)
    x = torch.cat([x, torch.ones_like(x[:, :1])], dim=1) if problem.bias else x
    hessian = x.T @ x + torch.diag(per_column(problem, problem.ridge) + per_column(problem, problem.weight_decay))
    largest = float(torch.linalg.eigvalsh(hessian)[-1]) * (1 + gamma(1000 * x.shape[0] * x.shape[1])) or 1.0
    if kind == "flow":
        return GradientFlow(share * steps / largest)
    training = GradientDescent(1.0, steps, 0.0 if kind == "plain" else 0.9, kind == "nesterov")
    return GradientDescent(share * training.stability_limit / largest, steps, training.momentum, training.nesterov)


def update_of(problem: Problem, training: Training, tolerance: float = DEFAULT_TOLERANCE) -> TrainedUpdate:
    return trained_update(
        DesignMatrix(problem.features_new, problem.bias),
        widened(problem.residual_new),
        start_of(problem),
        per_column(problem, problem.ridge),
        per_column(problem, problem.weight_decay),
        training,
        tolerance,
    )


def exact_of(problem: Problem, training: Training) -> Exact:
    setting = {
        "bias": problem.bias,
        "penalties": per_column(problem, problem.ridge).tolist(),
        "decays": per_column(problem, problem.weight_decay).tolist(),
        "start": start_of(problem),
    }
    if isinstance(training, GradientFlow):
        return gradient_flow(problem.features_new, problem.residual_new, time=training.time, **setting)
    descent = {k: getattr(training, k) for k in ("lr", "steps", "momentum", "nesterov")}
    return gradient_descent(problem.features_new, problem.residual_new, **descent, **setting)


def verdict(update: TrainedUpdate, exact: Exact, scale: float = 1.0) -> Comparison:
    return compare_columns(update.update, update.error_bound * scale, exact, "update")


@given(problems(most=6), KINDS, SHARES, STEPS)
@example(FAST, "nesterov", 0.9, 1000)
@example(Problem(FeatureSpec(1, 5), FeatureSpec(3, 5, spectrum="zero"), ridge_relative=1.0), "momentum", 0.5, 1000)
@example(Problem(FeatureSpec(1, 1), FeatureSpec(1, 1, scale=1e12), residual_kind="zero"), "plain", 0.5, 3)
def test_within_the_bound(problem: Problem, kind: str, share: float, steps: int) -> None:
    training = training_of(problem, kind, share, steps)
    update = update_of(problem, training)
    assert bool(torch.isfinite(update.error_bound).all())
    judged = verdict(update, exact_of(problem, training))
    assert judged.sound, judged


@given(problems(most=6, ridge=st.just(0.0)), KINDS, STEPS)
@example(Problem(FeatureSpec(1, 4), FeatureSpec(2, 4, spectrum="rank_one"), ridge_relative=0.0), "momentum", 1000)
def test_within_the_bound_without_a_ridge(problem: Problem, kind: str, steps: int) -> None:
    training = training_of(problem, kind, 0.5, steps)
    judged = verdict(update_of(problem, training), exact_of(problem, training))
    assert judged.sound, judged


@pytest.mark.parametrize("kind", ["plain", "momentum", "nesterov", "flow"])
@pytest.mark.parametrize("steps", [1, 10, 1000])
def test_the_default_tolerance_is_met(kind: str, steps: int) -> None:
    training = training_of(FAST, kind, 0.5, steps)
    update = update_of(FAST, training)
    relative = float((update.error_bound / torch.linalg.vector_norm(update.update, dim=0)).max())
    assert relative <= DEFAULT_TOLERANCE
    assert update.status(relative, DEFAULT_TOLERANCE).certified


def test_a_tighter_tolerance_escalates_and_stays_sound() -> None:
    training = training_of(FAST, "momentum", 0.5, 1000)
    loose, tight = update_of(FAST, training), update_of(FAST, training, tolerance=DEFAULT_TOLERANCE / 1e6)
    assert not loose.escalations
    assert tight.escalations
    assert bool((tight.error_bound < loose.error_bound / 2).all())
    assert verdict(tight, exact_of(FAST, training)).sound


@pytest.mark.parametrize("kind", ["plain", "momentum", "nesterov"])
def test_planted_errors_are_caught(kind: str) -> None:
    """A bound scaled by 1e-3, or an update moved by 1e-8 of itself, must be seen in some case."""
    caught = False
    for steps in (1, 10, 1000):
        training = training_of(FAST, kind, 0.5, steps)
        exact, update = exact_of(FAST, training), update_of(FAST, training, tolerance=DEFAULT_TOLERANCE / 1e6)
        assert verdict(update, exact).sound
        caught = caught or not verdict(update, exact, 1e-3).sound
        moved = update.update + 1e-8 * torch.linalg.vector_norm(update.update, dim=0) / update.update.shape[0] ** 0.5
        assert not compare_columns(moved, update.error_bound, exact).sound
    assert caught


@pytest.mark.parametrize(("momentum", "nesterov"), [(0.0, False), (0.9, False), (0.9, True)])
def test_the_stable_limit(momentum: float, nesterov: bool) -> None:
    """The largest eigenvalue is exactly 4: at the limit refused, at the rate that the error names accepted."""
    design = DesignMatrix(2.0 * torch.eye(5, dtype=torch.float64))
    residual, none = torch.ones((5, 1), dtype=torch.float64), torch.zeros(5, dtype=torch.float64)
    limit = GradientDescent(1.0, 1, momentum, nesterov).stability_limit / 4
    with pytest.raises(TrainingDivergesError) as caught:
        trained_update(design, residual, None, none, none, GradientDescent(limit, 10, momentum, nesterov))
    named = caught.value.largest_stable_lr
    assert limit * (1 - gamma(10000)) < named < limit
    assert repr(named) in str(caught.value)
    for lr in (named, limit * (1 - gamma(10000))):
        training = GradientDescent(lr, 10, momentum, nesterov)
        update = trained_update(design, residual, None, none, none, training)
        settings = {"lr": lr, "steps": 10, "momentum": momentum, "nesterov": nesterov}
        assert verdict(update, gradient_descent(design.features, residual, **settings)).sound


def test_far_beyond_the_limit_is_refused() -> None:
    with pytest.raises(TrainingDivergesError):
        update_of(FAST, GradientDescent(1e6, 10))


def test_a_million_steps_reach_the_optimum() -> None:
    problem = Problem(FeatureSpec(1, 4), FeatureSpec(8, 4, condition=10.0), ridge_relative=1e-1)
    training = training_of(problem, "momentum", 0.5, 10**6)
    update = update_of(problem, training)
    hessian = problem.features_new.T @ problem.features_new + problem.ridge * torch.eye(4, dtype=torch.float64)
    optimum = -torch.linalg.solve(hessian, problem.features_new.T @ problem.residual_new)
    slack = gamma(1000) * torch.linalg.vector_norm(optimum, dim=0)
    assert bool((torch.linalg.vector_norm(update.update - optimum, dim=0) <= update.error_bound + slack).all())


def test_zero_residual_moves_nothing() -> None:
    problem = Problem(FeatureSpec(1, 3), FeatureSpec(4, 3), residual_kind="zero")
    update = update_of(problem, training_of(problem, "momentum", 0.5, 1000))
    assert not bool(update.update.any())


@pytest.mark.parametrize("state", sorted(hostile_states()))
def test_ambient_state_cannot_break_the_bound(state: str) -> None:
    training = training_of(FAST, "momentum", 0.5, 30)
    exact = exact_of(FAST, training)
    before = ambient_state()
    with hostile_states()[state]():
        inside = ambient_state()
        update = update_of(FAST, training)
        assert ambient_state() == inside
    assert ambient_state() == before
    assert verdict(update, exact).sound


def test_same_inputs_give_the_same_bits() -> None:
    training = training_of(FAST, "nesterov", 0.5, 100)
    first, second = update_of(FAST, training), update_of(FAST, training)
    assert torch.equal(first.update, second.update)
    assert torch.equal(first.error_bound, second.error_bound)


def test_memory_is_checked_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ntkla.linalg.checks.available_memory", lambda device: 1000)
    with pytest.raises(MemoryEstimateError) as caught:
        update_of(FAST, GradientDescent(1e-3, 1))
    assert caught.value.bytes_needed > 1000
