"""Products `x y^T` of matrices that are sums of planes of small integers, without any rounding.

`x = sum_p x_p 2^(e_p)` and `y = sum_q y_q 2^(f_q)`, every entry of a plane an integer of at most 64 in magnitude, the
exponents of each a subset of a grid of step 7.  The products of one level `e_p + f_q` are added up; a launch takes a
window of up to `LEVELS` = 6 levels next to each other, 42 bits, and gives each entry of the window's sum as

    digits + carry 2^42,    0 <= digits < 2^42, both int64, in units of the window's lowest level.

Order of the arithmetic, and why nothing is lost: a product of two entries is at most 2^12, so the matrix unit adds up
to `2^19 - 1` of them in int32 (`2^31 - 2^12` at most); then the int32 sum is drained into an int64 one.  A level has at
most `products` = pairs x features of them; what is carried into it is at most 1/127 of as many, so that no sum passes
`2^12 products (1 + 1/127)`, which is below 2^54 for the `2^41` products that the launcher allows.  A level leaves its
lowest 7 bits behind as a digit, and carries the rest, exactly divided by 2^7, into the next.  Integers have one sum, so
any tile, any order and any cut of the features gives the same numbers once the windows' terms are added up.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from itertools import accumulate

import torch
import triton
import triton.language as tl

from csrc_triton.tiles import INTERPRETED, Tile, Variant, architecture, grouped_tile, grouped_triangle_tile, options

BITS = 7
LARGEST = 1 << (BITS - 1)
LEVELS = 6
WINDOW_BITS = BITS * LEVELS
# Products of two entries that int32 adds up: 2^19 - 1.
MOST_SUMMANDS = 2**31 // LARGEST**2 - 1
# Of one level of a window: its sum stays below 2^54.
MOST_PRODUCTS = 2**41
# Rows on the right: places in a tile of 128 rows or less have 32 bits.
MOST_COLUMNS = 2**24
# The features of planes are padded with zeros to a multiple of this.
PADDING = 16 if INTERPRETED else 128

# Two sums in int64 and one in int32 take the registers: twice the tile spills, or does not fit a processor.
TILE = Tile(rows=64, columns=64, depth=128, warps=8, stages=3)
# Rows of tiles that are walked together, so that their operands are read from the cache.
GROUP = 8
# On sm_100 Triton 3.6 takes the older instruction, from registers.
_INSTRUCTION = {"sm_80": "IMMA", "sm_90": "IGMMA", "sm_100": "IMMA|UTC", "gfx942": "v_mfma_i32"}

Levels = Sequence[Sequence[tuple[int, int]]]


@triton.jit
def integer_gram_kernel(
    x,
    y,
    out,
    left,
    right,
    starts,
    n,
    m,
    features,
    x_plane,
    x_row,
    y_plane,
    y_row,
    SYMMETRIC: tl.constexpr,
    LEVELS: tl.constexpr,
    BITS: tl.constexpr,
    DRAIN: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
    GROUP: tl.constexpr,
):
    """One tile of out[0] + 2^(BITS LEVELS) out[1] = the window's sum, and its mirror image when y is x."""
    height = tl.cdiv(n, ROWS)
    if SYMMETRIC:
        tile_row, tile_column = grouped_triangle_tile(tl.program_id(0), height, GROUP)
    else:
        tile_row, tile_column = grouped_tile(tl.program_id(0), height, tl.cdiv(m, COLUMNS), GROUP)
    one = tl.full((), 1, tl.int64)  # offsets are products with it: a row times its stride passes 2^31
    first_row, first_column = tile_row * one * ROWS, tile_column * one * COLUMNS
    rows, columns, inner = tl.arange(0, ROWS), tl.arange(0, COLUMNS), tl.arange(0, DEPTH)
    row_inside = rows < tl.minimum(n - first_row, ROWS).to(tl.int32)
    column_inside = columns < tl.minimum(m - first_column, COLUMNS).to(tl.int32)
    x_block = x + first_row * x_row + rows[:, None] * (one * x_row) + inner[None, :]
    y_block = y + first_column * y_row + columns[None, :] * (one * y_row) + inner[:, None]

    digits = tl.zeros((ROWS, COLUMNS), dtype=tl.int64)
    carry = tl.zeros((ROWS, COLUMNS), dtype=tl.int64)
    for level in range(LEVELS):
        for pair in range(tl.load(starts + level), tl.load(starts + level + 1)):
            x_slice = x_block + tl.load(left + pair) * one * x_plane
            y_slice = y_block + tl.load(right + pair) * one * y_plane
            for drained in range(0, features, DRAIN):
                part = tl.zeros((ROWS, COLUMNS), dtype=tl.int32)
                for start in range(drained, tl.minimum(drained + DRAIN, features), DEPTH):
                    a = tl.load(x_slice + start, mask=row_inside[:, None], other=0)
                    b = tl.load(y_slice + start, mask=column_inside[None, :], other=0)
                    part = tl.dot(a, b, part, out_dtype=tl.int32)
                carry += part.to(tl.int64)
        digits += (carry & ((1 << BITS) - 1)) << (BITS * level)
        carry = carry >> BITS

    inside = row_inside[:, None] & column_inside[None, :]
    # Places in a tile in 32 bits, of which the launcher makes sure: 64 spill.
    block = out + first_row * m + first_column + (rows[:, None] * m + columns[None, :])
    tl.store(block, digits, mask=inside)
    tl.store(block + one * n * m, carry, mask=inside)
    if SYMMETRIC and tile_row != tile_column:
        mirror = out + first_column * m + first_row + (columns[None, :] * m + rows[:, None])
        tl.store(mirror, digits, mask=inside)
        tl.store(mirror + one * n * m, carry, mask=inside)


def pinned_tile() -> Tile:
    """The tile, in the interpreter's size where kernels are interpreted."""
    return TILE.interpreted() if INTERPRETED else TILE


def variants(architecture: str = "sm_90") -> tuple[Variant, ...]:
    """Both kinds of product; n and m are no multiples of 16."""
    tile = TILE.fitted(1, architecture)
    integers = ("features", "x_plane", "x_row", "y_plane", "y_row")
    return tuple(
        Variant(
            name=f"integer gram {'symmetric' if symmetric else 'cross'}",
            kernel=integer_gram_kernel,
            signature={
                **dict.fromkeys("xy", "*i8"),
                "out": "*i64",
                **dict.fromkeys(("left", "right", "starts"), "*i32"),
                **dict.fromkeys(("n", "m", "features"), "i32"),
                **dict.fromkeys(integers[1:], "i64"),
            },
            constexprs=_constants(symmetric, tile),
            warps=tile.warps,
            stages=tile.stages,
            divisible=("x", "y", "out", *integers),
            instruction=_INSTRUCTION,
            mode="exact",
            all_registers=True,
        )
        for symmetric in (True, False)
    )


def integer_gram(
    x: torch.Tensor, y: torch.Tensor | None, levels: Levels, *, tile: Tile | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """The sum of a window of levels: `sum_l 2^(7 l) sum over (p, q) in levels[l] of x[p] y[q]^T`.

    Args:
        x: int8 [S, n, F] with entries of at most 64 in magnitude, on a CUDA device (on the CPU in Triton's
            interpreter); dense rows of a multiple of `PADDING` entries.
        y: int8 [R, m, F], or None for x itself; then (q, p) must be in every level that (p, q) is in.
        levels: at most `LEVELS` lists of pairs of planes; they may be empty.
        tile: another tile than the pinned one, for tests; for y=None a square one.

    Returns:
        digits and carry, int64 [n, m]: see above.  The same numbers for every tile.

    Raises:
        TypeError, ValueError: other types, shapes, devices; more than `LEVELS` levels, or 2^41 products in one.

    Cost: 2 n m F int8 operations a pair, half of them for y=None; 16 n m bytes written.
    """
    tile = pinned_tile() if tile is None else tile
    other = x if y is None else y
    _check(x, other, levels, y is None, tile)
    (_, n, features), m = x.shape, other.shape[1]
    out = torch.empty((2, n, m), dtype=torch.int64, device=x.device)
    if out.numel() == 0:
        return out[0], out[1]
    filled = [*levels, *([()] * (LEVELS - len(levels)))]
    starts = [0, *accumulate(len(pairs) for pairs in filled)]
    left, right = ([pair[side] for pairs in filled for pair in pairs] or [0] for side in (0, 1))
    indices = [torch.tensor(values, dtype=torch.int32, device=x.device) for values in (left, right, starts)]
    name = architecture(x.device)
    tile = tile.fitted(1, name)
    height = triton.cdiv(n, tile.rows)
    programs = height * (height + 1) // 2 if y is None else height * triton.cdiv(m, tile.columns)
    with torch.cuda.device(x.device) if x.is_cuda else nullcontext():
        integer_gram_kernel[(programs,)](
            x,
            other,
            out,
            *indices,
            n,
            m,
            features,
            *x.stride()[:2],
            *other.stride()[:2],
            **_constants(y is None, tile),
            **options(tile.warps, tile.stages, name, all_registers=True),
        )
    return out[0], out[1]


def _check(x: torch.Tensor, y: torch.Tensor, levels: Levels, symmetric: bool, tile: Tile) -> None:
    if x.dtype != torch.int8 or y.dtype != torch.int8:
        raise TypeError(f"integer_gram: expected int8 planes, got {x.dtype} and {y.dtype}.")
    if x.ndim != 3 or y.ndim != 3 or x.shape[2] != y.shape[2] or x.shape[2] % tile.depth:
        raise ValueError(
            f"integer_gram: expected [S, n, F] and [R, m, F] with F a multiple of {tile.depth}, "
            f"got {tuple(x.shape)} and {tuple(y.shape)}."
        )
    if any(z.numel() and z.stride(2) != 1 for z in (x, y)) or y.shape[1] >= MOST_COLUMNS:
        raise ValueError(f"integer_gram: expected dense rows, and less than {MOST_COLUMNS} of them on the right.")
    runs_on = "cpu" if INTERPRETED else "cuda"
    if x.device != y.device or x.device.type != runs_on:
        raise ValueError(f"integer_gram: expected tensors on one {runs_on} device, got {x.device} and {y.device}.")
    most = max((len(pairs) for pairs in levels), default=0)
    if len(levels) > LEVELS or most * x.shape[2] > MOST_PRODUCTS:
        raise ValueError(
            f"integer_gram: expected at most {LEVELS} levels of {MOST_PRODUCTS} products each, got {len(levels)} "
            f"of up to {most} pairs over {x.shape[2]} features. Cut the features."
        )
    for pairs in levels:
        if not all(0 <= p < x.shape[0] and 0 <= q < y.shape[0] for p, q in pairs):
            raise ValueError(f"integer_gram: expected pairs of {x.shape[0]} and {y.shape[0]} planes, got {pairs}.")
        if symmetric and (tile.rows != tile.columns or {(q, p) for p, q in pairs} != set(pairs)):
            raise ValueError(
                f"integer_gram: expected a square tile, and both (p, q) and (q, p), for x x^T; got {pairs}."
            )


def _constants(symmetric: bool, tile: Tile) -> dict[str, object]:
    return {
        "SYMMETRIC": symmetric,
        "LEVELS": LEVELS,
        "BITS": BITS,
        "DRAIN": MOST_SUMMANDS // tile.depth * tile.depth,
        "ROWS": tile.rows,
        "COLUMNS": tile.columns,
        "DEPTH": tile.depth,
        "GROUP": GROUP,
    }
