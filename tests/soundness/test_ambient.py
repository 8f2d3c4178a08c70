"""No ambient state of the process breaks a bound, none is changed, and the global random generators are not read."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import example, given

from ntkla.forgetting.descent.training import GradientDescent
from ntkla.testing import FeatureSpec, Problem, RidgeProblem, ambient_state, hostile_states, problems, ridge_problems
from tests.soundness.judge import fewer, forecast, judge_forgetting, judge_ridge, judge_training, solve

STATES = hostile_states()
SUBNORMAL = {
    "float32": FeatureSpec(5, 3, scale=1e-38, dtype="float32"),
    "bfloat16": FeatureSpec(5, 3, scale=1e-38, dtype="bfloat16"),
    "float64": FeatureSpec(5, 3, scale=1e-308),
}


def under(name, call):
    """What `call` returns in the named state, checked to leave everything as it was, inside and outside."""
    outside = ambient_state()
    with STATES[name]():
        inside = ambient_state()
        result = call()
        assert ambient_state() == inside
    assert ambient_state() == outside
    return result


@pytest.mark.parametrize("name", STATES)
def test_ridge_bounds_hold(name):
    @fewer(8)
    @example(RidgeProblem(SUBNORMAL["float32"], 2, ridge_relative=1e-6))
    @example(RidgeProblem(SUBNORMAL["bfloat16"], 2, ridge_relative=1e-6, bias=True))
    @example(RidgeProblem(SUBNORMAL["float64"], 2, ridge_relative=1e-6, route="dual"))
    @given(ridge_problems(extreme=True))
    def judged(problem):
        problem.arguments()  # the inputs are built outside the state
        judge_ridge(problem, under(name, lambda: solve(problem)))

    judged()


@pytest.mark.parametrize("name", STATES)
def test_drift_bounds_hold(name):
    @fewer(8)
    @example(Problem(SUBNORMAL["float32"], SUBNORMAL["float32"], 2, ridge_relative=1e-6))
    @example(Problem(FeatureSpec(4, 3), SUBNORMAL["float64"], 2, ridge_relative=1e-6, bias=True))
    @given(problems(extreme=True))
    def judged(problem):
        problem.arguments()
        judge_forgetting(problem, under(name, lambda: forecast(problem)))

    judged()


ORDINARY = Problem(
    FeatureSpec(20, 6, dtype="float32"), FeatureSpec(30, 6, seed=1, dtype="float32"), 3, ridge_relative=1e-6, bias=True
)


@pytest.mark.parametrize("name", STATES)
def test_ordinary_problems_stay_certified_with_the_same_error(name):
    """A state may cost time, but not the tolerance: what is certified without it is certified in it."""
    ORDINARY.arguments()
    forgetting = under(name, lambda: forecast(ORDINARY))
    judge_forgetting(ORDINARY, forgetting)
    assert forgetting.status.certified, forgetting.status
    plain = forecast(ORDINARY)
    assert bool(((forgetting.drift - plain.drift).abs() <= forgetting.error_bound + plain.error_bound).all())


@pytest.mark.parametrize("name", STATES)
@pytest.mark.parametrize(("momentum", "nesterov"), [(0.0, False), (0.9, True)])
def test_training_bounds_hold(name, momentum, nesterov):
    problem = dataclasses.replace(ORDINARY, ridge_relative=1e-2)
    training = GradientDescent(0.02, 20, momentum, nesterov)
    problem.arguments()
    judge_training(problem, training, under(name, lambda: forecast(problem, training=training)))


@pytest.mark.parametrize("name", STATES)
def test_inputs_that_are_built_inside_the_state_are_solved_too(name):
    """A new problem each time, so that its tensors (inference tensors, say) are made inside."""
    problem = dataclasses.replace(ORDINARY, seed=99)
    judge_forgetting(problem, under(name, lambda: forecast(problem)))


@pytest.mark.parametrize("name", ["flush denormal", "autocast", "deterministic"])
def test_the_same_call_gives_the_same_bits_in_a_state(name):
    first, second = (under(name, lambda: forecast(ORDINARY)) for _ in range(2))
    assert torch.equal(first.drift, second.drift)
    assert torch.equal(first.error_bound, second.error_bound)


def test_every_state_is_really_different():
    """A state that changes nothing tests nothing."""
    outside = ambient_state()
    already = {1: "one thread", 3: "three threads"}.get(torch.get_num_threads())
    for name in STATES.keys() - {already}:
        with STATES[name]():
            assert ambient_state() != outside, name
