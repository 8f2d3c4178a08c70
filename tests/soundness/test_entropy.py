"""No bound of a softmax regression is ever exceeded, in ball arithmetic; some are close; planted errors are seen."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import example, given

from ntkla.linalg.entropy import certificate, free_bias, newton
from ntkla.linalg.entropy.solve import EntropySolve
from ntkla.testing import FeatureSpec, hostile_states
from tests.soundness.entropy import TARGETS, SoftmaxProblem, judge, softmax_problems
from tests.soundness.judge import fewer

# Each was drawn once and broke something: a search that took a slope for zero far beyond the least value, directions
# without curvature, steps that float32 could not solve, gradients of exactly zero.
SATURATED = SoftmaxProblem(
    FeatureSpec(2, 1, "rank_one", 1.0, 15580, "bfloat16", "transposed"),
    2,
    "soft",
    1.0,
    True,
    False,
    30.0,
    "one_tiny",
    1e-12,
    289928,
)
FLAT = SoftmaxProblem(
    FeatureSpec(3, 3, "zero", 100.0, 57, "float32", "offset", 1e-3), 2, "labels", 1e-9, True, True, 1.0
)
NOTHING = SoftmaxProblem(FeatureSpec(5, 1, scale=1e6, twist="zero_row_and_column"), 1, "class_weights", 1e-6, head=1e-3)
BEYOND = SoftmaxProblem(FeatureSpec(1, 1, "flat", 1.0, dtype="float32"), 2, ridge_relative=1e-9, head=30.0)
# One class, so that the update is exactly zero, and a head that features at the end of the range would need.
ALONE = SoftmaxProblem(FeatureSpec(1, 1, "flat", 1.0, scale=1e28), 1)
TINY = SoftmaxProblem(FeatureSpec(1, 1, "flat", 1.0, scale=1e-160), 1, head=1.0)


@example(SATURATED)
@example(FLAT)
@example(NOTHING)
@example(BEYOND)
@given(softmax_problems())
def test_bounds_hold(problem):
    judge(problem, problem.solve())


@fewer(2)
@example(ALONE)
@example(TINY)
@given(softmax_problems(extreme=True))
def test_bounds_hold_at_the_ends_of_the_range(problem):
    judge(problem, problem.solve())


ORDINARY = [
    SoftmaxProblem(
        FeatureSpec(6, 3, condition=1e2, seed=seed), 3, kind, ridge, bias, penalize, head, tol=1e-10, seed=seed
    )
    for seed, kind in enumerate(TARGETS)
    for ridge in (1.0, 1e-3)
    for bias, penalize, head in ((False, True, None), (True, True, 1.0), (True, False, 1.0))
    if penalize or kind != "one_class"
]


def test_ordinary_problems_are_certified_to_ten_digits():
    for problem in ORDINARY:
        found = problem.solve()
        assert found.status.certified, f"{problem}\n{found}"
        judge(problem, found)


@pytest.mark.parametrize("name", hostile_states())
def test_ambient_state_breaks_no_bound(name):
    narrow = dataclasses.replace(ORDINARY[1], design=FeatureSpec(6, 3, dtype="float32", condition=1e2))
    for problem in (narrow, ORDINARY[2], ORDINARY[7]):
        problem.targets, problem.old_head, problem.design.tensor  # noqa: B018  made outside of the state
        ridge = problem.ridge
        with hostile_states()[name]():
            found = problem.solve(ridge=ridge)
        assert found.status.certified, found
        judge(problem, found)


def test_the_bound_is_close_where_a_step_is_left_out():
    """Stopped early the error is that of the gradient, and the ridge is all that curves: a factor of about one."""
    ratios = []
    for seed in range(4):
        # Features far below the ridge: the least eigenvalue of the Hessian is the ridge, and so is the largest.
        problem = SoftmaxProblem(FeatureSpec(6, 3, seed=seed), 3, "soft", 1e3, tol=1e-2, seed=seed)
        found = problem.solve()
        ratios.append(judge(problem, found))
    assert max(ratios) > 0.5


CASES = [
    dataclasses.replace(problem, tol=tol) for problem in ORDINARY if problem.penalize_bias for tol in (1e-2, 1e-12)
]


def refused(cases) -> int:
    count = 0
    for problem in cases:
        try:
            judge(problem, problem.solve())
        except AssertionError:
            count += 1
    return count


def test_nothing_is_refused_before_anything_is_planted():
    assert refused(CASES) == 0


def test_a_bound_that_is_too_small_is_seen(monkeypatch):
    whole = certificate.certify

    def less(problem, x, level):
        found = whole(problem, x, level)
        return found._replace(error=found.error / 1e3)

    monkeypatch.setattr(newton, "certify", less)
    assert refused(CASES) > 0


def test_a_solution_that_is_moved_is_seen(monkeypatch):
    """By 1e-8 of itself, behind the certificate's back."""
    monkeypatch.setattr(EntropySolve, "x", property(lambda solve: solve.minimum.x * (1.0 + 1e-8)))
    assert refused(CASES) > 0


def test_a_curvature_that_is_claimed_too_large_is_seen(monkeypatch):
    free = [dataclasses.replace(problem, tol=1e-2) for problem in ORDINARY if not problem.penalize_bias]
    assert refused(free) == 0
    monkeypatch.setattr(certificate, "free_curvature", lambda *given: 1e6 * free_bias.free_curvature(*given))
    assert refused(free) > 0
