"""Exact products of matrices by the integer kernel: float64 blocks in planes of int8, windows of levels, fixed point.

`x = sum_p planes[p] 2^exponents[p]` with integers of at most 64 (`integer_slices.py` with 7 bits).  The kernel gives
the sums of six levels of pairs at a time, as integers; they are the terms of a `FixedPoint`.  Nothing is rounded, so
the result is that of the products that float64 computes without rounding, bit by bit, whatever the tiles and the cuts.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch

from ntkla.linalg.arithmetic.fixed_point import FixedPoint, Term
from ntkla.linalg.arithmetic.integer_slices import INT8_BITS, cut_slices
from ntkla.linalg.backends import kernels
from ntkla.linalg.backends.dispatch import Call, T, kernel_wanted, tried, wanted_backend
from ntkla.linalg.errors import BackendError


def by_kernel_or_torch(call: Call, compute: Callable[[bool], T]) -> tuple[T, bool]:
    """`compute(True)` where the integer kernel is wanted and can run, else `compute(False)`; and which of them it was.

    For an algorithm whose result is no tensor, as `dispatch.run` is for the others.

    Raises:
        BackendError: when Triton is forced and cannot run here.  Where the table prefers it, torch runs instead, after
            a RuntimeWarning that names the reason.
    """
    if not kernel_wanted(call):
        return compute(False), False
    found, reason = tried(call, lambda: compute(True))
    if found is not None:
        return found, True
    if wanted_backend() == "triton":
        raise BackendError(f"{call.primitive}: the backend 'triton' was forced, but {reason}. Or use backend('auto').")
    warnings.warn(
        f"{call.primitive} runs in torch, for its Triton kernel cannot run: {reason}.", RuntimeWarning, stacklevel=2
    )
    return compute(False), False


class IntegerPlanes(NamedTuple):
    """`sum planes[p] 2^exponents[p]`: int8 [S, n, F padded with zeros], exponents descending by multiples of 7."""

    planes: torch.Tensor
    exponents: list[int]


def integer_planes(x: torch.Tensor, top: int, flushed: bool) -> IntegerPlanes:
    """A finite float64 x [n, F], |x| <= 2^top, in planes; those without an entry are left out."""
    rows, features = x.shape
    _, padding = kernels.integer_limits()
    exponents, planes = [], []
    for part, exponent in cut_slices(x, top, INT8_BITS, flushed):
        plane = torch.zeros((rows, -(-features // padding) * padding), dtype=torch.int8, device=x.device)
        plane[:, :features] = part
        exponents.append(exponent)
        planes.append(plane)
    empty = torch.zeros((0, rows, padding), dtype=torch.int8, device=x.device)
    return IntegerPlanes(torch.stack(planes) if planes else empty, exponents)


def add_product(total: FixedPoint, x: IntegerPlanes, y: IntegerPlanes | None) -> FixedPoint:
    """`total + x y^T`, exactly; y None for x itself."""
    most, _ = kernels.integer_limits()
    windows, width = list(_windows(x.exponents, (x if y is None else y).exponents, most)), INT8_BITS * most
    exponents = [base + half for base, _ in windows for half in (0, width)]

    def terms() -> Iterator[Term]:
        for base, levels in windows:
            digits, carry = kernels.integer_gram(x.planes, None if y is None else y.planes, levels)
            yield digits, base
            yield carry, base + width

    return FixedPoint.of_terms(terms(), exponents, total)


Levels = list[list[tuple[int, int]]]


def _windows(left: list[int], right: list[int], most: int) -> Iterator[tuple[int, Levels]]:
    """The lowest level of each window of at most so many, and which pairs of planes are on each of its levels."""
    pairs: dict[int, list[tuple[int, int]]] = {}
    for p, first in enumerate(left):
        for q, second in enumerate(right):
            pairs.setdefault(first + second, []).append((p, q))
    waiting = sorted(pairs)
    while waiting:
        base = waiting[0]
        levels: Levels = [pairs.get(base + INT8_BITS * place, []) for place in range(most)]
        yield base, levels
        waiting = [level for level in waiting if level >= base + INT8_BITS * most]
