"""The kernel of `split_gram`: tiles of a Gram matrix from float16 planes.  See there for its arithmetic."""

from __future__ import annotations

import triton
import triton.language as tl

from csrc_triton.planes import LOW_BITS
from csrc_triton.tiles import grouped_tile, grouped_triangle_tile, operand

# One unit of a low plane, in units of the high one.
LOW_UNIT = tl.constexpr(2.0**-LOW_BITS)


@triton.jit
def power_of_two(exponent):
    """2^exponent in float32, of integers from -126 to 127, by its bits."""
    return ((exponent + 127) << 23).to(tl.float32, bitcast=True)


@triton.jit
def block_sum(left, right, DRAIN: tl.constexpr):
    """The product of two blocks of planes, summed from zero."""
    # A limit on imprecise sums keeps Triton from folding what this is added to into the product.
    return tl.dot(
        operand(left, tl.float16),
        operand(right, tl.float16),
        input_precision="ieee",
        max_num_imprecise_acc=DRAIN,
        out_dtype=tl.float32,
    )


@triton.jit
def scaled_products(high, low, block, high2, low2, block2, width, DRAIN: tl.constexpr, DEPTH: tl.constexpr):
    """Inner products of scaled rows over the whole width; block [R, D] and block2 [D, C] are places in the planes."""
    total = tl.zeros((block.shape[0], block2.shape[1]), dtype=tl.float32)
    crossed = tl.zeros((block.shape[0], block2.shape[1]), dtype=tl.float32)
    for start in range(0, width, DEPTH):
        left = tl.load(high + start + block)
        right = tl.load(high2 + start + block2)
        left_rest = tl.load(low + start + block)
        right_rest = tl.load(low2 + start + block2)
        total += block_sum(left, right, DRAIN)
        crossed += block_sum(left, right_rest, DRAIN)
        crossed += block_sum(left_rest, right, DRAIN)
    return total + crossed * LOW_UNIT


@triton.jit
def unscaled(total, left, right):
    """Sums of scaled rows times 2^-(p + q), their exponents left [R] and right [C], in two steps of the same sign."""
    exponent = -(left[:, None] + right[None, :])
    half = exponent >> 1
    return total * power_of_two(half) * power_of_two(exponent - half)


@triton.jit
def split_gram_kernel(
    x_high,
    x_low,
    y_high,
    y_low,
    x_exponents,
    y_exponents,
    out,
    n,
    m,
    width,
    bias,
    DRAIN: tl.constexpr,
    SYMMETRIC: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
    GROUP: tl.constexpr,
):
    """out[n, m] = x y^T + bias from planes [n, width] and [m, width], tile after tile, mirrored when y is x."""
    height = tl.cdiv(n, ROWS)
    across = tl.cdiv(m, COLUMNS)
    tiles = height * (height + 1) // 2 if SYMMETRIC else height * across
    # Every offset is a product with `one`: in 64 bits, for a row times its length passes 2^31.
    one = tl.full((), 1, tl.int64)
    rows, columns, inner = tl.arange(0, ROWS), tl.arange(0, COLUMNS), tl.arange(0, DEPTH)
    for number in range(tl.program_id(0), tiles, tl.num_programs(0)):
        tile = number * tl.full((), 1, tl.int32)  # a number of Python's in the interpreter
        if SYMMETRIC:
            tile_row, tile_column = grouped_triangle_tile(tile, height, GROUP)
        else:
            tile_row, tile_column = grouped_tile(tile, height, across, GROUP)
        first_row, first_column = tile_row * one * ROWS, tile_column * one * COLUMNS
        # Rows beyond the end are the last one again: no mask in the loop, for a row's planes fill whole blocks.
        last_row, last_column = (n - 1 - first_row).to(tl.int32), (m - 1 - first_column).to(tl.int32)
        x_block = tl.minimum(rows, last_row)[:, None] * width + inner[None, :]
        y_block = tl.minimum(columns, last_column)[None, :] * width + inner[:, None]
        x_first, y_first = first_row * width, first_column * width

        total = scaled_products(
            x_high + x_first, x_low + x_first, x_block, y_high + y_first, y_low + y_first, y_block, width, DRAIN, DEPTH
        )
        row_inside, column_inside = rows <= last_row, columns <= last_column
        x_scale = tl.load(x_exponents + first_row + rows, mask=row_inside, other=0)
        y_scale = tl.load(y_exponents + first_column + columns, mask=column_inside, other=0)
        total = unscaled(total, x_scale, y_scale) + bias

        inside = row_inside[:, None] & column_inside[None, :]
        row, column = first_row + rows, first_column + columns
        if SYMMETRIC:
            if tile_row == tile_column:
                total = tl.where(rows[:, None] >= columns[None, :], total, tl.trans(total))
            else:
                tl.store(out + (column * m)[None, :] + row[:, None], total, mask=inside)
        tl.store(out + (row * m)[:, None] + column[None, :], total, mask=inside)
