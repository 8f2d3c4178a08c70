"""Refinement with factors of every quality: the good ones escalate when they must, the bad ones never certify."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch

from ntkla.linalg.design import DesignMatrix
from ntkla.linalg.precision import DEFAULT_TOLERANCE, U64
from ntkla.linalg.ridge import ridge_solve
from ntkla.linalg.solve.factor import CholeskyFactor, QRFactor
from ntkla.linalg.solve.normal_problem import NormalProblem
from ntkla.linalg.solve.refine import Candidate, Refinement
from ntkla.linalg.solve.rounds import relative_goal
from ntkla.linalg.solve.stability import Stability
from ntkla.testing import FeatureSpec, RidgeProblem, check_ridge, compare_columns
from ntkla.testing.ball_solutions import ridge_solution
from ntkla.testing.spectra import normal


class Worthless:
    """A factor whose every answer is `answer` of what a genuine one says."""

    name = "worthless"
    precision = torch.float64

    def __init__(self, problem: NormalProblem, answer: Callable[[torch.Tensor], torch.Tensor]) -> None:
        genuine = QRFactor.build(problem)
        assert genuine is not None
        self.genuine, self.answer = genuine, answer

    def start(self, problem: NormalProblem) -> torch.Tensor:
        return self.answer(self.genuine.start(problem))

    def solve(self, rho: torch.Tensor) -> torch.Tensor:
        return self.answer(self.genuine.solve(rho))


ANSWERS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "zeros": torch.zeros_like,
    "garbage": lambda x: normal(*x.shape, 3),
    "the opposite": torch.neg,
    "three times too much": lambda x: 3 * x,
    "a third": lambda x: x / 3,
    "huge": lambda x: torch.full_like(x, 1e200),
    "infinite": lambda x: torch.full_like(x, math.inf),
    "none": lambda x: torch.full_like(x, math.nan),
}
OVERFLOWS = ("infinite", "none")
SPEC = FeatureSpec(9, 5, condition=1e4, seed=2)
RIDGE = 0.01


def parts(free_bias: bool = False) -> tuple[NormalProblem, Stability]:
    design = DesignMatrix(SPEC.tensor, free_bias)
    penalty = torch.full((design.columns,), RIDGE, dtype=torch.float64)
    if free_bias:
        penalty[-1] = 0.0
    problem = NormalProblem(design, normal(9, 2, 5), (penalty,), None, design.frobenius())
    return problem, Stability.ridge(RIDGE, design, free_bias)


def candidate(problem: NormalProblem, answer: str) -> Candidate:
    return "worthless", lambda: Worthless(problem, ANSWERS[answer])


def qr(problem: NormalProblem) -> Candidate:
    return "qr:float64", lambda: QRFactor.build(problem)


def assert_sound(refinement: Refinement, free_bias: bool) -> None:
    """The exact solution is within the bound of what the refinement holds."""
    problem, stability = refinement.problem, refinement.stability
    exact = ridge_solution(SPEC.tensor, problem.targets, ridge=RIDGE, bias=free_bias, penalize_bias=False)
    bound = stability.whole(refinement.error + stability.moved(refinement.x.low))
    verdict = compare_columns(refinement.x.high, bound, exact)
    assert verdict.sound, verdict


@pytest.mark.parametrize("free_bias", [False, True])
@pytest.mark.parametrize("answer", ANSWERS)
def test_a_worthless_factor_alone_certifies_nothing(answer: str, free_bias: bool) -> None:
    problem, stability = parts(free_bias)
    refinement = Refinement(problem, stability, [candidate(problem, answer)])
    assert not refinement.reach(relative_goal(DEFAULT_TOLERANCE, stability))
    assert refinement.corrections == 0
    assert_sound(refinement, free_bias)


@pytest.mark.parametrize("answer", ANSWERS)
def test_a_worthless_factor_is_followed_by_the_next(answer: str) -> None:
    problem, stability = parts()
    refinement = Refinement(problem, stability, [candidate(problem, answer), qr(problem)])
    assert refinement.reach(relative_goal(DEFAULT_TOLERANCE, stability))
    assert refinement.factor_name == "qr:float64"
    (reason,) = refinement.escalations
    wanted = "worthless overflowed" if answer in OVERFLOWS else "worthless contracted the residual by"
    assert reason.startswith(wanted)
    assert_sound(refinement, False)


def test_a_factor_that_contracts_slowly_is_kept() -> None:
    """Two thirds of the way in every step: a residual of one third, less than the half that is asked for."""
    problem, stability = parts()
    refinement = Refinement(
        problem, stability, [("slow", lambda: Worthless(problem, lambda x: x * 2 / 3)), qr(problem)]
    )
    assert refinement.reach(relative_goal(DEFAULT_TOLERANCE, stability))
    assert (refinement.factor_name, refinement.escalations) == ("worthless", [])
    assert refinement.corrections > 2
    assert_sound(refinement, False)


def test_without_any_factor_the_solution_is_zero_and_the_bound_holds() -> None:
    problem, stability = parts()
    refinement = Refinement(problem, stability, [("first", lambda: None), ("second", lambda: None)])
    assert not refinement.reach(relative_goal(DEFAULT_TOLERANCE, stability))
    assert refinement.escalations == ["first could not be built", "second could not be built"]
    assert (refinement.factor_name, refinement.corrections) == ("none", 0)
    assert not bool(refinement.x.high.any())
    assert_sound(refinement, False)


def test_a_goal_is_reached_again_from_where_it_stands() -> None:
    problem, stability = parts()
    refinement = Refinement(problem, stability, [qr(problem)])
    assert refinement.reach(relative_goal(1e-3, stability))
    first, corrections = refinement.error.size(), refinement.corrections
    goal = relative_goal(U64**1.25, stability)
    assert refinement.reach(goal)
    assert refinement.error.size() <= goal(refinement.x.high) < first
    assert refinement.corrections > corrections
    assert max(refinement.levels) > 1
    assert_sound(refinement, False)


# Four equal rows of ones: S = [[4, 4], [4, 4]], and a ridge that S + ridge I cannot hold in float64.
TWINS = torch.ones((4, 2), dtype=torch.float64)
LOST = 2.0**-60


def test_a_normal_matrix_that_is_not_definite_leaves_it_to_qr() -> None:
    targets = normal(4, 2, 1)
    design = DesignMatrix(TWINS)
    problem = NormalProblem(design, targets, (torch.full((2,), LOST, dtype=torch.float64),), None, design.frobenius())
    assert CholeskyFactor.build(problem, torch.float64) is None
    solution = ridge_solve(TWINS, targets, ridge=LOST, route="primal")
    assert solution.diagnostics.factor == "qr:float64"
    assert solution.diagnostics.escalations == ("cholesky:float64 could not be built",)
    exact = ridge_solution(TWINS, targets, ridge=LOST)
    verdict = compare_columns(solution.solution, solution.error_bound[0], exact)
    assert verdict.sound, verdict


def test_a_dual_matrix_that_is_not_definite_leaves_it_to_qr() -> None:
    solution = ridge_solve(TWINS, normal(4, 2, 1), ridge=LOST, route="dual")
    assert solution.diagnostics.factor == "qr:float64"
    assert solution.diagnostics.escalations == ("dual cholesky:float64 could not be built",)


def test_a_normal_matrix_that_is_too_coarse_leaves_it_to_qr() -> None:
    """Features of condition 1e9 and a ridge below the rounding of S: Cholesky is done, and does not contract."""
    found = set()
    for seed in range(20):
        spec = FeatureSpec(20, 6, condition=1e17, seed=seed)
        problem = RidgeProblem(spec, ridge_relative=1e-16, targets_kind="in_span", seed=seed, route="primal")
        solution = ridge_solve(**problem.arguments())
        assert all(verdict.sound for verdict in check_ridge(solution, problem))
        for reason in solution.diagnostics.escalations:
            assert solution.diagnostics.factor == "qr:float64"
            found.add(reason.partition(" by ")[0])
    assert "cholesky:float64 contracted the residual" in found
