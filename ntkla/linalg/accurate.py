"""Sums `A B + terms` rounded about once: the level-1 product of `slicing.py` with a bound on its rounding.

A and B are cut into a first slice and a rest, `A = A_1 + A'`, `B = B_1 + B'`.  The product A_1 B_1 is exact in float64;
A_1 B' and A' B are smaller by 2^-b (b about 20 bits) and so are their roundings.  Column by column, in the 2-norm,

    gamma_{K+2} (||A_1||_F ||b'|| + ||A'||_F ||b||)  +  2 k^2 u^2 (sum of the norms of the k terms)  +  u ||result||

for inner length K, the doubled summation of `doubled.total`, and the one rounding of the result to float64.  In plain
float64 the first part would be `gamma_K ||A||_F ||b||`: hundreds of roundings where one suffices.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from ntkla.linalg.design import DesignMatrix
from ntkla.linalg.doubled import total, two_product, two_sum
from ntkla.linalg.normal import BoundedMatrix
from ntkla.linalg.precision import SHORT_CHAIN, TINY64, U64, gamma, norm_upper, rounded_up
from ntkla.linalg.slicing import SIGNIFICAND, cut, exponents, length_bits, product_terms, right_factors, slice_bits

# Columns of the right factor whose slices and products are held at a time.
_PANEL = 512


class Bounded(NamedTuple):
    """float64 [m, c] and the 2-norm bound of each column's error, [c]."""

    value: torch.Tensor
    error: torch.Tensor


def accurate_sum(a: torch.Tensor, b: torch.Tensor, terms: list[torch.Tensor]) -> Bounded:
    """`a b + sum(terms)` for float64 a [m, K], b [K, c] and terms [m, c]; at most 512 columns are best.

    Cost: 6 m K c operations.
    """
    rows, inner = a.shape
    bits = slice_bits(inner)
    left = cut(a, exponents(a, 1), bits, 1)
    right = cut(b, exponents(b, 0), SIGNIFICAND - length_bits(inner) - bits, 1)
    products = product_terms([left.parts[0], left.rest[1]], right_factors(right, 1), b.shape[1])
    value = total([products[0], *terms, *products[1:]]).high
    a_norm, a_rest = float(norm_upper(a)), float(norm_upper(left.rest[1]))
    b_norm, b_rest = norm_upper(b, dim=0), norm_upper(right.rest[1], dim=0)
    # ||A_1||_F <= ||A||_F + ||A'||_F and ||b'|| <= ||b||: hence the factor 2.
    ordinary = 2.0 * gamma(inner + 2) * (a_norm * b_rest + a_rest * b_norm)
    magnitude = 4.0 * a_norm * b_norm + sum((norm_upper(term, dim=0) for term in terms), torch.zeros_like(b_norm))
    count = len(terms) + 4
    summation = 2.0 * count**2 * U64**2 * magnitude + U64 * norm_upper(value, dim=0)
    return Bounded(value, rounded_up(ordinary + summation + 8.0 * rows * (inner + 2) * TINY64))


def accurate_outputs(design: DesignMatrix, w: torch.Tensor, targets: torch.Tensor) -> Bounded:
    """`Phi w - targets` for float64 w [columns, C] and targets [n, C].  Cost: 6 n columns C operations."""
    value = torch.empty_like(targets, memory_format=torch.contiguous_format)
    squares = torch.zeros(w.shape[1], dtype=torch.float64, device=w.device)
    for rows, block in design.blocks():
        part = accurate_sum(block, w, [-targets[rows]])
        value[rows] = part.value
        squares = rounded_up(squares + part.error**2)
    # The features that flushed arithmetic dropped are missing from every block.
    return Bounded(value, rounded_up(squares.sqrt() + design.flushed_mass() * norm_upper(w, dim=0)))


def accurate_normal_matrix(design: DesignMatrix) -> BoundedMatrix:
    """`Phi^T Phi` with an error of about one rounding, where `normal_matrix` counts hundreds.  Cost: 6 n columns^2."""
    k = design.columns
    high = torch.zeros((k, k), dtype=torch.float64, device=design.device)
    low, error, additions = torch.zeros_like(high), 0.0, 0
    for _, block in design.blocks():
        for start in range(0, k, _PANEL):
            columns = slice(start, min(start + _PANEL, k))
            part = accurate_sum(block.T, block[:, columns], [])
            error += float(norm_upper(part.error)) * SHORT_CHAIN
            high[:, columns], lost = two_sum(high[:, columns], part.value)
            low[:, columns] += lost
        additions += 1
    matrix = two_sum(high, low).high
    size, dropped = float(norm_upper(matrix)), design.flushed_mass()
    frobenius = design.frobenius()
    error += U64 * size + 2.0 * (additions + 1) ** 2 * U64**2 * frobenius**2 + (2.0 * frobenius + dropped) * dropped
    return BoundedMatrix(matrix, error * SHORT_CHAIN * (1.0 + additions * U64))


def eigen_residual(matrix: torch.Tensor, vectors: torch.Tensor, values: torch.Tensor) -> Bounded:
    """`A Q - Q diag(values)` for A [K, K], Q [K, m], values [m].  Cost: 6 K^2 m operations."""
    value = torch.empty_like(vectors)
    errors: list[torch.Tensor] = []
    for start in range(0, vectors.shape[1], _PANEL):
        columns = slice(start, start + _PANEL)
        scaled = two_product(vectors[:, columns], values[columns])
        part = accurate_sum(matrix, vectors[:, columns], [-scaled.high, -scaled.low])
        value[:, columns] = part.value
        errors.append(part.error)
    return Bounded(value, torch.cat(errors))
