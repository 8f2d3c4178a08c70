"""The rounding of `softmax_gram`, of the kernels and of torch: within its bound in ball arithmetic, which is not loose.

And that of `SoftmaxGram` where a kernel multiplies: its bound is the one that it has in torch.
"""

from __future__ import annotations

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

import ntkla
from ntkla.linalg.backends import kernels
from ntkla.linalg.precision import UNIT_ROUNDOFF, norm_upper
from ntkla.testing import Exact, FeatureSpec, compare_columns
from ntkla.testing.strategies import feature_specs, lengths
from ntkla.testing.violations import Comparison
from tests.kernels.draws import DEVICE
from tests.linalg.softmax_reference import FEATURES, KINDS, exact_product, normal, probabilities

pytest.importorskip("triton", reason="the kernels need Triton, which is made for Linux only")

BACKENDS = ("torch", "triton")
backends = pytest.mark.parametrize("backend", BACKENDS)


def by_sample(v: torch.Tensor) -> torch.Tensor:
    """[n, C, m] as [nC, m], one sample after another."""
    return v.cpu().flatten(0, 1)


def judge(
    computed: torch.Tensor, x: torch.Tensor, p: torch.Tensor, v: torch.Tensor, bias: bool, scale: float = 1.0, **kind
) -> Comparison:
    bound = ntkla.softmax_gram_error(x, p, v, bias=bias, **kind).cpu() * scale
    exact: Exact = exact_product(x.cpu(), p.cpu(), by_sample(v), "sample", bias=bias)
    return compare_columns(by_sample(computed), bound, exact)


@settings(max_examples=12)
@given(feature_specs(most=4), lengths(4), st.sampled_from(KINDS), st.integers(0, 99), st.booleans())
@example(FeatureSpec(3, 2, dtype="float32"), 3, "nearly one-hot", 0, False)
@example(FeatureSpec(4, 3, dtype="bfloat16"), 3, "confident", 1, True)
@example(FeatureSpec(1, 1, dtype="float32"), 1, "soft", 0, False)
def test_products_are_within_their_bound(spec, outputs, kind, seed, widened):
    x, p, bias = spec.tensor.to(DEVICE), probabilities(spec.n, outputs, kind, seed).to(DEVICE), bool(seed % 2)
    v = normal(spec.n, outputs, 2, seed=seed).to(x.dtype).to(DEVICE)
    precision = "float64" if widened else "auto"
    for backend in BACKENDS:
        with ntkla.backend(backend):
            computed = ntkla.softmax_gram(x, p, v, bias=bias, precision=precision)
        verdict = judge(computed, x, p, v, bias, precision=precision)
        assert verdict.sound, str(verdict)


@backends
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_long_sums_and_blocks_of_outputs_are_within_their_bound(backend, dtype):
    for n, features, outputs in ((40, 3, 2), (3, 40, 2), (3, 2, 35)):
        x = (normal(n, features) + 2).to(dtype).to(DEVICE)
        p, v = probabilities(n, outputs, "mixed").to(DEVICE), normal(n, outputs, 1, seed=1).to(dtype).to(DEVICE)
        with ntkla.backend(backend):
            verdict = judge(ntkla.softmax_gram(x, p, v, bias=True), x, p, v, True)
        assert verdict.sound, str(verdict)


@backends
@pytest.mark.parametrize(("dtype", "factor"), [(torch.float64, 2000), (torch.float32, 2000)])
def test_the_bound_is_tight_within_a_factor_and_smaller_ones_are_caught(backend, dtype, factor):
    """As that of the operator: every rounding is counted, in the worst direction, and norms go through Cauchy-Schwarz.

    In torch float32 results are rounded once from float64, so there the bound is a few times looser.
    """
    found, shrunk = 0.0, True
    for seed in range(8):
        x, v = normal(3, 1, seed=seed).to(dtype).to(DEVICE), normal(3, 2, 4, seed=seed).to(dtype).to(DEVICE)
        p = probabilities(3, 2, "soft", seed).to(DEVICE)
        with ntkla.backend(backend):
            computed = ntkla.softmax_gram(x, p, v)
        found = max(found, judge(computed, x, p, v, False).largest_ratio)
        shrunk = shrunk and judge(computed, x, p, v, False, scale=1e-4).sound
    assert found > 1 / factor
    assert not shrunk


@pytest.mark.parametrize("distance", [1e-3, 1e-8, 1e-12])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_confident_rows_lose_nothing_to_cancellation(distance, dtype):
    """The error shrinks with the product, as the distance of p from one-hot does."""
    n, outputs = 7, 4
    p = torch.full((n, outputs), distance, dtype=torch.float64)
    p[torch.arange(n), torch.arange(n) % outputs] = 1.0
    x, p, v = FEATURES.to(dtype).to(DEVICE), p.to(DEVICE), normal(n, outputs, 1).to(dtype).to(DEVICE)
    with ntkla.backend("triton"):
        computed = ntkla.softmax_gram(x, p, v)
    verdict = judge(computed, x, p, v, False)
    assert verdict.sound, str(verdict)
    size = 2 * outputs * distance * float(norm_upper(FEATURES)) ** 2 * float(norm_upper(v.cpu().double()))
    assert float(ntkla.softmax_gram_error(x, p, v)) <= 2**12 * UNIT_ROUNDOFF[dtype] * size


def test_a_planted_error_is_caught():
    x, p, v = FEATURES[:3].to(DEVICE), probabilities(3, 2, "soft").to(DEVICE), normal(3, 2, 1).to(DEVICE)
    with ntkla.backend("triton"):
        computed = ntkla.softmax_gram(x, p, v)
        narrow = ntkla.softmax_gram(x.float(), p, v.float())
    assert judge(computed, x, p, v, False).sound
    assert not judge(computed * (1 + 1e-8), x, p, v, False).sound
    assert not judge(narrow.double(), x.float().double(), p, v.float().double(), False).sound
    assert not judge(narrow * (1 + 1e-2), x.float(), p, v.float(), False).sound
    assert not judge(computed.flip(0), x, p, v, False).sound


@settings(max_examples=8)
@given(
    feature_specs(most=4), lengths(4), st.sampled_from(KINDS), st.sampled_from(("class", "sample")), st.integers(0, 9)
)
def test_the_operator_has_its_bound_through_the_kernel(spec, outputs, kind, order, seed):
    p = probabilities(spec.n, outputs, kind, seed).to(DEVICE)
    operator = ntkla.SoftmaxGram(ntkla.GramOperator(spec.tensor.to(DEVICE), bias=bool(seed % 2)), p, order)
    v = normal(operator.shape[1], 2, seed=seed).to(DEVICE)
    bound = operator.error_bound(v)
    with ntkla.backend("triton"):
        product = operator @ v
        assert ntkla.last_dispatch() == "triton:softmax_gram:float64"
        assert torch.equal(operator.error_bound(v), bound)
    exact = exact_product(spec.tensor, p.cpu(), v.cpu(), order, bias=bool(seed % 2))
    verdict = compare_columns(product.cpu(), bound.cpu(), exact)
    assert verdict.sound, str(verdict)


def test_more_columns_than_a_grid_counts_go_in_several_launches(monkeypatch):
    x, p, v = FEATURES.to(DEVICE), probabilities(7, 4, "mixed").to(DEVICE), normal(7, 4, 5).to(DEVICE)
    with ntkla.backend("triton"):
        together = ntkla.softmax_gram(x, p, v)
        monkeypatch.setattr(kernels, "_MOST_COLUMNS", 2)
        assert torch.equal(ntkla.softmax_gram(x, p, v), together)


def test_modes_are_certified_the_same_through_the_kernel():
    p = probabilities(7, 4, "soft").to(DEVICE)
    operator = ntkla.SoftmaxGram(ntkla.GramOperator(FEATURES.to(DEVICE)), p)
    modes = ntkla.eigenmodes(operator, 3)
    with ntkla.backend("triton"):
        by_kernel = ntkla.eigenmodes(operator, 3)
    assert by_kernel.status.code == modes.status.code
    assert by_kernel.complete == modes.complete
    assert ((by_kernel.values - modes.values).abs() <= by_kernel.value_error + modes.value_error).all()


def test_an_operator_that_is_no_gram_matrix_stays_in_torch():
    features = FEATURES.to(DEVICE)
    foreign = ntkla.FunctionOperator(lambda t: features @ (features.T @ t), (7, 7), torch.float64, DEVICE, psd=True)
    operator, v = ntkla.SoftmaxGram(foreign, probabilities(7, 4, "soft").to(DEVICE)), normal(28).to(DEVICE)
    expected = operator @ v
    with ntkla.backend("triton"):
        assert torch.equal(operator @ v, expected)
