"""The layer kernel: every entry right in every mode, size, dtype and layout, and its rounding within its bound.

Sums of small integers are exact in every mode, so with them every entry must be the exact one.
"""

from __future__ import annotations

import math

import pytest
import torch

import ntkla
from ntkla.linalg import errors
from tests.kernels.draws import DEVICE, factors, formula, normal, whole

pytest.importorskip("triton", reason="the kernels need Triton, which is made for Linux only")

from csrc_triton.gram import MODES
from csrc_triton.layer_ntk import layer_ntk, variants
from csrc_triton.layer_tiles import outputs_together, pinned_tile

CASES = [(mode, dtype) for mode, dtypes in MODES.items() for dtype in dtypes]


def assert_exact(left, right, mode: str) -> None:
    computed = layer_ntk(*([x] for x in left), *([x] for x in right or ()), mode=mode)
    assert computed.dtype == (torch.float64 if mode == "float64" else torch.float32)
    a2, d2 = right or left
    assert torch.equal(computed.cpu().double(), formula(*left, a2, d2))


# --- every entry ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("outputs", [1, 2, 3, 5])
def test_every_size_has_the_exact_entries(outputs):
    tile = pinned_tile("ieee")
    samples = tile.rows // outputs_together(outputs)
    for n, t, f, g in (
        (samples - 1, 1, 1, 1),
        (samples + 1, 2, tile.depth + 1, 3),
        (3, 1, 2, tile.depth),
        (1, 3, 7, 5),
    ):
        assert_exact(factors(n, outputs, t, f, g), None, "ieee")
    assert_exact(factors(samples + 1, outputs, 1, 3, 5), factors(2, 1, 2, 3, 5, seed=3), "ieee")
    assert_exact(factors(1, 1, 2, 3, 5), factors(samples + 2, outputs, 1, 3, 5, seed=3), "ieee")


@pytest.mark.parametrize(("mode", "dtype"), CASES)
def test_every_dtype_has_the_exact_entries(mode, dtype):
    assert_exact(factors(6, 3, 1, 17, 18, dtype=dtype), None, mode)
    assert_exact(factors(3, 2, 2, 5, 6, dtype=dtype), factors(2, 5, 1, 5, 6, seed=3, dtype=dtype), mode)


@pytest.mark.parametrize("shape", [(0, 2, 1, 2, 2), (2, 0, 1, 2, 2), (2, 2, 0, 2, 2), (2, 2, 1, 0, 2), (2, 2, 1, 2, 0)])
def test_empty_sums_are_zero(shape):
    assert_exact(factors(*shape), None, "ieee")


def test_parameters_are_summed_into_one_result():
    pairs = [factors(6, 3, 2, 5, 6), factors(6, 3, 1, 2, 9, seed=2), factors(6, 3, 3, 3, 3, seed=4)]
    for mode in ("ieee", "float64"):
        computed = layer_ntk(*map(list, zip(*pairs, strict=True)), mode=mode)
        assert torch.equal(computed.cpu().double(), sum(formula(*pair, *pair) for pair in pairs))


@pytest.mark.parametrize("symmetric", [True, False])
def test_positions_that_do_not_count_are_never_used(symmetric):
    a, d = factors(5, 3, 3, 4, 5)
    mask = torch.arange(3, device=DEVICE) < torch.tensor([3, 1, 2, 0, 3], device=DEVICE)[:, None]
    poisoned = a.masked_fill(~mask[..., None], math.nan), d.masked_fill(~mask[:, None, :, None], math.inf)
    clean = a * mask[..., None], d * mask[:, None, :, None]
    if symmetric:
        computed, expected = layer_ntk(*([x] for x in poisoned), (), (), [mask], mode="ieee"), formula(*clean, *clean)
    else:
        right = [[x[:2]] for x in (a, d)]
        computed = layer_ntk(*([x] for x in poisoned), *right, [mask], [mask[:2]], mode="ieee")
        expected = formula(*clean, *(x[:2] for x in clean))
    assert torch.equal(computed.cpu().double(), expected)


def halo(x: torch.Tensor) -> torch.Tensor:
    """The same numbers as a window of a buffer that is NaN elsewhere."""
    buffer = torch.full([length + 9 for length in x.shape], math.nan, dtype=x.dtype, device=x.device)
    window = buffer[tuple(slice(2, 2 + length) for length in x.shape)]
    window.copy_(x)
    return window


LAYOUTS = {
    "halo": halo,
    "turned": lambda x: x.permute(*reversed(range(x.ndim))).contiguous().permute(*reversed(range(x.ndim))),
    "one sample": lambda x: x[:1].expand(x.shape),
    "one number": lambda x: x[..., :1].expand(x.shape),
    "negated": lambda x: torch._neg_view(x),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_has_the_exact_entries_and_nothing_beside_it_is_used(layout):
    samples, depth = pinned_tile("ieee").rows // outputs_together(3), pinned_tile("ieee").depth
    left, right = factors(samples + 2, 3, 2, 5, depth + 1), factors(3, 2, 1, 5, depth + 1, seed=3)
    moved = [LAYOUTS[layout](x) for x in left]
    assert_exact(moved, None, "ieee")
    assert_exact(right, moved, "ieee")


def test_the_result_is_written_whole(monkeypatch):
    monkeypatch.setattr(torch, "empty", lambda shape, **kind: torch.full(shape, math.nan, **kind))
    for right in (None, factors(5, 1, 1, 3, 2, seed=3)):
        assert_exact(factors(7, 3, 2, 3, 2), right, "ieee")


@pytest.mark.parametrize("strides", [(2**26, 2, 1), (2, 2**26, 1), (1, 2, 2**26)])
def test_offsets_pass_two_to_the_31(strides):
    n = 40
    lengths = [n if stride == 2**26 else 2 for stride in strides]
    small = whole(*lengths, dtype=torch.bfloat16)
    wide = torch.empty_strided(lengths, strides, dtype=torch.bfloat16, device=DEVICE).copy_(small)
    keep = slice(33, None)  # far beyond 2^31 entries
    index = tuple(keep if stride == 2**26 else slice(None) for stride in strides)
    if lengths[2] == n:
        index = (slice(None),) * 3
    a, exact = wide[index], small[index]
    d = whole(a.shape[0], 1, a.shape[1], 2, seed=1, dtype=torch.bfloat16)
    computed = layer_ntk([a], [d], mode="bf16")
    assert torch.equal(computed.cpu().double(), formula(exact, d, exact, d))


def test_it_is_exactly_symmetric_and_the_same_every_time():
    a, d = factors(9, 3, 2, 20, 18, draw=normal)
    for mode in ("ieee", "float64"):
        computed = layer_ntk([a], [d], mode=mode)
        assert torch.equal(computed, computed.permute(2, 3, 0, 1))
        assert torch.equal(computed, layer_ntk([a], [d], mode=mode))


# --- behind the public door -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("mode", "dtype"), CASES)
def test_the_public_function_runs_it_where_it_is_forced(mode, dtype):
    a, d = factors(5, 3, 2, 4, 5, dtype=dtype)
    with ntkla.backend("triton"):
        computed = ntkla.layer_ntk(a, d, precision=mode if dtype != torch.float64 else "auto")
        assert ntkla.last_dispatch() == f"triton:layer_ntk:{mode}"
        with pytest.raises(errors.BackendError, match="layer_ntk: the backend 'triton' was forced"):
            ntkla.layer_ntk(a, d, route="materialised")
    assert torch.equal(computed.cpu().double(), formula(a, d, a, d))


def test_variants_are_named_once_and_cover_every_mode():
    names = [variant.name for variant in variants()]
    assert len(set(names)) == len(names)
    assert all(any(f" {mode} " in name for name in names) for mode in MODES)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda a, d: layer_ntk([a], [d], mode="tf32"), ValueError, "expected a mode"),
        (lambda a, d: layer_ntk([a], [d], mode="bf16"), TypeError, "mode 'bf16' takes"),
        (lambda a, d: layer_ntk([a], [d.double()], mode="float64"), TypeError, "takes one dtype"),
        (lambda a, d: layer_ntk([a], [], mode="ieee"), ValueError, "as many activations"),
        (lambda a, d: layer_ntk([a], [d[:1]], mode="ieee"), ValueError, r"expected \[n, T, F\]"),
        (lambda a, d: layer_ntk([a.to("meta")], [d.to("meta")], mode="ieee"), ValueError, "device"),
    ],
)
def test_a_programming_mistake_is_named(call, error, message):
    with pytest.raises(error, match=message):
        call(*factors(2, 2, 1, 3, 3))
