"""Whether none of the k leading eigenvalues was missed: bounds of what lies outside of the computed vectors.

d is the largest Rayleigh quotient of A on the complement of the span of U (`leading_enclosures.py`).

- **trace**: A is positive semidefinite, so d is at most what the span leaves of the trace.  Free; sharp only where the
  spectrum decays.  More vectors than are wanted, converged or not, make it sharper.
- **inertia**: `A - U L U^T` and A have the same Rayleigh quotients on the complement, so d is at most the largest
  eigenvalue of that matrix, which has to be formed; `inertia.py` bounds it.  Features whose columns are fewer need no
  n x n matrix: for G = Phi Phi^T and t = Phi^T U, the complement's projection P gives `lambda_max(P G P) =
  lambda_max(Phi^T P Phi)`, and `Phi^T P Phi <= S - t t^T / (1 + omega)`, because `(U^T U)^-1 >= 1 / (1 + omega)`; so
  d <= lambda_max(S - t t^T) + omega ||t||^2.

Complete, to a tolerance, means `d <= l_k + tolerance * l_1`: at a cut inside a cluster the next eigenvalue may be equal
to the last one, but none that is distinguishably larger was missed.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch

from ntkla.linalg.arithmetic.products import pieced_gamma, pieced_matmul
from ntkla.linalg.certificates import GramProduct
from ntkla.linalg.eigen.inertia import largest_below, least_margin
from ntkla.linalg.eigen.leading_enclosures import LeadingPairs
from ntkla.linalg.precision import SHORT_CHAIN, TINY64, U64, norm_upper
from ntkla.linalg.solve.normal import BoundedMatrix, gram_matrix, normal_matrix

PROOFS = ("trace", "inertia")


class Outside(NamedTuple):
    """d for the k leading vectors, and what proved it: `"full"` or an entry of `PROOFS`."""

    bound: float
    proof: str


def complete(pairs: LeadingPairs, count: int, bound: float, tolerance: float) -> bool:
    """Whether d says that none larger than the `count` leading values was missed, to the tolerance."""
    return bound <= float(pairs.values[count - 1]) + tolerance * float(pairs.lower(count)[0])


def by_trace(pairs: LeadingPairs, count: int, trace: float) -> float:
    """d of the first `count` vectors from an upper bound of the trace and all vectors, or from the first ones alone."""
    if trace == 0.0:
        return 0.0
    every = pairs.values.shape[0]
    bounds = [max(0.0, trace - pairs.trace_inside(m)) * SHORT_CHAIN + TINY64 for m in (count, every)]
    return min(bounds[0], pairs.outside(count, bounds[1]))


def by_inertia(left: BoundedMatrix, pairs: LeadingPairs, count: int, following: float, tolerance: float) -> float:
    """d from what the first `count` vectors leave of the small side; infinite when nothing useful could be proved.

    Args:
        left: of `remainder`.
        pairs, count: whose d it is.
        following: about the next eigenvalue: thresholds just above it are tried first, because they say most.
        tolerance: the highest threshold is half of it above the last value.
    """
    last, reach = float(pairs.values[count - 1]), tolerance * float(pairs.values[0])
    gap = max(0.0, last - following)
    for threshold in (following + 0.05 * gap, following + 0.5 * gap, last + 0.5 * reach):
        # A factorisation that cannot tell the threshold from the last value is not worth its time.
        if threshold > 0.0 and complete(pairs, count, threshold + least_margin(left, threshold), tolerance):
            found = largest_below(left, threshold)
            if found is not None:
                return found
    return math.inf


def remainder_of_features(product: GramProduct, pairs: LeadingPairs, count: int, trace: float) -> BoundedMatrix:
    """What the first `count` vectors leave of the smaller of S and G, with the bound of its error and of omega's part.

    Cost: the small side, `n m columns` operations, and `m^2 count` more.
    """
    design = product.design
    if design.rows <= design.columns:
        return remainder(gram_matrix(design), pairs, count)
    inner = product.inner[:, :count]
    norm = float(norm_upper(inner))
    lengths = float(norm_upper(product.lengths[:count]))
    underflow = 2.0 * design.rows * math.sqrt(design.columns * count) * TINY64
    turned = (product.inward(trace) + design.flushed_mass()) * lengths + underflow
    inherited = (2.0 * norm + turned) * turned + pairs.defect * (norm + turned) ** 2
    left, error = _difference(normal_matrix(design), inner, inner, norm**2)
    return BoundedMatrix(left, (error + inherited) * SHORT_CHAIN)


def remainder(matrix: BoundedMatrix, pairs: LeadingPairs, count: int) -> BoundedMatrix:
    """`A - U L U^T` for the first `count` vectors: A and it have the same Rayleigh quotients on the complement.

    Cost: N^2 count operations.
    """
    vectors, values = pairs.vectors[:, :count], pairs.values[:count]
    return _difference(matrix, vectors * values, vectors, float(norm_upper(vectors)) ** 2 * float(values[0]))


def _difference(matrix: BoundedMatrix, left: torch.Tensor, right: torch.Tensor, size: float) -> BoundedMatrix:
    """`A - left right^T`, exactly symmetric, for factors whose product of Frobenius norms is at most `size`."""
    computed, error = matrix
    difference = computed - pieced_matmul(left, right.T)
    # The two halves of the product may differ by a rounding, which its bound covers: one of them decides.
    difference = difference.tril() + difference.tril(-1).T
    products = (pieced_gamma(left.shape[1]) + 4 * U64) * size
    rounding = products + U64 * float(norm_upper(difference)) + 4.0 * computed.shape[0] ** 2 * TINY64
    return BoundedMatrix(difference, (error + rounding) * SHORT_CHAIN)
