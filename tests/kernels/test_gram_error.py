"""The Gram kernel's rounding: within its bound, which is not loose, and so is that of a tensor core at its worst."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ntkla.linalg.precision import UNIT_ROUNDOFF, gamma
from ntkla.testing.balls import Exact, design_matrix
from ntkla.testing.strategies import feature_specs
from ntkla.testing.violations import Comparison, compare
from tests.kernels import models
from tests.kernels.draws import DEVICE, normal

pytest.importorskip("triton", reason="the kernels need Triton, which is made for Linux only")

from csrc_triton.gram import MODES, gram, gram_error, pinned_tile

CASES = [(mode, dtype) for mode, dtypes in MODES.items() for dtype in dtypes]


def judge(
    computed: torch.Tensor, x: torch.Tensor, y: torch.Tensor | None, bias: bool, mode: str, scale: float = 1.0
) -> Comparison:
    """The result against the exact one, under `scale` times the bound of `gram_error`."""
    left, right = x.cpu(), (x if y is None else y).cpu()
    terms, tiny = x.shape[1] + 1, torch.finfo(computed.dtype).tiny
    magnitude = left.double().abs() @ right.double().abs().T + float(bias)
    bound = gram_error(x.shape[1], mode) * (1 + gamma(2 * terms)) * magnitude + 2 * terms * tiny
    exact = Exact(lambda: design_matrix(left, bias) * design_matrix(right, bias).transpose())
    return compare(computed.cpu(), scale * bound, exact)


@settings(max_examples=12)
@given(feature_specs(), st.booleans(), st.booleans())
def test_the_error_is_within_its_bound(spec, bias, widened):
    x = spec.tensor.to(DEVICE)
    mode = "float64" if widened or x.dtype == torch.float64 else "ieee" if x.dtype == torch.float32 else "bf16"
    computed = gram(x, bias=bias, mode=mode)
    assert torch.equal(computed, computed.T)
    verdict = judge(computed, x, None, bias, mode)
    assert verdict.sound, str(verdict)


@pytest.mark.parametrize(("mode", "dtype"), CASES)
def test_the_error_of_cross_products_is_within_its_bound(mode, dtype):
    x, y = normal(3, 150, dtype=dtype) + 4, normal(18, 150, seed=1, dtype=dtype) - 4
    for bias in (False, True):
        verdict = judge(gram(x, y, bias=bias, mode=mode), x, y, bias, mode)
        assert verdict.sound, str(verdict)


@pytest.mark.parametrize(("mode", "factor"), [("ieee", 2), ("bf16", 2), ("float64", 17)])
def test_the_bound_is_reached_within_a_factor(mode, factor):
    """A one, and then in each block a product of half a unit in its last place, which is lost when it is added.

    In mode "float64" one such product in every block of 16 is lost, where the bound allows for each of the 16.
    """
    depth, result = pinned_tile(mode).depth, torch.float64 if mode == "float64" else torch.float32
    x = torch.zeros(1, 4 * depth * depth, dtype=MODES[mode][0], device=DEVICE)
    x[0, ::depth] = UNIT_ROUNDOFF[result]
    y = (x != 0).to(x.dtype)
    x[0, 0] = 1.0
    computed = gram(x, y, mode=mode)
    assert judge(computed, x, y, False, mode).sound
    assert not judge(computed, x, y, False, mode, scale=1 / factor).sound


@pytest.mark.parametrize("instruction", [8, 16])
@pytest.mark.parametrize("features", [1, 100, 128])
def test_a_tensor_core_that_cuts_stays_within_the_bound(instruction, features):
    """On random features, and, reached within a factor of 2, where all of a block but a one is cut off."""
    depth = pinned_tile("bf16").depth
    product = models.truncating(depth, instruction)
    x = normal(4, features, dtype=torch.bfloat16).cpu() + 1
    computed = torch.from_numpy(product(x.double().numpy(), x.double().numpy()))
    assert judge(computed, x, None, False, "bf16").sound
    lost = torch.full((1, depth), 181 * 2.0**-19, dtype=torch.bfloat16)  # its square is just below 2 units of float32
    lost[0, 0] = 1.0
    computed = torch.from_numpy(product(lost.double().numpy(), lost.double().numpy()))
    assert judge(computed, lost, None, False, "bf16").sound
    assert not judge(computed, lost, None, False, "bf16", scale=0.5).sound


def test_the_bound_catches_a_planted_error():
    x = normal(6, 40)
    computed = gram(x, mode="ieee")
    assert judge(computed, x, None, False, "ieee").sound
    computed[4, 2] *= 1 + 1e-4
    assert not judge(computed, x, None, False, "ieee").sound
    assert not judge(gram(x.bfloat16(), mode="bf16"), x, None, False, "ieee").sound


def test_the_bound_at_the_ends_of_its_range():
    assert gram_error(0, "bf16") == 0.0
    assert gram_error(1, "float64") >= 2 * UNIT_ROUNDOFF[torch.float64]
    assert gram_error(2**31, "ieee") == float("inf")
