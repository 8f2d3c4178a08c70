"""What a block of a layer's tangent kernel costs on either route, which route is taken, and how it is cut.

For one pair of samples with T and T' positions, C and C' outputs and a parameter matrix of F_a x F_d, counted in
multiplications:

- Gram products: `T T' F_a` for the activations (shared by all pairs of outputs), `C C' T T' F_d` for the deltas,
  `C C' T T'` to multiply the two;
- materialised per-sample gradients: `C C' F_a F_d`, once every sample's gradient was formed with `C T F_a F_d`.

Without the forming, which many samples share, the two meet at `T* = sqrt(F_a F_d / (F_a / C^2 + F_d + 1))`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from ntkla.linalg import checks

ROUTES = ("auto", "gram", "materialised")

# Rows of one side of a tile of the deltas' Gram matrix: two sides of it fit a core's cache together with their product.
TILE_ROWS = 512
# Entries of the per-sample gradients that are held at once (128 MiB in float64), unless one column of them is more.
SLICE_ENTRIES = 2**24
# Their columns held at once: sums of this length are finished before they are added, so rounding grows with
# `SLICE_COLUMNS + F_a F_d / SLICE_COLUMNS` instead of F_a F_d.
SLICE_COLUMNS = 2**12
# Rows of the block rows in which a matrix is multiplied and mirrored.
BLOCK_ROWS = 1024


@dataclass(frozen=True)
class LayerShape:
    """The lengths that decide what one parameter costs: left and right samples, outputs, positions, and F_a, F_d."""

    samples: int
    outputs: int
    positions: int
    samples2: int
    outputs2: int
    positions2: int
    inputs: int
    deltas: int

    @property
    def block(self) -> tuple[int, int, int, int]:
        """The lengths of the kernel's block: samples and outputs of the left and of the right."""
        return self.samples, self.outputs, self.samples2, self.outputs2


@dataclass(frozen=True)
class LayerCost:
    """Multiplications of the two routes, and the route that was picked."""

    gram: float
    materialised: float
    route: str


def crossover(inputs: int, deltas: int, outputs: int, outputs2: int | None = None) -> float:
    """T*: above so many positions, and for many samples, per-sample gradients cost less than products of Grams.

    Args:
        inputs: F_a, entries of an activation.
        deltas: F_d, entries of a delta.
        outputs, outputs2: C and C'; C' = C when None.  For T and T' positions the limit is `sqrt(T T')`.

    Raises:
        ArgumentError: a length below 1.
    """
    names = ("inputs", "deltas", "outputs", "outputs2")
    given = (inputs, deltas, outputs, outputs if outputs2 is None else outputs2)
    f_a, f_d, c, c2 = (checks.integer(name, value, least=1) for name, value in zip(names, given, strict=True))
    return math.sqrt(f_a * f_d / (f_a / (c * c2) + f_d + 1.0))


def layer_cost(shape: LayerShape, route: str = "auto") -> LayerCost:
    """Compares the two routes for all pairs of samples; `route` other than "auto" overrides the comparison.

    The forming of the gradients counts, so few samples need more than T* positions before it pays.
    """
    checks.choice("route", route, ROUTES)
    weights = shape.inputs * shape.deltas
    pairs = shape.samples * shape.samples2
    output_pairs = shape.outputs * shape.outputs2
    gram = pairs * shape.positions * shape.positions2 * (shape.inputs + output_pairs * (shape.deltas + 1.0))
    uses = shape.samples * shape.outputs * shape.positions + shape.samples2 * shape.outputs2 * shape.positions2
    materialised = float(pairs * output_pairs * weights + uses * weights)
    picked = ("gram" if gram <= materialised else "materialised") if route == "auto" else route
    return LayerCost(gram, materialised, picked)


def layer_memory(shapes: list[LayerShape], working: torch.dtype, wide: torch.dtype, *, symmetric: bool) -> int:
    """Bytes that `layer_ntk` allocates at its peak, beside its inputs: the result, and what one block of it needs.

    The result once more where it is rounded at the end; a slice of the per-sample gradients and a block row of their
    products; or two tiles of factors, their two Gram matrices and the product's sum.
    """
    rows, rows2 = shapes[0].samples * shapes[0].outputs, shapes[0].samples2 * shapes[0].outputs2
    largest = 0
    for shape in shapes:
        formed = rows if symmetric else rows + rows2
        slices = formed * _slice_columns(formed, shape.deltas) + min(BLOCK_ROWS, rows) * rows2
        edges = [max(TILE_ROWS, positions) for positions in (shape.positions, shape.positions2)]
        tiles = 3 * math.prod(edges) + 2 * sum(edges) * (shape.inputs + shape.deltas)
        largest = max(largest, slices, tiles)
    converted = wide.itemsize if working != wide else 0
    return rows * rows2 * (working.itemsize + converted) + largest * working.itemsize


def tile_edges(samples: int, outputs: int, positions: int) -> list[tuple[slice, slice]]:
    """Cuts the rows (i, c) of one side, numbered `i C + c`, into tiles of about `TILE_ROWS` rows (i, c, t).

    Returns:
        (samples, outputs) of each tile: whole samples, or a part of one sample's outputs; both are runs of rows.
    """
    if outputs * positions <= TILE_ROWS:
        step = max(1, TILE_ROWS // max(1, outputs * positions))
        return [(slice(i, min(i + step, samples)), slice(0, outputs)) for i in range(0, samples, step)]
    step = max(1, TILE_ROWS // positions)
    return [
        (slice(i, i + 1), slice(c, min(c + step, outputs))) for i in range(samples) for c in range(0, outputs, step)
    ]


def column_slices(rows: int, inputs: int, deltas: int) -> list[tuple[slice, slice]]:
    """Cuts the F_a x F_d columns of the per-sample gradients of `rows` rows into slices (of F_a, of F_d)."""
    columns = _slice_columns(rows, deltas)
    width = max(1, min(deltas, columns))
    height = max(1, columns // width)
    return [
        (slice(f, min(f + height, inputs)), slice(g, min(g + width, deltas)))
        for f in range(0, inputs, height)
        for g in range(0, deltas, width)
    ]


def _slice_columns(rows: int, deltas: int) -> int:
    """The most columns in a slice: whole rows of F_d where they fit."""
    columns = max(1, min(SLICE_COLUMNS, SLICE_ENTRIES // max(1, rows)))
    return columns if deltas == 0 else max(1, columns // min(deltas, columns)) * min(deltas, columns)
