"""`task_overlap`: its bounds of the total forgetting against the exact drift, and what they cannot tell."""

from __future__ import annotations

import dataclasses
import json
import math

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from ntkla import ArgumentError, DeviceError, DtypeError, MemoryEstimateError, ShapeError
from ntkla.forgetting.predict import predict_forgetting
from ntkla.forgetting.spectrum import overlap
from ntkla.forgetting.spectrum.overlap import task_overlap
from ntkla.linalg.precision import DEFAULT_TOLERANCE, U64
from ntkla.testing import (
    FeatureSpec,
    Problem,
    ball_overlap,
    compare,
    drift_of,
    exact_update,
    hadamard_basis,
    hostile_states,
    planted_features,
    problems,
    ridges,
    with_bias,
)
from ntkla.testing.spectra import normal
from tests.soundness.judge import assert_no_nan, fewer, forecast, trained_problems

COUNTS = st.sampled_from([None, 1, 2, 4])


def overlap_of(problem, forgetting, **options):
    return task_overlap(problem.features_old, problem.features_new, forgetting, bias=problem.bias, **options)


def bound_verdicts(problem, found, exact=None):
    """Whether each bound is proved to be above the exact total forgetting."""
    drift = drift_of(problem.features_old, exact_update(problem) if exact is None else exact, bias=problem.bias)
    total = ball_overlap.total_forgetting(drift)
    zero = torch.zeros((1, 1), dtype=torch.float64)
    return [
        compare(zero, torch.full((1, 1), bound, dtype=torch.float64), total, name)
        for name, bound in (("overlap", found.drift_bound), ("cosine", found.cosine_bound))
    ]


@given(problems(ridge=ridges(weak=True), extreme=True, weighted=True), COUNTS, COUNTS)
@example(Problem(FeatureSpec(5, 3), FeatureSpec(4, 3, seed=1), 2), None, None)
@example(Problem(FeatureSpec(2, 6), FeatureSpec(3, 6, seed=1), 2, bias=True), 1, None)
@example(Problem(FeatureSpec(6, 4, "flat"), FeatureSpec(3, 4, "flat"), 1), 2, 2)
@example(Problem(FeatureSpec(6, 4, "zero"), FeatureSpec(3, 4), 1), None, None)
@example(Problem(FeatureSpec(6, 4), FeatureSpec(3, 4), 2, residual_kind="zero"), None, None)
def test_the_exact_total_forgetting_is_never_above_the_bounds(problem, k_old, k_new):
    found = overlap_of(problem, forecast(problem), k_old=k_old, k_new=k_new)
    assert_no_nan(found)
    for verdict in bound_verdicts(problem, found):
        assert verdict.sound, verdict
    assert found.overlap.shape == (found.k_old, found.k_new)
    assert found.k_old <= found.rank_old.low <= found.rank_old.high
    assert json.dumps(found.to_dict())
    assert "modes" in str(found)


@given(problems(ridge=st.just(0.0), weight_decay=False), COUNTS)
def test_without_a_ridge_the_bound_is_infinite_where_the_forecast_has_none(problem, k_old):
    forgetting = forecast(problem)
    found = overlap_of(problem, forgetting, k_old=k_old)
    assert_no_nan(found)
    for verdict in bound_verdicts(problem, found):
        assert verdict.sound, verdict
    if math.isinf(found.drift_bound):
        assert forgetting.status.code == "rank_deficient"


@fewer(2)
@given(trained_problems(weighted=True), COUNTS)
def test_training_that_stops_early_is_bounded_too(case, k_old):
    problem, training = case
    forgetting = forecast(problem, training=training)
    found = overlap_of(problem, forgetting, k_old=k_old)
    size, error = (float(torch.linalg.matrix_norm(x)) for x in (forgetting.drift, forgetting.error_bound))
    assert max(0.0, size - error) ** 2 <= found.drift_bound
    assert max(0.0, size - error) ** 2 <= found.cosine_bound


PLANTED = Problem(FeatureSpec(6, 4, condition=1e2), FeatureSpec(5, 4, condition=1e2, seed=1), 2, ridge_relative=1e-1)


def test_a_bound_below_the_truth_is_noticed():
    found = overlap_of(PLANTED, forecast(PLANTED))
    exact = float(forecast(PLANTED).drift.square().sum())
    assert all(v.sound for v in bound_verdicts(PLANTED, found))
    for name in ("drift_bound", "cosine_bound"):
        wrong = {name: exact * (1 - 2.0**-20)}
        broken = dataclasses.replace(found, **wrong)
        assert not all(v.sound for v in bound_verdicts(PLANTED, broken))


@pytest.mark.parametrize("rows", [8, 32])
def test_it_is_an_equality_where_all_singular_values_of_the_old_task_are_equal(rows):
    """The first corollary replaces every singular value by the largest one: here they are."""
    old, new = planted_features(rows, 16, [2.0] * 8), normal(12, 16, 3)
    forgetting = predict_forgetting(old, new, normal(12, 3, 4), ridge=1.0)
    found = task_overlap(old, new, forgetting)
    total = float(forgetting.drift.square().sum())
    assert total <= found.drift_bound <= total * (1 + 2 * DEFAULT_TOLERANCE)
    assert found.cosine_bound > found.drift_bound, "one cosine for all directions is less than the matrix"


def test_it_is_an_equality_of_all_three_in_one_direction():
    """One old sample along the only direction of the new task: the largest cosine is all there is."""
    old, new = torch.eye(1, 5, dtype=torch.float64) * 3.0, torch.eye(1, 5, dtype=torch.float64) * 2.0
    forgetting = predict_forgetting(old, new, torch.tensor([[1.5]], dtype=torch.float64), ridge=1.0)
    found = task_overlap(old, new, forgetting)
    total = float(forgetting.drift.square().sum())
    for bound in (found.drift_bound, found.cosine_bound):
        assert total <= bound <= total * (1 + 2 * DEFAULT_TOLERANCE)


def test_the_bounds_are_those_of_the_theory():
    """`sigma_1^2 ||O M R||^2` and `sigma_1^2 ||O||^2 ||M R||^2` as written, with singular vectors of NumPy's kind."""
    old, new, residual, ridge = normal(7, 20, 1), normal(9, 20, 2), normal(9, 3, 3), 0.5
    found = task_overlap(old, new, predict_forgetting(old, new, residual, ridge=ridge, bias=True), bias=True)
    _, s_old, v_old = torch.linalg.svd(with_bias(old), full_matrices=False)
    u_new, s_new, v_new = torch.linalg.svd(with_bias(new), full_matrices=False)
    matrix = v_old @ v_new.T
    m = (s_new / (s_new**2 + ridge))[:, None] * (u_new.T @ residual)
    by_matrix = s_old[0] ** 2 * (matrix @ m).square().sum()
    by_cosine = s_old[0] ** 2 * torch.linalg.svdvals(matrix)[0] ** 2 * m.square().sum()
    near = 1 + 2 * DEFAULT_TOLERANCE
    assert by_matrix / near <= found.drift_bound <= by_matrix * near
    assert by_cosine / near <= found.cosine_bound <= by_cosine * near
    apart = (torch.linalg.svdvals(matrix) - found.cosines).abs()
    assert bool((apart <= found.cosine_error + 64 * U64).all())


def test_fewer_old_modes_sharpen_the_bound():
    """The weak directions of the old task are weighed with the largest eigenvalue among themselves."""
    old, new = planted_features(16, 8, [8.0, 4.0, 2.0, 1.0]), normal(20, 8, 5)
    forgetting = predict_forgetting(old, new, normal(20, 2, 6), ridge=1.0)
    bounds = [task_overlap(old, new, forgetting, k_old=k).drift_bound for k in (4, 3, 2, 1)]
    assert bounds[0] == max(bounds)
    assert min(bounds) < bounds[0] / 2
    assert min(bounds) >= float(forgetting.drift.square().sum())


def test_what_the_vector_tells_and_the_scalars_cannot():
    """Two old tasks with one second moment: one sample drifts by 4 in the first, all sixteen by 1 in the second.

    Every scalar of the overlap is the same, the bound and the true total included; whom it happens to is not.
    """
    direction = torch.zeros((1, 8), dtype=torch.float64)
    direction[0, 0] = 1.0
    one, all_alike = torch.zeros((16, 8), dtype=torch.float64), direction.repeat(16, 1)
    one[5] = 4.0 * direction
    new, residual = 3.0 * direction, torch.tensor([[-10.0 / 3.0]], dtype=torch.float64)
    forgettings = [predict_forgetting(old, new, residual, ridge=1.0) for old in (one, all_alike)]
    found = [task_overlap(old, new, f) for old, f in zip((one, all_alike), forgettings, strict=True)]
    assert found[0].to_dict() == found[1].to_dict()
    totals = [float(f.drift.square().sum()) for f in forgettings]
    assert abs(totals[0] - totals[1]) <= 16 * DEFAULT_TOLERANCE
    to_one, to_all = torch.zeros((16, 1), dtype=torch.float64), torch.ones((16, 1), dtype=torch.float64)
    to_one[5] = 4.0
    for forgetting, known in zip(forgettings, (to_one, to_all), strict=True):
        assert bool(((forgetting.drift - known).abs() <= forgetting.error_bound + 64 * U64).all())
    # Nor is the sign: the opposite targets make the opposite drift.
    turned = predict_forgetting(one, new, -residual, ridge=1.0)
    assert torch.equal(turned.drift, -forgettings[0].drift)
    assert task_overlap(one, new, turned).drift_bound == found[0].drift_bound


def test_rotating_the_samples_changes_no_scalar():
    """The same with tasks of full rank: an orthogonal mixture of the old samples has the same S, and another drift."""
    old, new = normal(8, 12, 1), normal(9, 12, 2)
    mixed = hadamard_basis(8) @ old / 8**0.5
    forgettings = [predict_forgetting(x, new, normal(9, 2, 3), ridge=1.0) for x in (old, mixed)]
    first, second = (task_overlap(x, new, f) for x, f in zip((old, mixed), forgettings, strict=True))
    assert bool(((first.cosines - second.cosines).abs() <= first.cosine_error + second.cosine_error + 64 * U64).all())
    assert abs(first.alignment - second.alignment) <= first.alignment_error + second.alignment_error + 64 * U64
    assert abs(first.drift_bound / second.drift_bound - 1) <= DEFAULT_TOLERANCE
    per_sample = [f.drift.norm(dim=1).sort().values for f in forgettings]
    assert float((per_sample[0] - per_sample[1]).abs().max()) > float(per_sample[0].max()) / 10


def test_many_samples_make_every_cosine_one_and_leave_the_alignment():
    old, new = normal(60, 6, 1), normal(50, 6, 2) * torch.logspace(0, -3, 6, dtype=torch.float64)
    found = task_overlap(old, new)
    assert (found.k_old, found.k_new) == (6, 6)
    assert bool((found.cosines + found.cosine_error >= 1).all())
    assert found.status.certified
    assert found.alignment + found.alignment_error < 0.9
    assert found.drift_bound is found.cosine_bound is None
    assert float(task_overlap(old, new, k_old=1, k_new=1).cosines[0]) < 0.99


def test_a_space_that_is_not_certified_is_said_and_the_bound_holds():
    old, new = planted_features(8, 8, [2.0] * 4), normal(9, 8, 2)
    forgetting = predict_forgetting(old, new, normal(9, 2, 3), ridge=1.0)
    found = task_overlap(old, new, forgetting, k_old=2)
    assert found.status.code == "above_tolerance"
    assert "k_old" in found.status.message
    assert float(forgetting.drift.square().sum()) <= found.drift_bound
    assert task_overlap(old, new, k_old=2, tol=2.0).status.certified
    assert task_overlap(old, new).status.certified, "without a number, as many modes as are certified"


def test_features_of_zeros_overlap_with_nothing():
    found = task_overlap(torch.zeros(3, 4), torch.ones(2, 4))
    assert (found.k_old, found.rank_old.value, found.cosines.shape) == (0, 0, (0,))
    assert (found.alignment, found.alignment_error) == (0.0, 1.0)


@pytest.mark.parametrize("state", hostile_states())
def test_ambient_state_changes_no_bound(state):
    with hostile_states()[state]():
        found = overlap_of(PLANTED, forecast(PLANTED), k_old=2)
    assert all(v.sound for v in bound_verdicts(PLANTED, found))
    exact = ball_overlap.principal_cosines(PLANTED.features_old, 2, PLANTED.features_new, found.k_new)
    verdict = compare(found.cosines[:, None], found.cosine_error[:, None], exact)
    assert verdict.sound, verdict


def test_the_same_call_gives_the_same_bits_and_no_gradient():
    old, new = (normal(9, 5, seed).requires_grad_() for seed in (1, 2))
    first, second = task_overlap(old, new), task_overlap(old, new)
    assert first.to_dict() == second.to_dict()
    assert not first.cosines.requires_grad


OLD, NEW = normal(6, 4, 0), normal(5, 4, 1)
FORECAST = predict_forgetting(OLD, NEW, normal(5, 2, 2), ridge=1.0)


@pytest.mark.parametrize(
    ("error", "words", "call"),
    [
        (ShapeError, "features_new", lambda: task_overlap(OLD, NEW[:, :3])),
        (DtypeError, "one dtype", lambda: task_overlap(OLD, NEW.to(torch.float32))),
        (DeviceError, "meta", lambda: task_overlap(OLD, NEW.to("meta"))),
        (ArgumentError, "k_old", lambda: task_overlap(OLD, NEW, k_old=0)),
        (ArgumentError, "k_new", lambda: task_overlap(OLD, NEW, k_new=2.5)),
        (ArgumentError, "tol", lambda: task_overlap(OLD, NEW, tol=-1.0)),
        (ArgumentError, "Forgetting", lambda: task_overlap(OLD, NEW, FORECAST.drift)),
        (ArgumentError, "6 samples of 4 features and bias=False", lambda: task_overlap(OLD, NEW, FORECAST, bias=True)),
        (ArgumentError, "expected the forecast of 5", lambda: task_overlap(OLD[:5], NEW, FORECAST)),
    ],
)
def test_bad_input_is_named(error, words, call):
    with pytest.raises(error, match=words):
        call()


def test_memory_is_refused_before_the_bases_are_made(monkeypatch):
    monkeypatch.setattr(overlap, "memory_estimate", lambda *sizes: 2**80)
    with pytest.raises(MemoryEstimateError, match="task_overlap needs about"):
        task_overlap(OLD, NEW)
