"""Upper bounds of the total forgetting `||dF_A||_F^2` from the overlap of two tasks: scalars where drift is a vector.

Doan, Abbana Bennani, Mazoure, Rabusseau and Alquier, "A Theoretical Analysis of Catastrophic Forgetting through the NTK
Overlap Matrix" (AISTATS 2021, arXiv 2010.04003) train each task by kernel ridge regression and study the total squared
drift of an old (source) task's predictions after a later (target) one.  With A the old task, B the new one,
`Phi_A = U_A Sigma_A V_A^T`, `Phi_B = U_B Sigma_B V_B^T`, the overlap matrix `O = V_A^T V_B` and the residual
`R_B = Phi_B W_A^T - Y_B` (their `-y~`), the optimum moves the head by

    dW^T = -(Phi_B^T Phi_B + ridge I)^-1 Phi_B^T R_B = -V_B M R_B,    M = Sigma_B (Sigma_B^2 + ridge I)^-1 U_B^T,
    dF_A = Phi_A dW^T = -U_A Sigma_A O M R_B                          (their Theorem 1, one new task),
    ||dF_A||_F^2 <= sigma_1(Phi_A)^2 ||O M R_B||_F^2                  (their Corollary 1)
                 <= sigma_1(Phi_A)^2 ||O||_2^2 ||M R_B||_F^2,         ||O||_2 = the largest cosine.

Their first step forgets the left singular vectors and replaces every singular value by the largest: what is left does
not know the sample, nor the output.  Equality holds when all singular values of Phi_A that the update meets are equal
to the largest.

**What is computed.**  `O M R_B = -V_A^T dW^T` is the part of the head's update in the row space of Phi_A, and
`||M R_B||_F = ||dW||_F`: it takes no decomposition of the new task, and serves any update, of training that stops early
or with weights as well.  With P the projector on the leading row space of dimension k, which commutes
with S, and l_j = sigma_j^2,

    ||dF_A||_F^2 = ||Phi_A P dW^T||_F^2 + ||Phi_A (I - P) dW^T||_F^2
                 <= l_1 ||P dW^T||_F^2 + l_{k+1} ||(I - P) dW^T||_F^2.

For k = rank it is Corollary 1, below that it is sharper: the weak directions are weighed
with l_{k+1} and not with l_1.  From Q of a `RowSpace` (sine s, defect omega) and an update x with an error of at most
eps in norm, z = Q^T x,

    ||P dW|| <= ||z|| / sqrt(1 - omega) + s ||x|| + eps,      ||(I - P) dW|| <= ||x - Q z|| + s ||x|| + eps,

since `||P - P_Q|| = s` and P_Q x is the point of the span of Q that is closest to x.  Neither exceeds `||x|| + eps`, so
the bounds hold with s = 1 as well.  In the second bound `||P_A dW|| <= c_1 ||P_B dW|| + ||(I - P_B) dW||`, c_1 the
largest cosine.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch

from ntkla.linalg.arithmetic.products import pieced_gamma, pieced_matmul
from ntkla.linalg.eigen.row_space import RowSpace
from ntkla.linalg.precision import SHORT_CHAIN, TINY64, U64, norm_upper
from ntkla.linalg.solve.normal import exactly_zero


class Update(NamedTuple):
    """A change of the head.

    Attributes:
        x: float64 [columns, C].
        error: upper bound of the Frobenius norm of its error.
    """

    x: torch.Tensor
    error: float

    @property
    def size(self) -> float:
        """Upper bound of the norm of the exact update."""
        return 0.0 if self.vanishes else (float(norm_upper(self.x)) + self.error) * SHORT_CHAIN

    @property
    def vanishes(self) -> bool:
        """Whether the exact update is zero."""
        return self.error == 0.0 and exactly_zero(self.x)


class Parts(NamedTuple):
    """Upper bounds of ||P dW||_F and ||(I - P) dW||_F."""

    inside: float
    outside: float


def parts(space: RowSpace, update: Update) -> Parts:
    """How much of an update lies in a row space, and outside of it.  Cost: 4 columns k C operations."""
    if update.vanishes:
        return Parts(0.0, 0.0)
    exponent = max(-1000, math.frexp(float(update.x.abs().max()))[1])
    x = update.x * 2.0**-exponent
    (columns, k), outputs = space.basis.shape, x.shape[1]
    size, length = float(norm_upper(x)), float(norm_upper(space.basis))
    z = pieced_matmul(space.basis.T, x)
    apart = x - pieced_matmul(space.basis, z)
    weight = float(norm_upper(z))
    # Underflow, of the scaling as well.
    lost = 4.0 * TINY64 * columns * (k + 1) * outputs
    inside = weight + pieced_gamma(columns) * length * size + lost
    inside = inside / math.sqrt(1.0 - space.defect) if space.defect < 0.5 else math.inf
    outside = float(norm_upper(apart)) * (1.0 + 2 * U64) + pieced_gamma(k) * length * weight + lost
    turned = space.sine * size
    scale = 2.0**exponent
    both = ((part + turned) * scale + update.error + lost for part in (inside if k else 0.0, outside))
    return Parts(*(min(part * SHORT_CHAIN, update.size) for part in both))


class OverlapBounds(NamedTuple):
    """Upper bounds of ||dF_A||_F^2: Corollary 1, and the same from the largest cosine alone."""

    from_overlap: float
    from_cosine: float


def overlap_bounds(old: RowSpace, new: RowSpace, largest_cosine: float, update: Update) -> OverlapBounds:
    """Both bounds, given an upper bound of the largest cosine of the two row spaces."""
    inside, outside = parts(old, update)
    reached, beyond = parts(new, update)
    shared = min(update.size, (largest_cosine * reached + beyond) * SHORT_CHAIN + TINY64)
    return OverlapBounds(*(_weighed(old, Parts(part, outside), update) for part in (inside, shared)))


def overlap_bound(old: RowSpace, update: Update) -> float:
    """Corollary 1 alone: an upper bound of ||dF_A||_F^2; infinite where the update has no bound."""
    return _weighed(old, parts(old, update), update)


def _weighed(space: RowSpace, found: Parts, update: Update) -> float:
    """`l_1 inside^2 + l_{k+1} outside^2`, or `l_1 ||dW||^2` where that is less."""
    if space.largest == 0.0 or update.vanishes:
        return 0.0
    split = _times_square(space.largest, found.inside) + _times_square(space.rest, found.outside)
    return min(split, _times_square(space.largest, update.size)) * SHORT_CHAIN + TINY64


def _times_square(eigenvalue: float, norm: float) -> float:
    # Nothing that lies in the null space reaches an output, whatever its bound.
    root = math.sqrt(eigenvalue) * SHORT_CHAIN * norm if eigenvalue > 0.0 else 0.0
    return root * root
