"""The kernel of `layer_ntk`: one tile of one parameter's tangent kernel.  See there for its arithmetic."""

from __future__ import annotations

import triton
import triton.language as tl

from csrc_triton.tiles import grouped_tile, grouped_triangle_tile, operand


@triton.jit
def _inner_products(
    left,
    right,
    left_inside,
    right_inside,
    length,
    left_step,
    right_step,
    OPERAND: tl.constexpr,
    WIDE: tl.constexpr,
    DRAIN: tl.constexpr,
    DEPTH: tl.constexpr,
):
    """<left_r, right_c> for vectors of `length` numbers at the pointers left [R] and right [C]: [R, C]."""
    inner = tl.arange(0, DEPTH)
    one = tl.full((), 1, tl.int64)
    left_block = left[:, None] + inner[None, :] * (one * left_step)
    right_block = right[None, :] + inner[:, None] * (one * right_step)
    total = tl.zeros((left.shape[0], right.shape[0]), dtype=WIDE)
    for start in range(0, length, DEPTH):
        inside = inner < length - start
        x = tl.load(left_block, mask=left_inside[:, None] & inside[None, :], other=0.0)
        y = tl.load(right_block, mask=inside[:, None] & right_inside[None, :], other=0.0)
        # A limit on imprecise sums keeps Triton from folding `total` into the product: a block starts from zero.
        total += tl.dot(
            operand(x, OPERAND),
            operand(y, OPERAND),
            input_precision="ieee",
            max_num_imprecise_acc=DRAIN,
            out_dtype=WIDE,
        )
        left_block += one * DEPTH * left_step
        right_block += one * DEPTH * right_step
    return total


@triton.jit
def layer_ntk_kernel(
    a,
    d,
    mask,
    a2,
    d2,
    mask2,
    out,
    samples,
    outputs,
    positions,
    samples2,
    outputs2,
    positions2,
    inputs,
    deltas,
    a_sample,
    a_position,
    a_feature,
    d_sample,
    d_output,
    d_position,
    d_feature,
    mask_sample,
    mask_position,
    a2_sample,
    a2_position,
    a2_feature,
    d2_sample,
    d2_output,
    d2_position,
    d2_feature,
    mask2_sample,
    mask2_position,
    OPERAND: tl.constexpr,
    DRAIN: tl.constexpr,
    SYMMETRIC: tl.constexpr,
    MASKED: tl.constexpr,
    MASKED2: tl.constexpr,
    ADDED: tl.constexpr,
    SAMPLES: tl.constexpr,
    OUTPUTS: tl.constexpr,
    SAMPLES2: tl.constexpr,
    OUTPUTS2: tl.constexpr,
    DEPTH: tl.constexpr,
    GROUP: tl.constexpr,
):
    """One tile of one parameter's kernel, written to or (ADDED) added to out [n C, n2 C2], and its mirror image."""
    WIDE: tl.constexpr = out.dtype.element_ty
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
    sample = tile_row // groups * SAMPLES + tl.arange(0, SAMPLES)
    sample2 = tile_column // groups2 * SAMPLES2 + tl.arange(0, SAMPLES2)
    row_sample = tile_row // groups * SAMPLES + rows // OUTPUTS
    row_output = tile_row % groups * OUTPUTS + rows % OUTPUTS
    column_sample = tile_column // groups2 * SAMPLES2 + columns // OUTPUTS2
    column_output = tile_column % groups2 * OUTPUTS2 + columns % OUTPUTS2
    known, known2 = sample < samples, sample2 < samples2
    row_inside = (row_sample < samples) & (row_output < outputs)
    column_inside = (column_sample < samples2) & (column_output < outputs2)
    a_left, a_right = a + sample * (one * a_sample), a2 + sample2 * (one * a2_sample)
    d_left = d + row_sample * (one * d_sample) + row_output * (one * d_output)
    d_right = d2 + column_sample * (one * d2_sample) + column_output * (one * d2_output)

    total = tl.zeros((ROWS, COLUMNS), dtype=WIDE)
    for position in range(positions):
        for position2 in range(positions2):
            t, s = position * one, position2 * one
            products = _inner_products(
                a_left + t * a_position,
                a_right + s * a2_position,
                known,
                known2,
                inputs,
                a_feature,
                a2_feature,
                OPERAND,
                WIDE,
                DRAIN,
                DEPTH,
            )
            # One number for all outputs of a pair of samples.
            shared = tl.broadcast_to(products[:, None, :, None], (SAMPLES, OUTPUTS, SAMPLES2, OUTPUTS2))
            product = tl.reshape(shared, (ROWS, COLUMNS)) * _inner_products(
                d_left + t * d_position,
                d_right + s * d2_position,
                row_inside,
                column_inside,
                deltas,
                d_feature,
                d2_feature,
                OPERAND,
                WIDE,
                DRAIN,
                DEPTH,
            )
            # Chosen and not multiplied: whatever lies at positions that do not count, NaN included, is dropped.
            if MASKED:
                flags = mask + row_sample * (one * mask_sample) + t * mask_position
                flags = tl.load(flags, mask=row_inside, other=0)
                product = tl.where(flags[:, None] != 0, product, 0.0)
            if MASKED2:
                flags2 = tl.load(
                    mask2 + column_sample * (one * mask2_sample) + s * mask2_position, column_inside, other=0
                )
                product = tl.where(flags2[None, :] != 0, product, 0.0)
            total += product

    row = row_sample * one * outputs + row_output
    column = column_sample * one * outputs2 + column_output
    block = out + row[:, None] * (one * samples2 * outputs2) + column[None, :]
    inside = row_inside[:, None] & column_inside[None, :]
    if ADDED:
        total += tl.load(block, mask=inside, other=0.0)
    if SYMMETRIC:
        if tile_row == tile_column:
            # Its halves may differ by a rounding: the lower one decides.
            total = tl.where(rows[:, None] >= columns[None, :], total, tl.trans(total))
        # A tile on the diagonal has no mirror image.  (Triton 3.9's interpreter takes no scalar condition in a mask.)
        mirrored = rows < tl.where(tile_row == tile_column, 0, ROWS)
        mirror = out + column[None, :] * (one * samples * outputs) + row[:, None]
        tl.store(mirror, total, mask=inside & mirrored[:, None])
    tl.store(block, total, mask=inside)
