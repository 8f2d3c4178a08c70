"""Sums in pieces: a piece is finished before it is added, or the bound would count too few roundings."""

import pytest
import torch

from ntkla.linalg.arithmetic import products
from ntkla.linalg.arithmetic.products import (
    PIECE,
    add_square,
    pairwise_depth,
    pairwise_sums,
    pieced_gamma,
    pieced_matmul,
)
from ntkla.linalg.design import DesignMatrix
from ntkla.linalg.precision import U64, gamma
from ntkla.linalg.solve.normal import normal_matrix

# Beside a first term of 1 each of the others is u / 2: added one by one to the 1 they would all be lost.
LENGTH = 2048
SMALL = 2.0**-27
EXACT_REST = (LENGTH - 1) * SMALL**2


def spiked(columns: int) -> torch.Tensor:
    """[LENGTH, columns], every column (1, 2^-27, 2^-27, ...)."""
    x = torch.full((LENGTH, columns), SMALL, dtype=torch.float64)
    x[0] = 1.0
    return x


def roundings(product: torch.Tensor) -> float:
    """The error of products of spiked columns, in units of u."""
    return float((product - 1.0 - EXACT_REST).abs().max()) / U64


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (5, 1), (300, 1), (1, 5), (64, 64), (300, 100)])
def test_products_in_pieces_keep_their_bound(rows, columns):
    left, right = spiked(rows), spiked(columns)
    assert roundings(pieced_matmul(left.T, right)) * U64 <= pieced_gamma(LENGTH) * (1.0 + EXACT_REST)
    design = DesignMatrix(left)
    assert roundings(design.rmatmul(right)) * U64 <= gamma(design.summands) * (1.0 + EXACT_REST)


@pytest.mark.parametrize("columns", [1, 2, 7, 64, 300])
@pytest.mark.parametrize("whole", [True, False])
def test_the_normal_matrix_keeps_its_bound(monkeypatch, columns, whole):
    if not whole:
        monkeypatch.setattr(products, "_adds_whole_products", lambda: False)
    matrix, error = normal_matrix(DesignMatrix(spiked(columns)))
    assert roundings(matrix) * U64 * columns <= error


def test_the_update_of_a_triangle_in_block_rows_is_the_same_sum():
    x = spiked(200)
    by_update, by_blocks = (torch.zeros((200, 200), dtype=torch.float64) for _ in range(2))
    add_square(by_update, x)
    for piece in torch.split(x, PIECE):
        products._add_lower_blocks(by_blocks, piece)
    allowance = 2 * pieced_gamma(LENGTH) * (1.0 + EXACT_REST)
    assert bool(((by_update - by_blocks).tril().abs() <= allowance).all())


@pytest.mark.parametrize("length", [1, 2, 3, 5, 8, 100, 2047, 2048])
def test_pairwise_sums_round_as_often_as_they_say(length):
    """Terms of u beside a 1: added one by one none would be seen, in pairs of pairs all but the first few are."""
    x = torch.full((3, length, 2), U64, dtype=torch.float64)
    x[:, 0] = 1.0
    sums = pairwise_sums(x)
    assert sums.shape == (3, 2)
    exact_rest = (length - 1) * U64
    assert float((sums - 1.0 - exact_rest).abs().max()) <= gamma(pairwise_depth(length)) * (1.0 + exact_rest)
    assert 2 ** pairwise_depth(length) < 2 * length
    integers = torch.arange(3 * length, dtype=torch.float64).reshape(3, length)
    assert torch.equal(pairwise_sums(integers), integers.sum(1))
