"""The error bounds of `SoftmaxGram`, of its half and of its trace against ball arithmetic."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import assume, example, given
from hypothesis import strategies as st

import ntkla
from ntkla.linalg import softmax_root
from ntkla.linalg.design import widened
from ntkla.linalg.operators import GramOperator
from ntkla.linalg.precision import NEGLIGIBLE, U64, norm_upper
from ntkla.linalg.softmax import SoftmaxGram
from ntkla.linalg.softmax_root import SoftmaxRoot
from ntkla.testing import Exact, ambient_state, ball_matrix, compare, compare_columns, hostile_states
from ntkla.testing.balls import flint
from ntkla.testing.strategies import feature_specs, lengths
from tests.linalg.softmax_reference import (
    FEATURES,
    KINDS,
    C,
    N,
    exact_factor,
    exact_half,
    exact_product,
    exact_root,
    normal,
    probabilities,
)


@given(
    feature_specs(most=4), lengths(4), st.sampled_from(KINDS), st.sampled_from(("class", "sample")), st.integers(0, 99)
)
@example(ntkla.testing.FeatureSpec(3, 2), 3, "nearly one-hot", "class", 0)
@example(ntkla.testing.FeatureSpec(1, 1), 1, "soft", "class", 0)
def test_products_are_within_their_bound(spec, outputs, kind, order, seed):
    p = probabilities(spec.n, outputs, kind, seed)
    operator = SoftmaxGram(GramOperator(spec.tensor, bias=bool(seed % 2)), p, order)
    v = normal(operator.shape[1], 2, seed=seed)
    exact = exact_product(spec.tensor, p, v, order, bias=bool(seed % 2))
    verdict = compare_columns(operator @ v, operator.error_bound(v), exact)
    assert verdict.sound, str(verdict)


@given(lengths(5), lengths(5), st.sampled_from(KINDS), st.integers(0, 99), st.sampled_from((1.0, 1e-300, 1e70)))
def test_half_is_within_its_bound(n, outputs, kind, seed, scale):
    p, drift = probabilities(n, outputs, kind, seed), normal(n, outputs, seed=seed) * scale
    error = drift.abs() * 10.0 ** -(seed % 7)
    operator = SoftmaxGram(GramOperator(normal(n, 1)), p)
    value, bound = operator.half(drift)
    verdict = compare(value, bound, exact_half(p, drift))
    assert verdict.sound, str(verdict)
    moved = drift + error * (1 - 4 * U64) * torch.sign(normal(n, outputs, seed=seed + 1))
    verdict = compare(value, operator.half(drift, error)[1], exact_half(p, moved))
    assert verdict.sound, str(verdict)


@given(feature_specs(most=5, extreme=True), lengths(4), st.sampled_from(KINDS), st.integers(0, 9))
def test_the_trace_is_enclosed(spec, outputs, kind, seed):
    assume(bool(torch.isfinite(spec.tensor).all()))  # the largest scale overflows float32 in some twists
    p = probabilities(spec.n, outputs, kind, seed)
    operator = SoftmaxGram(GramOperator(spec.tensor), p)
    low, high = operator.trace_bounds()

    def compute():
        entries = exact_factor(spec.tensor, p, "class").entries()
        return flint().arb_mat([[sum((entry * entry for entry in entries), flint().arb(0))]])

    middle = torch.tensor([[operator.trace()]], dtype=torch.float64)
    verdict = compare(
        middle, torch.full_like(middle, max(high - operator.trace(), operator.trace() - low)), Exact(compute)
    )
    assert verdict.sound, str(verdict)
    assert 0.0 <= low <= operator.trace() <= high
    # A thousand roundings, and what tiny probabilities and the squares of tiny features lose to underflow.
    assert high - low <= 1024 * U64 * high + NEGLIGIBLE * (1.0 + float(norm_upper(widened(spec.tensor)))) ** 2


@given(lengths(4), lengths(5), st.sampled_from(KINDS), st.integers(0, 99))
def test_the_roots_products_are_within_their_bound(n, outputs, kind, seed):
    for _, verdict in root_verdicts(n, outputs, kind, seed, 1.0):
        assert verdict.sound, str(verdict)


def root_verdicts(n: int, outputs: int, kind: str, seed: int, scale: float):
    """(B or B^T, the verdict on its product with three vectors), the bound of each sample's part scaled."""
    p = probabilities(n, outputs, kind, seed)
    root, x = SoftmaxRoot(p), normal(n, outputs, 3, seed=seed)
    norms = norm_upper(x, dim=1)
    bounds = root.rounding(root.norms[:, None] * norms, norms) * scale
    for transposed in (False, True):
        product = root.transposed_times(x) if transposed else root.times(x)
        for i in range(n):

            def compute(i=i, transposed=transposed):
                matrix = exact_root(p[i : i + 1], "sample")
                return (matrix.transpose() if transposed else matrix) * ball_matrix(x[i])

            yield transposed, compare_columns(product[i], bounds[i], Exact(compute))


@pytest.mark.parametrize("transposed", [False, True])
def test_the_roots_bound_is_tight_and_smaller_ones_are_caught(transposed):
    """The worst case counts about 30 roundings a term and three times the norm: within 500 of the true error."""
    drawn = [v for seed in range(8) for side, v in root_verdicts(3, 2, "soft", seed, 1.0) if side is transposed]
    assert max(v.largest_ratio for v in drawn) > 1 / 500
    shrunk = [v for seed in range(8) for side, v in root_verdicts(3, 2, "soft", seed, 1e-3) if side is transposed]
    assert not all(v.sound for v in shrunk)


def test_bounds_are_tight_within_a_stated_factor():
    """Bounds count every rounding and use Cauchy-Schwarz: the true error is within a factor of 2000 somewhere."""
    products, halves = 0.0, 0.0
    for seed in range(10):
        p, features = probabilities(3, 2, "soft", seed), normal(3, 1, seed=seed)
        operator, v = SoftmaxGram(GramOperator(features), p), normal(6, 4, seed=seed)
        verdict = compare_columns(operator @ v, operator.error_bound(v), exact_product(features, p, v, "class"))
        products = max(products, verdict.largest_ratio)
        value, bound = operator.half(normal(3, 2, seed=seed))
        halves = max(halves, compare(value, bound, exact_half(p, normal(3, 2, seed=seed))).largest_ratio)
    assert products > 1 / 2000
    assert halves > 1 / 200


def test_a_planted_error_is_caught():
    p, v = probabilities(3, 2, "soft"), normal(6, 1)
    operator, exact = SoftmaxGram(GramOperator(FEATURES[:3]), p), exact_product(FEATURES[:3], p, v, "class")
    assert not compare_columns(operator @ v, operator.error_bound(v) * 1e-4, exact).sound
    assert not compare_columns((operator @ v) * (1 + 1e-8), operator.error_bound(v), exact).sound
    value, bound = operator.half(v.reshape(3, 2))
    assert not compare(value * (1 + 1e-8), bound, exact_half(p, v.reshape(3, 2))).sound


@pytest.mark.parametrize("distance", [1e-3, 1e-8, 1e-12, 1e-15, 1e-100])
def test_confident_predictions_lose_nothing(distance):
    """The bound of a product shrinks with the operator, as the distance of p from one-hot does."""
    p = torch.full((N, C), distance, dtype=torch.float64)
    p[torch.arange(N), torch.arange(N) % C] = 1.0
    operator, v = SoftmaxGram(GramOperator(FEATURES), p), normal(N * C)
    trace = operator.trace()
    assert trace <= 2 * C * distance * float(norm_upper(FEATURES)) ** 2
    assert operator.error_bound(v) <= 2**13 * U64 * trace * norm_upper(v)
    verdict = compare_columns(
        (operator @ v)[:, None], operator.error_bound(v)[None], exact_product(FEATURES, p, v, "class")
    )
    assert verdict.sound, str(verdict)


def test_many_outputs_and_blocks_of_samples(monkeypatch):
    p, v = probabilities(6, 1000, "soft"), normal(6000, 2)
    operator = SoftmaxGram(GramOperator(normal(6, 3)), p)
    whole, bound = operator @ v, operator.error_bound(v)
    assert (bound <= 2**12 * U64 * operator.trace() * norm_upper(v)).all()
    monkeypatch.setattr(softmax_root, "_BLOCK_ENTRIES", 4000)
    assert torch.equal(operator @ v, whole)


@pytest.mark.parametrize("state", hostile_states())
@pytest.mark.parametrize("kind", ["soft", "subnormal", "nearly one-hot"])
def test_ambient_state_breaks_no_bound_and_is_left_alone(state, kind):
    p, features, v = probabilities(3, 3, kind), normal(3, 2).float(), normal(9, 2)
    drift = v[:, 0].reshape(3, 3).clone()
    with hostile_states()[state]():
        before = ambient_state()
        operator = SoftmaxGram(GramOperator(features), p, "sample")
        product, bound, formed, (value, error) = (
            operator @ v,
            operator.error_bound(v),
            operator.to_dense(),
            operator.half(drift),
        )
        bounds = operator.trace_bounds()
        assert ambient_state() == before
    verdict = compare_columns(product, bound, exact_product(features, p, v, "sample"))
    assert verdict.sound, str(verdict)
    verdict = compare(value, error, exact_half(p, drift))
    assert verdict.sound, str(verdict)
    assert abs(float(formed.trace()) - bounds[0]) <= 1024 * U64 * bounds[1] + NEGLIGIBLE


def test_an_infinite_bound_of_a_drift_stays_where_it_can_matter():
    p = torch.tensor([[0.5, 0.5, 0.0], [1.0, 0.0, 0.0], [0.25, 0.5, 0.25]])
    error = torch.zeros(3, 3, dtype=torch.float64)
    error[0, 2] = error[1, 1] = error[2, 0] = math.inf
    value, bound = SoftmaxGram(GramOperator(FEATURES[:3]), p).half(normal(3, 3), error)
    assert torch.isfinite(value).all()
    assert not bound.isnan().any()
    assert torch.isfinite(bound[:2]).all()
    assert torch.isinf(bound[2]).all()
