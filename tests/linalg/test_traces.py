"""`diagonal_bounds` and `trace_bounds` of every operator: they enclose the exact numbers, closely, and are honest."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

import ntkla
from ntkla.linalg.linear_operator import LinearOperator, summed_bounds
from ntkla.linalg.precision import NEGLIGIBLE, TINY64, U64
from ntkla.testing import Exact, compare, design_matrix, hostile_states
from ntkla.testing.balls import flint
from ntkla.testing.strategies import feature_specs
from tests.linalg.layer_reference import exact_jacobian, factors


def squared_rows(matrix) -> list:
    return [sum((entry * entry for entry in row), flint().arb(0)) for row in matrix.tolist()]


def gram_diagonal(features: torch.Tensor, bias: bool = False) -> Exact:
    return Exact(lambda: flint().arb_mat([[e] for e in squared_rows(design_matrix(features, bias))]))


def total(diagonal: Exact) -> Exact:
    return Exact(lambda: flint().arb_mat([[sum(diagonal.compute().entries(), flint().arb(0))]]))


def assert_between(low: torch.Tensor, high: torch.Tensor, exact: Exact) -> None:
    """The enclosure holds the exact numbers: they are within half its width of its middle."""
    middle = (low + high)[:, None] / 2.0
    reach = torch.maximum(high[:, None] - middle, middle - low[:, None])
    verdict = compare(middle, reach, exact)
    assert verdict.sound, str(verdict)


def scalar(x: float) -> torch.Tensor:
    return torch.tensor([x], dtype=torch.float64)


def assert_encloses(operator: LinearOperator, exact: Exact, lost: float = NEGLIGIBLE) -> None:
    low, high = operator.diagonal_bounds()
    assert (low >= 0).all()
    assert (low <= high).all()
    assert_between(low, high, exact)
    least, most = operator.trace_bounds()
    assert 0.0 <= least <= most
    assert_between(scalar(least), scalar(most), total(exact))
    assert (high - low <= 1024 * U64 * high + lost).all()
    assert most - least <= 1024 * U64 * most + lost * low.shape[0]


@given(feature_specs(extreme=True), st.booleans())
def test_those_of_a_gram_matrix(spec, bias):
    assume(bool(torch.isfinite(spec.tensor).all()))  # the largest scale overflows float32 in some twists
    assert_encloses(ntkla.GramOperator(spec.tensor, bias), gram_diagonal(spec.tensor, bias))


@pytest.mark.parametrize("order", ["class", "sample"])
@given(feature_specs(most=4), st.integers(1, 4))
def test_those_of_a_kronecker_kernel(order, spec, outputs):
    def compute():
        squares = squared_rows(design_matrix(spec.tensor))
        whole = squares * outputs if order == "class" else [e for e in squares for _ in range(outputs)]
        return flint().arb_mat([[e] for e in whole])

    operator = ntkla.KroneckerGram(ntkla.GramOperator(spec.tensor), outputs, order)
    assert_encloses(operator, Exact(compute))


@given(
    st.tuples(*(st.integers(1, most) for most in (3, 3, 4, 4, 4))),
    st.sampled_from((1e-160, 1.0, 1e7)),
    st.integers(0, 9),
)
def test_those_of_a_layers_kernel(shape, scale, seed):
    a, d = factors(*shape, seed=seed)
    pairs = [(a * scale, d), (a, d * scale)]
    operator = ntkla.LayerNTK(pairs, order="sample")
    exact = Exact(lambda: flint().arb_mat([[e] for e in squared_rows(exact_jacobian(pairs))]))
    low, high = operator.diagonal_bounds()
    assert_between(low, high, exact)
    assert_between(*(scalar(bound) for bound in operator.trace_bounds()), total(exact))
    # Roundings count times the diagonal for absolute values, which sums that cancel fall below.
    absolute = ntkla.LayerNTK([(x.abs(), y.abs()) for x, y in pairs], order="sample").diagonal_bounds()[1]
    assert (high - low <= 1024 * U64 * absolute + NEGLIGIBLE).all()
    by_class = ntkla.LayerNTK(pairs, order="class").diagonal_bounds()[0]
    assert torch.equal(by_class.reshape(shape[1], shape[0]).T.reshape(-1), low)


def test_a_planted_error_is_caught():
    features = torch.linspace(0.1, 2.0, 12, dtype=torch.float64).reshape(4, 3)
    low, high = ntkla.GramOperator(features).diagonal_bounds()
    assert_between(low, high, gram_diagonal(features))
    with pytest.raises(AssertionError, match="violated"):
        assert_between(low * (1 + 1e-8), high * (1 + 1e-8), gram_diagonal(features))


def test_nothing_is_known_of_what_nobody_said():
    matrix = torch.eye(3, dtype=torch.float64)
    foreign = ntkla.FunctionOperator(lambda v: matrix @ v, (3, 3), torch.float64, "cpu", psd=True)
    told = ntkla.FunctionOperator(lambda v: matrix @ v, (3, 3), torch.float64, "cpu", psd=True, trace=3.0)
    assert foreign.diagonal_bounds() is foreign.trace_bounds() is None
    assert told.diagonal_bounds() is None
    assert told.trace_bounds() == (3.0, 3.0)
    assert ntkla.CrossGram(matrix, matrix.clone()).trace_bounds() is None
    assert ntkla.KroneckerGram(foreign, 2).diagonal_bounds() is ntkla.KroneckerGram(foreign, 2).trace_bounds() is None
    least, most = ntkla.KroneckerGram(told, 3).trace_bounds()
    assert least <= 9.0 <= most


def test_the_trace_of_features_of_zeros_is_exactly_zero():
    assert ntkla.GramOperator(torch.zeros(4, 3)).trace_bounds() == (0.0, 0.0)
    assert ntkla.GramOperator(torch.zeros(4, 3), bias=True).trace_bounds()[0] >= 4.0 * (1 - 1024 * U64)


@pytest.mark.parametrize("state", hostile_states())
def test_ambient_state_breaks_no_bound(state):
    features = (torch.arange(12, dtype=torch.float64).reshape(4, 3) * 1e-40).to(torch.float32)
    with hostile_states()[state]():
        operator = ntkla.GramOperator(features)
        low, high = operator.diagonal_bounds()
        least, most = operator.trace_bounds()
    assert_between(low, high, gram_diagonal(features))
    assert_between(scalar(least), scalar(most), total(gram_diagonal(features)))


@given(st.lists(st.floats(0.0, 1e300), min_size=1, max_size=20))
def test_summed_bounds_are_bounds_of_the_sum(values):
    x = torch.tensor(values, dtype=torch.float64)
    low, high = summed_bounds(x, x)
    assert low <= math.fsum(values) <= high
    assert high - low <= 1024 * U64 * high + 64 * TINY64
