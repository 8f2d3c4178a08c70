"""The kernels of `drift` and of `drift_summary`, and what they share: a tile of the product, and bounds of its rows."""

from __future__ import annotations

import triton
import triton.language as tl

from csrc_triton.tiles import grouped_tile, operand

_SHORT_CHAIN = tl.constexpr(1.0 + 66 * 2.0**-53)
_U64, _TINY64 = tl.constexpr(2.0**-53), tl.constexpr(2.0**-1022)


@triton.jit
def moved_tile(
    x,
    high,
    low,
    centre,
    row_inside,
    output,
    features,
    outputs,
    LOW: tl.constexpr,
    BIAS: tl.constexpr,
    CENTRED: tl.constexpr,
    ROWS: tl.constexpr,
    OUTPUTS: tl.constexpr,
    DEPTH: tl.constexpr,
    PIECE: tl.constexpr,
):
    """A tile of `x (high + low)`, and the sums of squares of its rows and of their differences to the centre, [ROWS].

    `x` are pointers to the first features of the rows [ROWS, 1], `output` the numbers of the columns.
    """
    one = tl.full((), 1, tl.int64)
    inner, taken = tl.arange(0, DEPTH), output < outputs
    total, rest = tl.zeros([ROWS, OUTPUTS], tl.float64), tl.zeros([ROWS, OUTPUTS], tl.float64)
    squares, apart = tl.zeros([ROWS, DEPTH], tl.float64), tl.zeros([ROWS, DEPTH], tl.float64)
    for piece in range(0, features, PIECE):
        block, block_low = tl.zeros([ROWS, OUTPUTS], tl.float64), tl.zeros([ROWS, OUTPUTS], tl.float64)
        for start in range(piece, tl.minimum(piece + PIECE, features), DEPTH):
            feature = start + inner
            known = feature < features
            present = row_inside[:, None] & known[None, :]
            rows = operand(tl.load(x + feature[None, :], present, other=0.0), tl.float64)
            places = feature.to(tl.int64)[:, None] * outputs + output[None, :]
            held = known[:, None] & taken[None, :]
            change = tl.load(high + places, held, other=0.0)
            block = tl.dot(rows, change, block, input_precision="ieee", out_dtype=tl.float64)
            if LOW:
                change = tl.load(low + places, held, other=0.0)
                block_low = tl.dot(rows, change, block_low, input_precision="ieee", out_dtype=tl.float64)
            squares += rows * rows
            if CENTRED:
                off = tl.where(present, rows - tl.load(centre + feature, known, other=0.0)[None, :], 0.0)
                apart += off * off
        total += block
        if LOW:
            rest += block_low
    if LOW:
        total += rest
    if BIAS:
        last = tl.load(high + features * one * outputs + output, taken, other=0.0)
        if LOW:
            last += tl.load(low + features * one * outputs + output, taken, other=0.0)
        total += last[None, :]
    return total, tl.sum(squares, axis=1), tl.sum(apart, axis=1)


@triton.jit
def row_bounds(squares, apart, limits, BIAS: tl.constexpr, CENTRED: tl.constexpr):
    """Upper bounds of norms and distances from the sums; `limits`: 1 + gamma, 2 F tiny, what stands beside."""
    inflation, underflow, beside = tl.load(limits), tl.load(limits + 1), tl.load(limits + 2)
    lengths = squares * inflation + underflow
    norms = tl.sqrt(lengths) * _SHORT_CHAIN
    if CENTRED:
        distances = (tl.sqrt(apart * inflation + underflow) + (_U64 * norms + beside)) * _SHORT_CHAIN
    else:
        distances = tl.sqrt(lengths + 1.0) * _SHORT_CHAIN if BIAS else norms
    return norms, distances


@triton.jit
def entry_bounds(norms, distances, update, rounding, constant, output, taken):
    """What every entry of a tile may be off by: `distances e + norms r + t`, e, r and t those of its columns."""
    of_update = tl.load(update + output, taken, other=0.0)
    of_rounding, alone = tl.load(rounding + output, taken, other=0.0), tl.load(constant + output, taken, other=0.0)
    off = distances[:, None] * of_update[None, :] + norms[:, None] * of_rounding[None, :] + alone[None, :]
    return off * _SHORT_CHAIN


@triton.jit
def drift_kernel(
    x,
    high,
    low,
    centre,
    limits,
    update,
    rounding,
    constant,
    value,
    bound,
    norms,
    distances,
    samples,
    features,
    outputs,
    x_row,
    LOW: tl.constexpr,
    BIAS: tl.constexpr,
    CENTRED: tl.constexpr,
    ROWS: tl.constexpr,
    OUTPUTS: tl.constexpr,
    DEPTH: tl.constexpr,
    PIECE: tl.constexpr,
    GROUP: tl.constexpr,
):
    """One tile of the product and of its bound, [n, C] each; the first tile of a row of them stores g and d."""
    one = tl.full((), 1, tl.int64)
    height, width = tl.cdiv(samples, ROWS), tl.maximum(tl.cdiv(outputs, OUTPUTS), 1)
    tile_row, tile_output = grouped_tile(tl.program_id(0), height, width, GROUP)
    row, output = tile_row * one * ROWS + tl.arange(0, ROWS), tile_output * OUTPUTS + tl.arange(0, OUTPUTS)
    inside, taken = row < samples, output < outputs
    start = x + row[:, None] * x_row
    total, squares, apart = moved_tile(
        start, high, low, centre, inside, output, features, outputs,
        LOW, BIAS, CENTRED, ROWS, OUTPUTS, DEPTH, PIECE,
    )  # fmt: skip
    norm, distance = row_bounds(squares, apart, limits, BIAS, CENTRED)
    off = entry_bounds(norm, distance, update, rounding, constant, output, taken)
    places, present = row[:, None] * outputs + output[None, :], inside[:, None] & taken[None, :]
    tl.store(value + places, total, present)
    tl.store(bound + places, off, present)
    # Triton 3.9's interpreter takes no scalar condition in a mask.
    first = row < tl.where(tile_output == 0, samples, 0)
    tl.store(norms + row, norm, first)
    tl.store(distances + row, distance, first)


@triton.jit
def reach(value, off):
    """What a value that is off by `off` may be apart from it, with the roundings of the sums with it."""
    return (off * _SHORT_CHAIN + _TINY64) + 2.0 * _U64 * tl.abs(value)


@triton.jit
def summary_kernel(
    x,
    high,
    limits,
    update,
    rounding,
    constant,
    before,
    before_bound,
    labels,
    row_squares,
    row_errors,
    flags,
    column_squares,
    column_errors,
    samples,
    features,
    outputs,
    x_row,
    BIAS: tl.constexpr,
    KNOWN: tl.constexpr,
    ROWS: tl.constexpr,
    OUTPUTS: tl.constexpr,
    DEPTH: tl.constexpr,
    PIECE: tl.constexpr,
):
    """Some rows of the product, tile after tile of outputs: sums of squares, and with KNOWN outputs what may flip.

    The tiles are walked twice then: the second time every output is compared with the best that was certain.
    """
    one = tl.full((), 1, tl.int64)
    part = tl.program_id(0) * one
    row = part * ROWS + tl.arange(0, ROWS)
    inside = row < samples
    width = tl.cdiv(outputs, OUTPUTS)
    squares_of_row, errors_of_row = tl.zeros([ROWS], tl.float64), tl.zeros([ROWS], tl.float64)
    least, least_after = tl.full([ROWS], -float("inf"), tl.float64), tl.full([ROWS], -float("inf"), tl.float64)
    both, differ = tl.zeros([ROWS], tl.int32), tl.zeros([ROWS], tl.int32)
    count, count_after = tl.zeros([ROWS], tl.int32), tl.zeros([ROWS], tl.int32)
    hit, hit_after = tl.zeros([ROWS], tl.int32), tl.zeros([ROWS], tl.int32)
    for step in range(2 * width if KNOWN else width):
        output = step % width * OUTPUTS + tl.arange(0, OUTPUTS)
        taken = output < outputs
        present = inside[:, None] & taken[None, :]
        total, squares, apart = moved_tile(
            x + row[:, None] * x_row, high, high, high, inside, output, features, outputs,
            False, BIAS, False, ROWS, OUTPUTS, DEPTH, PIECE,
        )  # fmt: skip
        norm, distance = row_bounds(squares, apart, limits, BIAS, False)
        off = tl.where(present, entry_bounds(norm, distance, update, rounding, constant, output, taken), 0.0)
        total = tl.where(present, total, 0.0)
        if step < width:
            squares_of_row += tl.sum(total * total, axis=1)
            errors_of_row += tl.sum(off * off, axis=1)
            places = part * outputs + output
            tl.store(column_squares + places, tl.sum(total * total, axis=0), taken)
            tl.store(column_errors + places, tl.sum(off * off, axis=0), taken)
        if KNOWN:
            places = row[:, None] * outputs + output[None, :]
            first = tl.load(before + places, present, other=0.0)
            known = tl.load(before_bound + places, present, other=0.0)
            second = first + total
            beyond = reach(second, (known + off + _U64 * tl.abs(second)) * _SHORT_CHAIN + _TINY64)
            known = reach(first, known)
            if step < width:
                least = tl.maximum(least, tl.max(tl.where(present, first - known, -float("inf")), axis=1))
                least_after = tl.maximum(least_after, tl.max(tl.where(present, second - beyond, -float("inf")), axis=1))
            else:
                may = present & (first + known >= least[:, None])
                may_after = present & (second + beyond >= least_after[:, None])
                at_label = output[None, :] == tl.load(labels + row, inside, other=-1)[:, None]
                both = tl.maximum(both, tl.max((may & may_after).to(tl.int32), axis=1))
                differ = tl.maximum(differ, tl.max((may != may_after).to(tl.int32), axis=1))
                count += tl.sum(may.to(tl.int32), axis=1)
                count_after += tl.sum(may_after.to(tl.int32), axis=1)
                hit = tl.maximum(hit, tl.max((may & at_label).to(tl.int32), axis=1))
                hit_after = tl.maximum(hit_after, tl.max((may_after & at_label).to(tl.int32), axis=1))
    tl.store(row_squares + row, squares_of_row, inside)
    tl.store(row_errors + row, errors_of_row, inside)
    if KNOWN:
        told = both + 2 * differ + 4 * tl.minimum(count, 2) + 16 * tl.minimum(count_after, 2)
        tl.store(flags + row, told + 64 * hit + 128 * hit_after, inside)
