"""What is proved about computed eigenvectors and eigenvalues: enclosures, residuals and angles, every rounding counted.

Notation: A symmetric, Q the computed vectors as columns, L = diag(l) the computed values in descending order,
R = A Q - Q L, and omega >= ||Q^T Q - I||_2 < 1: the singular values of Q lie in [sqrt(1 - omega), sqrt(1 + omega)].

**All eigenvalues at once** (Q square).  Write Q = U H with U orthogonal and H symmetric, its eigenvalues at least
sqrt(1 - omega) (polar form), and M = U^T A U, which has the eigenvalues of A.  Then U^T R = M H - H L =: T, and

    T + T^T = (M - L) H + H (M - L).

For a unit eigenvector v of the symmetric matrix M - L, of eigenvalue d with |d| = ||M - L||_2, this gives
`2 v^T T v = 2 d v^T H v`, so `||M - L||_2 <= ||T||_2 / min eig(H) <= ||R||_2 / sqrt(1 - omega)`, and by Weyl's theorem

    |lambda_i(A) - l_i| <= ||R||_2 / sqrt(1 - omega)   for every i, in order, multiplicities included.

The inequality for H is that of Bhatia, Davis and Kittaneh, "Some inequalities for commutators" (Aequationes Math. 41,
1991); the theorem is Kahan's (Parlett, The Symmetric Eigenvalue Problem, section 11.8) with the sharp constant of Cao,
Xie and Li (LAA 245, 1996).  Because *all* of R enters, no eigenvalue is counted twice and none is missed.
It also says that `U L U^T = A + E` with `||E||_2` at most that bound and `||Q - U||_2 <= omega`: what functions of A
need.

**Subspaces** (Davis and Kahan, "The rotation of eigenvectors by a perturbation III", SIAM J. Numer. Anal. 7, 1970).
Let the eigenvalues of A outside a set keep a distance `gap` from the interval spanned by the l of the columns Q_c, and
let P project on their eigenvectors.  Then `||P Q_c||_2 <= ||R_c||_2 / gap`, and for the orthonormalised columns

    sin(largest angle to the eigenspace of the set) <= ||R_c||_2 / (gap sqrt(1 - omega)).

Rounding: a product of inner length m summed in pieces of 128 is off by at most `gamma (|A| |Q|)` entry by entry, gamma
counting 128 + m / 128 summands, and `|| |A| |Q| ||_F <= || |A| ||_2 ||Q||_F`.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch

from ntkla.linalg.arithmetic.accurate import accurate_normal_matrix
from ntkla.linalg.arithmetic.products import pieced_gamma, pieced_matmul
from ntkla.linalg.design import DesignMatrix
from ntkla.linalg.precision import SHORT_CHAIN, TINY64, gamma, norm_upper, rounded_up
from ntkla.linalg.solve.normal import BoundedMatrix, exactly_zero, normal_matrix


class Enclosure(NamedTuple):
    """What is certified about a full eigendecomposition.

    Attributes:
        value_error: upper bound of |lambda_i - l_i| for all i, and of the norm of E in `U L U^T = A + E`.
        defect: omega, upper bound of ||Q^T Q - I||_2 (and of ||Q - U||_2); infinite bounds when it is not below 1.
    """

    value_error: float
    defect: float


def absolute_norm_upper(matrix: torch.Tensor) -> float:
    """Upper bound of `|| |A| ||_2` for symmetric float64 A: the Frobenius norm or the largest row sum."""
    length = matrix.shape[1]
    row_sum = float(matrix.abs().sum(1).max()) * (1.0 + gamma(length + 4)) + length * TINY64
    return min(float(norm_upper(matrix)), row_sum)


def orthogonality_defect(q: torch.Tensor) -> float:
    """Upper bound of `||q^T q - I||_2` for float64 q [n, k]."""
    gram, error = normal_matrix(DesignMatrix(q))
    gram.diagonal().sub_(1.0)
    return (absolute_norm_upper(gram) * SHORT_CHAIN + error) * SHORT_CHAIN


def sharp_orthogonality_defect(q: torch.Tensor) -> float:
    """The same from `q^T q` beyond float64: about as small as the defect is.  Cost: 6 n k^2 operations."""
    gram, error = accurate_normal_matrix(DesignMatrix(q))
    gram.diagonal().sub_(1.0)
    # Its rounding is not symmetric, so a row sum is no bound here.
    return (float(norm_upper(gram)) + error) * SHORT_CHAIN


def full_enclosure(matrix: BoundedMatrix, q: torch.Tensor, values: torch.Tensor) -> Enclosure:
    """Certifies all eigenvalues of a symmetric matrix from its computed eigendecomposition.

    Args:
        matrix: A as computed, [m, m], and the bound of the 2-norm of its error against the exact one.
        q: float64 [m, m], the computed eigenvectors.
        values: float64 [m], the computed eigenvalues, descending.

    Returns:
        The enclosure of the *exact* matrix's eigenvalues: Weyl's theorem adds `matrix.error`.

    Cost: 3 m^3 operations.
    """
    computed, error = matrix
    inner = computed.shape[0]
    defect = orthogonality_defect(q)
    if exactly_zero(computed) and exactly_zero(values):
        return Enclosure(error, defect)
    residual = pieced_matmul(computed, q).sub_(q * values)
    magnitude = float(norm_upper(q)) * (absolute_norm_upper(computed) + float(values.abs().max()))
    rounding = pieced_gamma(inner) * magnitude + 4.0 * inner * (inner + 1) * TINY64
    norm = (float(norm_upper(residual)) + rounding) * SHORT_CHAIN
    return Enclosure((divided_by_cosine(norm, defect) + error) * SHORT_CHAIN, defect)


def divided_by_cosine(norm: float, defect: float) -> float:
    """Upper bound of `norm / sqrt(1 - defect)`; infinite when the defect is not below 1."""
    return norm / math.sqrt(1.0 - defect) * SHORT_CHAIN if defect < 1.0 else math.inf


def gram_residual_norms(
    design: DesignMatrix, vectors: torch.Tensor, values: torch.Tensor, *, trace: float, largest: float
) -> torch.Tensor:
    """Upper bounds of `||G u_j - l_j u_j||_2` for G = Phi Phi^T and the vectors and values exactly as stored.

    Args:
        design: Phi, n x columns.
        vectors: float64 [n, k].
        values: float64 [k].
        trace: upper bound of ||Phi||_F^2.
        largest: upper bound of ||Phi||_2^2.

    Returns:
        float64 [k].

    Cost: 4 n columns k operations.
    """
    if trace == 0.0 and exactly_zero(values):
        return torch.zeros_like(values)
    product = gram_product(design, vectors)
    residual = product.image.sub_(vectors * values)
    rounding = product.error(trace, largest) + gamma(4) * values.abs() * product.lengths
    return rounded_up(norm_upper(residual, dim=0) + rounding)


class GramProduct(NamedTuple):
    """`G u = Phi (Phi^T u)` for columns u, through the features, so that it owes nothing to a formed Gram matrix.

    Attributes:
        design: Phi.
        vectors: u, float64 [n, k].
        image: G u as computed, [n, k].
        inner: t = Phi^T u as computed, [columns, k].
        lengths: upper bounds of the norms of the columns u, [k].
    """

    design: DesignMatrix
    vectors: torch.Tensor
    image: torch.Tensor
    inner: torch.Tensor
    lengths: torch.Tensor

    def error(self, trace: float, largest: float) -> torch.Tensor:
        """2-norm bounds of the rounding of the image's columns, float64 [k], from the bounds of `gram_residual_norms`.

        `||Phi||_2 gamma ||Phi||_F ||u|| + gamma ||Phi||_F ||t||`, and what underflows.
        """
        design, u_norm = self.design, self.lengths
        spectral, frobenius, flushed = math.sqrt(largest), math.sqrt(trace), design.flushed_mass()
        outward = pieced_gamma(design.columns) * frobenius
        lost = 2.0 * TINY64 * design.rows * math.sqrt(design.columns)
        rounding = spectral * (self.inward(trace) * u_norm + lost) + outward * norm_upper(self.inner, dim=0)
        underflow = (lost + TINY64 * frobenius) * design.columns + (2.0 * spectral + flushed) * flushed * u_norm
        return rounded_up(rounding + underflow)

    def inward(self, trace: float) -> float:
        """The rounding of t beside a column of norm 1: `gamma ||Phi||_F`."""
        return gamma(self.design.summands + 2) * math.sqrt(trace)


def gram_product(design: DesignMatrix, vectors: torch.Tensor) -> GramProduct:
    """The product of the Gram matrix with float64 vectors [n, k].  Cost: 4 n columns k operations."""
    inner = design.rmatmul(vectors)
    return GramProduct(design, vectors, design.matmul(inner), inner, norm_upper(vectors, dim=0))
