"""Sums `A B + terms` rounded about once: the products of `slicing.py` with a bound on their rounding.

At level s the factors are cut into s slices and a rest.  Products of slices p, q with p + q <= s + 1 are exact in
float64; the others involve a rest, are smaller by 2^(-s b) (b about 20 bits), and so are their roundings.  Column by
column, in the 2-norm, with A_p the slices and A'_s, b'_q what is left after s and q of them,

    gamma_{K+2} (sum_p ||A_p||_F ||b'_{s+1-p}|| + ||A'_s||_F ||b||)  +  2 k^2 u^2 (sum of the norms of the k terms)

for inner length K and the doubled summation of `doubled.total`, and `u ||result||` for its rounding to float64.  In
plain float64 it would be `gamma_K ||A||_F ||b||`: hundreds of roundings where, at level 1, one suffices; more levels
are for results much smaller than their terms.

Sample weights D enter split, `w = scale^2 rest` with scale a power of two: `Phi^T D t = (scale Phi)^T (rest scale t)`
scales exactly on both sides, so that norms are those of the weighted problem, and `rest scale t` is kept as an
unevaluated sum of two float64 numbers.

Where even that rounding counts, the sums are had as two float64 numbers (`doubled_...`), without the last term.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from itertools import chain
from typing import NamedTuple

import torch

from ntkla.linalg.arithmetic.doubled import Doubled, total, two_product, two_sum
from ntkla.linalg.arithmetic.products import pieced_gamma, pieced_matmul
from ntkla.linalg.arithmetic.slicing import (
    HIGHEST_LEVEL,
    SIGNIFICAND,
    cut,
    exponents,
    length_bits,
    product_terms,
    right_factors,
    slice_bits,
)
from ntkla.linalg.design import Design
from ntkla.linalg.precision import NEGLIGIBLE, SHORT_CHAIN, TINY64, U64, gamma, norm_upper, rounded_up
from ntkla.linalg.solve.normal import BoundedMatrix
from ntkla.linalg.solve.weights import SampleWeights

# Columns of the right factor whose slices and products are held at a time.
PANEL = 256
# A column is accurate when its error is at most this many roundings of its norm.
_FEW = 4


class Bounded(NamedTuple):
    """float64 [m, c] and the 2-norm bound of each column's error, [c]."""

    value: torch.Tensor
    error: torch.Tensor


class BoundedPair(NamedTuple):
    """high + low, float64 [m, c] each, and the 2-norm bound of each column's error, [c]."""

    value: Doubled
    error: torch.Tensor


def accurate_sum(a: torch.Tensor, b: torch.Tensor, terms: list[torch.Tensor], level: int = 1) -> Bounded:
    """`a b + sum(terms)` for float64 a [m, K], b [K, c] and terms [m, c]; at most 256 columns are best.

    Cost: `(level + 1) (level + 2) m K c` operations.
    """
    value, error = doubled_sum(a, b, terms, level)
    return Bounded(value.high, rounded_up(error + U64 * norm_upper(value.high, dim=0)))


def doubled_sum(a: torch.Tensor, b: torch.Tensor, terms: list[torch.Tensor], level: int = 1) -> BoundedPair:
    """The same before it is rounded to float64."""
    rows, inner = a.shape
    bits = slice_bits(inner)
    left = cut(a, exponents(a, 1), bits, level)
    right = cut(b, exponents(b, 0), SIGNIFICAND - length_bits(inner) - bits, level)
    factors = [*left.parts, left.rest[level]]
    products = product_terms(factors, right_factors(right, level), b.shape[1])
    value = total([products[0], *terms, *products[1:]])
    a_norms = [float(norm_upper(factor)) for factor in factors]
    # Slice p meets the rest after level + 1 - p slices of b; the rest of a meets all of b.
    b_norms = [norm_upper(right.rest[level - p], dim=0) for p in range(level + 1)]
    ordinary = sum(x * y for x, y in zip(a_norms, b_norms, strict=True)) * gamma(inner + 2)
    magnitude = (level + 2) ** 2 * float(norm_upper(a)) * b_norms[-1] + sum(norm_upper(term, dim=0) for term in terms)
    count = len(terms) + len(products)
    summation = 2.0 * count**2 * U64**2 * magnitude
    underflow = (level + 1) ** 2 * (inner + 2) * TINY64 * math.sqrt(rows)
    return BoundedPair(value, rounded_up(ordinary + summation + 2.0 * underflow))


def accurate_outputs(design: Design, w: torch.Tensor, targets: torch.Tensor) -> Bounded:
    """`Phi w - targets` for float64 w [columns, C] and targets [n, C], to about one rounding of each column's norm.

    Cost: `6 n columns C` operations; more where the result is smaller than 2^-20 of its terms.
    """
    for level in range(1, HIGHEST_LEVEL + 1):
        found = _outputs_at(design, w, targets, level)
        if bool((found.error <= _FEW * U64 * norm_upper(found.value, dim=0) + NEGLIGIBLE).all()):
            break
    return found


def _outputs_at(design: Design, w: torch.Tensor, targets: torch.Tensor, level: int) -> Bounded:
    value = torch.empty_like(targets, memory_format=torch.contiguous_format)
    squares = torch.zeros(w.shape[1], dtype=torch.float64, device=w.device)
    for rows, block in design.blocks():
        part = accurate_sum(block, w, [-targets[rows]], level)
        value[rows] = part.value
        squares = rounded_up(squares + part.error**2)
    return Bounded(value, rounded_up(squares.sqrt() + _dropped(design, w)))


def accurate_adjoint(
    design: Design, t: torch.Tensor, terms: list[torch.Tensor], weights: SampleWeights | None = None
) -> Bounded:
    """`Phi^T D t + sum(terms)` for float64 t [n, C], terms [columns, C].  Cost: 6 n columns C operations (8 with D)."""
    blocks = (_adjoint_of(block, rows, t[rows], weights) for rows, block in design.blocks())
    exact = (Bounded(term, torch.zeros_like(term[0])) for term in terms)
    value, error = _total_of(chain(blocks, exact))
    return Bounded(value, rounded_up(error + _dropped(design, t, weights)))


def doubled_outputs(design: Design, w: torch.Tensor, targets: torch.Tensor) -> BoundedPair:
    """`Phi w - targets` at level 1, before it is rounded to float64.  Cost: `6 n columns C` operations."""
    value = Doubled(*(torch.empty_like(targets, memory_format=torch.contiguous_format) for _ in range(2)))
    errors = []
    for rows, block in design.blocks():
        part = doubled_sum(block, w, [-targets[rows]])
        value.high[rows], value.low[rows] = part.value
        errors.append(part.error)
    return BoundedPair(value, rounded_up(norm_upper(torch.stack(errors), dim=0) + _dropped(design, w)))


def doubled_adjoint(design: Design, t: torch.Tensor) -> BoundedPair:
    """`Phi^T t` at level 1, before it is rounded to float64, for t [n, C].  Cost: `6 n columns C` operations."""
    value = Doubled(*(t.new_zeros((design.columns, t.shape[1])) for _ in range(2)))
    errors, magnitude, count = torch.zeros_like(t[0]), torch.zeros_like(t[0]), 0
    for rows, block in design.blocks():
        part = doubled_sum(block.T, t[rows], [])
        high, lost = two_sum(value.high, part.value.high)
        value = Doubled(high, value.low + (lost + part.value.low))
        errors, magnitude = errors + part.error, magnitude + norm_upper(part.value.high, dim=0)
        count += 2  # parts with a low one of their own count twice
        errors, magnitude = rounded_up(errors), rounded_up(magnitude)
    summation = 2.0 * (count + 1) ** 2 * U64**2 * magnitude
    dropped = _dropped(design, t) + 4.0 * count * TINY64 * math.sqrt(design.columns)
    return BoundedPair(two_sum(*value), rounded_up(errors + summation + dropped))


def _adjoint_of(block: torch.Tensor, rows: slice, t: torch.Tensor, weights: SampleWeights | None) -> Bounded:
    """`block^T D t` for one block of rows; what scaling drops is left to `_dropped`."""
    if weights is None:
        return accurate_sum(block.T, t, [])
    scale, rest = weights.split(rows)
    left = (block * scale).T
    right = two_product(rest, t * scale)
    value, error = accurate_sum(left, right.high, [pieced_matmul(left, right.low)])
    rounding = pieced_gamma(left.shape[1]) * float(norm_upper(left)) * norm_upper(right.low, dim=0)
    rounding = rounding + 2.0 * left.shape[1] * TINY64 * math.sqrt(left.shape[0])
    return Bounded(value, rounded_up(error + rounding))


def _dropped(design: Design, factor: torch.Tensor, weights: SampleWeights | None = None) -> torch.Tensor:
    """What a product with the features loses when flushed arithmetic drops subnormal numbers on either side.

    With weights it is what that leaves when both sides are scaled by powers of two, at most sqrt(2) times a root, and
    multiplied by at most 2, and what scaling itself and the doubled product drop: at most 32 tiny an entry.
    """
    flushed, ends = design.flushed_mass(), TINY64 * math.sqrt(factor.shape[0])
    if weights is None:
        return flushed * norm_upper(factor, dim=0) + ends * design.frobenius()
    reach = 2.0 * weights.largest_root + 1.0
    sizes = norm_upper(factor, dim=0) * reach + 32.0 * ends * reach
    return 4.0 * reach * flushed * sizes + 64.0 * ends * reach * weights.frobenius


def accurate_normal_matrix(design: Design, weights: SampleWeights | None = None) -> BoundedMatrix:
    """`Phi^T D Phi` with an error of about one rounding, where `normal_matrix` counts many.  Cost: 6 n columns^2."""
    k = design.columns
    matrix = torch.empty((k, k), dtype=torch.float64, device=design.device)
    errors = []
    for start in range(0, k, PANEL):
        columns = slice(start, start + PANEL)
        panel = _total_of(_adjoint_of(block, rows, block[:, columns], weights) for rows, block in design.blocks())
        matrix[:, columns] = panel.value
        errors.append(panel.error)
    dropped, norm = design.flushed_mass(), design.frobenius() if weights is None else weights.frobenius
    if weights is not None:
        dropped *= 64.0 * (2.0 * weights.largest_root + 1.0)  # as in `_dropped`, entry by entry on both sides
    flushed = (2.0 * norm + dropped) * dropped
    return BoundedMatrix(matrix, (float(norm_upper(torch.cat(errors))) + flushed) * SHORT_CHAIN)


def _total_of(parts: Iterable[Bounded]) -> Bounded:
    """The sum of float64 matrices and of their bounds, accumulated as in `doubled.total` and rounded once."""
    remaining = iter(parts)
    high, errors = next(remaining)
    low, magnitude, count = torch.zeros_like(high), norm_upper(high, dim=0), 1
    for value, error in remaining:
        high, lost = two_sum(high, value)
        low = low + lost
        errors, magnitude = rounded_up(errors + error), rounded_up(magnitude + norm_upper(value, dim=0))
        count += 1
    value = two_sum(high, low).high
    summation = 2.0 * count**2 * U64**2 * magnitude + U64 * norm_upper(value, dim=0)
    return Bounded(value, rounded_up(errors + summation))


def eigen_residual(matrix: torch.Tensor, vectors: torch.Tensor, values: torch.Tensor) -> Bounded:
    """`A Q - Q diag(values)` for A [K, K], Q [K, m], values [m].  Cost: 6 K^2 m operations."""
    value = torch.empty_like(vectors)
    errors: list[torch.Tensor] = []
    for start in range(0, vectors.shape[1], PANEL):
        columns = slice(start, start + PANEL)
        scaled = two_product(vectors[:, columns], values[columns])
        part = accurate_sum(matrix, vectors[:, columns], [-scaled.high, -scaled.low])
        value[:, columns] = part.value
        errors.append(part.error)
    return Bounded(value, torch.cat(errors))
