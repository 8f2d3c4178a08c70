"""Planes by Triton, in two reads of the features instead of fifteen; arithmetic and bits are those of `planes`.

A program takes one row: it finds the largest magnitude from the bits, then scales, splits and judges every number.  A
row that falls back is written again, as zeros.
"""

from __future__ import annotations

from contextlib import nullcontext

import torch
import triton
import triton.language as tl

from csrc_triton.planes import BIAS, FRACTION, LARGEST, LEAST, LOW_BITS, MOST_FEATURES, RowPlanes, empty_planes, split
from csrc_triton.tiles import INTERPRETED, Variant, architecture, options

# Numbers of a row that are under way at once, and warps.
BLOCK, WARPS = 2048, 4

_BIAS, _FRACTION = tl.constexpr(BIAS), tl.constexpr(FRACTION)
_LARGEST, _LEAST = tl.constexpr(LARGEST), tl.constexpr(LEAST)
_LOW_SCALE, _LOW_UNIT = tl.constexpr(2.0**LOW_BITS), tl.constexpr(2.0**-LOW_BITS)
_ALLOWED = tl.constexpr(2.0**-23)
# The bits of the smallest normal number.
_NORMAL = tl.constexpr(1 << FRACTION)


@triton.jit
def planes_kernel(x, high, low, exponents, fallen, features, width, x_row, x_column, BLOCK: tl.constexpr):
    """The planes [n, width], the exponent, and whether it falls back, of one row of x [n, features]."""
    one = tl.full((), 1, tl.int64)
    row = tl.program_id(0) * one
    inner = tl.arange(0, BLOCK)
    top = tl.zeros((BLOCK,), tl.int32)
    for start in range(0, features, BLOCK):
        places = start + inner
        numbers = tl.load(x + row * x_row + places * (one * x_column), mask=places < features, other=0.0)
        top = tl.maximum(top, numbers.to(tl.int32, bitcast=True) & 0x7FFFFFFF)
    largest = tl.max(top, 0)
    field = largest >> _FRACTION
    kept = ((field >= _BIAS + _LEAST) & (field < 255)) | (largest == 0)
    exponent = tl.where(kept & (largest > 0), _LARGEST + _BIAS - field, 0)
    scale = ((exponent + _BIAS) << _FRACTION).to(tl.float32, bitcast=True)
    lost = tl.zeros((BLOCK,), tl.int32)
    for start in range(0, width, BLOCK):
        places = start + inner
        numbers = tl.load(x + row * x_row + places * (one * x_column), mask=places < features, other=0.0)
        magnitudes = numbers.to(tl.int32, bitcast=True) & 0x7FFFFFFF
        scaled = tl.where(kept, numbers, 0.0) * scale
        upper = scaled.to(tl.float16)
        rest = scaled - upper.to(tl.float32)
        lower = (rest * _LOW_SCALE).to(tl.float16)
        found = tl.abs(rest - lower.to(tl.float32) * _LOW_UNIT) > tl.abs(scaled) * _ALLOWED
        found = found | (tl.abs(lower.to(tl.float32)) > tl.abs(scaled))
        gone = (upper.to(tl.float32) == 0.0) & (lower.to(tl.float32) == 0.0)
        found = found | ((magnitudes != 0) & (gone | (magnitudes < _NORMAL)))
        lost = lost | found.to(tl.int32)
        tl.store(high + row * width + places, upper, mask=places < width)
        tl.store(low + row * width + places, lower, mask=places < width)
    falls = (tl.max(lost, 0) != 0) | (kept == 0)
    if falls:
        # Not before what another thread wrote to the same place.
        tl.debug_barrier()
        for start in range(0, width, BLOCK):
            places = start + inner
            tl.store(high + row * width + places, tl.zeros((BLOCK,), tl.float16), mask=places < width)
            tl.store(low + row * width + places, tl.zeros((BLOCK,), tl.float16), mask=places < width)
    tl.store(exponents + row, tl.where(falls, 0, exponent))
    tl.store(fallen + row, falls.to(tl.uint8))


def split_rows(x: torch.Tensor) -> RowPlanes:
    """`planes.split` by the kernel on a CUDA device, elsewhere as it is: one bit is as the other.

    Args:
        x: float32 [n, F], any strides.

    Cost: two reads of x, one write of as much, and one synchronisation with the device.
    """
    return by_kernel(x) if x.is_cuda and x.shape[1] <= MOST_FEATURES else split(x)


def by_kernel(x: torch.Tensor) -> RowPlanes:
    """The same by the kernel, wherever it runs."""
    x = x.detach().resolve_neg()
    high, low, exponents = empty_planes(x)
    fallen = torch.empty(x.shape[0], dtype=torch.uint8, device=x.device)
    if x.shape[0]:
        with torch.cuda.device(x.device) if x.is_cuda else nullcontext():
            planes_kernel[(x.shape[0],)](
                x,
                high,
                low,
                exponents,
                fallen,
                x.shape[1],
                high.shape[1],
                *x.stride(),
                BLOCK=_block(),
                **options(WARPS, 1, architecture(x.device)),
            )
    where = fallen.nonzero().flatten()
    return RowPlanes(high, low, exponents, where, x[where])


def variants(architecture: str = "sm_90") -> tuple[Variant, ...]:
    """The kernel on dense rows of a multiple of 16 numbers, and on others."""
    pointers = {"x": "*fp32", "high": "*fp16", "low": "*fp16", "exponents": "*i32", "fallen": "*u8"}
    integers = dict.fromkeys(("features", "width", "x_row"), "i32")
    return tuple(
        Variant(
            name=f"planes{ragged}",
            kernel=planes_kernel,
            signature={**pointers, **integers},
            constexprs={"x_column": 1, "BLOCK": BLOCK},
            warps=WARPS,
            stages=1,
            divisible=(*pointers, "width", *(() if ragged else ("features", "x_row"))),
            mode="split",
        )
        for ragged in ("", " ragged")
    )


def _block() -> int:
    return BLOCK // 64 if INTERPRETED else BLOCK
