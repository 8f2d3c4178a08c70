"""The pinned tiles of `layer_ntk`, what they compile with, and how many roundings its arithmetic meets."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
import triton

from csrc_triton.tiles import INTERPRETED, NUMBER, Tile

# Square, for a tile and its mirror image are one; no spills.  With four warps "bf16" spills on sm_80.
TILES = {
    "ieee": Tile(rows=64, columns=64, depth=16, warps=8, stages=3),
    "bf16": Tile(rows=64, columns=64, depth=32, warps=8, stages=4),
    "float64": Tile(rows=64, columns=64, depth=16, warps=8, stages=2),
}
GROUP = 8

_UNIT_ROUNDOFF = {"ieee": 2.0**-24, "bf16": 2.0**-24, "float64": 2.0**-53}


def pinned_tile(mode: str) -> Tile:
    """The tile of a mode, in the interpreter's size where kernels are interpreted."""
    return TILES[mode].interpreted() if INTERPRETED else TILES[mode]


def outputs_together(outputs: int) -> int:
    """Outputs of a sample in one tile: they share the activations' product, and more than are there would be wasted."""
    return min(4, triton.next_power_of_2(max(1, outputs)))


def result_dtype(mode: str) -> torch.dtype:
    """The type that a mode sums in and returns."""
    return torch.float64 if mode == "float64" else torch.float32


def chosen_tile(mode: str, dtype: torch.dtype, architecture: str) -> Tile:
    """The tile of a mode with as many stages as the architecture holds."""
    tile = pinned_tile(mode)
    if mode == "float64" and architecture == "sm_100":
        # Triton 3.6 knows no float64 matrix instruction there; whether its multiply-adds spill depends on the stages.
        tile = replace(tile, stages=1 if dtype == torch.float64 else 3)
    return tile.fitted(dtype.itemsize, architecture)


def takes_all_registers(mode: str) -> bool:
    """See `tiles.options`: on sm_100 "ieee" would spill with all of them, and "bf16" spills without."""
    return mode != "ieee"


def constants(
    mode: str,
    dtype: torch.dtype,
    tile: Tile,
    outputs: int,
    outputs2: int,
    *,
    symmetric: bool,
    masked: tuple[bool, bool],
) -> dict[str, object]:
    """What a launch compiles in, but for ADDED."""
    together, together2 = outputs_together(outputs), outputs_together(outputs2)
    return {
        "OPERAND": NUMBER[torch.float64 if mode == "float64" else dtype],
        "DRAIN": 0 if mode == "float64" else tile.depth,
        "SYMMETRIC": symmetric,
        "MASKED": masked[0],
        "MASKED2": masked[1],
        "SAMPLES": tile.rows // together,
        "OUTPUTS": together,
        "SAMPLES2": tile.columns // together2,
        "OUTPUTS2": together2,
        "DEPTH": tile.depth,
        "GROUP": GROUP,
    }


def layer_ntk_roundings(positions: int, positions2: int, inputs: int, deltas: int, parameters: int, mode: str) -> int:
    """The r of gamma for an entry, derived at the head of this file; lengths are the longest of all parameters."""
    return _gram_roundings(inputs, mode) + _gram_roundings(deltas, mode) + 1 + positions * positions2 + parameters


def layer_ntk_error(positions: int, positions2: int, inputs: int, deltas: int, parameters: int, mode: str) -> float:
    """The gamma of `|error| <= gamma K~`, rounded up; infinite where the sums are too long for a bound."""
    roundings = layer_ntk_roundings(positions, positions2, inputs, deltas, parameters, mode)
    share = roundings * _UNIT_ROUNDOFF[mode]
    return math.nextafter(share / (1.0 - share), math.inf) if share < 1.0 else math.inf


def _gram_roundings(length: int, mode: str) -> int:
    """As `csrc_triton.gram` counts them, without a bias."""
    if length == 0 or mode == "float64":
        return length
    depth = pinned_tile(mode).depth
    blocks, longest = triton.cdiv(length, depth), min(length, depth)
    return (longest if mode == "ieee" else 2 * (longest + 2 * triton.cdiv(longest, 8))) + blocks - 1
