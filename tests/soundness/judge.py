"""The oracle of the soundness suites: what every result must satisfy, stated once.

`test_planted.py` breaks the library on purpose and demands that these same functions notice.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import torch
from hypothesis import settings
from hypothesis import strategies as st

from ntkla.forgetting.descent.training import GradientDescent, GradientFlow
from ntkla.forgetting.drifts import Forgetting
from ntkla.forgetting.predict import predict_forgetting
from ntkla.linalg.precision import NEGLIGIBLE, SHORT_CHAIN, TINY64
from ntkla.linalg.ridge import RidgeSolution, ridge_solve
from ntkla.testing import (
    Comparison,
    Exact,
    Problem,
    RidgeProblem,
    check_forgetting,
    check_ridge,
    compare,
    compare_columns,
    drift_of,
    gradient_descent,
    gradient_flow,
    mean_eigenvalue,
    problems,
    relative_drift_bound,
    update_with_bias,
    with_bias,
)


def fewer(factor: int) -> settings:
    """Settings with the profile's number of examples over `factor`: for tests that are run many times over."""
    return settings(max_examples=max(4, settings.default.max_examples // factor))


@st.composite
def trained_problems(draw: st.DrawFn, weighted: bool = False) -> tuple[Problem, GradientDescent | GradientFlow]:
    """A problem and a training that is stable for it: the learning rate is a share of the largest stable one."""
    problem = draw(problems(weighted=weighted))
    momentum, nesterov = draw(st.sampled_from([(0.0, False), (0.5, False), (0.9, False), (0.9, True)]))
    design = with_bias(problem.features_new) if problem.bias else problem.features_new.to(torch.float64)
    if problem.weights is not None:
        design = design * problem.weights.to(torch.float64).sqrt()[:, None]
    largest = float(torch.linalg.matrix_norm(design, 2)) ** 2 + problem.ridge + problem.weight_decay
    share, steps = draw(st.sampled_from([0.5, 0.1, 0.95, 1e-4])), draw(st.sampled_from([1, 2, 3, 10, 1000]))
    if draw(st.booleans()):
        return problem, GradientFlow(time=share * steps / largest)
    limit = GradientDescent(1.0, 1, momentum, nesterov).stability_limit
    return problem, GradientDescent(share * limit / largest, steps, momentum, nesterov)


def solve(problem: RidgeProblem, **options: Any) -> RidgeSolution:
    """The library's answer."""
    return ridge_solve(**problem.arguments(), **options)


def forecast(problem: Problem, **options: Any) -> Forgetting:
    """The library's answer."""
    return predict_forgetting(**problem.arguments(), **options)


def assert_no_nan(result: Any) -> None:
    """No NaN in any number or tensor of a result, at any depth."""
    if isinstance(result, torch.Tensor):
        assert not bool(torch.isnan(result).any()), result
    elif isinstance(result, float):
        assert not math.isnan(result)
    elif dataclasses.is_dataclass(result):
        for field in dataclasses.fields(result):
            assert_no_nan(getattr(result, field.name))


def assert_all_sound(verdicts: tuple[Comparison, ...]) -> None:
    """Every bound was proved to hold."""
    for verdict in verdicts:
        assert verdict.sound, verdict


def judge_ridge(problem: RidgeProblem, solution: RidgeSolution) -> None:
    """The exact solution lies within the bound of every entry; the shapes and types are those that are documented."""
    assert_no_nan(solution)
    assert solution.solution.shape == solution.error_bound.shape == (problem.design.features, problem.outputs)
    assert solution.solution.dtype == solution.error_bound.dtype == torch.float64
    assert (solution.bias is None) == (not problem.bias)
    assert bool((solution.error_bound >= 0).all())
    assert_all_sound(check_ridge(solution, problem))
    _judge_status(solution, solution.diagnostics.relative_bound)


def judge_forgetting(problem: Problem, forgetting: Forgetting) -> None:
    """The exact drift and head update lie within their bounds; the shapes and types are those that are documented."""
    assert_no_nan(forgetting)
    assert forgetting.drift.shape == forgetting.error_bound.shape == (problem.old.n, problem.outputs)
    assert forgetting.head_update.shape == (problem.outputs, problem.new.features)
    assert forgetting.drift.dtype == forgetting.error_bound.dtype == torch.float64
    assert (forgetting.bias_update is None) == (not problem.bias)
    assert bool((forgetting.error_bound >= 0).all())
    assert_all_sound(check_forgetting(forgetting, problem))
    judge_relative(problem, forgetting)


def judge_relative(problem: Problem, forgetting: Forgetting) -> None:
    """The relative bound that is reported is at least the one recomputed here, and agrees with the status."""
    reported = forgetting.relative_bound
    if float(forgetting.error_bound.max()) > NEGLIGIBLE and reported < 1:
        relative = relative_drift_bound(forgetting, problem.features_old)
        assert relative <= reported * SHORT_CHAIN, f"the relative bound is {relative!r}, and {reported!r} was reported"
    _judge_status(forgetting, reported)


# The library refines until the bound meets the tolerance, and reports what it reached when it cannot.  For ridges from
# a millionth of the mean eigenvalue it must get there, unless the problem is of a kind that the functions below name.
_CANCELS = 2.0**-20
_COMPARABLE = 2.0**10
# Beside a smaller ridge, what underflow may have dropped counts: a solution of exactly zero has no relative bound.
_LEAST_RIDGE = 2.0**10 * TINY64 / NEGLIGIBLE


def promised_ridge(problem: RidgeProblem) -> bool:
    """Whether `ridge_solve` must be certified: the right-hand side does not cancel, nor do scales under a free bias."""
    free_and_graded = problem.bias and not problem.penalize_bias and problem.design.twist == "graded_columns"
    if problem.ridge < _LEAST_RIDGE:
        return False
    return not free_and_graded and not _cancels(problem.design.tensor, problem.targets, problem.weights)


def promised_drift(problem: Problem) -> bool:
    """The same for `predict_forgetting`, whose old features must be of about the size of the new ones."""
    graded = "graded_columns" in (problem.old.twist, problem.new.twist)
    if (problem.bias and not problem.penalize_bias and graded) or problem.ridge < _LEAST_RIDGE:
        return False
    mean_row = (mean_eigenvalue(problem.features_new) * problem.new.features / problem.new.n) ** 0.5
    largest_row = float(torch.linalg.vector_norm(problem.features_old.to(torch.float64), dim=1).max())
    comparable = mean_row / _COMPARABLE <= largest_row <= mean_row * _COMPARABLE
    return comparable and not _cancels(problem.features_new, problem.residual_new, problem.weights)


def _cancels(features: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor | None) -> bool:
    """Whether Phi^T T is smaller than ||Phi|| ||T|| by 2^20: then T is orthogonal to the features but for rounding."""
    roots = 1.0 if weights is None else weights.to(torch.float64).sqrt()[:, None]
    phi, t = features.to(torch.float64) * roots, targets.to(torch.float64) * roots
    sizes = phi.norm() * t.norm(dim=0)
    return bool(((phi.T @ t).norm(dim=0) <= _CANCELS * sizes)[sizes > 0].any())


def _judge_status(result: RidgeSolution | Forgetting, relative: float) -> None:
    code, tolerance = result.status.code, result.diagnostics.tolerance
    infinite = bool(result.error_bound.isinf().any())
    assert code in ("certified", "above_tolerance", "rank_deficient", "uncertified"), code
    assert (code == "certified") == (relative <= tolerance), f"{code} with a relative bound of {relative!r}"
    assert (code == "uncertified") <= math.isinf(relative), f"{code} with a relative bound of {relative!r}"
    assert not infinite or code in ("rank_deficient", "uncertified"), f"{code} with an infinite bound"


def exact_training(problem: Problem, training: GradientDescent | GradientFlow) -> Exact:
    """dW^T after training that stops early, by the optimiser's own steps in ball arithmetic."""
    mask = [1.0] * problem.new.features + ([1.0 if problem.penalize_bias else 0.0] if problem.bias else [])
    start = None
    if problem.head_weight is not None:
        start = problem.head_weight.T
        if problem.head_bias is not None:
            start = torch.cat([start, problem.head_bias[None]])
    shared = {
        "bias": problem.bias,
        "penalties": [problem.ridge * m for m in mask],
        "decays": [problem.weight_decay * m for m in mask],
        "start": start,
        "weights": problem.weights,
    }
    arrays = (problem.features_new, problem.residual_new)
    if isinstance(training, GradientFlow):
        return gradient_flow(*arrays, time=training.time, **shared)
    return gradient_descent(*arrays, **dataclasses.asdict(training), **shared)


def judge_training(problem: Problem, training: GradientDescent | GradientFlow, forgetting: Forgetting) -> None:
    """The same for training that stops early."""
    assert_no_nan(forgetting)
    update = exact_training(problem, training)
    drift = drift_of(problem.features_old, update, bias=problem.bias)
    computed = update_with_bias(forgetting)
    assert_all_sound(
        (
            compare(forgetting.drift, forgetting.error_bound, drift, "trained drift"),
            compare_columns(computed, forgetting.update_error_bound, update, "trained update"),
        )
    )
    judge_relative(problem, forgetting)
