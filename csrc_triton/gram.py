"""Gram matrices: `x x^T`, each tile on and below the diagonal computed once, and `x y^T`, a constant feature folded in.

    mode      inputs              arithmetic
    ieee      float32             float32 multiply-adds, result float32
    bf16      bfloat16, float16   products exact, summed in float32 on the tensor cores, result float32
    float64   all four            widened exactly, float64 multiply-adds, result float64

Order of the arithmetic.  A program holds one tile of the result and walks along the F features in B = ceil(F / D)
blocks of the tile's depth D.  In `ieee` and `bf16` a block's products are summed from zero, and that sum is added to
the tile outside the matrix unit: D + F / D roundings instead of F, and no long sum in a tensor core, which truncates.
In `float64` the products are added to the tile one after another.  The bias is added last.

Error, entry by entry: `|error| <= gamma (|x| |y|^T + bias) + 2 (F + 1) tiny` with `gamma = r u / (1 - r u)`, u the unit
roundoff of the result, `tiny` its smallest normal number (that term is what underflows), and r the roundings that any
one product meets (Higham, Accuracy and Stability of Numerical Algorithms, section 3.1):

    float64   r = F + 1: F multiply-adds, and the bias.
    ieee      r = min(F, D) + B: the multiply-adds of a block, B - 1 additions of blocks (the first, to zero, is exact),
              and the bias.
    bf16      r = 2 (d + 2 ceil(d / 8)) + B with d = min(F, D).  Products of 8 or 11 bits are exact.  A tensor-core
              instruction aligns t products and the running sum to the largest of them, cuts each behind 24 bits or
              more, adds, and cuts the sum to 24 bits: it loses at most t + 2 times 2u of the sum of the magnitudes
              (Fasi, Higham, Mikaitis, Pranesh, Numerical behavior of NVIDIA tensor cores, PeerJ CS 2021; assumed of
              later devices).  It holds 8 products or more, so a block meets d + 2 ceil(d / 8) cuts of two roundings.
              Then B - 1 additions of blocks, and the bias.
"""

from __future__ import annotations

import math
from contextlib import nullcontext

import torch
import triton
import triton.language as tl

from csrc_triton.rows import aligned, loaded, loaded_dtype, padded
from csrc_triton.tiles import (
    INTERPRETED,
    NUMBER,
    POINTER,
    Tile,
    Variant,
    architecture,
    grouped_tile,
    grouped_triangle_tile,
    operand,
    options,
)

MODES = {
    "ieee": (torch.float32,),
    "bf16": (torch.bfloat16, torch.float16),
    "float64": (torch.float64, torch.float32, torch.bfloat16, torch.float16),
}

# Square, for a tile and its mirror image are one.  No spills; in "ieee" and, on gfx942, in "bf16" on `aligned` rows
# only: masks of single features and strides of any kind take too many registers.
TILES = {
    "ieee": Tile(rows=128, columns=128, depth=16, warps=8, stages=3),
    "bf16": Tile(rows=128, columns=128, depth=128, warps=8, stages=3),
    "float64": Tile(rows=64, columns=64, depth=16, warps=4, stages=3),
}

# Rows of tiles that are walked together, so that their operands are read from the cache.
GROUP = 8

_UNIT_ROUNDOFF = {"ieee": 2.0**-24, "bf16": 2.0**-24, "float64": 2.0**-53}
_INSTRUCTION = {
    "ieee": {"sm_80": "FFMA", "sm_90": "FFMA", "sm_100": "FFMA", "gfx942": "v_mfma_f32"},
    "bf16": {"sm_80": "HMMA", "sm_90": "HGMMA", "sm_100": "UTCHMMA", "gfx942": "v_mfma_f32"},
    "float64": {"sm_80": "DMMA", "sm_90": "DMMA", "sm_100": "DFMA|DMMA", "gfx942": "v_mfma_f64"},
}


# What may be no multiple of 16 in the layouts that each mode meets: rows of others would spill, and are copied.
_RAGGED, _UNALIGNED = ("n", "m"), ("x", "y", "n", "m", "features", "x_row", "y_row")
_LAYOUTS = {
    "ieee": {"": (), "ragged": _RAGGED},
    "bf16": {"": (), "ragged": _RAGGED},
    "float64": {"": (), "ragged": _RAGGED, "unaligned": _UNALIGNED},
}


@triton.jit
def gram_kernel(
    x,
    y,
    out,
    n,
    m,
    features,
    x_row,
    x_column,
    y_row,
    y_column,
    bias,
    OPERAND: tl.constexpr,
    DRAIN: tl.constexpr,
    SYMMETRIC: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
    GROUP: tl.constexpr,
):
    """One tile of out[n, m] = x[n, features] y[m, features]^T + bias, and its mirror image when y is x."""
    height = tl.cdiv(n, ROWS)
    if SYMMETRIC:
        tile_row, tile_column = grouped_triangle_tile(tl.program_id(0), height, GROUP)
    else:
        tile_row, tile_column = grouped_tile(tl.program_id(0), height, tl.cdiv(m, COLUMNS), GROUP)
    # Every offset is a product with `one`: in 64 bits, for a row times its stride passes 2^31.
    one = tl.full((), 1, tl.int64)
    first_row, first_column = tile_row * one * ROWS, tile_column * one * COLUMNS
    rows, columns, inner = tl.arange(0, ROWS), tl.arange(0, COLUMNS), tl.arange(0, DEPTH)
    # Compared in 32 bits: masks held in 64 cost the registers that make the ieee tile spill.
    row_inside = rows < tl.minimum(n - first_row, ROWS).to(tl.int32)
    column_inside = columns < tl.minimum(m - first_column, COLUMNS).to(tl.int32)
    x_block = x + first_row * x_row + rows[:, None] * (one * x_row) + inner[None, :] * (one * x_column)
    y_block = y + first_column * y_row + columns[None, :] * (one * y_row) + inner[:, None] * (one * y_column)

    total = tl.zeros((ROWS, COLUMNS), dtype=out.dtype.element_ty)
    for start in range(0, features, DEPTH):
        inner_inside = inner < features - start
        left = tl.load(x_block, mask=row_inside[:, None] & inner_inside[None, :], other=0.0)
        right = tl.load(y_block, mask=inner_inside[:, None] & column_inside[None, :], other=0.0)
        # A limit on imprecise sums keeps Triton from folding `total` into the product: a block starts from zero.
        total += tl.dot(
            operand(left, OPERAND),
            operand(right, OPERAND),
            input_precision="ieee",
            max_num_imprecise_acc=DRAIN,
            out_dtype=out.dtype.element_ty,
        )
        x_block += one * DEPTH * x_column
        y_block += one * DEPTH * y_column
    total += bias

    inside = row_inside[:, None] & column_inside[None, :]
    if SYMMETRIC:
        if tile_row == tile_column:
            # Its halves may differ by a rounding: the lower one decides.
            total = tl.where(rows[:, None] >= columns[None, :], total, tl.trans(total))
        # A tile on the diagonal has no mirror image.  (Triton 3.9's interpreter takes no scalar condition in a mask.)
        mirrored = rows < tl.where(tile_row == tile_column, 0, ROWS)
        # Places in a tile in 32 bits, for 128 rows of any square matrix that fits a memory are shorter: 64 spill.
        mirror = out + first_column * m + first_row + (columns[None, :] * m + rows[:, None])
        tl.store(mirror, total, mask=inside & mirrored[:, None])
    block = out + first_row * m + first_column + rows[:, None] * (one * m) + columns[None, :]
    tl.store(block, total, mask=inside)


def pinned_tile(mode: str) -> Tile:
    """The tile of a mode, in the interpreter's size where kernels are interpreted."""
    return TILES[mode].interpreted() if INTERPRETED else TILES[mode]


def variants(architecture: str = "sm_90") -> tuple[Variant, ...]:
    """Every pinned configuration on each kind of layout that the launcher runs it on: see `_LAYOUTS`."""
    return tuple(
        _variant(mode, dtype, symmetric, layout, architecture)
        for mode, dtypes in MODES.items()
        for dtype in dtypes
        if dtype == loaded_dtype(dtype, mode)
        for symmetric in (True, False)
        for layout in _LAYOUTS[mode]
    )


def _variant(mode: str, dtype: torch.dtype, symmetric: bool, layout: str, architecture: str) -> Variant:
    tile = _tile(mode, dtype, architecture)
    integers = dict.fromkeys(("n", "m", "features", "x_row", "y_row"), "i32")
    words = ("gram", "symmetric" if symmetric else "cross", mode, str(dtype).removeprefix("torch."), layout)
    return Variant(
        name=" ".join(filter(None, words)),
        kernel=gram_kernel,
        signature={**dict.fromkeys("xy", POINTER[dtype]), "out": POINTER[_result(mode)], **integers, "bias": "fp32"},
        constexprs={"x_column": 1, "y_column": 1, **_constants(mode, dtype, symmetric, tile)},
        warps=tile.warps,
        stages=tile.stages,
        divisible=tuple(name for name in ("x", "y", "out", *integers) if name not in _LAYOUTS[mode][layout]),
        instruction=_INSTRUCTION[mode],
        mode=mode,
        all_registers=True,
    )


def gram(x: torch.Tensor, y: torch.Tensor | None = None, *, bias: bool = False, mode: str) -> torch.Tensor:
    """The Gram matrix `x y^T` of the rows of `x` and `y` (of `x` with itself when `y` is None) by Triton.

    Args:
        x: [n, F] on a CUDA device (on the CPU in Triton's interpreter), of a dtype of `MODES[mode]`, any strides.
        y: [m, F], same dtype and device as `x`, or None.
        bias: adds 1 to every entry: the Gram matrix of the features with a constant feature appended.
        mode: "ieee", "bf16" or "float64", see above.

    Returns:
        [n, n] (exactly symmetric) or [n, m], dense; float64 in mode "float64", else float32.  Error: `gram_error`.
        NaN, infinities and overflow propagate as they do in torch.

    Raises:
        TypeError: a mode that does not take this dtype, or two dtypes.
        ValueError: an unknown mode, other shapes, two devices, or a device on which Triton does not run here.

    Cost: 2 n m F operations, for y=None those of the tiles on and below the diagonal.  Fastest where rows are dense and
    F, n, m and the row strides are multiples of 16.  Rows that are not dense are copied: n F numbers more; but for mode
    "float64" also rows that are not aligned to 16 numbers, padded with zeros.  Mode "float64" copies 16-bit inputs to
    float32.
    Deterministic: the bits depend on the values, the shapes and the device model only.
    """
    _check(x, x if y is None else y, mode)
    sides = [loaded(side, mode) for side in (x, y) if side is not None]
    if mode == "float64":
        sides = [side if side.stride(1) == 1 else side.contiguous() for side in sides]
    elif not all(map(aligned, sides)):
        sides = [padded(side) for side in sides]
    x, right = sides[0], sides[-1]
    (n, features), m = x.shape, right.shape[0]
    out = torch.empty((n, m), dtype=_result(mode), device=x.device)
    if out.numel() == 0:
        return out
    name = architecture(x.device)
    tile = _tile(mode, x.dtype, name)
    height, width = triton.cdiv(n, tile.rows), triton.cdiv(m, tile.columns)
    programs = height * (height + 1) // 2 if y is None else height * width
    with torch.cuda.device(x.device) if x.is_cuda else nullcontext():
        gram_kernel[(programs,)](
            x,
            right,
            out,
            n,
            m,
            features,
            *x.stride(),
            *right.stride(),
            float(bias),
            **_constants(mode, x.dtype, y is None, tile),
            **options(tile.warps, tile.stages, name, all_registers=True),
        )
    return out


def gram_error(inner: int, mode: str) -> float:
    """The gamma of `|error| <= gamma (|x| |y|^T + bias)`, derived with what underflows at the head of this file.

    Args:
        inner: F, the features of a row, the constant one not counted.
        mode: "ieee", "bf16" or "float64".

    Returns:
        gamma, rounded up; infinite where F is too large for a bound.
    """
    if inner == 0:
        return 0.0
    depth = pinned_tile(mode).depth
    blocks, longest = triton.cdiv(inner, depth), min(inner, depth)
    roundings = {
        "float64": inner + 1,
        "ieee": longest + blocks,
        "bf16": 2 * (longest + 2 * triton.cdiv(longest, 8)) + blocks,
    }[mode]
    share = roundings * _UNIT_ROUNDOFF[mode]
    return math.nextafter(share / (1.0 - share), math.inf) if share < 1.0 else math.inf


def _check(x: torch.Tensor, y: torch.Tensor, mode: str) -> None:
    if mode not in MODES:
        raise ValueError(f"gram: expected a mode of {sorted(MODES)}, got {mode!r}.")
    if x.dtype not in MODES[mode] or y.dtype != x.dtype:
        raise TypeError(f"gram: mode {mode!r} takes one dtype of {MODES[mode]}, got {x.dtype} and {y.dtype}.")
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1]:
        raise ValueError(f"gram: expected [n, F] and [m, F], got {tuple(x.shape)} and {tuple(y.shape)}.")
    runs_on = "cpu" if INTERPRETED else "cuda"
    if x.device != y.device or x.device.type != runs_on:
        raise ValueError(f"gram: expected tensors on one {runs_on} device, got {x.device} and {y.device}.")


def _result(mode: str) -> torch.dtype:
    return torch.float64 if mode == "float64" else torch.float32


def _tile(mode: str, dtype: torch.dtype, architecture: str) -> Tile:
    return pinned_tile(mode).fitted(dtype.itemsize, architecture)


def _constants(mode: str, dtype: torch.dtype, symmetric: bool, tile: Tile) -> dict[str, object]:
    return {
        "OPERAND": NUMBER[torch.float64 if mode == "float64" else dtype],
        "DRAIN": 0 if mode == "float64" else tile.depth,
        "SYMMETRIC": symmetric,
        "ROWS": tile.rows,
        "COLUMNS": tile.columns,
        "DEPTH": tile.depth,
        "GROUP": GROUP,
    }
