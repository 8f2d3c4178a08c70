"""A layer's tangent kernel in torch: products of Gram matrices tile by tile, or per-sample gradients slice by slice.

Both fill a matrix [n C, n2 C2] whose rows are numbered `i C + c`.  Without a right side the matrix is symmetric: only
the tiles of the lower triangle are computed, and `mirror` writes the other half.
Rounding: see `layer_error.py`, which counts the operations of this file.
"""

from __future__ import annotations

import torch

from ntkla.linalg.layers.layer_cost import BLOCK_ROWS, TILE_ROWS, LayerShape, column_slices, tile_edges
from ntkla.linalg.layers.layer_factors import Factors


def shape_of(left: Factors, right: Factors | None) -> LayerShape:
    """The lengths that decide the route."""
    other = left if right is None else right
    (n, c, t), (n2, c2, t2) = left.d.shape[:3], other.d.shape[:3]
    return LayerShape(n, c, t, n2, c2, t2, left.a.shape[2], left.d.shape[3])


def add_gram_products(out: torch.Tensor, left: Factors, right: Factors | None) -> None:
    """Adds to `out` the kernel by Gram products: `sum_{t,s} <a_it, a_js> <d_ict, d_jes>`, no gradient formed."""
    other = left if right is None else right
    n, outputs, positions = left.d.shape[:3]
    n2, outputs2, positions2 = other.d.shape[:3]
    columns = tile_edges(n2, outputs2, positions2)
    for samples, rows in tile_edges(n, outputs, positions):
        a, d = left.activations(samples), left.deltas(samples, rows)
        start, stop = _run(samples, rows, outputs)
        for samples2, rows2 in columns:
            start2, stop2 = _run(samples2, rows2, outputs2)
            if right is None and start2 >= stop:
                break
            tile = gram_tile(a, d, other.activations(samples2), other.deltas(samples2, rows2))
            out[start:stop, start2:stop2] += tile.reshape(stop - start, stop2 - start2)


def _run(samples: slice, outputs: slice, per_sample: int) -> tuple[int, int]:
    """The rows `i C + c` of a tile."""
    return samples.start * per_sample + outputs.start, (samples.stop - 1) * per_sample + outputs.stop


def gram_tile(a: torch.Tensor, d: torch.Tensor, a2: torch.Tensor, d2: torch.Tensor) -> torch.Tensor:
    """[m, c, m2, c2] of the kernel, from blocks [m, T, F_a], [m, c, T, F_d] and the same of the right side."""
    m, c, positions, _ = d.shape
    m2, c2, positions2, _ = d2.shape
    deltas = (d.flatten(0, 2) @ d2.flatten(0, 2).T).view(m, c, positions, m2, c2, positions2)
    activations = (a.flatten(0, 1) @ a2.flatten(0, 1).T).view(m, 1, positions, m2, 1, positions2)
    product = deltas.mul_(activations)
    return product[:, :, 0, :, :, 0] if positions == positions2 == 1 else product.sum(dim=(2, 5))


def add_materialised(out: torch.Tensor, left: Factors, right: Factors | None) -> None:
    """Adds to `out` the kernel by per-sample gradients, formed for all samples in slices of their columns."""
    rows = out.shape[0] if right is None else sum(out.shape)
    for columns in column_slices(rows, left.a.shape[2], left.d.shape[3]):
        gradients = all_gradients(left, columns)
        add_outer(out, gradients, None if right is None else all_gradients(right, columns))


def all_gradients(side: Factors, columns: tuple[slice, slice]) -> torch.Tensor:
    """[n C, columns]: sample blocks keep the converted copies of a and d small."""
    n, outputs, positions = side.d.shape[:3]
    count = [part.stop - part.start for part in columns]
    result = torch.empty((n, outputs, *count), dtype=side.working, device=side.d.device)
    step = max(1, TILE_ROWS // max(1, outputs * positions))
    for start in range(0, n, step):
        samples = slice(start, min(start + step, n))
        result[samples] = side.gradients(samples, columns)
    return result.view(n * outputs, count[0] * count[1])


def add_outer(out: torch.Tensor, x: torch.Tensor, y: torch.Tensor | None) -> None:
    """Adds x y^T to `out`, or the block rows of the lower triangle of x x^T; finished products are added."""
    other = x if y is None else y
    for start in range(0, x.shape[0], BLOCK_ROWS):
        rows = slice(start, min(start + BLOCK_ROWS, x.shape[0]))
        stop = rows.stop if y is None else other.shape[0]
        # A call of its own: a BLAS asked for C + A B may begin its sums with C, and rounding would count every term.
        out[rows, :stop] += x[rows] @ other[:stop].T


def mirror(out: torch.Tensor) -> None:
    """Writes the upper triangle of a square matrix from the lower one."""
    for start in range(0, out.shape[0], BLOCK_ROWS):
        rows = slice(start, min(start + BLOCK_ROWS, out.shape[0]))
        out[:start, rows] = out[rows, :start].T
        diagonal = out[rows, rows]
        diagonal.copy_(diagonal.tril() + diagonal.tril(-1).T)
