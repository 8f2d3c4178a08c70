"""The tiles of `softmax_gram`, how rows are shared out, and how many roundings a term meets.

Error.  With u the unit roundoff of the mode, `gamma(r, u) = r u / (1 - r u)`, beta_i a bound of ||B_i|| and the roots
given within `root` roundings each (`ntkla.linalg.softmax_root` derives the factor 3 and the 5 roots of a path):

- either product with B is off by at most `3 gamma(local, u) beta ||input||` in 2-norm, `local = 5 root + 8 + d`, d the
  roundings of a sum over outputs.  One block of them is added in pairs: `d = ceil(log2 C)`.  Several blocks are added
  first, in float64 with the error of each addition kept (Knuth's two-sum): what that loses is below the one rounding
  of adding those errors at the end, so d is the logarithm of the block and two.  In "ieee" the float64 sum is rounded
  to float32 once: at most 2, or d inside a tile.  The roots are rounded to float32 then: `root = 2`.
- `|w - G u| <= (a + b + a b) |x| |x|^T |u|` (+ bias), `a = gamma(r, u)` and `b = gamma(r', u)` from r roundings in
  x^T u, r' in x z.  r: min(n, D) in a block of D rows, one for each further block of a span, for each further span,
  for each further part; in "ieee" the last two kinds are float64, and one rounding to float32 follows.
  r': min(F, 128), one for each further piece of 128, and the bias.  Neither is more than torch's in float64.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import torch
import triton

from csrc_triton.tiles import INTERPRETED, Tile

MODES = {
    "ieee": (torch.float32,),
    "float64": (torch.float64, torch.float32, torch.bfloat16, torch.float16),
}
WORKING = {"ieee": torch.float32, "float64": torch.float64}

# Widths of a tile in outputs.
WIDTHS = (16,) if INTERPRETED.value else (16, 32, 64)
# The longest rows that B^T takes where w is formed.  Longer ones go through B in blocks of half of that, so that two
# roundings more of a sum in blocks are no more than the logarithm of C has.
LONGEST = 16 if INTERPRETED.value else 32
TILES = {
    "ieee": Tile(rows=64, columns=WIDTHS[-1], depth=16, warps=8, stages=2),
    "float64": Tile(rows=64, columns=WIDTHS[-1], depth=16, warps=8, stages=2),
}
_MOST_HELD = 2048
ROWS_AT_ONCE, ROW_WARPS = 16, 4
GROUP = 8

# Rows whose products are summed in the working type, and the fewest rows of a part.
SPAN = 32 if INTERPRETED.value else 1024
LEAST_SHARE = 16 if INTERPRETED.value else 256
# Features whose products are added one after another.
PIECE = 32 if INTERPRETED.value else 128
# Two for each of the 132 multiprocessors of an H100.  A constant: bits do not depend on the device that is there.
PROGRAMS = 4 if INTERPRETED.value else 264


class Roundings(NamedTuple):
    """How many roundings a term meets at most: see the head of this file.

    Attributes:
        local: in a product with B or B^T.
        inner: in x^T u.
        outer: in x z.
    """

    local: int
    inner: int
    outer: int


def roundings(samples: int, features: int, outputs: int, mode: str, *, root: int, bias: bool = False) -> Roundings:
    """The counts for n samples, F features and C outputs, and roots that come within `root` roundings of their own."""
    depth = pinned_tile(mode, outputs).depth
    added = levels(outputs) + 2 * (outputs > LONGEST)
    inner = min(samples, depth) + triton.cdiv(min(samples, SPAN), depth) - 1
    # s / SPAN + n / s, for the s of a part, is largest for the shortest; one more covers what does not come out even.
    spans = triton.cdiv(samples, LEAST_SHARE) + 1 if samples > LEAST_SHARE else 0
    if mode == "ieee":
        # The float64 additions, fewer than 2^29 of them, are less than one rounding together.
        root, added, spans = 2, max(2, levels(outputs)), 2
    outer = min(features, PIECE) + max(0, triton.cdiv(features, PIECE) - 1) + int(bias)
    return Roundings(5 * root + 8 + added, inner + spans, outer)


def levels(outputs: int) -> int:
    """The logarithm of the block of outputs that is added in pairs."""
    return ((outputs if outputs <= LONGEST else LONGEST // 2) - 1).bit_length()


def pinned_tile(mode: str, outputs: int) -> Tile:
    """The tile of a mode for rows of so many outputs, in the interpreter's size where kernels are interpreted."""
    tile = TILES[mode]
    columns = max(16, min(WIDTHS[-1], triton.next_power_of_2(outputs)))
    if INTERPRETED.value:
        return Tile(16, columns, 16, tile.warps, 1)
    # More spills: the sums over the outputs of a tile, and B of what is on its way, take registers beside the tile.
    return Tile(min(tile.rows, _MOST_HELD // columns), columns, tile.depth, tile.warps, tile.stages)


def fitted(mode: str, outputs: int, architecture: str) -> Tile:
    """The tile as a device takes it; loads that are under way take registers, which sm_100 has not left."""
    tile = pinned_tile(mode, outputs).fitted(WORKING[mode].itemsize, architecture)
    return replace(tile, rows=min(tile.rows, 32), stages=1) if architecture == "sm_100" else tile


def row_share(samples: int, features: int, outputs: int, columns: int, mode: str) -> int:
    """Rows of a part of x^T u: as few parts as fill `PROGRAMS`, none shorter than `LEAST_SHARE` but a last one."""
    tile = pinned_tile(mode, outputs)
    tiles = triton.cdiv(features, tile.rows) * triton.cdiv(outputs, tile.columns) * columns
    share = triton.cdiv(samples, max(1, PROGRAMS // max(1, tiles)))
    return min(max(LEAST_SHARE, triton.cdiv(share, tile.depth) * tile.depth), 1 << 30)
