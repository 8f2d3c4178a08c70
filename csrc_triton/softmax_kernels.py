"""The kernels of `softmax_gram`: rows through B and B^T, and the two products between them.

B of a row with roots q (`q_c = sqrt(p_c)`, norm 1) and its transpose, with the shift of confident rows:

    B v:    s_c = v_c - q_c v_m / q_m,    u_c = q_c (s_c - q_c sum_j q_j s_j)
    B^T w:  t_c = q_c (w_c - w_m),        r_c = t_c - q_c sum_j q_j t_j

where m is the place of the largest root when its square is above 1/2: s_m and t_m are set to exactly zero there, and
nothing cancels against 1.  Other rows are not shifted (`top` is -1, `v_m / q_m` comes as 0).

Everything that is read or written by (column, sample, output) or (column, feature, output) lies with the outputs next
to each other, so that no program meets two columns.
"""

from __future__ import annotations

import triton
import triton.language as tl

from csrc_triton.tiles import grouped_tile, operand


@triton.jit
def pairwise_sum(x, LEVELS: tl.constexpr):
    """The sums of the rows of x [rows, 2^LEVELS], neighbours first: [rows, 1], by LEVELS roundings on any machine."""
    for _ in tl.static_range(LEVELS):
        even, odd = tl.split(tl.reshape(x, [x.shape[0], x.shape[1] // 2, 2]))
        x = even + odd
    return x


@triton.jit
def shifted(v, root, moved, at_top, TRANSPOSED: tl.constexpr):
    """s of B v, or t of B^T w, from blocks of v or w, of the roots, and of what the rows are shifted by."""
    if TRANSPOSED:
        return tl.where(at_top, 0.0, root * (v - moved))
    return tl.where(at_top, 0.0, v - root * moved)


@triton.jit
def softmax_rows(
    v,
    roots,
    top,
    shift,
    sums,
    samples,
    outputs,
    columns,
    v_row,
    v_output,
    v_column,
    TRANSPOSED: tl.constexpr,
    ROWS: tl.constexpr,
    OUTPUTS: tl.constexpr,
    LEVELS: tl.constexpr,
):
    """For B: `sums[k, i] = sum_j q_j s_j` of every row of v.  For B^T: every row of v becomes B^T of it, in place.

    Blocks of OUTPUTS outputs are added one after another in float64, their rounding errors aside, and then to each
    other in pairs.
    """
    one = tl.full((), 1, tl.int64)
    column = tl.program_id(1)
    row = tl.program_id(0) * one * ROWS + tl.arange(0, ROWS)
    inside = row < samples
    output = tl.arange(0, OUTPUTS)
    marked = tl.load(top + row, inside, other=-1)
    v += column * one * v_column + row[:, None] * v_row
    if TRANSPOSED:
        largest = v + marked.to(tl.int64)[:, None] * v_output
        moved = tl.load(largest, (marked >= 0)[:, None], other=0.0)
    else:
        moved = tl.load(shift + row * columns + column, inside, other=0.0)[:, None]
    high, low = tl.zeros([ROWS, OUTPUTS], tl.float64), tl.zeros([ROWS, OUTPUTS], tl.float64)
    for start in range(0, outputs, OUTPUTS):
        place = start + output
        known = inside[:, None] & (place < outputs)[None, :]
        root = tl.load(roots + row[:, None] * outputs + place[None, :], known, other=0.0)
        given = tl.load(v + place.to(tl.int64)[None, :] * v_output, known, other=0.0)
        block = shifted(given, root, moved, place[None, :] == marked[:, None], TRANSPOSED)
        term = (root * block).to(tl.float64)
        total = high + term
        back = total - high
        low += (high - (total - back)) + (term - back)
        high = total
    total = pairwise_sum(high + low, LEVELS).to(sums.dtype.element_ty)
    if TRANSPOSED:
        # What follows is written where others of the program may not have read yet.
        tl.debug_barrier()
        for start in range(0, outputs, OUTPUTS):
            place = start + output
            known = inside[:, None] & (place < outputs)[None, :]
            root = tl.load(roots + row[:, None] * outputs + place[None, :], known, other=0.0)
            given = tl.load(v + place.to(tl.int64)[None, :] * v_output, known, other=0.0)
            block = shifted(given, root, moved, place[None, :] == marked[:, None], True)
            tl.store(v + place.to(tl.int64)[None, :] * v_output, block - root * total, known)
    else:
        tl.store(sums + (column * one * samples + row)[:, None], total, inside[:, None])


@triton.jit
def features_times_changed(
    x,
    v,
    roots,
    top,
    shift,
    sums,
    partial,
    samples,
    share,
    features,
    outputs,
    columns,
    x_row,
    v_row,
    v_output,
    v_column,
    WIDE: tl.constexpr,
    BIAS: tl.constexpr,
    FEATURES: tl.constexpr,
    OUTPUTS: tl.constexpr,
    DEPTH: tl.constexpr,
    SPAN: tl.constexpr,
    GROUP: tl.constexpr,
):
    """One tile of `partial[part, k] = x^T u` over the `share` rows of a part; u = B v is formed block by block.

    Blocks of DEPTH rows are summed from zero, SPAN rows of them in the working type, and the spans in float64 where
    the tile lies in memory.  The last row of the result belongs to the constant feature.
    """
    one = tl.full((), 1, tl.int64)
    column, part = tl.program_id(1), tl.program_id(2) * one
    height, width = tl.cdiv(features, FEATURES), tl.cdiv(outputs, OUTPUTS)
    tile_feature, tile_output = grouped_tile(tl.program_id(0), tl.maximum(height, 1), width, GROUP)
    feature, output = tile_feature * FEATURES + tl.arange(0, FEATURES), tile_output * OUTPUTS + tl.arange(0, OUTPUTS)
    known, taken = feature < features, output < outputs
    first = part * share
    count = tl.minimum(samples - first, share).to(tl.int32)
    inner = tl.arange(0, DEPTH)
    x += first * x_row + feature[:, None]
    v += first * v_row + column * one * v_column + output.to(tl.int64)[None, :] * v_output
    roots += first * outputs + output[None, :]
    shift += first * columns + column
    sums += column * one * samples + first
    partial += (part * columns + column) * (features + BIAS) * outputs
    block_of_partial = partial + feature.to(tl.int64)[:, None] * outputs + output[None, :]
    last_of_partial = partial + features * one * outputs + output
    for span in range(0, count, SPAN):
        total = tl.zeros([FEATURES, OUTPUTS], WIDE)
        constant = tl.zeros([DEPTH, OUTPUTS], WIDE)
        for start in range(span, tl.minimum(span + SPAN, count), DEPTH):
            row = start + inner
            inside = row < count
            far = row.to(tl.int64)
            rows = operand(tl.load(x + far[None, :] * x_row, known[:, None] & inside[None, :], other=0.0), WIDE)
            present = inside[:, None] & taken[None, :]
            root = tl.load(roots + far[:, None] * outputs, present, other=0.0)
            given = tl.load(v + far[:, None] * v_row, present, other=0.0)
            moved = tl.load(shift + far * columns, inside, other=0.0)[:, None]
            at_top = output[None, :] == tl.load(top + first + far, inside, other=-1)[:, None]
            inner_sum = tl.load(sums + far, inside, other=0.0)[:, None]
            changed = root * (shifted(given, root, moved, at_top, False) - root * inner_sum)
            total += tl.dot(rows, changed, input_precision="ieee", max_num_imprecise_acc=DEPTH, out_dtype=WIDE)
            if BIAS:
                constant += changed
        finished = total.to(tl.float64)
        held = known[:, None] & taken[None, :]
        if span > 0:
            finished += tl.load(block_of_partial, held, other=0.0)
        tl.store(block_of_partial, finished, held)
        if BIAS:
            last = tl.sum(constant, axis=0).to(tl.float64)
            if span > 0:
                last += tl.load(last_of_partial, taken, other=0.0)
            # Triton 3.9's interpreter takes no scalar condition in a mask.
            tl.store(last_of_partial, last, output < tl.where(tile_feature == 0, outputs, 0))
        # The next span is added to what may have been written by other threads of the program.
        tl.debug_barrier()


@triton.jit
def features_times_inner(
    x,
    inner,
    roots,
    top,
    out,
    samples,
    features,
    outputs,
    x_row,
    WIDE: tl.constexpr,
    BIAS: tl.constexpr,
    WHOLE: tl.constexpr,
    ROWS: tl.constexpr,
    OUTPUTS: tl.constexpr,
    DEPTH: tl.constexpr,
    PIECE: tl.constexpr,
    LEVELS: tl.constexpr,
    GROUP: tl.constexpr,
):
    """One tile of `out[k] = x inner[k]`, of B^T of that where a tile holds the WHOLE of its rows.

    The products of PIECE features are summed one after another from zero, and the pieces added.
    """
    one = tl.full((), 1, tl.int64)
    column = tl.program_id(1) * one
    height, width = tl.cdiv(samples, ROWS), tl.cdiv(outputs, OUTPUTS)
    tile_row, tile_output = grouped_tile(tl.program_id(0), height, width, GROUP)
    row, output = tile_row * one * ROWS + tl.arange(0, ROWS), tile_output * OUTPUTS + tl.arange(0, OUTPUTS)
    inside, taken = row < samples, output < outputs
    step = tl.arange(0, DEPTH)
    x += row[:, None] * x_row
    inner += column * (features + BIAS) * outputs + output[None, :]
    total = tl.zeros([ROWS, OUTPUTS], WIDE)
    for piece in range(0, features, PIECE):
        block = tl.zeros([ROWS, OUTPUTS], WIDE)
        for start in range(piece, tl.minimum(piece + PIECE, features), DEPTH):
            feature = start + step
            known = feature < features
            left = operand(tl.load(x + feature[None, :], inside[:, None] & known[None, :], other=0.0), WIDE)
            right = tl.load(inner + feature.to(tl.int64)[:, None] * outputs, known[:, None] & taken[None, :], other=0.0)
            block = tl.dot(left, right, block, input_precision="ieee", out_dtype=WIDE)
        total += block
    if BIAS:
        total += tl.load(inner + features * one * outputs, taken[None, :], other=0.0)
    places, present = row[:, None] * outputs + output[None, :], inside[:, None] & taken[None, :]
    if WHOLE:
        root = tl.load(roots + places, present, other=0.0)
        at_top = output[None, :] == tl.load(top + row, inside, other=-1)[:, None]
        # One entry of a row and zeros: the sum is that entry, in any order.
        moved = tl.sum(tl.where(at_top, total, 0.0), axis=1, keep_dims=True)
        block = shifted(total, root, moved, at_top, True)
        total = block - root * pairwise_sum(root * block, LEVELS)
    tl.store(out + column * samples * outputs + places, total, present)
