"""The eigendecomposition of one normal matrix, with what its errors do to any update that is read off it.

`N Q = Q diag(values) + R` for the exact N.  For a vector f of coordinates, `||R f|| <= sum_j columns_j |f_j| +
common ||f||`: R is known column by column, up to the error of the matrix as it was formed.  Two levels:

- plain: R is computed in float64, so its own rounding, `gamma || |N| |q_j| || <= gamma || |N| || ||q_j||`, is most of
  its bound; two products of K^3;
- accurate: N is formed, and R computed, beyond float64 (`eigen.diagonalization`).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch

from ntkla.linalg.arithmetic.products import pieced_gamma, pieced_matmul
from ntkla.linalg.certificates import absolute_norm_upper, divided_by_cosine
from ntkla.linalg.eigen.diagonalization import certified
from ntkla.linalg.precision import SHORT_CHAIN, TINY64, norm_upper, rounded_up
from ntkla.linalg.solve.normal import BoundedMatrix


class Decomposed(NamedTuple):
    """`N Q = Q diag(values) + R` for the exact N, symmetric positive semidefinite.

    Attributes:
        values: float64 [K], >= 0, in the order of the vectors.
        vectors: Q, float64 [K, K].
        columns: upper bounds of what is known of each column of R, float64 [K], 2-norms.
        common: upper bound of the 2-norm of the rest of R.
        defect: upper bound of ||Q^T Q - I||_2.
        value_error: upper bound of |lambda_i - values_i| for all i.
        smallest, largest: lower and upper bound of the eigenvalues of N.
    """

    values: torch.Tensor
    vectors: torch.Tensor
    columns: torch.Tensor
    common: float
    defect: float
    value_error: float
    smallest: float
    largest: float

    @property
    def vectors_norm(self) -> float:
        """Upper bound of ||Q||_2."""
        return math.sqrt(1.0 + self.defect) * SHORT_CHAIN

    def sharpened(self, matrix: BoundedMatrix) -> Decomposed:
        """The same vectors and values, judged beyond float64 by a matrix that was formed better."""
        found = certified(matrix, self.values, self.vectors, self.defect, 0.0)
        columns = rounded_up(norm_upper(found.residual, dim=0))
        bounds = found.value_error, found.smallest, found.largest
        return Decomposed(self.values, self.vectors, columns, found.residual_error, self.defect, *bounds)


def decomposed(matrix: BoundedMatrix) -> Decomposed:
    """The eigendecomposition of a symmetric positive semidefinite matrix, certified in float64.

    Cost: about 10 K^3 operations for the decomposition and 4 K^3 for its certificate.
    """
    values, vectors = torch.linalg.eigh(matrix.matrix)
    values, size = values.clamp(min=0.0), values.shape[0]
    gram = pieced_matmul(vectors.T, vectors)
    gram.diagonal().sub_(1.0)
    lengths = norm_upper(vectors, dim=0)
    rounding = pieced_gamma(size) * float(norm_upper(vectors)) ** 2 + 4.0 * size**2 * TINY64
    defect = (float(norm_upper(gram)) + rounding) * SHORT_CHAIN
    residual = pieced_matmul(matrix.matrix, vectors) - vectors * values
    products = pieced_gamma(size) * (absolute_norm_upper(matrix.matrix) + values) * lengths + 4.0 * size * TINY64
    columns = rounded_up(norm_upper(residual, dim=0) + products)
    common = matrix.error * math.sqrt(1.0 + defect) * SHORT_CHAIN
    # `certificates.py`, with the R of the exact matrix.
    off = divided_by_cosine((float(norm_upper(columns)) + common) * SHORT_CHAIN, defect)
    smallest = max(0.0, (float(values.min()) - off) / SHORT_CHAIN)
    largest = (float(values.max()) + off) * SHORT_CHAIN
    return Decomposed(values, vectors, columns, common, defect, off, smallest, largest)
