"""The rounding of the mode "split": within its bound, rows that fall back included, and not far within."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ntkla.linalg.precision import gamma
from ntkla.testing.balls import Exact, design_matrix
from ntkla.testing.strategies import feature_specs
from ntkla.testing.violations import Comparison, compare
from tests.kernels import models, models_split
from tests.kernels.draws import DEVICE, normal

pytest.importorskip("triton", reason="the kernels need Triton, which is made for Linux only")

from csrc_triton import split_gram as module
from csrc_triton.gram import gram, gram_error
from csrc_triton.planes import split
from csrc_triton.split_gram import TILE, split_gram, split_gram_error

U = 2.0**-24
DEPTH = TILE.depth


def judge(computed: torch.Tensor, x: torch.Tensor, y: torch.Tensor | None, bias: bool, gamma_r: float) -> Comparison:
    """The result against the exact one of the numbers as they were given, not of their planes."""
    left, right = x.cpu(), (x if y is None else y).cpu()
    terms = x.shape[1] + 1
    magnitude = left.double().abs() @ right.double().abs().T + float(bias)
    bound = gamma_r * (1 + gamma(2 * terms)) * magnitude + 2 * terms * torch.finfo(torch.float32).tiny
    exact = Exact(lambda: design_matrix(left, bias) * design_matrix(right, bias).transpose())
    return compare(computed.cpu(), bound, exact)


def product(x: torch.Tensor, y: torch.Tensor | None = None, bias: bool = False) -> torch.Tensor:
    return split_gram(split(x), None if y is None else split(y), bias=bias)


@settings(max_examples=15)
@given(feature_specs(), st.booleans())
def test_the_error_is_within_its_bound(spec, bias):
    x = spec.tensor.to(DEVICE).float()
    computed = product(x, bias=bias)
    assert torch.equal(computed, computed.T)
    verdict = judge(computed, x, None, bias, split_gram_error(x.shape[1]))
    assert verdict.sound, str(verdict)


@settings(max_examples=12)
@given(st.integers(0, 2**20), st.integers(1, 45), st.booleans())
def test_rows_of_any_range_are_within_the_bound_whether_they_fall_back_or_not(seed, spread, bias):
    generator = torch.Generator(device="cpu").manual_seed(seed)
    powers = -torch.randint(0, spread, (9, 20), generator=generator, device="cpu").double()
    x = (torch.randn((9, 20), generator=generator, device="cpu") * 2.0**powers).float().to(DEVICE)
    x[0], x[1, 3] = 0.0, torch.finfo(torch.float32).tiny / 2
    x, y = x[:6], x[3:]
    for other in (None, y):
        verdict = judge(product(x, other, bias), x, other, bias, split_gram_error(20))
        assert verdict.sound, str(verdict)


def test_what_the_planes_lose_is_in_the_bound_and_shows():
    """One product, nothing to add: the error is that of the planes and of the low parts' product, 8 u at most."""
    x = (1 + torch.arange(1, 400, dtype=torch.float64, device=DEVICE) * 2.0**-23 * 12373).float()[:, None]
    x = x[x[:, 0] < 2]
    computed = product(x[:30], x[30:90])
    assert judge(computed, x[:30], x[30:90], False, split_gram_error(1)).sound
    assert not judge(computed, x[:30], x[30:90], False, 3 * U).sound


def cut_planes(x: torch.Tensor, y: torch.Tensor, depth: int, instruction: int) -> torch.Tensor:
    """What tensor cores that cut at every instruction would return, drained every `depth` of the features."""
    planes, other = (models_split.split(z.numpy()) for z in (x, y))
    sides = [np.concatenate([z.high, z.low], 1) for z in (planes, other)]
    total = models_split.inner(models.truncating(depth, instruction), depth)(*sides)
    return torch.from_numpy(models_split.scaled(total, planes, other, False))


@pytest.fixture
def on_a_gpu(monkeypatch):
    """The bound of the depth that a GPU has, wherever this runs."""
    monkeypatch.setattr(module, "pinned_tile", lambda _: TILE)


@pytest.mark.usefixtures("on_a_gpu")
@pytest.mark.parametrize("instruction", [8, 16])
@pytest.mark.parametrize("features", [1, 64, 200])
def test_tensor_cores_that_cut_stay_within_the_bound(instruction, features):
    x = normal(4, features).cpu() * 1e3 + 1
    computed = cut_planes(x, x, DEPTH, instruction)
    assert judge(computed, x, x, False, split_gram_error(features)).sound


def lost_in_blocks(blocks: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A one, and then in every place a product just below two units of float32's last place: cut off, all of them."""
    x = torch.full((1, blocks * DEPTH), 181 * 2.0**-19, dtype=torch.float32)
    x[0, 0] = 1.0
    return x, x


@pytest.mark.usefixtures("on_a_gpu")
def test_the_bound_is_reached_within_a_factor_in_one_block():
    x, y = lost_in_blocks(1)
    computed = cut_planes(x, y, DEPTH, 8)
    gamma_r = split_gram_error(DEPTH)
    assert judge(computed, x, y, False, gamma_r).sound
    assert not judge(computed, x, y, False, gamma_r / 2).sound


@pytest.mark.usefixtures("on_a_gpu")
def test_a_sum_that_is_not_drained_breaks_the_bound():
    """Thirty blocks: drained they lose what the bound allows for, in one accumulator far more."""
    x, y = lost_in_blocks(30)
    gamma_r = split_gram_error(x.shape[1])
    assert judge(cut_planes(x, y, DEPTH, 8), x, y, False, gamma_r).sound
    assert not judge(cut_planes(x, y, x.shape[1], 8), x, y, False, gamma_r).sound


def test_the_bound_catches_planted_errors():
    x = normal(6, 40)
    computed, gamma_r = product(x), split_gram_error(40)
    assert judge(computed, x, None, False, gamma_r).sound
    planes = split(x)
    without = split_gram(planes._replace(low=torch.zeros_like(planes.low)))
    assert not judge(without, x, None, False, gamma_r).sound
    computed[4, 2] *= 1 + 1e-4
    assert not judge(computed, x, None, False, gamma_r).sound


def test_the_bound_at_the_ends_of_its_range():
    assert split_gram_error(0) == 0.0
    assert split_gram_error(1) > 8 * U
    assert split_gram_error(2**31) == float("inf")
    for features in (1, 7, 64, 65, 768, 4096, 10**5):
        assert split_gram_error(features) > (1 + gram_error(features, "ieee")) * (1 + 4 * U) - 1


# --- how large errors are: what the mode is for ---------------------------------------------------------------------


def frobenius(computed: torch.Tensor, x: torch.Tensor) -> float:
    exact = x.double() @ x.double().T
    return float((computed.double() - exact).norm() / exact.norm())


@pytest.mark.parametrize(("features", "mean"), [(768, 0.0), (2048, 10.0)])
def test_the_error_is_no_larger_than_that_of_plain_float32(features, mean):
    """In norm, beside multiply-adds one after another; drained or not, half-precision inputs are another world."""
    x = normal(16, features) + mean
    plain = torch.from_numpy(models.multiply_adds(features)(x.cpu().numpy(), x.cpu().numpy()))
    computed = product(x)
    assert frobenius(computed, x) <= frobenius(plain.to(DEVICE), x)
    assert frobenius(gram(x.bfloat16(), mode="bf16"), x) > 100 * frobenius(computed, x)
