"""The kernel of `split_layer`: a tile of one parameter's tangent kernel, from planes.  See there for its arithmetic."""

from __future__ import annotations

import triton
import triton.language as tl

from csrc_triton.split_kernel import scaled_products, unscaled
from csrc_triton.tiles import grouped_tile, grouped_triangle_tile


@triton.jit
def _inner_products(
    high,
    low,
    exponents,
    high2,
    low2,
    exponents2,
    left,
    right,
    width,
    DRAIN: tl.constexpr,
    DEPTH: tl.constexpr,
):
    """<x_r, y_c> for the rows left [R] of some planes and right [C] of others, in 64 bits: [R, C]."""
    inner = tl.arange(0, DEPTH)
    block = (left * width)[:, None] + inner[None, :]
    block2 = (right * width)[None, :] + inner[:, None]
    total = scaled_products(high, low, block, high2, low2, block2, width, DRAIN, DEPTH)
    return unscaled(total, tl.load(exponents + left), tl.load(exponents2 + right))


@triton.jit
def split_layer_kernel(
    a_high,
    a_low,
    a_exponents,
    d_high,
    d_low,
    d_exponents,
    a2_high,
    a2_low,
    a2_exponents,
    d2_high,
    d2_low,
    d2_exponents,
    out,
    samples,
    outputs,
    positions,
    samples2,
    outputs2,
    positions2,
    inputs,
    deltas,
    DRAIN: tl.constexpr,
    SYMMETRIC: tl.constexpr,
    ADDED: tl.constexpr,
    SAMPLES: tl.constexpr,
    OUTPUTS: tl.constexpr,
    SAMPLES2: tl.constexpr,
    OUTPUTS2: tl.constexpr,
    DEPTH: tl.constexpr,
    GROUP: tl.constexpr,
):
    """One tile of one parameter's kernel, written to or (ADDED) added to out [n C, n2 C2], and its mirror image.

    Planes of activations lie in the order (sample, position), of deltas in the order (sample, output, position).
    """
    ROWS: tl.constexpr = SAMPLES * OUTPUTS
    COLUMNS: tl.constexpr = SAMPLES2 * OUTPUTS2
    groups, groups2 = tl.cdiv(outputs, OUTPUTS), tl.cdiv(outputs2, OUTPUTS2)
    height = tl.cdiv(samples, SAMPLES) * groups
    if SYMMETRIC:
        tile_row, tile_column = grouped_triangle_tile(tl.program_id(0), height, GROUP)
    else:
        width = tl.cdiv(samples2, SAMPLES2) * groups2
        tile_row, tile_column = grouped_tile(tl.program_id(0), height, width, GROUP)
    # Every offset is a product with `one`: in 64 bits, for an index times its stride passes 2^31.
    one = tl.full((), 1, tl.int64)
    rows, columns = tl.arange(0, ROWS), tl.arange(0, COLUMNS)
    row_sample = tile_row // groups * SAMPLES + rows // OUTPUTS
    row_output = tile_row % groups * OUTPUTS + rows % OUTPUTS
    column_sample = tile_column // groups2 * SAMPLES2 + columns // OUTPUTS2
    column_output = tile_column % groups2 * OUTPUTS2 + columns % OUTPUTS2
    row_inside = (row_sample < samples) & (row_output < outputs)
    column_inside = (column_sample < samples2) & (column_output < outputs2)
    # What lies beyond the end is the last one again, computed and not stored: no mask in the loops.
    sample = tl.minimum(tile_row // groups * SAMPLES + tl.arange(0, SAMPLES), samples - 1)
    sample2 = tl.minimum(tile_column // groups2 * SAMPLES2 + tl.arange(0, SAMPLES2), samples2 - 1)
    a_left, a_right = sample * (one * positions), sample2 * (one * positions2)
    left = tl.minimum(row_sample, samples - 1) * (one * outputs) + tl.minimum(row_output, outputs - 1)
    right = tl.minimum(column_sample, samples2 - 1) * (one * outputs2) + tl.minimum(column_output, outputs2 - 1)
    d_left, d_right = left * positions, right * positions2

    total = tl.zeros((ROWS, COLUMNS), dtype=tl.float32)
    for position in range(positions):
        for position2 in range(positions2):
            products = _inner_products(
                a_high,
                a_low,
                a_exponents,
                a2_high,
                a2_low,
                a2_exponents,
                a_left + position,
                a_right + position2,
                inputs,
                DRAIN,
                DEPTH,
            )
            # One number for all outputs of a pair of samples.
            shared = tl.broadcast_to(products[:, None, :, None], (SAMPLES, OUTPUTS, SAMPLES2, OUTPUTS2))
            total += tl.reshape(shared, (ROWS, COLUMNS)) * _inner_products(
                d_high,
                d_low,
                d_exponents,
                d2_high,
                d2_low,
                d2_exponents,
                d_left + position,
                d_right + position2,
                deltas,
                DRAIN,
                DEPTH,
            )

    row = row_sample * one * outputs + row_output
    column = column_sample * one * outputs2 + column_output
    block = out + (row * (one * samples2 * outputs2))[:, None] + column[None, :]
    inside = row_inside[:, None] & column_inside[None, :]
    if ADDED:
        total += tl.load(block, mask=inside, other=0.0)
    if SYMMETRIC:
        if tile_row == tile_column:
            # Its halves may differ by a rounding: the lower one decides.
            total = tl.where(rows[:, None] >= columns[None, :], total, tl.trans(total))
        else:
            mirror = out + (column * (one * samples * outputs))[None, :] + row[:, None]
            tl.store(mirror, total, mask=inside)
    tl.store(block, total, mask=inside)
