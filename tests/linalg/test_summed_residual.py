"""Residuals from exact sums: within their bound, certified wherever they are taken, left where they do not suffice."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import pytest
import torch
from hypothesis import given

from ntkla.linalg.arithmetic.doubled import Doubled
from ntkla.linalg.design import DesignMatrix
from ntkla.linalg.ridge import ridge_solve
from ntkla.linalg.solve import summed_residual
from ntkla.linalg.solve.normal_problem import NormalProblem, Residual
from ntkla.linalg.solve.summed_residual import NormalSums, ResidualSource, sums_pay
from ntkla.linalg.solve.weights import SampleWeights
from ntkla.testing import FeatureSpec, RidgeProblem, ridge_problems
from ntkla.testing.spectra import normal
from tests.linalg.exact_reference import exactly
from tests.soundness.judge import judge_ridge, solve


def problem_of(n: int, k: int, c: int, dtype: torch.dtype = torch.float32, shifted: bool = False) -> NormalProblem:
    design = DesignMatrix((normal(n, k, 1) + 3).to(dtype))
    shift = Doubled(normal(k, c, 5), normal(k, c, 6) * 2.0**-60) if shifted else None
    diagonals = torch.full((k,), 1e-3, dtype=torch.float64), normal(k, 1, 7)[:, 0].abs() * 1e-5
    return NormalProblem(design, normal(n, c, 2), diagonals, shift, design.frobenius())


def columns_off(problem: NormalProblem, x: Doubled, r: Residual) -> list[tuple[Fraction, Fraction]]:
    """For each column the squared distance of rho to the exact residual, and its squared bound."""
    phi, y, value = (exactly(z) for z in (problem.design.features, problem.targets, r.value))
    high, low = exactly(x.high), exactly(x.low)
    at = [[a + b for a, b in zip(*rows, strict=True)] for rows in zip(high, low, strict=True)]
    parts = [exactly(diagonal[:, None]) for diagonal in problem.diagonals]
    penalty = [sum((row[0] for row in rows), Fraction(0)) for rows in zip(*parts, strict=True)]
    shift = [exactly(part) for part in problem.shift] if problem.shift is not None else []
    found = []
    for c in range(len(y[0])):
        t = [row[c] - sum((a * at[j][c] for j, a in enumerate(p)), Fraction(0)) for p, row in zip(phi, y, strict=True)]
        rho = [
            sum((p[j] * t[i] for i, p in enumerate(phi)), Fraction(0))
            - penalty[j] * at[j][c]
            + sum((part[j][c] for part in shift), Fraction(0))
            for j in range(len(phi[0]))
        ]
        off = sum(((value[j][c] - exact) ** 2 for j, exact in enumerate(rho)), Fraction(0))
        found.append((off, Fraction(float(r.adjoint_error[c])) ** 2))
    return found


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shifted", [False, True])
def test_the_residual_is_within_its_bound(dtype, shifted):
    problem = problem_of(30, 4, 3, dtype, shifted)
    # At the solution B cancels against S x: what is left is all rounding, where the bound has to hold.
    phi = problem.design.features.double()
    x = torch.linalg.solve(phi.T @ phi + torch.diag(sum(problem.diagonals)), phi.T @ problem.targets)
    for at in (Doubled(x, normal(4, 3, 3) * 1e-20), Doubled(normal(4, 3, 4), torch.zeros_like(x))):
        r = NormalSums.of(problem).residual(problem, at)
        pairs = columns_off(problem, at, r)
        assert all(off <= bound for off, bound in pairs)
        assert any(off > bound / 2**40 for off, bound in pairs), "and within 2^20 of the error in some column"
        assert not bool(r.output_error.any())


def test_a_sum_that_is_off_is_noticed():
    """The planted error: one entry of B moved by 1e-12 of itself."""
    problem = problem_of(30, 4, 3)
    sums = NormalSums.of(problem)
    x = Doubled(torch.zeros(4, 3, dtype=torch.float64), torch.zeros(4, 3, dtype=torch.float64))
    sums.right.value.high[0, 1] *= 1 + 1e-12
    off = columns_off(problem, x, sums.residual(problem, x))
    assert [distance > bound for distance, bound in off] == [False, True, False]


# --- where they are taken -------------------------------------------------------------------------------------------


def always(problem: NormalProblem, levels: tuple[int, int]) -> bool:
    """Wherever they can be: for one stored matrix, without weights and bias."""
    return problem.weights is None and not problem.design.bias and isinstance(problem.design, DesignMatrix)


@given(ridge_problems(extreme=True))
def test_solutions_from_sums_are_within_their_bounds(problem):
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(summed_residual, "sums_pay", always)
        judge_ridge(problem, solve(problem))


PINNED = [
    RidgeProblem(FeatureSpec(6, 3, seed=seed, condition=1e2, dtype=dtype), 2, seed=seed, ridge_relative=ridge)
    for seed in range(2)
    for dtype in ("float64", "float32", "bfloat16")
    for ridge in (1.0, 1e-6)
]


def refused(change) -> int:
    """How many of the pinned problems the judge refuses when their sums are changed."""
    count, genuine = 0, NormalSums.of.__func__
    for problem in PINNED:
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(summed_residual, "sums_pay", always)
            patched.setattr(NormalSums, "of", classmethod(lambda cls, p: change(genuine(cls, p))))
            try:
                judge_ridge(problem, solve(problem))
            except AssertionError:
                count += 1
    return count


def test_sums_of_another_problem_are_caught_in_every_case():
    def other(sums):
        high = sums.right.value.high * (1 + 1e-8)
        return replace(sums, right=sums.right._replace(value=Doubled(high, sums.right.value.low)))

    assert refused(lambda sums: sums) == 0
    assert refused(other) == len(PINNED)


def test_sums_that_leave_too_few_digits_are_left(monkeypatch):
    """Certified all the same, by residuals through the features."""
    genuine, asked = NormalSums.residual, []

    def coarse(self, problem, x):
        asked.append(1)
        r = genuine(self, problem, x)
        return replace(r, adjoint_error=r.adjoint_error + 1e-3 * problem.target_norms)

    monkeypatch.setattr(summed_residual, "sums_pay", always)
    monkeypatch.setattr(NormalSums, "residual", coarse)
    problem = PINNED[1]
    solution = solve(problem)
    judge_ridge(problem, solution)
    assert len(asked) == 1
    assert str(solution.status).startswith("certified")


def test_they_are_taken_for_many_outputs_at_a_small_ridge(monkeypatch):
    """And the solution is the one through the features, within both bounds."""
    x, y = (normal(600, 8, 1) + 3).float(), normal(600, 600, 2)
    made = []
    genuine = NormalSums.of.__func__
    monkeypatch.setattr(NormalSums, "of", classmethod(lambda cls, p: made.append(1) or genuine(cls, p)))
    solution = ridge_solve(x, y, ridge=1e-6)
    assert made == [1]
    monkeypatch.setattr(summed_residual, "sums_pay", lambda *call: False)
    through = ridge_solve(x, y, ridge=1e-6)
    assert made == [1]
    apart = (solution.solution - through.solution).abs()
    assert bool((apart <= solution.error_bound + through.error_bound).all())
    assert float(solution.error_bound.max()) < float(through.error_bound.max())


def test_when_they_pay():
    """The measured cases; never where they cannot be taken."""
    level = (1, 2)
    assert sums_pay(problem_of(4096, 16, 1000), level)
    assert not sums_pay(problem_of(4096, 16, 1000), (0, 0))
    assert not sums_pay(problem_of(4096, 64, 100), level)
    assert not sums_pay(problem_of(600, 512, 600), level)
    assert not sums_pay(problem_of(100, 16, 1000), level)
    problem = problem_of(600, 8, 600)
    assert sums_pay(problem, level)
    features = problem.design.features
    weights = SampleWeights.checked("weights", torch.ones(600), problem.design, problem.targets)
    assert not sums_pay(replace(problem, weights=weights), level)
    assert not sums_pay(replace(problem, design=DesignMatrix(features, bias=True)), level)


def test_once_left_they_are_not_made_again(monkeypatch):
    monkeypatch.setattr(summed_residual, "sums_pay", always)
    source, problem = ResidualSource(), problem_of(9, 3, 2)
    x = Doubled(torch.zeros(3, 2, dtype=torch.float64), torch.zeros(3, 2, dtype=torch.float64))
    assert source.residual(problem, x, (1, 1)) is not None
    assert source.leave_sums()
    assert not source.leave_sums()
    assert source.residual(problem, x, (1, 1)) is None
