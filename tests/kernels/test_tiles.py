"""What the kernels share: every tile is walked once, and a pinned tile fits where it is said to."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("triton", reason="the kernels need Triton, which is made for Linux only")

import triton
import triton.language as tl

from csrc_triton import tiles

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@triton.jit
def _triangle(index, out, COUNT: tl.constexpr):
    at = tl.arange(0, COUNT)
    row, column = tiles.triangle_tile(tl.load(index + at))
    tl.store(out + 2 * at, row)
    tl.store(out + 2 * at + 1, column)


@triton.jit
def _walk(out, height, width, TRIANGLE: tl.constexpr, GROUP: tl.constexpr):
    index = tl.program_id(0)
    if TRIANGLE:
        row, column = tiles.grouped_triangle_tile(index, height, GROUP)
    else:
        row, column = tiles.grouped_tile(index, height, width, GROUP)
    tl.store(out + 2 * index, row)
    tl.store(out + 2 * index + 1, column)


def walk(height: int, width: int | None, group: int) -> list[tuple[int, int]]:
    """The tiles of a grid, or of a triangle for no width, in the order in which they are walked."""
    count = height * (height + 1) // 2 if width is None else height * width
    out = torch.full((count, 2), -1, dtype=torch.int32, device=DEVICE)
    _walk[(count,)](out, height, width or 1, TRIANGLE=width is None, GROUP=group)
    return [tuple(pair) for pair in out.tolist()]


@pytest.mark.parametrize("height", [1, 2, 3, 4, 5, 9])
def test_a_triangle_is_walked_once(height):
    assert sorted(walk(height, None, 4)) == [(row, column) for row in range(height) for column in range(row + 1)]


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 5), (5, 1), (4, 3), (9, 2)])
def test_a_grid_is_walked_once(height, width):
    assert sorted(walk(height, width, 4)) == [(row, column) for row in range(height) for column in range(width)]


def test_a_band_is_walked_column_by_column():
    assert walk(5, None, 2)[3:8] == [(2, 0), (3, 0), (2, 1), (3, 1), (2, 2)]
    assert walk(3, 2, 2) == [(0, 0), (1, 0), (0, 1), (1, 1), (2, 0), (2, 1)]


def test_the_ends_of_every_row_of_a_triangle_are_found():
    """Where a root rounded to float32 could miss: the first and the last tile of rows up to 2^15."""
    rows = torch.arange(1, 2**15, 7, dtype=torch.int64, device="cpu")[:4096]
    first = rows * (rows + 1) // 2
    index = torch.stack([first, first - 1], 1).flatten().to(torch.int32)
    index = torch.nn.functional.pad(index, (0, 8192 * 2 - len(index)))
    out = torch.full((len(index), 2), -1, dtype=torch.int32, device=DEVICE)
    _triangle[(1,)](index.to(DEVICE), out, COUNT=len(index))
    row, column = out.cpu().long().unbind(1)
    assert torch.equal(row * (row + 1) // 2 + column, index.long())
    assert bool(((column >= 0) & (column <= row)).all())


def test_a_tile_keeps_the_stages_that_fit():
    tile = tiles.Tile(rows=128, columns=128, depth=128, warps=8, stages=3)
    assert tile.shared_bytes(2, "sm_90") == 3 * 256 * 128 * 2
    assert tile.shared_bytes(2, "sm_80") == 2 * 256 * 128 * 2
    names = ("sm_90", "sm_80", "sm_89", "gfx942", "unheard of")
    assert [tile.fitted(2, name).stages for name in names] == [3, 3, 2, 1, 1]
    assert tile.fitted(4, "sm_90").stages == 1
    assert tile.fitted(2, "sm_90") == tile
    assert tiles.legal(tiles.SHARED_MEMORY["sm_90"], "sm_90")
    assert not tiles.legal(tiles.SHARED_MEMORY["sm_90"] + 1, "sm_90")


def test_the_interpreter_takes_small_tiles():
    tile = tiles.Tile(rows=256, columns=64, depth=32, warps=8, stages=3).interpreted()
    assert (tile.rows, tile.columns, tile.depth, tile.stages) == (32, 16, 16, 1)


def test_an_architecture_has_a_name():
    name = tiles.architecture(torch.device(DEVICE))
    assert name.startswith(("sm_", "gfx"))
    assert DEVICE == "cuda" or name == "sm_90"
