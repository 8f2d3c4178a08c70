"""The kernels compute in the order of their models, bit by bit: in the interpreter in every mode, on a GPU in "ieee".

The order of a sum inside a tensor core, of a float64 matrix instruction, and of a sum over the threads of a program is
the hardware's and the compiler's: there the bounds, which hold for every order, are what is tested.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.kernels import models
from tests.kernels.draws import DEVICE, normal

pytest.importorskip("triton", reason="the kernels need Triton, which is made for Linux only")

from csrc_triton import gram as gram_module
from csrc_triton import layer_tiles
from csrc_triton.gram import MODES, gram
from csrc_triton.layer_ntk import layer_ntk
from csrc_triton.normal_blocks import MODES as NORMAL_MODES
from csrc_triton.normal_blocks import chosen_block, row_share
from csrc_triton.normal_matmul import normal_matmul

interpreter = pytest.mark.skipif(DEVICE == "cuda", reason="the order inside a block is numpy's in the interpreter only")
PLACES = [
    *(pytest.param(mode, dtype, marks=interpreter) for mode, dtypes in MODES.items() for dtype in dtypes),
    pytest.param("ieee", torch.float32, marks=pytest.mark.gpu, id="ieee-on-a-gpu"),
]


def inner_of(depth: int) -> models.Inner:
    """How a block of this depth is summed where the kernels run here."""
    return models.Blocks(depth) if DEVICE == "cpu" else models.multiply_adds(depth)


def array(x: torch.Tensor, mode: str) -> np.ndarray:
    """As the kernel multiplies it: 16-bit numbers exactly in float32."""
    return x.cpu().to(torch.float64 if mode == "float64" else torch.float32).numpy()


def equal(computed: torch.Tensor, expected: np.ndarray) -> bool:
    return np.array_equal(computed.cpu().numpy().reshape(expected.shape), expected)


@pytest.mark.parametrize(("mode", "dtype"), PLACES)
def test_gram_adds_in_the_order_of_its_model(mode, dtype):
    tile = gram_module.pinned_tile(mode)
    x, y = (normal(n, 3 * tile.depth + 3, seed=n, dtype=dtype) for n in (tile.rows + 3, tile.rows - 5))
    left, right = array(x, mode), array(y, mode)
    expected = models.gram(left, right, True, inner_of(tile.depth), tile.rows)
    assert equal(gram(x, y, bias=True, mode=mode), expected)
    mirrored = models.gram(left, left, False, inner_of(tile.depth), tile.rows)
    assert equal(gram(x, mode=mode), np.tril(mirrored) + np.tril(mirrored, -1).T)


def layer_tile(mode: str, outputs: int, outputs2: int) -> models.LayerTile:
    tile = layer_tiles.pinned_tile(mode)
    together, together2 = layer_tiles.outputs_together(outputs), layer_tiles.outputs_together(outputs2)
    return models.LayerTile(tile.rows // together, together, tile.columns // together2, together2)


def side(n: int, c: int, t: int, f: int, g: int, seed: int, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    return normal(n, t, f, seed=seed, dtype=dtype), normal(n, c, t, g, seed=seed + 1, dtype=dtype)


@pytest.mark.parametrize(("mode", "dtype"), PLACES)
@pytest.mark.parametrize(("outputs", "outputs2"), [(6, 1), (2, 3)])
def test_layer_products_meet_in_the_order_of_their_model(mode, dtype, outputs, outputs2):
    """One position: a GPU may fuse the product with the sum over positions, and may not."""
    tile = layer_tiles.pinned_tile(mode)
    n, inner = tile.rows // layer_tiles.outputs_together(outputs) + 1, inner_of(tile.depth)
    left = side(n, outputs, 1, tile.depth + 3, 2 * tile.depth + 1, 0, dtype)
    right = side(3, outputs2, 1, tile.depth + 3, 2 * tile.depth + 1, 2, dtype)
    sides = [[models.Side(*(array(x, mode) for x in pair))] for pair in (left, right)]
    computed = layer_ntk(*([x] for x in (*left, *right)), mode=mode)
    assert equal(computed, models.layer_ntk(*sides, inner, layer_tile(mode, outputs, outputs2)))
    symmetric = layer_ntk(*([x] for x in left), mode=mode)
    expected = models.layer_ntk(sides[0], None, inner, layer_tile(mode, outputs, outputs))
    assert equal(symmetric, expected)
    assert np.array_equal(expected, expected.T)


@interpreter
@pytest.mark.parametrize(("mode", "dtype"), [(mode, dtypes[-1]) for mode, dtypes in MODES.items()])
@pytest.mark.parametrize("symmetric", [True, False])
def test_positions_masks_and_parameters_are_added_in_the_order_of_the_model(mode, dtype, symmetric):
    pairs = [side(5, 2, 3, 18, 5, 0, dtype), side(5, 2, 2, 4, 19, 2, dtype)]
    masks = [torch.arange(a.shape[1]) < torch.tensor([3, 1, 2, 0, 3])[:, None] for a, _ in pairs]
    others = [(a[:3] * 2, d[:3, :1]) for a, d in pairs]
    masks2 = [mask[:3] for mask in masks]
    left, right = (
        [models.Side(array(a, mode), array(d, mode), m.numpy()) for (a, d), m in zip(some, flags, strict=True)]
        for some, flags in ((pairs, masks), (others, masks2))
    )
    given = [*map(list, zip(*pairs, strict=True))]
    rest = ([], [], masks) if symmetric else (*map(list, zip(*others, strict=True)), masks, masks2)
    tile = layer_tile(mode, 2, 2 if symmetric else 1)
    expected = models.layer_ntk(left, None if symmetric else right, inner_of(layer_tiles.pinned_tile(mode).depth), tile)
    assert equal(layer_ntk(*given, *rest, mode=mode), expected)


@interpreter
@pytest.mark.parametrize(
    ("mode", "dtype"),
    [
        (mode, dtype)
        for mode in NORMAL_MODES
        for dtype in (torch.float64, torch.float32, torch.bfloat16, torch.float16)
        if (mode, dtype) != ("ieee", torch.float64)
    ],
)
def test_the_normal_product_adds_in_the_order_of_its_model(mode, dtype):
    for n, features, columns in ((150, 21, 3), (9, 300, 35)):
        x, w = normal(n, features, dtype=dtype), normal(features + 1, columns, seed=1, dtype=dtype)
        weights = normal(n, seed=2, dtype=dtype).abs()
        block = chosen_block(features, columns, mode, x.element_size())
        share = row_share(n, -(-columns // block.columns), block)
        held = models.NormalBlock(block.rows, block.features, block.columns, share)
        expected = models.normal_matmul(array(x, mode), array(w, mode), array(weights, mode), True, held)
        assert equal(normal_matmul(x, w, weights=weights, bias=True, mode=mode), expected)


def test_fused_multiply_adds_are_rounded_once():
    """Where the product rounds up, a rounding of its own would lose what the sum needs; and at a tie."""
    unit = np.float32(2.0**-12)
    one = np.ones(1, dtype=np.float32)
    a, c = one + unit, np.array([-1.0], dtype=np.float32)
    assert models.fused(a, a, c) == 2 * unit + unit * unit
    assert models.fused(one, one * 2.0**-24, one) == 1.0
    assert models.fused(one + 2.0**-23, one * 2.0**-24, one) == 1.0 + 2.0**-23
