"""Bad input is refused by name with the remedy; odd but legal input is solved; nothing returns a NaN."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
import torch

from ntkla.forgetting.descent.training import GradientFlow
from ntkla.forgetting.heads import LinearHead
from ntkla.forgetting.predict import predict_forgetting
from ntkla.forgetting.spectrum.decompose_update import decompose_update
from ntkla.linalg import checks, errors
from ntkla.linalg.eigen.feature_modes import feature_modes
from ntkla.linalg.ridge import ridge_solve
from ntkla.testing import FeatureSpec, Problem, RidgeProblem
from tests.soundness.judge import forecast, judge_forgetting, judge_ridge, solve

RIDGE = RidgeProblem(FeatureSpec(6, 4), 2)
FORGETTING = Problem(FeatureSpec(3, 4), FeatureSpec(6, 4, seed=1), 2)
HEAD = LinearHead(torch.ones(2, 4, dtype=torch.float64))


def spoilt(x: torch.Tensor, value: float) -> torch.Tensor:
    x = x.clone()
    x[-1, -1] = value
    return x


def filled(*shape: int, dtype: torch.dtype = torch.float64, value: float = 1.0) -> torch.Tensor:
    return torch.full(shape, value, dtype=dtype)


BAD_RIDGE = [
    ({"features": spoilt(RIDGE.design.tensor, math.nan)}, errors.NonFiniteError, "features.*1 NaN or infinite"),
    ({"targets": spoilt(RIDGE.targets, math.inf)}, errors.NonFiniteError, "targets.*1 NaN or infinite"),
    ({"features": filled(0, 4)}, errors.ShapeError, "features.*at least one row"),
    ({"features": filled(6, 0)}, errors.ShapeError, "features.*at least one row and one column"),
    ({"targets": filled(6, 0)}, errors.ShapeError, "targets.*at least one row and one column"),
    ({"targets": filled(5, 2)}, errors.ShapeError, "targets.*6 rows, got 5"),
    ({"features": filled(6)}, errors.ShapeError, "features.*two dimensions"),
    ({"features": np.ones((6, 4))}, errors.DtypeError, "features.*torch.Tensor"),
    ({"features": torch.ones(6, 4, dtype=torch.int64)}, errors.DtypeError, "features.*int64"),
    ({"features": torch.ones(6, 4, dtype=torch.complex64)}, errors.DtypeError, "features.*complex64"),
    ({"features": filled(6, 4).to_sparse()}, errors.DtypeError, "features.*dense"),
    ({"features": filled(6, 4).to("meta")}, errors.DeviceError, "features.*meta"),
    ({"features": filled(6, 4, value=1e80)}, errors.ScaleError, "features.*overflow"),
    ({"targets": filled(6, 2, value=1e80)}, errors.ScaleError, "targets.*overflow"),
    ({"ridge": -1.0}, errors.RidgeError, "ridge.*>= 0"),
    ({"ridge": math.nan}, errors.RidgeError, "ridge"),
    ({"ridge": math.inf}, errors.RidgeError, "ridge"),
    ({"ridge": 1e80}, errors.RidgeError, "ridge.*at most"),
    ({"ridge": "0.1"}, errors.RidgeError, "ridge.*number"),
    ({"ridge": None}, errors.RidgeError, "ridge.*number"),
    ({"ridge": 1e-310}, errors.RidgeError, "ridge.*0 or at least"),
    ({"tol": 0.0}, errors.ArgumentError, "tol"),
    ({"tol": math.nan}, errors.ArgumentError, "tol"),
    ({"route": "sideways"}, errors.ArgumentError, "route.*'auto'"),
    ({"bias": 1}, errors.ArgumentError, "bias.*True or False"),
]
BAD_FORGETTING = [
    ({"features_old": spoilt(FORGETTING.features_old, math.nan)}, errors.NonFiniteError, "features_old.*NaN"),
    ({"features_new": spoilt(FORGETTING.features_new, -math.inf)}, errors.NonFiniteError, "features_new.*NaN"),
    ({"residual_new": spoilt(FORGETTING.residual_new, math.nan)}, errors.NonFiniteError, "residual_new.*NaN"),
    ({"features_old": filled(0, 4)}, errors.ShapeError, "features_old.*at least one row"),
    ({"features_new": filled(0, 4)}, errors.ShapeError, "features_new.*at least one row"),
    ({"features_new": filled(6, 5)}, errors.ShapeError, "features_new.*4 columns, got 5"),
    ({"residual_new": filled(4, 2)}, errors.ShapeError, "residual_new.*6 rows, got 4"),
    ({"features_old": filled(3, 4, dtype=torch.float32)}, errors.DtypeError, "one dtype.*float32"),
    ({"features_old": filled(3, 4).to("meta")}, errors.DeviceError, "features_old.*meta"),
    ({"ridge": -1e-300}, errors.RidgeError, "ridge"),
    ({"weight_decay": -1.0, "head": HEAD}, errors.RidgeError, "weight_decay"),
    ({"weight_decay": math.nan, "head": HEAD}, errors.RidgeError, "weight_decay"),
    ({"weight_decay": 0.1}, errors.ArgumentError, "head.*LinearHead"),
    ({"weight_decay": 0.1, "head": LinearHead(torch.ones(2, 5))}, errors.ShapeError, "head.*expected weight"),
    ({"weight_decay": 0.1, "head": LinearHead(torch.ones(3, 4))}, errors.ShapeError, "head.*expected weight"),
    ({"weight_decay": 0.1, "head": HEAD, "bias": True}, errors.ArgumentError, "head.*bias"),
    ({"route": "sideways"}, errors.ArgumentError, "route"),
    ({"route": "sideways", "training": GradientFlow(1.0)}, errors.ArgumentError, "route"),
    ({"bias": "yes"}, errors.ArgumentError, "bias"),
    ({"tol": -1.0}, errors.ArgumentError, "tol"),
]


@pytest.mark.parametrize(("change", "error", "message"), BAD_RIDGE)
def test_ridge_solve_refuses_by_name(change, error, message):
    with pytest.raises(error, match=re.compile(message, re.DOTALL)):
        ridge_solve(**{**RIDGE.arguments(), **change})


@pytest.mark.parametrize(("change", "error", "message"), BAD_FORGETTING)
def test_predict_forgetting_refuses_by_name(change, error, message):
    with pytest.raises(error, match=re.compile(message, re.DOTALL)):
        predict_forgetting(**{**FORGETTING.arguments(), **change})


@pytest.mark.parametrize("name", ["features", "targets"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_no_spoilt_entry_gets_through(name, value, dtype):
    arguments = RIDGE.arguments()
    arguments[name] = spoilt(arguments[name].to(dtype), value)
    with pytest.raises(errors.NonFiniteError, match=name):
        ridge_solve(**arguments)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize("layout", [torch.strided, torch.jagged])
def test_nested_bounds_are_refused(layout):
    nested = torch.nested.nested_tensor([filled(2), filled(1)], layout=layout)
    with pytest.raises(errors.DtypeError, match="residual_error: expected a dense tensor"):
        forecast(FORGETTING, residual_error=nested)
    features = FORGETTING.features_old
    with pytest.raises(errors.DtypeError, match="update_error: expected a dense tensor"):
        decompose_update(features @ HEAD.weight.T, HEAD.weight.T, feature_modes(features), update_error=nested)


def test_errors_are_also_what_python_would_raise():
    assert issubclass(errors.ShapeError, ValueError)
    assert issubclass(errors.DtypeError, TypeError)
    assert issubclass(errors.MemoryEstimateError, MemoryError)
    assert all(issubclass(e, errors.NtklaError) for _, e, _ in BAD_RIDGE + BAD_FORGETTING)


@pytest.mark.parametrize("ridge", [0.0, 0.1])
def test_memory_that_will_not_fit_is_refused_before_it_is_tried(monkeypatch, ridge):
    monkeypatch.setattr(checks, "available_memory", lambda device: 100)
    with pytest.raises(errors.MemoryEstimateError, match="bytes") as caught:
        ridge_solve(**{**RIDGE.arguments(), "ridge": ridge})
    assert caught.value.bytes_needed > 100
    with pytest.raises(errors.MemoryEstimateError, match="bytes"):
        predict_forgetting(**{**FORGETTING.arguments(), "ridge": ridge})


@pytest.mark.parametrize("training", [None, GradientFlow(1.0)])
def test_memory_for_the_drift_of_many_old_samples_is_refused_before_it_is_tried(monkeypatch, training):
    monkeypatch.setattr(checks, "available_memory", lambda device: 10**6)
    many = filled(1, 4).expand(10**5, 4)
    with pytest.raises(errors.MemoryEstimateError, match="drift of the old predictions") as caught:
        predict_forgetting(many, filled(2, 4), filled(2, 1), ridge=1.0, training=training)
    assert caught.value.bytes_needed >= 2 * 8 * many.shape[0]


DEFICIENT = FeatureSpec(6, 4, twist="twin_columns")


def test_rank_deficiency_without_a_ridge_is_a_status_with_the_rank():
    problem = RidgeProblem(DEFICIENT, 2, ridge_relative=0.0)
    solution = solve(problem)
    judge_ridge(problem, solution)
    assert solution.status.code == "rank_deficient"
    assert "ridge > 0" in solution.status.message
    assert bool(solution.error_bound.isinf().all())
    assert solution.diagnostics.rank == 3
    assert solution.diagnostics.rank_gap > 1 / solution.diagnostics.rank_threshold
    full = RidgeProblem(FeatureSpec(6, 4), 2, ridge_relative=0.0)
    judge_ridge(full, solve(full))
    assert solve(full).status.certified


def test_rank_deficiency_without_a_ridge_leaves_the_drift_unbounded_and_a_ridge_mends_it():
    problem = Problem(FeatureSpec(3, 4), DEFICIENT, 2, ridge_relative=0.0)
    forgetting = forecast(problem)
    judge_forgetting(problem, forgetting)
    assert forgetting.status.code == "rank_deficient"
    assert forgetting.relative_bound == math.inf
    mended = Problem(FeatureSpec(3, 4), DEFICIENT, 2, ridge_relative=1e-6)
    assert forecast(mended).status.certified


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 5, 1), (5, 1, 1), (1, 1, 3), (5, 5, 1)])
@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16"])
@pytest.mark.parametrize("ridge", [0.0, 1e-6, 1.0])
def test_one_sample_one_feature_one_class(shape, dtype, ridge):
    n, features, outputs = shape
    problem = Problem(
        FeatureSpec(1, features, dtype=dtype),
        FeatureSpec(n, features, seed=1, dtype=dtype),
        outputs,
        ridge_relative=ridge,
    )
    judge_forgetting(problem, forecast(problem))


@pytest.mark.parametrize("scale", [1e-12, 1e12])
@pytest.mark.parametrize("residual_scale", [1e-12, 1.0, 1e12])
@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16"])
def test_twelve_decades_up_and_down_are_certified(scale, residual_scale, dtype):
    spec = {"dtype": dtype, "scale": scale}
    problem = Problem(
        FeatureSpec(4, 5, **spec),
        FeatureSpec(7, 5, seed=1, **spec),
        2,
        residual_scale=residual_scale,
        ridge_relative=1e-6,
    )
    forgetting = forecast(problem)
    judge_forgetting(problem, forgetting)
    assert forgetting.status.certified, forgetting.status


def test_results_are_detached_and_inputs_untouched():
    arguments = FORGETTING.arguments()
    copies = {k: v.clone() for k, v in arguments.items() if isinstance(v, torch.Tensor)}
    for tensor in copies.values():
        tensor.requires_grad_()
    forgetting = predict_forgetting(**{**arguments, **copies})
    assert not any(t.requires_grad for t in (forgetting.drift, forgetting.head_update, forgetting.error_bound))
    assert torch.equal(forgetting.drift, forecast(FORGETTING).drift)
    assert all(torch.equal(copies[k], arguments[k]) and copies[k].grad is None for k in copies)


def test_float16_is_taken_as_exact_too():
    features, targets = RIDGE.design.tensor.to(torch.float16), RIDGE.targets.to(torch.float16)
    wide = ridge_solve(features.to(torch.float64), targets.to(torch.float64), ridge=0.1)
    narrow = ridge_solve(features, targets, ridge=0.1)
    assert bool(((narrow.solution - wide.solution).abs() <= narrow.error_bound + wide.error_bound).all())


@pytest.mark.parametrize("ridge", [2.0**-1000, 1e-300, 1e-150, 1e70])
def test_ridges_at_the_ends_of_the_range_are_sound(ridge):
    from ntkla.testing import compare, hostile_states, ridge_solution

    exact = ridge_solution(RIDGE.design.tensor, RIDGE.targets, ridge=ridge)
    for state in (torch.no_grad, hostile_states()["flush denormal"]):
        with state():
            solution = ridge_solve(RIDGE.design.tensor, RIDGE.targets, ridge=ridge)
        verdict = compare(solution.solution, solution.error_bound, exact)
        assert verdict.sound, verdict


def test_a_looser_tolerance_is_met_and_reported():
    for tol in (1e-3, 1e-6, 1e-12):
        forgetting = forecast(FORGETTING, tol=tol)
        assert forgetting.diagnostics.tolerance == tol
        assert forgetting.status.certified == (forgetting.relative_bound <= tol)
    assert forecast(FORGETTING, tol=1e-300).status.code == "above_tolerance"


@pytest.mark.parametrize("scale", [1e-180, 1e-260, 1e-290])
def test_small_targets_are_solved_as_well_as_others(scale):
    # The squares of such numbers vanish, and some of them are below what underflow alone is allowed.
    problem = Problem(FeatureSpec(3, 4), FeatureSpec(6, 4, seed=1), 2, residual_scale=scale, ridge_relative=1.0)
    forgetting = forecast(problem)
    judge_forgetting(problem, forgetting)
    assert forgetting.status.certified, forgetting.status
    assert forgetting.relative_bound > 0
    assert "root mean square drift 0," not in str(forgetting)


@pytest.mark.parametrize("scale", [1e-275, 1e-290, 1e-305])
def test_a_bound_that_is_nearly_nothing_is_still_compared_with_the_result(scale):
    problem = RidgeProblem(FeatureSpec(8, 5, condition=1e12), 2, targets_scale=scale, ridge_relative=1e-16)
    solution = solve(problem)
    judge_ridge(problem, solution)
    assert not solution.status.certified
    assert float(solution.error_bound.max()) > solution.diagnostics.tolerance * float(solution.solution.abs().max())


def test_results_speak_to_people_and_to_programs():
    forgetting, solution = forecast(FORGETTING), solve(RIDGE)
    for result in (forgetting, solution):
        text = str(result)
        assert "tensor(" not in text
        assert "certified" in text
        assert result.to_dict()["status"]["code"] == "certified"
    assert forgetting.to_dict()["drift"] == forgetting.drift.tolist()
