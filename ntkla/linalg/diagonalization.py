"""An eigendecomposition with its residual known well beyond float64: what functions of a matrix need.

For a symmetric matrix A the computed pair (Q, values) satisfies `A Q = Q diag(values) + R`.  R is computed here at
level 1 of `slicing.py`: cut A and Q into a first slice and a rest; the product of the first slices is exact, the other
two are smaller by 2^-b (b about 20 bits), so their rounding is at most

    gamma_{K+2} (||A_1||_F ||Q_rest||_F + ||A_rest||_F ||Q||_F),

and the five terms of R are added as doubled numbers (`2 k^2 u^2` of their absolute sum, k = 6).  In plain float64 the
rounding of A Q alone would be gamma_K ||A|| ||Q||, hundreds of times the true R.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch

from ntkla.linalg.certificates import divided_by_cosine, orthogonality_defect
from ntkla.linalg.doubled import total, two_product
from ntkla.linalg.normal import BoundedMatrix
from ntkla.linalg.precision import SHORT_CHAIN, TINY64, U64, gamma, norm_upper
from ntkla.linalg.slicing import SIGNIFICAND, cut, exponents, length_bits, product_terms, right_factors, slice_bits

# Columns of Q whose slices and products are held at a time.
_PANEL = 512
_TERMS = 6


class Diagonalization(NamedTuple):
    """`A Q = Q diag(values) + R` for the exact A.

    Attributes:
        values: float64 [K], ascending, none below the floor that was asked for.
        vectors: Q, float64 [K, K].
        residual: |R| as computed, float64 [K, K].
        residual_error: 2-norm bound of what rounding, and the error of A, add to R.
        defect: upper bound of ||Q^T Q - I||_2.
        largest: upper bound of the largest eigenvalue of A.
    """

    values: torch.Tensor
    vectors: torch.Tensor
    residual: torch.Tensor
    residual_error: float
    defect: float
    largest: float

    @property
    def vectors_norm(self) -> float:
        """Upper bound of ||Q||_2."""
        return math.sqrt(1.0 + self.defect) * SHORT_CHAIN


def diagonalize(matrix: BoundedMatrix, floor: float) -> Diagonalization:
    """Eigenvalues and vectors of a symmetric positive semidefinite matrix in float64, certified.

    Args:
        matrix: A as computed, [K, K], and the 2-norm bound of its error.
        floor: a lower bound of the eigenvalues of A, >= 0; computed values below it are raised to it, and R says what
            that cost.

    Cost: about 10 K^3 operations for the decomposition and 8 K^3 for its certificate; 6 K^2 numbers.
    """
    computed, error = matrix
    values, vectors = torch.linalg.eigh(computed)
    values = values.clamp(min=floor)
    residual, rounding = _residual(computed, vectors, values)
    defect = orthogonality_defect(vectors)
    norm = (float(norm_upper(residual)) + rounding) * SHORT_CHAIN
    # |lambda_i - values_i| <= ||R|| / sqrt(1 - defect), `certificates.py`; Weyl's theorem adds the error of A.
    largest = (float(values[-1]) + divided_by_cosine(norm, defect) + error) * SHORT_CHAIN
    total_error = (rounding + error * math.sqrt(1.0 + defect)) * SHORT_CHAIN
    return Diagonalization(values, vectors, residual.abs_(), total_error, defect, largest)


def _residual(a: torch.Tensor, q: torch.Tensor, values: torch.Tensor) -> tuple[torch.Tensor, float]:
    """A Q - Q diag(values) for the A given, and the 2-norm bound of its rounding."""
    size = a.shape[0]
    bits = slice_bits(size)
    left = cut(a, exponents(a, 1), bits, 1)
    residual = torch.empty_like(q)
    rest_squares = 0.0
    for start in range(0, size, _PANEL):
        columns = slice(start, start + _PANEL)
        part = q[:, columns]
        right = cut(part, exponents(part, 0), SIGNIFICAND - length_bits(size) - bits, 1)
        rest_squares += float(norm_upper(right.rest[1])) ** 2
        terms = product_terms([left.parts[0], left.rest[1]], right_factors(right, 1), part.shape[1])
        scaled = two_product(part, values[columns])
        residual[:, columns] = total([terms[0], -scaled.high, *terms[1:], -scaled.low]).high
    a_norm, q_norm = float(norm_upper(a)), float(norm_upper(q))
    rests = a_norm * math.sqrt(rest_squares) + float(norm_upper(left.rest[1])) * q_norm
    # ||A_1||_F <= ||A||_F + ||A_rest||_F, and ||Q_rest||_F <= ||Q||_F: hence the factor 2.
    ordinary = 2 * gamma(size + 2) * rests
    magnitude = 4 * q_norm * (a_norm + float(values[-1]))
    summation = 2 * _TERMS**2 * U64**2 * magnitude + U64 * float(norm_upper(residual))
    return residual, (ordinary + summation + 16 * size**2 * TINY64) * SHORT_CHAIN
