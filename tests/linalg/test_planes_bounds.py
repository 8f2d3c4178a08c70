"""How far off Gram matrices from planes are: within the bound that `gram` documents, and so is the kernel."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import ntkla
from ntkla.linalg.backends.primitive import gram_roundings
from ntkla.linalg.precision import gamma
from ntkla.testing.balls import Exact, design_matrix
from ntkla.testing.strategies import feature_specs
from ntkla.testing.violations import compare
from tests.kernels.draws import DEVICE, normal
from tests.linalg.test_planes import TINY, WITHOUT_TRITON, backends, spoiled


def assert_within_the_documented_bound(
    computed: torch.Tensor, x: torch.Tensor, y: torch.Tensor, bias: bool, scale: float = 1.0
) -> None:
    x, y = x.detach().cpu(), y.detach().cpu()
    terms = gram_roundings(x.shape[1], torch.float32, "split")
    magnitude = (x.double().abs() @ y.double().abs().T + float(bias)) * (1 + gamma(terms)) + TINY
    bound = scale * gamma(terms, 2.0**-24) * magnitude + 2 * terms * TINY
    exact = Exact(lambda: design_matrix(x, bias) * design_matrix(y, bias).transpose())
    verdict = compare(computed.cpu(), bound, exact)
    assert verdict.sound, str(verdict)


@backends
@settings(max_examples=10)
@given(spec=feature_specs(), bias=st.booleans())
def test_grams_are_within_the_documented_bound(backend, spec, bias):
    x = spec.tensor.float().to(DEVICE)
    planes = ntkla.Planes(x)
    with ntkla.backend(backend):
        for computed in (ntkla.gram(planes, bias=bias), ntkla.gram(x, bias=bias, precision="split")):
            assert computed.dtype == torch.float32
            assert torch.equal(computed, computed.T)
            assert_within_the_documented_bound(computed, x, x, bias)


@backends
def test_rows_that_fall_back_are_within_the_documented_bound(backend):
    x, y = spoiled(20, 70), normal(7, 70, seed=1)
    with ntkla.backend(backend):
        for left, right in ((x, y), (y, x), (x, x)):
            computed = ntkla.gram(ntkla.Planes(left), ntkla.Planes(right), bias=True)
            assert_within_the_documented_bound(computed, left, right, True)
        computed[3, 4] *= 1 + 1e-3
    with pytest.raises(AssertionError):
        assert_within_the_documented_bound(computed, x, x, True)


@pytest.mark.skipif(WITHOUT_TRITON, reason="Triton is not installed")
@pytest.mark.parametrize("interpreted", [True, False])
def test_the_documented_roundings_cover_those_of_the_kernel(interpreted, monkeypatch):
    from csrc_triton import gram, split_gram

    for module in (gram, split_gram):
        monkeypatch.setattr(module, "INTERPRETED", interpreted)
    tightest = float("inf")
    for features in (*range(700), 1024, 4096, 8192, 100_003):
        allowed = gamma(gram_roundings(features, torch.float32, "split"), 2.0**-24)
        assert split_gram.split_gram_error(features) <= allowed, features
        tightest = min(tightest, allowed / max(split_gram.split_gram_error(features), 2.0**-24))
    assert tightest < 1.3
