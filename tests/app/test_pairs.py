"""The demo's own extended precision against exact rational arithmetic."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ntkla.app.demo.pairs import Pair, SlicedMatrix, add, pair, scale

# What `pairs` promises, each with a factor 4 to spare: four slices of 21 or more bits, and a pair's own operations.
PRODUCT_PRECISION, PAIR_PRECISION = Fraction(1, 2**78), Fraction(1, 2**102)
FLOATS = st.floats(-1e6, 1e6, allow_subnormal=False)


def exact(x: Pair) -> list[Fraction]:
    return [Fraction(float(h)) + Fraction(float(low)) for h, low in zip(x.high.ravel(), x.low.ravel(), strict=True)]


def random_pair(generator: np.random.Generator, *shape: int) -> Pair:
    high = generator.standard_normal(shape)
    return Pair(high, high * generator.uniform(-1, 1, shape) * 2.0**-54)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", [(1, 1), (3, 40), (40, 3)])
def test_products_are_exact_far_beyond_float64(dtype, shape):
    generator = np.random.default_rng(7)
    # Entries over twelve decades: most of the small ones lie below the first slice.
    matrix = (generator.standard_normal(shape) * 10.0 ** generator.uniform(-6, 6, shape)).astype(dtype).astype(float)
    sliced = SlicedMatrix(matrix)
    for product, left, length in ((sliced.matmul, matrix, shape[1]), (sliced.rmatmul, matrix.T, shape[0])):
        x = random_pair(generator, length, 2)
        right = np.array(exact(x), dtype=object).reshape(length, 2)
        found = np.array(exact(product(x)), dtype=object).reshape(-1, 2)
        wanted = np.array(
            [[sum(Fraction(a) * b for a, b in zip(row, column, strict=True)) for column in right.T] for row in left]
        )
        allowed = PRODUCT_PRECISION * length * Fraction(np.abs(matrix).max()) * Fraction(np.abs(x.high).max())
        assert (abs(found - wanted) <= allowed).all()


def test_a_zero_matrix_and_a_zero_factor():
    assert SlicedMatrix(np.zeros((2, 3))).matmul(pair(np.ones((3, 1)))).high.tolist() == [[0.0], [0.0]]
    assert SlicedMatrix(np.ones((2, 3))).matmul(pair(np.zeros((3, 1)))).high.tolist() == [[0.0], [0.0]]


@given(FLOATS, FLOATS, FLOATS, FLOATS)
def test_sums_and_multiples_keep_twice_the_digits(a, b, c, factor):
    x, y = pair(np.array([a])), Pair(np.array([b]), np.array([b * 2.0**-54]))
    total = add(add(x, y), pair(np.array([c])))
    size = abs(Fraction(a)) + abs(Fraction(b)) + abs(Fraction(c))
    assert abs(exact(total)[0] - (Fraction(a) + exact(y)[0] + Fraction(c))) <= PAIR_PRECISION * size
    product = scale(y, factor)
    underflow = Fraction(2) ** -1022
    assert (
        abs(exact(product)[0] - Fraction(factor) * exact(y)[0])
        <= PAIR_PRECISION * abs(Fraction(factor) * Fraction(b)) + underflow
    )
