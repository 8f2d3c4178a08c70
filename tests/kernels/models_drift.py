"""The order in which the kernel `drift` computes, in numpy, as Triton's interpreter multiplies: by numpy."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

SHORT_CHAIN = 1.0 + 66 * 2.0**-53


class DriftSizes(NamedTuple):
    """The tile, the features of a block, and those of a piece."""

    rows: int
    outputs: int
    depth: int
    piece: int


class Columns(NamedTuple):
    """e, r and t, [C], of the bound `distances e + norms r + t`."""

    update: np.ndarray
    rounding: np.ndarray
    constant: np.ndarray


def drift(
    x: np.ndarray,
    high: np.ndarray,
    low: np.ndarray | None,
    columns: Columns,
    limits: np.ndarray,
    bias: bool,
    centre: np.ndarray | None,
    sizes: DriftSizes,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """value, bound [n, C], norms, distances [n]; `limits` as the launcher makes them."""
    features = x.shape[1]
    value = _product(x, high[:features], sizes)
    if low is not None:
        value = value + _product(x, low[:features], sizes)
    if bias:
        value = value + (high[features] if low is None else high[features] + low[features])
    inflation, underflow, beside = limits
    lengths = _squares(x, sizes) * inflation + underflow
    norms = np.sqrt(lengths) * SHORT_CHAIN
    if centre is not None:
        apart = np.sqrt(_squares(x - centre, sizes) * inflation + underflow)
        distances = (apart + (2.0**-53 * norms + beside)) * SHORT_CHAIN
    else:
        distances = np.sqrt(lengths + 1.0) * SHORT_CHAIN if bias else norms
    off = distances[:, None] * columns.update + norms[:, None] * columns.rounding + columns.constant
    return value, off * SHORT_CHAIN, norms, distances


def _squares(x: np.ndarray, sizes: DriftSizes) -> np.ndarray:
    """Sums of squares: block after block, and then over the places in a block."""
    total = np.zeros((x.shape[0], sizes.depth))
    for start, stop in _blocks(x.shape[1], sizes):
        block = _padded(x[:, start:stop], x.shape[0], sizes.depth)
        total = total + block * block
    return total.sum(1)


def _product(x: np.ndarray, w: np.ndarray, sizes: DriftSizes) -> np.ndarray:
    out = np.zeros((x.shape[0], w.shape[1]))
    for i in range(0, x.shape[0], sizes.rows):
        for j in range(0, w.shape[1], sizes.outputs):
            rows, columns = x[i : i + sizes.rows], w[:, j : j + sizes.outputs]
            total = np.zeros((sizes.rows, sizes.outputs))
            piece, of_piece = np.zeros_like(total), 0
            for start, stop in _blocks(x.shape[1], sizes):
                if start // sizes.piece != of_piece:
                    total, piece, of_piece = total + piece, np.zeros_like(total), start // sizes.piece
                left = _padded(rows[:, start:stop], sizes.rows, sizes.depth)
                piece = piece + np.matmul(left, _padded(columns[start:stop], sizes.depth, sizes.outputs))
            total = total + piece
            out[i : i + sizes.rows, j : j + sizes.outputs] = total[: len(rows), : columns.shape[1]]
    return out


def _blocks(features: int, sizes: DriftSizes) -> list[tuple[int, int]]:
    assert sizes.piece % sizes.depth == 0, "a block may not lie in two pieces"
    return [(start, min(start + sizes.depth, features)) for start in range(0, features, sizes.depth)]


def _padded(x: np.ndarray, rows: int, columns: int) -> np.ndarray:
    out = np.zeros((rows, columns))
    out[: x.shape[0], : x.shape[1]] = x
    return out
