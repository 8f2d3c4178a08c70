"""The Gram kernel on planes: known answers that a race or a chained accumulator would spoil, and its order of sums."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.kernels import models, models_split
from tests.kernels.draws import DEVICE, normal, whole

pytest.importorskip("triton", reason="the kernels need Triton, which is made for Linux only")

from csrc_triton import split_gram as module
from csrc_triton import tiles
from csrc_triton.gram import gram
from csrc_triton.planes import split
from csrc_triton.split_gram import pinned_tile, split_gram
from csrc_triton.tiles import INTERPRETED, architecture

TILE = pinned_tile(architecture(torch.device(DEVICE)))


def product(x: torch.Tensor, y: torch.Tensor | None = None, bias: bool = False) -> torch.Tensor:
    return split_gram(split(x), None if y is None else split(y), bias=bias)


def assert_exact(x: torch.Tensor, y: torch.Tensor | None = None, bias: bool = False) -> None:
    """The result is that of float64, which is exact for the numbers drawn here."""
    computed = product(x, y, bias)
    right = x if y is None else y
    assert computed.dtype == torch.float32
    assert computed.is_contiguous()
    assert torch.equal(computed.double(), x.double() @ right.double().T + float(bias))


# --- every entry ----------------------------------------------------------------------------------------------------


def test_every_size_has_the_exact_entries():
    n, depth = TILE.rows, TILE.depth
    for rows, features in ((0, 3), (3, 0), (1, 1), (n - 1, depth + 1), (n, depth), (n + 1, 2 * depth - 1), (37, 65)):
        assert_exact(whole(rows, features), None, rows % 2 == 1)
    for rows, columns, features in ((0, 2, 3), (2, 0, 3), (2, 3, 0), (1, n + 1, 1), (2 * n + 1, 1, depth), (23, 17, 5)):
        assert_exact(whole(rows, features), whole(columns, features, seed=1), columns % 2 == 1)


def test_both_planes_of_every_number_reach_their_entry():
    """Times the unit vectors: each number of 23 bits comes out as it is, from where it is, in both orders."""
    features = 2 * TILE.depth + 3
    x = normal(TILE.rows + 3, features)
    x = (x * 2.0**-23 + x.abs().amax(1, keepdim=True)) - x.abs().amax(1, keepdim=True) + x.bfloat16()
    unit = torch.eye(features, device=DEVICE)
    kept = module.restored(split(x))
    assert (kept != x.bfloat16()).float().mean() > 1 / 4  # the low planes are not empty
    assert torch.equal(product(x, unit), kept)
    assert torch.equal(product(unit, x), kept.T)


@pytest.mark.parametrize("offset", [0, 1, 2])
def test_ones_times_a_pattern_are_its_sums(offset):
    """What a product reads while its operand is overwritten is off by whole numbers: "expected 64, got 61"."""
    features = 5 * TILE.depth
    places = torch.arange(2 * TILE.rows * features, device=DEVICE).view(-1, features)
    pattern = ((places * 7 + offset) % 5).float() + ((places + offset) % 3 - 1) * 2.0**-12
    ones = torch.ones(TILE.rows + 1, features, device=DEVICE)
    assert_exact(ones, pattern)
    assert_exact(pattern, ones)
    assert torch.equal(product(ones), torch.full((len(ones), len(ones)), float(features), device=DEVICE))


def test_small_terms_do_not_meet_large_ones_before_the_end():
    """Low planes of 2^-18: 64 of them would not move a total of 2^13 and more, all of them do."""
    features = 1024
    x = torch.full((3, features), 1 + 2.0**-18, dtype=torch.float32, device=DEVICE)
    x[:, 0] = 2.0**13
    ones = torch.ones(2, features, device=DEVICE)
    expected = torch.tensor(2.0**13 + (features - 1) * (1 + 2.0**-18), dtype=torch.float32).item()
    assert expected > 2.0**13 + features - 1
    assert torch.equal(product(x, ones), torch.full((3, 2), expected, device=DEVICE))
    assert torch.equal(product(ones, x), torch.full((2, 3), expected, device=DEVICE))


def test_every_entry_is_written(monkeypatch):
    x, y = whole(33, 5), whole(18, 5, seed=1)
    empty = torch.empty
    for planes in ((split(x),), (split(x), split(y))):
        expected = split_gram(*planes)
        with monkeypatch.context() as patched:
            patched.setattr(torch, "empty", lambda *shape, **options: empty(*shape, **options).fill_(torch.nan))
            assert torch.equal(split_gram(*planes), expected)


def test_offsets_pass_two_to_the_31():
    """Rows that are far apart: planes are dense, so the entries of the result are what is far apart."""
    x = torch.empty_strided((64, 64), (2**26, 1), dtype=torch.float32, device=DEVICE)[50:]
    x.copy_(whole(14, 64))
    assert_exact(x)


# --- rows that fall back --------------------------------------------------------------------------------------------


def spoiled(rows: int, features: int) -> torch.Tensor:
    """Rows of which the second has one huge number among tiny ones, the last a subnormal one, and one is zeros."""
    x = normal(rows, features)
    x[1, 0], x[2], x[-1, 1] = 1e12, 0.0, torch.finfo(torch.float32).tiny / 2
    return x


@pytest.mark.parametrize("symmetric", [True, False])
def test_rows_that_fall_back_are_those_of_the_ieee_mode_and_the_others_stay(symmetric):
    x, y = spoiled(TILE.rows + 4, 20), None if symmetric else spoiled(5, 20)
    planes, right = split(x), split(x if y is None else y)
    assert planes.fallen.tolist() == [1, len(x) - 1]
    computed = product(x, y, bias=True)
    zeroed = [None if z is None else z.index_fill(0, split(z).fallen, 0.0) for z in (x, y)]
    expected = product(*zeroed, bias=True)
    across = gram(planes.rows, module.restored(right), bias=True, mode="ieee")
    down = across.T if symmetric else gram(module.restored(planes), right.rows, bias=True, mode="ieee")
    expected[:, right.fallen] = down
    expected[planes.fallen] = across
    meeting = torch.zeros_like(expected, dtype=torch.bool)
    meeting[planes.fallen[:, None], right.fallen] = True
    assert torch.equal(computed[~meeting], expected[~meeting])
    if symmetric:
        assert torch.equal(computed, computed.T)
        assert torch.equal(computed[meeting].view(2, 2), gram(planes.rows, bias=True, mode="ieee"))


def test_all_rows_may_fall_back():
    x = torch.full((3, 4), torch.finfo(torch.float32).tiny / 2, device=DEVICE)
    x[0] = 2.0**100
    x[0, 0] = 2.0**-100
    assert split(x).fallen.tolist() == [0, 1, 2]
    assert torch.equal(product(x), gram(x, mode="ieee"))


def test_what_is_not_finite_goes_where_it_goes_in_torch():
    x = normal(17, 18)
    x[3, 4], x[5, 17], x[16] = torch.nan, torch.inf, 3e38
    computed, expected = product(x), x @ x.T
    assert torch.equal(computed.isnan(), expected.isnan())
    assert computed[16, 16] == torch.inf
    finite = torch.isfinite(expected)
    assert torch.equal(torch.isfinite(computed) & finite, finite)


@pytest.mark.parametrize(("left", "right"), [(126, -98), (-98, -98), (126, 126), (-63, -70), (70, 57), (-98, 20)])
def test_scales_of_any_size_meet_without_a_detour(left, right):
    """Results within float32 are not lost on the way; those beyond become infinite, those below subnormal or zero."""
    x, y = (torch.full((2, 3), 2.0**power, device=DEVICE) for power in (left, right))
    assert torch.equal(product(x, y), (x.double() @ y.double().T).float())


# --- symmetry, order, programs --------------------------------------------------------------------------------------


def test_the_symmetric_result_is_symmetric_in_every_bit_and_agrees_with_the_cross_one():
    x = normal(2 * TILE.rows + 3, 40)
    symmetric, cross = product(x, bias=True), product(x, x.clone(), bias=True)
    assert torch.equal(symmetric, symmetric.T)
    assert torch.equal(symmetric.tril(), cross.tril())


@pytest.mark.parametrize("symmetric", [True, False])
def test_how_many_programs_share_the_tiles_changes_no_bit(symmetric, monkeypatch):
    x, y = normal(3 * TILE.rows + 1, 9), None if symmetric else normal(2 * TILE.rows, 9, seed=1)
    expected = product(x, y)
    for programs in (1, 4, 11):
        monkeypatch.setattr(module, "programs", lambda device, programs=programs: programs)
        assert torch.equal(product(x, y), expected)


@pytest.mark.skipif(not INTERPRETED.value, reason="the model adds as the interpreter does")
@pytest.mark.parametrize(("rows", "columns", "features"), [(18, 5, 70), (16, 33, 16), (3, 2, 1)])
def test_the_interpreter_agrees_with_the_model_in_every_bit(rows, columns, features):
    x, y = normal(rows, features) * 3e5 + 1, normal(columns, features, seed=1) * 1e-7
    planes, other = (models_split.split(z.numpy()) for z in (x, y))
    sides = [np.concatenate([z.high, z.low], 1) for z in (planes, other)]
    block = models_split.inner(models.Blocks(TILE.depth), TILE.depth)
    total = models.gram(*sides, False, block, TILE.rows)
    expected = models_split.scaled(total, planes, other, True)
    assert np.array_equal(product(x, y, bias=True).numpy(), expected)


# --- what is pinned, what is refused --------------------------------------------------------------------------------


@pytest.mark.parametrize("target", ["sm_80", "sm_86", "sm_90", "sm_100", "gfx942"])
def test_every_tile_is_square_and_fits(target):
    tile = pinned_tile(target)
    assert tile.rows == tile.columns
    assert tile.depth == TILE.depth
    assert tiles.legal(tile.shared_bytes(4, target), target)


X = whole(2, 3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: split_gram(split(X), split(X[:, :2])), "expected as many features, got 3 and 2"),
        (lambda: split_gram(split(X), split(X)._replace(high=X.to("meta"))), "planes on one .* and meta"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
