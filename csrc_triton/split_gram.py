"""Gram matrices of float32 rows at float32 accuracy on the tensor cores' half-precision path: the mode "split".

Both sides are planes, made once (`planes.py`): with x^ = 2^-p (h + 2^-11 l) for x, likewise for y,

    2^(p + q) x^ y^T = h h'^T + 2^-11 (h l'^T + l h'^T) + 2^-22 l l'^T,

and the last term, as small as what the planes lose, is left out.  Three products of float16 numbers, exact each, whose
operands come from memory as they are: none is converted in the loop, so none can be overwritten in a register while a
tensor core still reads it.

Order of the arithmetic.  A program takes one tile of the result after another, those on and below the diagonal when y
is x: how many programs there are changes nothing.  It walks along the F features in B = ceil(F / D) blocks of the
tile's depth D (planes are filled up with zeros, which add nothing).  Each of a block's three products is summed from
zero and added outside the matrix unit: h h' to one total, h l' and then l h' to another (two products through one
accumulator miscompile on some devices; and small terms do not meet large ones before the end).  Then the second total
times 2^-11 is added to the first, the sum is multiplied by 2^-(p + q) in two steps of the same sign, exact but where
float32 ends, and the bias is added.

Error, entry by entry: `|error| <= gamma (|x| |y|^T + bias) + 2 (F + 1) tiny`, where with u = 2^-24

    planes      |x^ - x| <= 2 u |x| and so for y; |l l'| 2^-22 <= 4 u |s x s' y|: together 8 u + 4 u^2.
    h h'        gamma_a t^2 with t = 1 + 2^-11 + 2^-23: products of 11 bits are exact, |h| <= t |s x|, and a sum meets
                a = c + B - 1 roundings: c = 2 (d + 2 ceil(d / 8)) with d = min(F, D) in a block, whose sum a tensor
                core cuts (see `gram`), and the additions of blocks.
    h l', l h'  gamma_b t 2^-10 with b = c + 2 B - 1, for |l| <= |s x|.
    the end     two roundings, where the totals meet and for the bias: gamma = (1 + u)^2 (1 + the sum of the above) - 1.

What underflows: the two multiplications by powers of two lose at most tiny each, smaller ones before them nothing.

Rows that fell back are computed in mode "ieee" of `gram`, from the rows as they are and x^ or y^ of the others, and
put in: gamma is the larger one of the above and of that mode's with the 4 u + 4 u^2 of the planes.
"""

from __future__ import annotations

import math
from contextlib import nullcontext

import torch
import triton

from csrc_triton.available import version
from csrc_triton.gram import gram, gram_error
from csrc_triton.planes import RowPlanes, restored
from csrc_triton.split_kernel import split_gram_kernel
from csrc_triton.tiles import INTERPRETED, Tile, Variant, architecture, options

# Square, for a tile and its mirror image are one; no spills.  Three tiles of numbers are held at once, two totals and a
# block's sum: for 128 x 128 that leaves registers to spare only where operands come from shared memory, or are few,
# and for Triton 3.6 only: 3.9 keeps more across tiles, and spills.  An entry's bits do not depend on the tile.
TILE = Tile(rows=128, columns=128, depth=64, warps=8, stages=3)
_SMALL_TILE = Tile(rows=64, columns=64, depth=64, warps=8, stages=3)
_HOLDS_LARGE = ("sm_90", "gfx942") if version() == (3, 6) else ()
GROUP = 8
MODE = "split"

_PLANE_BYTES = 4  # high and low
_UNIT_ROUNDOFF = 2.0**-24
_INSTRUCTION = {"sm_80": "HMMA", "sm_90": "HGMMA", "sm_100": "UTCHMMA", "gfx942": "v_mfma_f32"}
_LAYOUTS = {"": (), "ragged": ("n", "m")}


def pinned_tile(architecture: str) -> Tile:
    """The tile on an architecture, in the interpreter's size where kernels are interpreted; one depth for all."""
    tile = TILE if architecture in _HOLDS_LARGE else _SMALL_TILE
    return (tile.interpreted() if INTERPRETED else tile).fitted(_PLANE_BYTES, architecture)


def variants(architecture: str = "sm_90") -> tuple[Variant, ...]:
    """The kernel with and without a right side, where lengths are multiples of 16 and where they are not."""
    return tuple(_variant(symmetric, layout, architecture) for symmetric in (True, False) for layout in _LAYOUTS)


def _variant(symmetric: bool, layout: str, architecture: str) -> Variant:
    tile = pinned_tile(architecture)
    pointers = {
        **dict.fromkeys(("x_high", "x_low", "y_high", "y_low"), "*fp16"),
        **dict.fromkeys(("x_exponents", "y_exponents"), "*i32"),
        "out": "*fp32",
    }
    integers = dict.fromkeys(("n", "m", "width"), "i32")
    return Variant(
        name=" ".join(filter(None, ("split_gram", "symmetric" if symmetric else "cross", layout))),
        kernel=split_gram_kernel,
        signature={**pointers, **integers, "bias": "fp32"},
        constexprs=_constants(symmetric, tile),
        warps=tile.warps,
        stages=tile.stages,
        divisible=tuple(name for name in (*pointers, *integers) if name not in _LAYOUTS[layout]),
        instruction=_INSTRUCTION,
        mode=MODE,
        all_registers=True,
    )


def split_gram(x: RowPlanes, y: RowPlanes | None = None, *, bias: bool = False) -> torch.Tensor:
    """The Gram matrix `x y^T` of the rows of two sets of planes (of `x` with itself when `y` is None) by Triton.

    Args:
        x: planes of [n, F] on a CUDA device (on the CPU in Triton's interpreter), from `planes` or `planes_kernel`.
        y: planes of [m, F] on the same device, or None.
        bias: adds 1 to every entry.

    Returns:
        float32 [n, n] (exactly symmetric) or [n, m], dense.  Error: `split_gram_error`.  What is not finite, and
        results beyond float32, come out as they do in torch.

    Raises:
        ValueError: planes of other features or devices, or a device on which Triton does not run here.

    Cost: 6 n m F operations in half precision, for y=None those of the tiles on and below the diagonal.  With k rows
    fallen back 2 k m F operations in float32 and n F numbers more.
    Deterministic: the bits depend on the values and the shapes only, and on the device's rounding of sums.
    """
    right = x if y is None else y
    _check(x, right)
    out = torch.empty((len(x.high), len(right.high)), dtype=torch.float32, device=x.high.device)
    if out.numel() and not any(len(side.fallen) == len(side.high) for side in (x, right)):
        _launch(out, x, right, symmetric=y is None, bias=bias)
    _put_fallen(out, x, y, bias)
    return out


def _launch(out: torch.Tensor, x: RowPlanes, y: RowPlanes, *, symmetric: bool, bias: bool) -> None:
    name = architecture(out.device)
    tile = pinned_tile(name)
    height, across = triton.cdiv(out.shape[0], tile.rows), triton.cdiv(out.shape[1], tile.columns)
    tiles = height * (height + 1) // 2 if symmetric else height * across
    with torch.cuda.device(out.device) if out.is_cuda else nullcontext():
        split_gram_kernel[(min(tiles, programs(out.device)),)](
            x.high,
            x.low,
            y.high,
            y.low,
            x.exponents,
            y.exponents,
            out,
            *out.shape,
            x.high.shape[1],
            float(bias),
            **_constants(symmetric, tile),
            **options(tile.warps, tile.stages, name, all_registers=True),
        )


def programs(device: torch.device) -> int:
    """How many programs share the tiles: as many as can run at once, two on a multiprocessor where tiles are small."""
    if device.type != "cuda":
        return 2
    together = 1 if architecture(device) in _HOLDS_LARGE else 2
    return together * torch.cuda.get_device_properties(device).multi_processor_count


def _put_fallen(out: torch.Tensor, x: RowPlanes, y: RowPlanes | None, bias: bool) -> None:
    """Writes the rows and columns of `out` that belong to rows that fell back."""
    right = x if y is None else y
    if len(x.fallen):
        rows = gram(x.rows, restored(right), bias=bias, mode="ieee")
        if y is None:
            # Where two of them meet one half decides, as everywhere.
            rows[:, x.fallen] = gram(x.rows, bias=bias, mode="ieee")
            out[:, x.fallen] = rows.T
        out[x.fallen] = rows
    if y is not None and len(y.fallen):
        out[:, y.fallen] = gram(restored(x), y.rows, bias=bias, mode="ieee")


def split_gram_error(features: int) -> float:
    """The gamma of `|error| <= gamma (|x| |y|^T + bias)`, derived with what underflows at the head of this file.

    Args:
        features: F, the constant one not counted.

    Returns:
        gamma, rounded up; infinite where F is too large for a bound.
    """
    return split_error(features, pinned_tile("sm_90").depth)


def split_error(features: int, depth: int) -> float:
    """The same for inner products in blocks of any depth."""
    if features == 0:
        return 0.0
    u = _UNIT_ROUNDOFF
    blocks, longest = triton.cdiv(features, depth), min(features, depth)
    cut = 2 * (longest + 2 * triton.cdiv(longest, 8))
    high, crossed = (_gamma(cut + count * blocks - 1) for count in (1, 2))
    planes, fallen = 4.0 * u + 4.0 * u * u, gram_error(features, "ieee")
    dropped = 4.0 * u
    above = 1.0 + 2.0**-11 + 2.0**-23
    summed = high * above**2 + crossed * above * 2.0**-10
    kept = (1.0 + u) ** 2 * (1.0 + planes + dropped + summed) - 1.0
    # Fewer than 32 operations in float64, on numbers of order one: each is off by 2^-52 at most.
    return max(kept, (1.0 + planes) * (1.0 + fallen) - 1.0) + 2.0**-46


def _gamma(roundings: int) -> float:
    share = roundings * _UNIT_ROUNDOFF
    return share / (1.0 - share) if share < 1.0 else math.inf


def _check(x: RowPlanes, y: RowPlanes) -> None:
    if x.rows.shape[1] != y.rows.shape[1]:
        raise ValueError(f"split_gram: expected as many features, got {x.rows.shape[1]} and {y.rows.shape[1]}.")
    runs_on = "cpu" if INTERPRETED else "cuda"
    if x.high.device != y.high.device or x.high.device.type != runs_on:
        raise ValueError(
            f"split_gram: expected planes on one {runs_on} device, got {x.high.device} and {y.high.device}."
        )


def _constants(symmetric: bool, tile: Tile) -> dict[str, object]:
    return {
        "DRAIN": tile.depth,
        "SYMMETRIC": symmetric,
        "ROWS": tile.rows,
        "COLUMNS": tile.columns,
        "DEPTH": tile.depth,
        "GROUP": GROUP,
    }
