"""The order in which the kernels of `softmax_gram` compute, in numpy, as Triton's interpreter multiplies: by numpy."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class SoftmaxSizes(NamedTuple):
    """What the launcher pins.

    Attributes:
        outputs: outputs in a block of a pass over rows.
        whole: whether B^T is taken where w is formed.
        edge, width, depth: the tile, its features or samples by its outputs, and the rows or features of a block.
        share, span, piece: rows of a part, rows of a span, features of a piece.
    """

    outputs: int
    whole: bool
    edge: int
    width: int
    depth: int
    share: int
    span: int
    piece: int


def softmax_gram(
    x: np.ndarray, roots: np.ndarray, top: np.ndarray, v: np.ndarray, bias: bool, sizes: SoftmaxSizes
) -> np.ndarray:
    """[n, C, m] in the type of x, which is that of the roots and of v."""
    n, outputs, columns = v.shape
    rows, marked = np.arange(n), np.maximum(top, 0)
    found = np.zeros((n, outputs, columns), x.dtype)
    at_top = np.arange(outputs)[None, :] == top[:, None]
    for k in range(columns):
        given = v[:, :, k]
        shift = np.where(top >= 0, given[rows, marked] / roots[rows, marked], 0).astype(x.dtype)[:, None]
        block = np.where(at_top, 0, given - roots * shift).astype(x.dtype)
        changed = roots * (block - roots * _row_sums(roots * block, sizes.outputs)[:, None])
        w = _outer(x, _inner(x, changed, bias, sizes), bias, sizes)
        moved = np.where(top >= 0, w[rows, marked], 0).astype(x.dtype)[:, None]
        turned = np.where(at_top, 0, roots * (w - moved)).astype(x.dtype)
        sums = _pairs(_wide(roots * turned, sizes.width)) if sizes.whole else _row_sums(roots * turned, sizes.outputs)
        found[:, :, k] = turned - roots * sums[:, None]
    return found


def _row_sums(terms: np.ndarray, block: int) -> np.ndarray:
    """Blocks of outputs added in float64 with their errors kept, then in pairs, rounded once to the type."""
    wide = _wide(terms.astype(np.float64), block)
    high, low = np.zeros((len(terms), block)), np.zeros((len(terms), block))
    for start in range(0, wide.shape[1], block):
        term = wide[:, start : start + block]
        total = high + term
        back = total - high
        low += (high - (total - back)) + (term - back)
        high = total
    return _pairs(high + low).astype(terms.dtype)


def _pairs(x: np.ndarray) -> np.ndarray:
    while x.shape[1] > 1:
        x = x[:, ::2] + x[:, 1::2]
    return x[:, 0]


def _wide(x: np.ndarray, multiple: int) -> np.ndarray:
    """x with zeros behind its rows, up to a multiple."""
    return np.pad(x, ((0, 0), (0, -x.shape[1] % multiple)))


def _inner(x: np.ndarray, changed: np.ndarray, bias: bool, sizes: SoftmaxSizes) -> np.ndarray:
    """x^T u: blocks in the working type, spans and parts in float64, one rounding."""
    (n, features), outputs = x.shape, changed.shape[1]
    parts = []
    for first in range(0, n, sizes.share):
        stop, part = min(first + sizes.share, n), np.zeros((features + bias, outputs))
        for span in range(first, stop, sizes.span):
            total = np.zeros((features, outputs), x.dtype)
            constant = np.zeros((sizes.depth, outputs), x.dtype)
            for start in range(span, min(span + sizes.span, stop), sizes.depth):
                inside = slice(start, min(start + sizes.depth, stop))
                rows, block = (_long(t[inside], sizes.depth) for t in (x, changed))
                total += _tiled(np.ascontiguousarray(rows.T), block, sizes)
                constant += block
            part[:features] += total.astype(np.float64)
            if bias:
                part[features] += constant.sum(0).astype(np.float64)
        parts.append(part)
    return np.sum(np.stack(parts), axis=0).astype(x.dtype)


def _outer(x: np.ndarray, inner: np.ndarray, bias: bool, sizes: SoftmaxSizes) -> np.ndarray:
    """x z: blocks added to the sum of their piece, pieces to the total, the bias last."""
    (n, features), outputs = x.shape, inner.shape[1]
    total = np.zeros((n, outputs), x.dtype)
    for piece in range(0, features, sizes.piece):
        block = np.zeros_like(total)
        for start in range(piece, min(piece + sizes.piece, features), sizes.depth):
            inside = slice(start, min(start + sizes.depth, piece + sizes.piece, features))
            left, right = _long(x[:, inside].T, sizes.depth).T, _long(inner[inside], sizes.depth)
            block = block + _tiled(np.ascontiguousarray(left), right, sizes)
        total = total + block
    return total + inner[features] if bias else total


def _long(x: np.ndarray, rows: int) -> np.ndarray:
    """x with rows of zeros below it."""
    return np.pad(x, ((0, rows - x.shape[0]), (0, 0)))


def _tiled(left: np.ndarray, right: np.ndarray, sizes: SoftmaxSizes) -> np.ndarray:
    """left right, tile by tile, for numpy's order may depend on the shape."""
    rows, columns = left.shape[0], right.shape[1]
    left, right = _long(left, rows + -rows % sizes.edge), _wide(right, sizes.width)
    out = np.zeros((left.shape[0], right.shape[1]), left.dtype)
    for i in range(0, left.shape[0], sizes.edge):
        for j in range(0, right.shape[1], sizes.width):
            tile = np.ascontiguousarray(right[:, j : j + sizes.width])
            out[i : i + sizes.edge, j : j + sizes.width] = np.matmul(left[i : i + sizes.edge], tile)
    return out[:rows, :columns]
