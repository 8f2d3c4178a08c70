"""`x^T (d * (x w))` in one pass over x: a block of rows stays on chip between the two products.

Order of the arithmetic.  A program owns a contiguous range of rows and some columns of w.  For each block of its rows
it forms `a = d * (x w)` and `x^T a` in the working type and adds the latter to float64 accumulators, which go to a
workspace; a second kernel adds the programs' parts in float64 and rounds the total once, to the working type.  How
many programs there are follows from the sizes alone, so bits do not depend on how large the device is.

The working type is the mode: "float64" (every input; products of narrower inputs are exact) or "ieee" (inputs narrower
than float64; float32).  Either way the sums over many rows are float64, so the error of "ieee" does not grow with n.

Limits.  The accumulators and w of one program live in registers: `columns_per_pass` columns at a time, none beyond
`MOST_FEATURES` features (`normal_blocks` says why; torch runs above).  More columns go to neighbouring programs, which
read the same rows at the same time, so that the L2 cache has them for all but the first.  Two products in torch read x
twice: beyond a few programs side by side they are the better choice, which is the caller's to make.
"""

from __future__ import annotations

import math
from contextlib import nullcontext

import torch
import triton
import triton.language as tl

from csrc_triton.normal_blocks import (
    MODES,
    MOST_FEATURES,
    MOST_ROWS,
    Block,
    chosen_block,
    columns_per_pass,
    pinned,
    row_share,
)
from csrc_triton.tiles import INTERPRETED, NUMBER, POINTER, Variant, architecture, operand, options

_DTYPES = {
    "ieee": (torch.float32, torch.bfloat16, torch.float16),
    "float64": (torch.float64, torch.float32, torch.bfloat16, torch.float16),
}
_MULTIPLY_ADD = {
    "ieee": {"sm_80": "FFMA", "sm_90": "FFMA", "sm_100": "FFMA|FMUL", "gfx942": "v_"},
    "float64": {"sm_80": "DFMA", "sm_90": "DFMA", "sm_100": "DFMA", "gfx942": "v_fma"},
}
_ADDED_PARTS, _ADDED_ENTRIES = 32, 128


def normal_matmul_error(rows: int, features: int, mode: str, *, bias: bool = False) -> float:
    """Upper bound gamma of the kernel's rounding: `|error| <= gamma |x|^T |d| |x| |w|`, entry by entry, plus underflow.

    Counted as in Higham (Accuracy and Stability of Numerical Algorithms, section 3.1) along the longest chain of
    roundings from an input to the result, whatever the order inside a sum, and with the zeros of padding exact:

    - `x w`: a product and F - 1 sums, one more with a bias; the weight: 1; the product `x a`: 1.  F + 2 (+ 1).
    - the sum over n rows: n - 1, of which min(n, MOST_ROWS) - 1 at most lie inside a block.

    "float64": all of them in unit roundoff u = 2^-53; `gamma = k u / (1 - k u)` for their number k.
    "ieee": the first line, the sums inside a block and the last rounding in u = 2^-24, which gives g; sums over
    blocks and programs, n - 1 at most, in 2^-53, which gives h; `gamma = g + h + g h`.
    Multiply-adds that are fused round less often.  Infinite when `k u >= 1`.
    """
    products, sums = features + 2 + int(bias), max(0, rows - 1)
    if mode == "float64":
        return _gamma(products + sums, 2.0**-53)
    block, rest = _gamma(products + min(sums, MOST_ROWS - 1) + 1, 2.0**-24), _gamma(sums, 2.0**-53)
    return block if rest == 0.0 else (block + rest + block * rest) * (1.0 + 2.0**-48)


def _gamma(count: int, roundoff: float) -> float:
    # The factor covers the few float64 roundings of this formula and of what uses it.
    share = count * roundoff
    return share / (1.0 - share) * (1.0 + 2.0**-48) if share < 1.0 else math.inf


def normal_matmul(
    x: torch.Tensor, w: torch.Tensor, *, weights: torch.Tensor | None = None, bias: bool = False, mode: str
) -> torch.Tensor:
    """The product `x^T (weights * (x w))`, each row of x read once for every `columns_per_pass` columns of w.

    Args:
        x: [n, F], F <= MOST_FEATURES, float64, float32, bfloat16 or float16, any strides; on a CUDA device, or on the
            CPU in the interpreter.  Where the features of a row are not adjacent, x is copied whole first.  Fastest
            with F a multiple of 16 and 16-byte aligned rows.
        w: [F, m], or [F + 1, m] with `bias`: the last row belongs to a constant feature 1.  Dtype and device of `x`.
        weights: [n], dtype and device of `x`, or None for ones.
        bias: appends the constant feature.
        mode: "float64", or "ieee" for inputs narrower than float64.

    Returns:
        [F (+ 1), m], float64 or (for "ieee") float32, within `normal_matmul_error`.  NaN and infinities propagate.

    Raises:
        TypeError: a mode that does not take this dtype, or two dtypes.
        ValueError: an unknown mode, other shapes, too many features, two devices, or one on which Triton does not run.

    Cost: 4 n F m operations; a workspace of at most PROGRAMS x MOST_HELD float64 numbers, 17 MB (+ bias), until m
    exceeds PROGRAMS x columns_per_pass.  Deterministic: see the package.
    """
    _check(x, w, weights, bias, mode)
    (n, features), (height, columns) = x.shape, w.shape
    out = torch.empty((height, columns), dtype=MODES[mode], device=x.device)
    if n == 0 or out.numel() == 0:
        return out.zero_()
    x, w = x.detach().resolve_neg(), w.detach().resolve_neg().contiguous()
    x = x if x.stride(1) == 1 else x.contiguous()
    weights = None if weights is None else weights.detach().resolve_neg()
    name = architecture(x.device)
    block = chosen_block(features, columns, mode, x.element_size()).fitted(x.element_size(), name)
    groups = triton.cdiv(columns, block.columns)
    share = row_share(n, groups, block)
    parts = triton.cdiv(n, share)
    partial = torch.empty((parts, height, columns), dtype=torch.float64, device=x.device)
    with torch.cuda.device(x.device) if x.is_cuda else nullcontext():
        _partial_products[(groups, parts)](
            x,
            w,
            x if weights is None else weights,
            partial,
            n,
            share,
            features,
            columns,
            *x.stride(),
            *w.stride(),
            0 if weights is None else weights.stride(0),
            **_constants(block, mode, weights is not None, bias),
            **options(block.warps, block.stages, name, all_registers=True),
        )
        sum_of_parts(partial, out)
    return out


def sum_of_parts(partial: torch.Tensor, out: torch.Tensor) -> None:
    """Writes to `out` the sum of float64 parts [parts, *out.shape] of it, added in float64 and rounded once."""
    _added[(triton.cdiv(out.numel(), _ADDED_ENTRIES),)](
        partial, out, partial.shape[0], out.numel(), PARTS=_ADDED_PARTS, ENTRIES=_ADDED_ENTRIES, num_warps=4
    )


def _constants(block: Block, mode: str, weighted: bool, bias: bool) -> dict[str, object]:
    return {
        "ROWS": block.rows,
        "FEATURES": block.features,
        "COLUMNS": block.columns,
        "WIDE": NUMBER[MODES[mode]],
        "WEIGHTED": weighted,
        "BIAS": bias,
        "STAGES": block.stages,
    }


def _check(x: torch.Tensor, w: torch.Tensor, weights: torch.Tensor | None, bias: bool, mode: str) -> None:
    given = [t for t in (x, w, weights) if t is not None]
    shapes = [tuple(t.shape) for t in given]
    if mode not in MODES:
        raise ValueError(f"normal_matmul: expected a mode of {sorted(MODES)}, got {mode!r}.")
    if x.dtype not in _DTYPES[mode] or any(t.dtype != x.dtype for t in given):
        raise TypeError(f"normal_matmul: mode {mode!r} takes one of {_DTYPES[mode]}, got {[t.dtype for t in given]}.")
    if x.ndim != 2 or w.ndim != 2 or shapes[1][0] != x.shape[1] + int(bias) or shapes[2:] not in ([], [x.shape[:1]]):
        raise ValueError(f"normal_matmul: expected [n, F], [F + {int(bias)}, m] and perhaps [n], got {shapes}.")
    if columns_per_pass(x.shape[1]) == 0:
        raise ValueError(f"normal_matmul: expected at most {MOST_FEATURES} features, got {x.shape[1]}.")
    runs_on = "cpu" if INTERPRETED else "cuda"
    if any(t.device != x.device or t.device.type != runs_on for t in given):
        raise ValueError(f"normal_matmul: expected one {runs_on} device, got {[str(t.device) for t in given]}.")


@triton.jit
def _partial_products(
    x,
    w,
    weights,
    partial,
    rows,
    share,
    features,
    columns,
    x_row,
    x_feature,
    w_feature,
    w_column,
    weights_row,
    ROWS: tl.constexpr,
    FEATURES: tl.constexpr,
    COLUMNS: tl.constexpr,
    WIDE: tl.constexpr,
    WEIGHTED: tl.constexpr,
    BIAS: tl.constexpr,
    STAGES: tl.constexpr,
):
    """Part `program_id(1)` of the rows, group `program_id(0)` of the columns: its [F (+ 1), m] block of `partial`."""
    part = tl.program_id(1).to(tl.int64)
    last = tl.zeros([1, 1], tl.int64) + features
    count = tl.minimum(rows - part * share, share).to(tl.int32)
    x += part * share * x_row
    weights += part * share * weights_row
    feature = tl.arange(0, FEATURES).to(tl.int64)
    column = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    w += column.to(tl.int64)[None, :] * w_column
    partial += part * (features + BIAS) * columns + column[None, :]
    known = tl.arange(0, FEATURES) < features
    taken = known[:, None] & (column < columns)[None, :]
    factor = operand(tl.load(w + feature[:, None] * w_feature, taken, other=0.0), WIDE)
    total = tl.zeros([FEATURES, COLUMNS], tl.float64)
    if BIAS:
        constant = operand(tl.load(w + last * w_feature, (column < columns)[None, :], other=0.0), WIDE)
        constant_total = tl.zeros([1, COLUMNS], tl.float64)
    for start in tl.range(0, count, ROWS, num_stages=STAGES):
        row = start + tl.arange(0, ROWS)
        inside = row < count
        places = row.to(tl.int64)[:, None] * x_row + feature[None, :] * x_feature
        block = operand(tl.load(x + places, inside[:, None] & known[None, :], other=0.0), WIDE)
        outputs = tl.sum(block[:, :, None] * factor[None, :, :], axis=1)
        if BIAS:
            outputs += constant
        if WEIGHTED:
            outputs *= operand(tl.load(weights + row.to(tl.int64) * weights_row, inside, other=0.0), WIDE)[:, None]
        # Rows beyond the end hold the bias, or NaN where w is infinite.
        outputs = tl.where(inside[:, None], outputs, 0.0)
        total += tl.sum(block[:, :, None] * outputs[:, None, :], axis=0).to(tl.float64)
        if BIAS:
            constant_total += tl.sum(outputs, axis=0, keep_dims=True).to(tl.float64)
    tl.store(partial + feature[:, None] * columns, total, taken)
    if BIAS:
        tl.store(partial + last * columns, constant_total, (column < columns)[None, :])


@triton.jit
def _added(partial, out, parts, size, PARTS: tl.constexpr, ENTRIES: tl.constexpr):
    """The sum of the parts of each entry, PARTS at a time from the first on, rounded to the type of `out`."""
    entry = tl.program_id(0).to(tl.int64) * ENTRIES + tl.arange(0, ENTRIES)
    total = tl.zeros([ENTRIES], tl.float64)
    for start in range(0, parts, PARTS):
        part = start + tl.arange(0, PARTS)
        inside = (part < parts)[:, None] & (entry < size)[None, :]
        places = part.to(tl.int64)[:, None] * size + entry[None, :]
        total += tl.sum(tl.load(partial + places, inside, other=0.0), axis=0)
    tl.store(out + entry, total.to(out.dtype.element_ty), entry < size)


def variants(architecture: str = "sm_90") -> tuple[Variant, ...]:
    """Every pinned block of every dtype and mode, with weights and bias, on dense rows; and the sums of the parts."""
    products = (
        _variant(dtype, mode, block.fitted(dtype.itemsize, architecture))
        for mode, dtypes in _DTYPES.items()
        for dtype in dtypes
        for block in pinned(mode, dtype.itemsize)
    )
    return (*products, *(_added_variant(mode) for mode in MODES))


def _variant(dtype: torch.dtype, mode: str, block: Block) -> Variant:
    integers = dict.fromkeys(("rows", "share", "features", "columns", "x_row", "w_feature"), "i32")
    pointers = {**dict.fromkeys(("x", "w", "weights"), POINTER[dtype]), "partial": POINTER[torch.float64]}
    return Variant(
        name=f"normal_matmul {mode} {str(dtype).removeprefix('torch.')} {block.features}x{block.columns}",
        kernel=_partial_products,
        signature={**pointers, **integers},
        constexprs={"x_feature": 1, "w_column": 1, "weights_row": 1, **_constants(block, mode, True, True)},
        warps=block.warps,
        stages=block.stages,
        divisible=(*pointers, "features", "x_row"),
        instruction=_MULTIPLY_ADD[mode],
        mode=mode,
        all_registers=True,
    )


def _added_variant(mode: str) -> Variant:
    return Variant(
        name=f"normal_matmul {mode} parts",
        kernel=_added,
        signature={"partial": "*fp64", "out": POINTER[MODES[mode]], "parts": "i32", "size": "i32"},
        constexprs={"PARTS": _ADDED_PARTS, "ENTRIES": _ADDED_ENTRIES},
        warps=4,
        stages=3,
        divisible=("partial", "out"),
        mode=mode,
    )
