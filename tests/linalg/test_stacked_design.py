"""A design with further rows below is the matrix of all rows: blocks, norms, factors and solutions."""

from __future__ import annotations

import pytest
import torch

from ntkla.linalg.design import DesignMatrix
from ntkla.linalg.precision import gamma
from ntkla.linalg.solve.formed import formed_gram_matrix, formed_normal_matrix
from ntkla.linalg.solve.normal import float32_normal_matrix, gram_matrix, normal_matrix
from ntkla.linalg.solve.normal_solver import prepare
from ntkla.linalg.solve.rounds import relative_goal
from ntkla.linalg.solve.weights import SampleWeights
from ntkla.linalg.stacked_design import StackedDesign
from ntkla.testing import compare_columns, ridge_solution
from ntkla.testing.spectra import normal

SHAPES = [(3, 2, 4), (300, 7, 5), (256, 300, 3), (255, 1, 3), (700, 600, 2), (1, 1, 1)]


def stacked(n: int, k: int, f: int, bias: bool = True, dtype: torch.dtype = torch.float32) -> StackedDesign:
    return StackedDesign(DesignMatrix(normal(n, f, 1).to(dtype), bias), normal(k, f + bias, 2))


def whole(design: StackedDesign) -> torch.Tensor:
    """All rows in one float64 tensor, put together without the blocks."""
    features = design.top.features.to(torch.float64)
    ones = torch.ones_like(features[:, :1])
    return torch.cat([torch.cat([features, ones], 1) if design.top.bias else features, design.further])


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_blocks_are_the_rows_in_order_and_all_but_the_last_are_full(shape, bias, dtype):
    design = stacked(*shape, bias=bias, dtype=dtype)
    for size in (None, 256, 1024):
        seen = [(rows, block.clone()) for rows, block in design.blocks(size)]
        assert torch.equal(torch.cat([block for _, block in seen]), whole(design))
        assert [rows.start for rows, _ in seen] == list(range(0, design.rows, size or design.block_rows))
        assert all(rows.stop - rows.start == block.shape[0] for rows, block in seen)
    plain = DesignMatrix(whole(design))
    assert (design.rows, design.columns, design.summands) == (plain.rows, plain.columns, plain.summands)
    assert bool((design.row_norms() >= torch.linalg.vector_norm(whole(design), dim=1) / (1 + gamma(9))).all())
    mask = torch.arange(design.rows) % 2 == 0
    assert torch.equal(whole(design.selected(mask)), whole(design)[mask])


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("weighted", [True, False])
def test_products_and_matrices_are_those_of_all_rows(shape, weighted):
    design = stacked(*shape)
    rows = whole(design)
    weights = None
    if weighted:
        weights = SampleWeights.of(normal(1, design.rows, 3)[0].square(), design, rows[:, :1])
    scaled = rows if weights is None else rows * weights.values.sqrt()[:, None]
    expected, size = scaled.T @ scaled, float(scaled.norm()) ** 2
    found = normal_matrix(design, weights)
    assert float((found.matrix - expected).norm()) <= found.error + gamma(design.rows) * size
    assert float((formed_normal_matrix(design, weights, torch.float64).matrix - expected).norm()) <= 2 * found.error
    narrow = float32_normal_matrix(design, weights).to(torch.float64)
    assert float((narrow - expected).norm()) <= gamma(design.rows + 8, 2.0**-24) * size
    if not weighted:
        gram, error = gram_matrix(design)
        assert float((gram - rows @ rows.T).norm()) <= error + gamma(design.columns) * size
        assert float((formed_gram_matrix(design).matrix - gram).norm()) <= 2 * error
    x, t = normal(design.columns, 3, 4), normal(design.rows, 3, 5)
    slack = gamma(2 * design.rows + design.columns) * float(rows.norm()) * float(x.norm() + t.norm())
    assert float((design.matmul(x) - rows @ x).norm()) <= slack
    assert float((design.rmatmul(t) - rows.T @ t).norm()) <= slack


@pytest.mark.parametrize("route", ["primal", "dual"])
@pytest.mark.parametrize("ridge", [1e-3, 0.0])
@pytest.mark.parametrize("shape", [(5, 4, 3), (3, 2, 9)])
def test_solutions_are_those_of_all_rows(route, ridge, shape):
    design = stacked(*shape)
    targets, weights = normal(design.rows, 2, 6), torch.rand(design.rows, generator=torch.Generator().manual_seed(0))
    weights = weights.to(torch.float64)
    counted = SampleWeights.of(weights, design, targets)
    solve = prepare(design, targets, ridge=ridge, route=route, weights=counted)
    assert solve.solution.reach(relative_goal(solve.tolerance, solve.stability))
    exact = ridge_solution(whole(design), targets, ridge=ridge, weights=weights)
    judged = compare_columns(solve.solution.x.high, solve.error.weights, exact)
    assert judged.sound, judged
