"""The order in which each kernel computes, in numpy: what its bound is derived from, and what it must reproduce.

Three ways to form the inner products of two blocks of rows, as a mode does on a machine:

- `Blocks`: whole blocks of the depth are multiplied by numpy and added: every mode in Triton's interpreter, which
  multiplies by numpy too, so results must agree in every bit;
- `multiply_adds`: the "ieee" mode on a GPU, one fused multiply-add after another inside a block;
- `truncating`: a tensor core at its worst, for the bound of "bf16"; what a real one does is not documented.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

Inner = Callable[[np.ndarray, np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Blocks:
    """x y^T block by block of `depth` columns, each padded with zeros and multiplied whole."""

    depth: int

    def __call__(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        total = np.zeros((x.shape[0], y.shape[0]), dtype=x.dtype)
        for start in range(0, x.shape[1], self.depth):
            left, right = (_padded(z[:, start : start + self.depth], len(z), self.depth) for z in (x, y))
            total = total + np.matmul(left, np.ascontiguousarray(right.T))
        return total


def fused(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    """a b + c of float32 values, rounded once to float32: the float64 sum is rounded to odd in between."""
    product = a.astype(np.float64) * b.astype(np.float64)
    wide = c.astype(np.float64)
    total = product + wide
    back = total - product
    lost = (product - (total - back)) + (wide - back)
    even = (total.view(np.int64) & 1) == 0
    odd = np.nextafter(total, np.where(lost > 0, np.inf, -np.inf))
    return np.where((lost != 0) & even, odd, total).astype(np.float32)


def multiply_adds(depth: int) -> Inner:
    """x y^T of float32 rows: multiply-adds from zero inside a block, finished blocks added up."""

    def inner(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        total = np.zeros((x.shape[0], y.shape[0]), dtype=np.float32)
        for start in range(0, x.shape[1], depth):
            block = np.zeros_like(total)
            for k in range(start, min(start + depth, x.shape[1])):
                block = fused(x[:, k, None], y[None, :, k], block)
            total = total + block
        return total

    return inner


def truncating(depth: int, instruction: int) -> Inner:
    """x y^T where products and running sum are aligned to the largest and cut behind 24 bits, in instructions."""

    def inner(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        x, y = x.astype(np.float64), y.astype(np.float64)
        total = np.zeros((x.shape[0], y.shape[0]), dtype=np.float32)
        for start in range(0, x.shape[1], depth):
            block = np.zeros(total.shape)
            for k in range(start, min(start + depth, x.shape[1]), instruction):
                columns = slice(k, min(k + instruction, start + depth))
                terms = np.concatenate([x[:, None, columns] * y[None, :, columns], block[:, :, None]], 2)
                largest = np.frexp(np.abs(terms).max(2, keepdims=True))[1]
                block = _cut(terms, np.ldexp(1.0, largest - 24)).sum(2)
                block = _cut(block, np.ldexp(1.0, np.frexp(block)[1] - 24))
            total = total + block.astype(np.float32)
        return total

    return inner


def _cut(values: np.ndarray, unit: np.ndarray) -> np.ndarray:
    return np.trunc(values / unit) * unit


def _padded(x: np.ndarray, rows: int, columns: int) -> np.ndarray:
    out = np.zeros((rows, columns), dtype=x.dtype)
    out[: x.shape[0], : x.shape[1]] = x
    return out


def gram(x: np.ndarray, y: np.ndarray, bias: bool, inner: Inner, edge: int) -> np.ndarray:
    """`x y^T + bias` in tiles of `edge` x `edge`, padded with zeros; the bias comes last."""
    out = np.zeros((len(x), len(y)), dtype=inner(x[:1], y[:1]).dtype)
    for i in range(0, len(x), edge):
        for j in range(0, len(y), edge):
            rows, columns = x[i : i + edge], y[j : j + edge]
            tile = inner(_padded(rows, edge, x.shape[1]), _padded(columns, edge, y.shape[1]))
            out[i : i + edge, j : j + edge] = tile[: len(rows), : len(columns)]
    return out + out.dtype.type(bias)


class Side(NamedTuple):
    """One side of a parameter of `layer_ntk`: a [n, T, F_a], d [n, C, T, F_d], and where positions count, [n, T]."""

    a: np.ndarray
    d: np.ndarray
    mask: np.ndarray | None = None


class LayerTile(NamedTuple):
    """Samples and outputs on both sides of a tile."""

    samples: int
    outputs: int
    samples2: int
    outputs2: int


def layer_ntk(left: list[Side], right: list[Side] | None, inner: Inner, tile: LayerTile) -> np.ndarray:
    """[n C, n2 C2]: parameter after parameter, position after position, and the mirrored half without a right side."""
    (n, c), (n2, c2) = left[0].d.shape[:2], (right or left)[0].d.shape[:2]
    rows, columns = _tiles(n, c, tile.samples, tile.outputs), _tiles(n2, c2, tile.samples2, tile.outputs2)
    out = None
    for parameter, other in zip(left, right or left, strict=True):
        found: dict[tuple[int, int], np.generic] = {}
        for samples, places in rows:
            for samples2, places2 in columns:
                total = _layer_tile(parameter, other, (samples, places), (samples2, places2), inner)
                for (p, row), (q, column) in ((x, y) for x in enumerate(places) for y in enumerate(places2)):
                    if row is not None and column is not None:
                        found[row[0] * c + row[1], column[0] * c2 + column[1]] = total[p, q]
        one = np.array([[found[i, j] for j in range(n2 * c2)] for i in range(n * c)])
        out = one if out is None else one + out
    assert out is not None, "layer_ntk: expected a parameter"
    if right is not None:
        return out
    # The tiles on and below the diagonal decide, and so does the lower half of those on it: in the order of the tiles.
    walked = [i * c + e for _, places in rows for i, e in (place for place in places if place is not None)]
    rank = np.argsort(walked)
    return np.where(rank[:, None] >= rank[None, :], out, out.T)


_Places = list["tuple[int, int] | None"]


def _tiles(n: int, outputs: int, samples: int, together: int) -> list[tuple[list[int | None], _Places]]:
    """Each tile's samples, and the (sample, output) of each of its rows; None for what lies beyond the end."""
    found = []
    for first in range(0, n, samples):
        for group in range(0, outputs, together):
            some = [i if i < n else None for i in range(first, first + samples)]
            places = [
                (i, e) if i is not None and e < outputs else None for i in some for e in range(group, group + together)
            ]
            found.append((some, places))
    return found


def _layer_tile(
    left: Side,
    right: Side,
    rows: tuple[list[int | None], _Places],
    columns: tuple[list[int | None], _Places],
    inner: Inner,
) -> np.ndarray:
    """One parameter's tile: activations' and deltas' products meet at each pair of positions, s fastest."""
    (samples, places), (samples2, places2) = rows, columns
    together, together2 = len(places) // len(samples), len(places2) // len(samples2)
    total = None
    for t in range(left.a.shape[1]):
        for s in range(right.a.shape[1]):
            shared = inner(_rows(left.a[:, t], samples), _rows(right.a[:, s], samples2))
            shared = shared.repeat(together, 0).repeat(together2, 1)
            product = shared * inner(_rows(left.d[:, :, t], places), _rows(right.d[:, :, s], places2))
            for mask, position, where, axis in ((left.mask, t, places, 1), (right.mask, s, places2, 0)):
                if mask is not None:
                    counts = np.array([place is not None and bool(mask[place[0], position]) for place in where])
                    product = np.where(np.expand_dims(counts, axis), product, product.dtype.type(0.0))
            total = product if total is None else total + product
    assert total is not None, "layer_ntk: expected a position"
    return total


def _rows(x: np.ndarray, places: list[int | None] | _Places) -> np.ndarray:
    """The rows of x at these places, zeros beyond the end."""
    return np.stack([np.zeros_like(x.reshape(-1, x.shape[-1])[0]) if p is None else x[p] for p in places])


class NormalBlock(NamedTuple):
    """What a program of `normal_matmul` holds, and how many rows it owns."""

    rows: int
    features: int
    columns: int
    share: int


def normal_matmul(
    x: np.ndarray, w: np.ndarray, weights: np.ndarray | None, bias: bool, block: NormalBlock
) -> np.ndarray:
    """`x^T (weights * (x w))`: blocks of rows into the float64 sums of parts, then the parts, then one rounding."""
    (n, features), columns = x.shape, w.shape[1]
    groups = -(-columns // block.columns)
    factor = _padded(w[:features], block.features, groups * block.columns)
    constant = np.zeros(groups * block.columns, dtype=x.dtype)
    constant[:columns] = w[features] if bias else 0.0
    parts = np.zeros((-(-n // block.share), features + 1, groups * block.columns))
    owned = ((part, min(part + block.share, n)) for part in range(0, n, block.share))
    for start, stop in ((i, min(i + block.rows, end)) for begin, end in owned for i in range(begin, end, block.rows)):
        inside, part = slice(start, stop), start // block.share
        rows = _padded(x[inside], block.rows, block.features)
        for group in range(groups):
            taken = slice(group * block.columns, (group + 1) * block.columns)
            outputs = (rows[:, :, None] * factor[None, :, taken]).sum(1) + constant[taken]
            outputs[: stop - start] *= 1.0 if weights is None else weights[inside, None]
            outputs[stop - start :] = 0.0
            parts[part, :features, taken] += (rows[:, :, None] * outputs[:, None, :]).sum(0)[:features]
            parts[part, features, taken] += outputs.sum(0)
    assert len(parts) <= 32, "the second kernel adds more parts than these in several steps"
    return parts.sum(0)[: features + bias, :columns].astype(x.dtype)
