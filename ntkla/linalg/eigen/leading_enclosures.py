"""What is proved about the k leading eigenvalues from k computed vectors and a bound of what lies outside of them.

Notation: A symmetric positive semidefinite [N, N], U [N, k] computed vectors with `||U^T U - I||_2 <= omega < 1`,
L = diag(l) computed values, R = A U - U L, h >= ||U^T A U - L||_F.  Let Q be an orthonormal basis of the span of U,
b = ||R||_F / sqrt(1 - omega), and d >= the largest Rayleigh quotient of A on the complement of the span.

**Matched** (no d needed).  k eigenvalues of A, each copy counted, lie within b of the l_i, one each (Kahan; Cao, Xie
and Li, LAA 245, 1996: `certificates.py`): ghosts are excluded because the whole block R enters.

**From below, in order** (no d needed).  lambda_i(A) >= lambda_i of the section (Courant and Fischer), whose Rayleigh
quotients are those of U^T A U over those of U^T U:  lambda_i >= (l_i - h) / (1 + omega).

**From above, in order.**  In a basis that extends Q, A is `[[H, B^T], [B, D]]` with H = Q^T A Q, lambda_max(D) <= d and
||B||_2 <= b, since B = (complement)^T R (U in terms of Q)^-1.  So A is below `[[H, B^T], [B, d I]]`, and for x > d the
number of eigenvalues of that matrix above x is that of the positive eigenvalues of `H - x I + B^T B / (x - d)`
(inertia of the Schur complement).  At most i - 1 are positive once `theta_i + b^2 / (x - d) <= x`, theta_i the i-th
eigenvalue of H; the least such x is the larger eigenvalue of a 2 x 2 matrix:

    lambda_i(A) <= lambda_max [[theta_i, b], [b, d]],    theta_i <= (l_i + h) / (1 - omega),    lambda_{k+1}(A) <= d.

Where d < theta_i the error is about b^2 / (theta_i - d): the residual enters squared.

**d from more vectors.**  With m > k vectors and d_m for all of them, the section's part outside the first k has
Rayleigh quotients of at most `(sqrt(t) + omega' sqrt(a))^2`, t = (l_{k+1} + h) / (1 - omega), a >= ||A||_2 and
`omega' = omega / (1 - omega)` for what the columns of U share; the same 2 x 2 formula, with the b of all m columns,
then bounds d_k.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from ntkla.linalg.arithmetic.products import pieced_gamma, pieced_matmul
from ntkla.linalg.certificates import divided_by_cosine, orthogonality_defect
from ntkla.linalg.precision import SHORT_CHAIN, TINY64, U64, gamma, norm_upper, rounded_up


@dataclass(frozen=True, eq=False)
class LeadingPairs:
    """Computed pairs and what their residuals say; tensors float64, bounds rounded outwards.

    Attributes:
        vectors: U, [N, m].
        values: l, [m], descending.
        residual_norms: [m], upper bounds of ||A u_i - l_i u_i||_2.
        defect: omega.
        section: `U^T A U - L` as computed, [m, m].
        section_error: Frobenius norm bound of the section's error.
    """

    vectors: torch.Tensor
    values: torch.Tensor
    residual_norms: torch.Tensor
    defect: float
    section: torch.Tensor
    section_error: float

    def coupling(self, count: int) -> float:
        """b of the first `count` pairs."""
        return divided_by_cosine(float(norm_upper(self.residual_norms[:count])), self.defect)

    def offset(self, count: int) -> float:
        """h of the first `count` pairs: vectors behind them may be far from eigenvectors."""
        return (float(norm_upper(self.section[:count, :count])) + self.section_error) * SHORT_CHAIN

    def lower(self, count: int) -> torch.Tensor:
        """Lower bounds of the `count` leading eigenvalues, in order, >= 0."""
        below = (self.values[:count] - self.offset(count)).clamp(min=0.0) / (1.0 + self.defect)
        return (below / SHORT_CHAIN - TINY64).clamp(min=0.0)

    def upper(self, count: int, outside: float) -> torch.Tensor:
        """Upper bounds of the `count` leading eigenvalues, in order, from d for as many vectors."""
        return _larger_eigenvalue(self._theta(count), self.coupling(count), outside)

    def outside(self, count: int, outside_all: float) -> float:
        """d of the first `count` vectors from d of all."""
        every = self.values.shape[0]
        if not self.defect < 1.0:
            return math.inf
        if count == every:
            return outside_all
        largest = float(self.upper(every, outside_all)[0])
        shared = self.defect / (1.0 - self.defect) * SHORT_CHAIN
        following = self._theta(every)[count : count + 1]
        within = rounded_up((following.sqrt() + shared * math.sqrt(largest)) ** 2)
        return float(_larger_eigenvalue(within, self.coupling(every), outside_all)[0])

    def trace_inside(self, count: int) -> float:
        """Lower bound of the trace of A on the span of the first `count` vectors.

        The trace of U^T A U is off by sqrt(count) times the error of the section.
        """
        diagonal = self.values[:count] + self.section.diagonal()[:count]
        rounding = gamma(count + 1) * float(diagonal.abs().sum()) * SHORT_CHAIN
        inside = float(diagonal.sum()) - rounding - math.sqrt(count) * self.section_error * SHORT_CHAIN
        return max(0.0, inside / (1.0 + self.defect) / SHORT_CHAIN)

    def _theta(self, count: int) -> torch.Tensor:
        """Upper bounds of the eigenvalues of A's section on the first `count` vectors."""
        if not self.defect < 1.0:
            return torch.full_like(self.values[:count], torch.inf)
        return rounded_up((self.values[:count] + self.offset(count)) / (1.0 - self.defect)).clamp(min=0.0)


class Measured:
    """Computed pairs and all of their products but the error of A U, which may become known better later.

    Args:
        vectors: U, float64 [N, m].
        values: l, float64 [m], descending.
        image: A U as computed, float64 [N, m].

    Rounding of U^T (A U): `pieced_gamma(N) ||U||_F ||A U||_F`, and ||U||_2 times the error of A U.
    Cost: 6 N m^2 operations.
    """

    def __init__(self, vectors: torch.Tensor, values: torch.Tensor, image: torch.Tensor) -> None:
        rows, count = vectors.shape
        self.vectors, self.values = vectors, values
        self._defect = orthogonality_defect(vectors)
        rounding = gamma(4) * values.abs() * norm_upper(vectors, dim=0) + rows * TINY64
        self._residuals = rounded_up(norm_upper(image - vectors * values, dim=0) + rounding)
        self._section = pieced_matmul(vectors.T, image)
        self._section.diagonal().sub_(values)
        lost = pieced_gamma(rows) * float(norm_upper(vectors)) * float(norm_upper(image)) + 2.0 * rows * count * TINY64
        self._lost = (lost + U64 * float(norm_upper(self._section))) * SHORT_CHAIN

    def pairs(self, image_error: torch.Tensor) -> LeadingPairs:
        """What the products prove when the columns of A U are off by at most these 2-norms, [m]."""
        inherited = math.sqrt(1.0 + self._defect) * float(norm_upper(image_error))
        return LeadingPairs(
            self.vectors,
            self.values,
            rounded_up(self._residuals + image_error),
            self._defect,
            self._section,
            (self._lost + inherited) * SHORT_CHAIN,
        )


def _larger_eigenvalue(theta: torch.Tensor, b: float, d: float) -> torch.Tensor:
    """Upper bounds of the larger eigenvalues of [[theta, b], [b, d]], [m]; infinite where one of them is."""
    if not (math.isfinite(b) and math.isfinite(d)):
        return torch.full_like(theta, torch.inf)
    half = (theta - d) * 0.5
    # Nothing cancels: theta, b and d are not negative.
    return rounded_up((theta + d) * 0.5 + torch.hypot(half, torch.full_like(theta, b)))
