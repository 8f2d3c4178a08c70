"""The layer kernel on planes: entries, rounding, samples that fall back, and the public door to it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

import ntkla
from ntkla.linalg import errors
from ntkla.linalg.backends import choices, dispatch, kernels
from ntkla.linalg.layers.layer_cost import LayerShape
from ntkla.linalg.layers.layer_error import summed_terms
from ntkla.linalg.precision import gamma
from ntkla.testing.violations import Comparison, compare
from tests.kernels import models, models_split
from tests.kernels.draws import DEVICE, factors, formula, normal, whole
from tests.linalg.layer_reference import exact_kernel, flat

pytest.importorskip("triton", reason="the kernels need Triton, which is made for Linux only")

from csrc_triton import split_gram as split_gram_module
from csrc_triton import split_layer as module
from csrc_triton import tiles
from csrc_triton.layer_ntk import layer_ntk
from csrc_triton.layer_tiles import outputs_together
from csrc_triton.split_layer import pinned_tile, split_layer, split_layer_error
from csrc_triton.tiles import INTERPRETED, architecture

TILE = pinned_tile(architecture(torch.device(DEVICE)))
TINY = torch.finfo(torch.float32).tiny
Pair = tuple[torch.Tensor, torch.Tensor]


def run(left: Pair, right: Pair | None = None) -> torch.Tensor:
    out, fallen = split_layer(*([x] for x in left), *([x] for x in right or ()))
    assert fallen == 0
    return out


def assert_exact(left: Pair, right: Pair | None = None) -> None:
    computed = run(left, right)
    assert computed.dtype == torch.float32
    assert torch.equal(computed.cpu().double(), formula(*left, *(right or left)))


# --- every entry ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("outputs", [1, 2, 3, 5])
def test_every_size_has_the_exact_entries(outputs):
    samples, draw = TILE.rows // outputs_together(outputs), lambda *shape, **kind: whole(*shape, most=3, **kind)
    for n, t, f, g in (
        (samples - 1, 1, 1, 1),
        (samples + 1, 1, TILE.depth + 1, 3),
        (1, 2, 5, TILE.depth),
        (2, 1, 65, 2),
    ):
        assert_exact(factors(n, outputs, t, f, g, draw=draw))
    assert_exact(factors(samples + 1, outputs, 1, 3, 5), factors(2, 1, 2, 3, 5, seed=3))
    assert_exact(factors(1, 1, 2, 3, 5), factors(samples + 2, outputs, 1, 3, 5, seed=3))


@pytest.mark.parametrize("shape", [(0, 2, 1, 2, 2), (2, 0, 1, 2, 2), (2, 2, 0, 2, 2), (2, 2, 1, 0, 2), (2, 2, 1, 2, 0)])
def test_empty_sums_are_zero(shape):
    assert_exact(factors(*shape))


def test_layouts_several_parameters_and_masks_have_the_exact_entries():
    a, d = factors(5, 3, 2, 7, 4)
    b, e = factors(5, 3, 1, 9, 2, seed=5)
    spread = a.transpose(0, 2).contiguous().transpose(0, 2), d.transpose(1, 3).contiguous().transpose(1, 3)
    assert_exact(spread)
    out, _ = split_layer([spread[0], b], [spread[1], e])
    assert torch.equal(out.cpu().double(), formula(a, d, a, d) + formula(b, e, b, e))
    mask = torch.arange(2, device=DEVICE) < 1 + torch.arange(5, device=DEVICE)[:, None] % 2
    masked = a.masked_fill(~mask[:, :, None], torch.nan), d.masked_fill(~mask[:, None, :, None], torch.inf)
    zeroed = a * mask[:, :, None], d * mask[:, None, :, None]
    out, fallen = split_layer(*([x] for x in masked), (), (), [mask])
    assert fallen == 0
    assert torch.equal(out.cpu().double(), formula(*zeroed, *zeroed))
    out, _ = split_layer(*([x] for x in masked), [a[:2]], [d[:2]], [mask], [torch.ones_like(mask[:2])])
    assert torch.equal(out.cpu().double(), formula(*zeroed, a[:2], d[:2]))


def test_the_symmetric_result_is_symmetric_in_every_bit():
    left = factors(TILE.rows // 2 + 3, 2, 1, 20, 3, draw=normal)
    matrix = run(left).flatten(2, 3).flatten(0, 1)
    assert torch.equal(matrix, matrix.T)
    assert torch.equal(matrix.tril(), run(left, left).flatten(2, 3).flatten(0, 1).tril())


# --- rounding -------------------------------------------------------------------------------------------------------


def judge(computed: torch.Tensor, left: Pair, right: Pair | None, scale: float = 1.0) -> Comparison:
    left, right = (tuple(x.cpu() for x in pair) for pair in (left, right or left))
    positions, positions2, (inputs, deltas) = left[0].shape[1], right[0].shape[1], (x.shape[-1] for x in left)
    above = formula(*(x.double().abs() for x in (*left, *right)))
    gamma_k = scale * split_layer_error(positions, positions2, inputs, deltas, 1)
    terms = inputs + deltas + positions * positions2 + 3
    bound = gamma_k * (1 + gamma(4 * terms)) * above + 4 * terms * inputs * deltas * TINY
    return compare(flat(computed.cpu()), flat(bound), exact_kernel([left], [right]))


@pytest.mark.parametrize("mean", [0.0, 3.0])
@pytest.mark.parametrize("shape", [(5, 1, 1, 17, 1), (4, 3, 2, 5, 70), (3, 2, 2, 33, 2)])
def test_the_error_is_within_its_bound(shape, mean):
    left = tuple(x + mean for x in factors(*shape, draw=normal))
    right = factors(2, 2, 2, *shape[3:], seed=3, draw=normal)
    for other in (None, right):
        verdict = judge(run(left, other), left, other)
        assert verdict.sound, str(verdict)
    computed = run(left)
    computed[-1, 0, 1, 0] *= 1 + 1e-3
    assert not judge(computed, left, None).sound


def test_the_bound_of_many_positions_is_reached_within_a_factor():
    """A one, and then terms of half a unit in its last place, which are lost when they are added."""
    terms = torch.full((24,), 2.0**-24, dtype=torch.float32, device=DEVICE)
    terms[0] = 1.0
    ones = torch.ones(1, 1, 1, 1, dtype=torch.float32, device=DEVICE)
    left, right = (terms.view(1, 24, 1), ones.expand(1, 1, 24, 1)), (ones[0], ones)
    assert judge(run(left, right), left, right).sound
    assert not judge(run(left, right), left, right, scale=1 / 3).sound


@pytest.mark.parametrize("interpreted", [True, False])
def test_the_librarys_bound_covers_the_kernels(interpreted, monkeypatch):
    for changed in (module, split_gram_module):
        monkeypatch.setattr(changed, "INTERPRETED", interpreted)
    for length in (1, 2, 15, 16, 17, 31, 32, 33, 64, 65, 100, 1000, 5000, 50000):
        for other in (1, length):
            shape = LayerShape(3, 2, 4, 3, 2, 4, length, other)
            terms = summed_terms([shape], torch.float32, "split", "gram", symmetric=True)
            assert split_layer_error(4, 4, length, other, 1) <= gamma(terms, 2.0**-24)
    assert split_layer_error(2**12, 2**12, 1, 1, 1) == float("inf")


@pytest.mark.skipif(not INTERPRETED.value, reason="the model adds as the interpreter does")
def test_the_interpreter_agrees_with_the_model_in_every_bit():
    """One position and one output: the two Gram matrices of the model, multiplied."""
    n = TILE.rows
    a, d = factors(n, 1, 1, 70, 20, draw=normal)
    grams = []
    for x in (a[:, 0], d[:, 0, 0]):
        planes = models_split.split(x.numpy())
        rows = np.concatenate([planes.high, planes.low], 1)
        total = models_split.inner(models.Blocks(TILE.depth), TILE.depth)(rows, rows)
        grams.append(models_split.scaled(total, planes, planes, False))
    assert np.array_equal(
        run((a, d))[:, 0, :, 0].numpy(), np.tril(product := grams[0] * grams[1]) + np.tril(product, -1).T
    )


# --- samples that fall back -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("symmetric", [True, False])
def test_samples_that_fall_back_are_those_of_the_ieee_mode_and_the_others_stay(symmetric):
    a, d = factors(7, 2, 2, 18, 5, draw=normal)
    right = () if symmetric else factors(3, 1, 2, 18, 5, seed=3, draw=normal)
    before, _ = split_layer([a], [d], *([x] for x in right))
    a[1, 1, 0], d[4, 1, 0, 3] = 1e-12, TINY / 2
    a[1, 1, 1] = 3e6
    out, fallen = split_layer([a], [d], *([x] for x in right))
    plain = layer_ntk([a], [d], *([x] for x in right), mode="ieee")
    assert fallen == 2
    others = [0, 2, 3, 5, 6]
    columns = others if symmetric else [0, 1, 2]
    assert torch.equal(out[others][:, :, columns], before[others][:, :, columns])
    above = formula(*(x.double().abs() for x in (a, d, *(right or (a, d)))))
    allowed = 2 * split_layer_error(2, 2, 18, 5, 1) * above
    assert bool(((out.double() - plain.double()).abs().cpu() <= allowed).all())
    if symmetric:
        matrix = out.flatten(2, 3).flatten(0, 1)
        assert torch.equal(matrix, matrix.T)
    else:
        turned, count = split_layer([right[0]], [right[1]], [a], [d])
        assert count == 2
        off = (turned.double() - plain.permute(2, 3, 0, 1).double()).abs().cpu()
        assert bool((off <= allowed.permute(2, 3, 0, 1)).all())


def test_what_is_not_finite_goes_where_it_goes_in_torch():
    a, d = factors(4, 2, 2, 5, 3, draw=normal)
    a[1, 0, 2], d[2, 1, 1, 0] = torch.nan, torch.inf
    out, fallen = split_layer([a], [d])
    assert fallen == 2
    expected = torch.einsum("itf,jsf,ictg,jesg->icje", a, a, d, d)
    assert torch.equal(torch.isfinite(out), torch.isfinite(expected))


# --- behind the public door -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["torch", "triton"])
def test_the_public_door_says_what_ran_and_stays_within_its_bound(backend):
    a, d = factors(4, 2, 2, 20, 5, draw=normal)
    with ntkla.backend(backend):
        for spoiled, mode in ((False, "split"), (True, "split+ieee")):
            if spoiled:
                a[1, 1, 1] = 1e-39
            found = ntkla.layer_ntk(a, d, precision="split")
            assert ntkla.last_dispatch() == (
                f"triton:layer_ntk:{mode}" if backend == "triton" else "torch:layer_ntk:float32"
            )
            bound = ntkla.layer_ntk_error(a, d, precision="split")
            exact = exact_kernel([(a.cpu(), d.cpu())], [(a.cpu(), d.cpu())])
            assert compare(flat(found.cpu()), flat(bound.cpu()), exact).sound
            with ntkla.checked_products(vectors=10):
                assert torch.equal(ntkla.layer_ntk(a, d, precision="split"), found)


def test_the_operator_is_well_formed_and_differentiable():
    a, d = (x.requires_grad_() for x in factors(2, 1, 1, 5, 3, draw=normal))
    with ntkla.backend("triton"):
        arguments = ([a], [d], [], [], [], [], "split", "auto")
        verdict = torch.library.opcheck(torch.ops.ntkla.layer_ntk.default, arguments)
        assert set(verdict.values()) == {"SUCCESS"}


@pytest.mark.skipif(DEVICE != "cpu", reason="the row names the processor")
def test_auto_takes_it_for_float32_where_the_table_says_so(monkeypatch):
    a, d = factors(3, 2, 1, 5, 3, draw=normal)
    before = ntkla.layer_ntk_error(a, d)
    monkeypatch.setattr(dispatch, "_given_up", set())
    rows = [replace(row, device="cpu", least_work=1.0) for row in choices.CHOICES if row.mode == "split"]
    monkeypatch.setattr(choices, "CHOICES", (*rows, *choices.CHOICES))
    ntkla.layer_ntk(a, d)
    assert ntkla.last_dispatch() == "triton:layer_ntk:split"
    assert torch.equal(ntkla.layer_ntk_error(a, d), ntkla.layer_ntk_error(a, d, precision="split"))
    assert (ntkla.layer_ntk_error(a, d) > before).all()
    ntkla.layer_ntk(a, d, precision="ieee")
    assert ntkla.last_dispatch() == "torch:layer_ntk:float32"


def test_a_fault_is_named(monkeypatch):
    a, d = factors(4, 2, 1, 5, 3, draw=normal)
    right = kernels.split_layer
    monkeypatch.setattr(kernels, "split_layer", lambda sides: (right(sides)[0].roll(1, 0), 0))
    with ntkla.backend("triton"), ntkla.checked_products(vectors=20), pytest.raises(errors.KernelFaultError):
        ntkla.layer_ntk(a, d, precision="split")


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_types_are_refused(dtype):
    a, d = factors(3, 2, 1, 5, 3, dtype=dtype)
    with pytest.raises(errors.DtypeError, match="'split': expected float32"):
        ntkla.layer_ntk(a, d, precision="split")
    with pytest.raises(errors.DtypeError, match="'split': expected float32"):
        ntkla.layer_ntk_error(a, d, precision="split")
    with pytest.raises(TypeError):
        split_layer([a], [d])


@pytest.mark.parametrize("target", ["sm_80", "sm_86", "sm_90", "sm_100", "gfx942"])
def test_every_tile_is_square_and_fits(target):
    tile = pinned_tile(target)
    assert (tile.rows, tile.depth) == (tile.columns, TILE.depth)
    assert tiles.legal(tile.shared_bytes(4, target), target)
