"""Dense solutions against rational ones: the bound holds, it is not far above the truth, and it sees planted errors."""

from __future__ import annotations

import math

import pytest
import torch

from ntkla.linalg.arithmetic.accurate import Bounded
from ntkla.linalg.arithmetic.doubled import Doubled
from ntkla.linalg.arithmetic.enclosure import Enclosed, exactly
from ntkla.linalg.precision import U64, norm_upper
from ntkla.linalg.solve.dense import DenseSolution, Floor, solve_dense
from ntkla.testing.balls import euclidean_norm, flint, working_precision
from ntkla.testing.spectra import features_with_spectrum, normal
from tests.forgetting.sequences.rational import rational

SIZE, OUTPUTS = 6, 3
RIDGES = [1.0, 1e-4, 1e-8]
CASES = [(ridge, free, seed) for ridge in RIDGES for free in (False, True) for seed in range(3)]


def problem(ridge: float, free_bias: bool, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A = Phi^T Phi + ridge on all but a free bias, its entries exact in float64, and G."""
    x = features_with_spectrum(9, SIZE, "geometric", condition=1e4, seed=seed)
    x[:, -1] = 1.0
    grid = 2.0**-20
    x = (x / grid).round() * grid  # so that products and their sums are exact
    matrix = x.T @ x
    mask = torch.ones(SIZE, dtype=torch.float64)
    mask[-1] = 0.0 if free_bias else 1.0
    exact_ridge = 2.0 ** round(math.log2(ridge))
    return matrix + torch.diag(exact_ridge * mask), normal(SIZE, OUTPUTS, seed + 7)


def solved(ridge: float, free_bias: bool, seed: int) -> tuple[DenseSolution, Floor, torch.Tensor, torch.Tensor]:
    matrix, right = problem(ridge, free_bias, seed)
    a = exactly(matrix)
    floor = Floor.of(a, 2.0 ** round(math.log2(ridge)), free_bias)
    return solve_dense(a, exactly(right), floor), floor, matrix, right


def errors(found: DenseSolution, matrix: torch.Tensor, right: torch.Tensor) -> tuple[list, list, list]:
    """Of each column: the energy norm of its error, the norm of the weights' part, and that of the last coefficient."""
    a = rational(matrix)
    e = rational(found.x.high) + rational(found.x.low) - a.solve(rational(right))
    energies = (e.transpose() * a * e).tolist()
    with working_precision(400):
        arb = flint().arb
        columns = [[arb(x) for x in column] for column in e.transpose().tolist()]
        energy = [arb(energies[c][c]).nonnegative_part().sqrt() for c in range(len(columns))]
        return energy, [euclidean_norm(c[:-1]) for c in columns], [abs(c[-1]) for c in columns]


@pytest.mark.parametrize(("ridge", "free_bias", "seed"), CASES)
def test_bounds_hold(ridge, free_bias, seed):
    found, floor, matrix, right = solved(ridge, free_bias, seed)
    energy, weights, last = errors(found, matrix, right)
    for claims, truths in zip((found.energy, *floor.errors(found.energy)), (energy, weights, last), strict=True):
        assert all(truth <= claim for claim, truth in zip(claims.tolist(), truths, strict=True))


@pytest.mark.parametrize("free_bias", [False, True])
def test_the_solution_is_known_beyond_float64(free_bias):
    """To a rounding of float64 squared times ||A|| / ridge, and the constant that the residual's bound has."""
    for ridge in RIDGES:
        found, floor, matrix, _ = solved(ridge, free_bias, 1)
        condition = float(torch.linalg.matrix_norm(matrix)) / floor.ridge
        reached = float(norm_upper(torch.stack(floor.errors(found.energy)))) / float(norm_upper(found.x.high))
        assert reached <= 2.0**20 * U64**2 * condition
        assert found.corrections >= 1


def test_the_bound_is_tight_where_the_right_side_is_uncertain():
    """The radius of G along the weakest direction of A: nothing sharper can be said."""
    matrix = torch.diag(torch.tensor([4.0, 1.0, 2.0**-10], dtype=torch.float64))
    right = torch.ones((3, 1), dtype=torch.float64)
    radius = torch.tensor([[0.0], [0.0], [1e-3]], dtype=torch.float64)
    floor = Floor(2.0**-10)
    found = solve_dense(exactly(matrix), Enclosed(exactly(right).value, radius), floor)
    moved = float(radius[2, 0] * 2.0**10)
    assert moved <= float(floor.errors(found.energy)[0][0]) <= 1.01 * moved


@pytest.mark.parametrize("free_bias", [False, True])
def test_a_solution_moved_by_little_is_seen(free_bias):
    """The planted error: the bound of one solution does not cover another, 1e-8 away."""
    honest, _, matrix, right = solved(1e-4, free_bias, 2)
    moved = Doubled(honest.x.high + 1e-8, honest.x.low)
    energy, *_ = errors(DenseSolution(moved, honest.energy, 0), matrix, right)
    assert all(truth > claim for claim, truth in zip(honest.energy.tolist(), energy, strict=True))


def weak(matrix: torch.Tensor) -> tuple[DenseSolution, torch.Tensor]:
    """With a ridge that float64 cannot see beside the matrix: the solution for a right side in its range."""
    ridge = 2.0**-80
    a = Enclosed(Doubled(matrix, ridge * torch.eye(2, dtype=torch.float64)), torch.zeros_like(matrix))
    floor = Floor(ridge)
    found = solve_dense(a, exactly(matrix @ torch.ones((2, 1), dtype=torch.float64)), floor)
    return found, floor.errors(found.energy)[0]


def test_what_float64_sees_of_a_singular_matrix_is_solved():
    found, error = weak(torch.tensor([[1.0, 1.0], [1.0, 1.0]], dtype=torch.float64))
    assert found.corrections >= 1
    assert bool(((found.x.high - 1.0).abs() <= 32 * U64).all())
    assert float(error) >= 32 * U64


def test_without_a_factor_the_bound_says_so():
    """A diagonal entry that is zero in float64: no correction is made, and the bound covers the whole answer."""
    found, error = weak(torch.tensor([[0.0, 0.0], [0.0, 1.0]], dtype=torch.float64))
    assert found.corrections == 0
    assert float(error) >= 1.0


def test_a_bias_without_weight_has_no_bound():
    floor = Floor.of(exactly(torch.diag(torch.tensor([1.0, 0.0], dtype=torch.float64))), 1.0, True)
    assert math.isinf(float(floor.energy(Bounded(torch.ones(2, 1), torch.ones(1)))))
    assert math.isinf(float(floor.errors(torch.ones(1))[1]))
