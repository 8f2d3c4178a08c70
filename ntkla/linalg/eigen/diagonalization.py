"""An eigendecomposition with its residual known beyond float64: what functions of a matrix need.

For a symmetric matrix A the computed pair (Q, values) satisfies `A Q = Q diag(values) + R`; R is computed by
`accurate.eigen_residual`, so that its own rounding does not hide how small it is.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch

from ntkla.linalg.arithmetic.accurate import eigen_residual
from ntkla.linalg.certificates import divided_by_cosine, orthogonality_defect
from ntkla.linalg.precision import SHORT_CHAIN, norm_upper
from ntkla.linalg.solve.normal import BoundedMatrix


class Diagonalization(NamedTuple):
    """`A Q = Q diag(values) + R` for the exact A.

    Attributes:
        values: float64 [K], ordered as the vectors are, none below the floor.
        vectors: Q, float64 [K, K].
        residual: |R| as computed, float64 [K, K].
        residual_error: 2-norm bound of what rounding, and the error of A, add to R.
        defect: upper bound of ||Q^T Q - I||_2.
        value_error: upper bound of |lambda_i - values_i| for all i.
        smallest, largest: lower and upper bound of the eigenvalues of A.
        floor: the lower bound that was known beforehand.
    """

    values: torch.Tensor
    vectors: torch.Tensor
    residual: torch.Tensor
    residual_error: float
    defect: float
    value_error: float
    smallest: float
    largest: float
    floor: float

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

    Cost: about 10 K^3 operations for the decomposition and 8 K^3 for its certificate.
    """
    values, vectors = torch.linalg.eigh(matrix.matrix)
    return certified(matrix, values.clamp(min=floor), vectors, orthogonality_defect(vectors), floor)


def certified(
    matrix: BoundedMatrix, values: torch.Tensor, vectors: torch.Tensor, defect: float, floor: float
) -> Diagonalization:
    """What a computed eigendecomposition is for this matrix, which need not be the one that it was computed from."""
    residual, column_errors = eigen_residual(matrix.matrix, vectors, values)
    rounding = float(norm_upper(column_errors))
    error = (rounding + matrix.error * math.sqrt(1.0 + defect)) * SHORT_CHAIN
    # |lambda_i - values_i| <= ||R|| / sqrt(1 - defect), `certificates.py`, with the R of the exact A: the computed one
    # need not be symmetric.
    distance = divided_by_cosine((float(norm_upper(residual)) + error) * SHORT_CHAIN, defect)
    smallest = max(floor, (float(values.min()) - distance) / SHORT_CHAIN)
    largest = (float(values.max()) + distance) * SHORT_CHAIN
    return Diagonalization(values, vectors, residual.abs_(), error, defect, distance, smallest, largest, floor)
