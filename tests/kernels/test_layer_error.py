"""The layer kernel's rounding: within its bound, which is not loose, and so is that of a tensor core at its worst."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import ntkla
from ntkla.linalg.precision import UNIT_ROUNDOFF, gamma
from ntkla.testing.violations import Comparison, compare
from tests.kernels import models
from tests.kernels.draws import DEVICE, factors, formula, normal
from tests.linalg.layer_reference import exact_kernel, flat

pytest.importorskip("triton", reason="the kernels need Triton, which is made for Linux only")

from csrc_triton.gram import MODES
from csrc_triton.layer_ntk import layer_ntk
from csrc_triton.layer_tiles import layer_ntk_error, pinned_tile

CASES = [(mode, dtype) for mode, dtypes in MODES.items() for dtype in dtypes]
Pairs = list[tuple[torch.Tensor, torch.Tensor]]


def judge(computed: torch.Tensor, left: Pairs, right: Pairs | None, mode: str, scale: float = 1.0) -> Comparison:
    """The result [n, C, n2, C2] against the exact one, under `scale` times the bound of `layer_ntk_error`."""
    left, right = ([(a.cpu(), d.cpu()) for a, d in pairs] for pairs in (left, right or left))
    positions, positions2 = (max(a.shape[1] for a, _ in pairs) for pairs in (left, right))
    inputs, deltas = (max(pair[side].shape[-1] for pair in left) for side in (0, 1))
    sizes = [[tuple(x.double().abs() for x in pair) for pair in pairs] for pairs in (left, right)]
    above = sum(formula(*pair, *other) for pair, other in zip(*sizes, strict=True))
    terms = inputs + deltas + positions * positions2 + len(left) + 2
    gamma_k = layer_ntk_error(positions, positions2, inputs, deltas, len(left), mode)
    # Factors here are of order one: each of the operations of an entry loses at most `tiny` times that.
    lost = 4 * terms * inputs * deltas * torch.finfo(computed.dtype).tiny
    bound = scale * gamma_k * (1 + gamma(4 * terms)) * above + lost
    return compare(flat(computed.cpu()), flat(bound), exact_kernel(left, right))


def run(left: Pairs, right: Pairs | None, mode: str) -> torch.Tensor:
    return layer_ntk(*map(list, zip(*left, strict=True)), *map(list, zip(*(right or []), strict=True)), mode=mode)


@settings(max_examples=8)
@given(st.data())
def test_the_error_is_within_its_bound(data):
    mode, dtype = data.draw(st.sampled_from(CASES))
    n, c, t, f, g = (data.draw(st.integers(1, most)) for most in (4, 3, 3, 40, 40))
    draw = lambda *shape, **kind: normal(*shape, **kind) + data.draw(st.sampled_from((0, 2)))  # noqa: E731
    left = [factors(n, c, t, f, g, dtype=dtype, draw=draw)]
    right = None if data.draw(st.booleans()) else [factors(2, 1, 2, f, g, seed=3, dtype=dtype, draw=draw)]
    if data.draw(st.booleans()):
        left.append(factors(n, c, 1, 5, 6, seed=5, dtype=dtype, draw=draw))
        right = right and [*right, factors(2, 1, 1, 5, 6, seed=7, dtype=dtype, draw=draw)]
    verdict = judge(run(left, right, mode), left, right, mode)
    assert verdict.sound, str(verdict)


def lost_parts(mode: str, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """Vectors whose inner product is a one, and then in each block half a unit in its last place: lost when added."""
    depth, result = pinned_tile(mode).depth, torch.float64 if mode == "float64" else torch.float32
    x = torch.zeros(2 * depth * depth, dtype=dtype, device=DEVICE)
    x[::depth] = UNIT_ROUNDOFF[result]
    y = (x != 0).to(dtype)
    x[0] = 1.0
    return x, y


@pytest.mark.parametrize(("mode", "factor"), [("ieee", 2), ("bf16", 3), ("float64", 18)])
def test_the_bound_of_long_rows_is_reached_within_a_factor(mode, factor):
    """In both inner products; in mode "float64" only one product in each block is lost, as in `gram`."""
    x, y = lost_parts(mode, MODES[mode][0])
    left, right = [(x.view(1, 1, -1), x.view(1, 1, 1, -1))], [(y.view(1, 1, -1), y.view(1, 1, 1, -1))]
    computed = run(left, right, mode)
    assert judge(computed, left, right, mode).sound
    assert not judge(computed, left, right, mode, scale=1 / factor).sound


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("over", ["positions", "parameters"])
def test_the_bound_of_many_positions_and_parameters_is_reached_within_a_factor(mode, over):
    """A one, and then terms of half a unit in its last place, which are lost when they are added."""
    many, dtype = 40, MODES[mode][0]
    small = UNIT_ROUNDOFF[torch.float64 if mode == "float64" else torch.float32]
    terms = torch.full((many,), small, dtype=dtype, device=DEVICE)
    terms[0] = 1.0
    ones = torch.ones(1, 1, 1, 1, dtype=dtype, device=DEVICE)
    if over == "positions":
        left = [(terms.view(1, many, 1), ones.expand(1, 1, many, 1))]
    else:
        left = [(term.view(1, 1, 1), ones) for term in terms]
    right = [(ones[0], ones)] * len(left)
    computed = run(left, right, mode)
    assert judge(computed, left, right, mode).sound
    assert not judge(computed, left, right, mode, scale=1 / 2).sound


@pytest.mark.parametrize("instruction", [8, 16])
def test_a_tensor_core_that_cuts_stays_within_the_bound(instruction):
    """On random factors, and, reached within a factor of 2, where all of a block but a one is cut off."""
    depth, bf16 = pinned_tile("bf16").depth, torch.bfloat16
    inner, tile = models.truncating(depth, instruction), models.LayerTile(2, 2, 2, 2)

    def judged(a: torch.Tensor, d: torch.Tensor, scale: float = 1.0) -> bool:
        side = models.Side(a.float().cpu().numpy(), d.float().cpu().numpy())
        computed = torch.from_numpy(models.layer_ntk([side], None, inner, tile))
        return judge(computed.view(*d.shape[:2], *d.shape[:2]), [(a, d)], None, "bf16", scale).sound

    assert judged(*factors(3, 2, 2, 2 * depth + 1, 7, dtype=bf16, draw=normal))
    lost = torch.full((1, 1, 1, depth), 181 * 2.0**-19, dtype=bf16)  # its square is just below 2 units of float32
    lost[..., 0] = 1.0
    assert judged(lost[0], lost)
    assert not judged(lost[0], lost, scale=0.5)


def test_the_bound_catches_a_planted_error():
    left = [factors(3, 2, 2, 17, 5, draw=normal)]
    computed = run(left, None, "ieee")
    assert judge(computed, left, None, "ieee").sound
    computed[1, 0, 2, 1] *= 1 + 1e-3
    assert not judge(computed, left, None, "ieee").sound
    rounded = [tuple(x.bfloat16() for x in pair) for pair in left]
    assert not judge(run(rounded, None, "bf16"), left, None, "ieee").sound


@pytest.mark.parametrize("mode", MODES)
def test_the_librarys_bound_covers_the_kernels(mode):
    for length in (1, 15, 16, 17, 100, 129, 1000, 5000):
        shape = ntkla.linalg.layers.layer_cost.LayerShape(3, 2, 4, 3, 2, 4, length, length)
        terms = ntkla.linalg.layers.layer_error.summed_terms([shape], MODES[mode][0], mode, "gram", symmetric=True)
        unit = 2.0**-53 if mode == "float64" else 2.0**-24
        assert layer_ntk_error(4, 4, length, length, 1, mode) <= gamma(terms, unit)


def test_the_bound_at_the_ends_of_its_range():
    assert layer_ntk_error(0, 0, 0, 0, 1, "bf16") >= UNIT_ROUNDOFF[torch.float32]
    assert layer_ntk_error(2**12, 2**12, 1, 1, 1, "ieee") == float("inf")
    assert layer_ntk_error(1, 1, 5, 7, 2, "ieee") > layer_ntk_error(1, 1, 5, 7, 1, "ieee")
