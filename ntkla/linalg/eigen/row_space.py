"""Leading row spaces of two feature matrices and the principal angles between them, with proved errors.

The leading row space of dimension k of `Phi = U Sigma V^T` is spanned by the first k right singular vectors, the
leading eigenvectors of `S = Phi^T Phi`.  `feature_modes` certifies vectors of the smaller of S and `G = Phi Phi^T`.

**From G to S.**  Let the span of U_k (computed) be at an angle of sine s to the leading eigenspace of G, and Z an
orthonormal basis of it.  In the exact eigenvectors, `Phi^T Z y = V_k L_k^1/2 C y + V_rest L_rest^1/2 D y` with
`||D|| <= s` and `||C y||^2 + ||D y||^2 = 1` for a unit y, so the tangent of the angle of `Phi^T Z y` to the leading row
space is at most

    sqrt(l_{k+1} / l_k) s / sqrt(1 - s^2).

It is 0 for k = n, whatever the vectors: then l_{k+1} = 0.  The columns `X = Phi^T U_k diag(l)^-1/2`, which are nearly
orthonormal, go through a QR factorisation.  With `||X - Q Y||_2 <= e`, rounding of X included,
`||(I - P_Q) X y|| <= e ||y|| <= e ||X y|| / sigma_min(X)`: the sine of the angle from X to Q is at most

    e / (sigma_min(Y) sqrt(1 - omega) - e),   sigma_min(Y) >= 1 - ||Y - I||_F,   omega >= ||Q^T Q - I||.

**Cosines** (Bjorck and Golub, "Numerical methods for computing angles between linear subspaces", Math. Comp. 27, 1973):
those of the principal angles are the singular values of `P_a P_b`, P the projectors.  By Weyl's theorem for singular
values they are off by at most the sines of both spaces; by `omega_b + omega_a (1 + omega_b)` because Q_a and Q_b are
orthonormal up to that only (`certificates.py`, polar form); and by the rounding of `O = Q_a^T Q_b`.  A computed
decomposition `O = U diag(c) V^T + R` makes each of them off by at most `||R||` and
`c_i (sqrt((1 + omega_U)(1 + omega_V)) - 1)`, or the same with minus signs (Ostrowski).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch

from ntkla.linalg.arithmetic.accurate import PANEL, Bounded, accurate_adjoint, accurate_sum
from ntkla.linalg.certificates import sharp_orthogonality_defect
from ntkla.linalg.design import DesignMatrix
from ntkla.linalg.eigen.feature_modes import FeatureModes
from ntkla.linalg.precision import SHORT_CHAIN, TINY64, U64, norm_upper, rounded_up


@dataclass(frozen=True, eq=False)
class RowSpace:
    """The span of the first k right singular vectors of a feature matrix.

    Attributes:
        basis: Q, float64 [columns, k].
        sine: upper bound of the sine of the largest angle between the span of Q and the exact space; 1 where the
            exact one is not certified to be unique.
        defect: omega, upper bound of ||Q^T Q - I||_2.
        largest, rest: upper bounds of the first and of the (k+1)-th eigenvalue of S; 0 where there is none.
    """

    basis: torch.Tensor
    sine: float
    defect: float
    largest: float
    rest: float

    @classmethod
    def of(cls, design: DesignMatrix, modes: FeatureModes, k: int) -> RowSpace:
        """The leading row space of dimension k <= `certified_rank(modes)`.

        Args:
            design: Phi, n x columns.
            modes: all modes of the same features.
            k: the dimension, >= 0.

        Cost: 6 n columns k + 12 columns k^2 operations where the modes are those of G; nothing otherwise.
        """
        upper = modes.spectrum.upper
        ends = float(upper[0]), float(upper[k]) if k < upper.shape[0] else 0.0
        if k == 0:
            return cls(modes.vectors.new_zeros((design.columns, 0)), 0.0, 0.0, *ends)
        angle = float(leading_sines(modes)[k - 1])
        if modes.side == "features":
            return cls(modes.vectors[:, :k].contiguous(), angle, modes.orthogonality, *ends)
        basis, turned, defect = _orthonormal_rows(design, modes.vectors[:, :k].contiguous(), modes.values[:k])
        return cls(basis, min(1.0, (angle + turned) * SHORT_CHAIN), defect, *ends)


def certified_rank(modes: FeatureModes) -> int:
    """How many eigenvalues are proved to be positive."""
    return int((modes.spectrum.lower > 0).sum())


def leading_sines(modes: FeatureModes) -> torch.Tensor:
    """[m]; entry j bounds the sine of the angle between what the first j + 1 vectors span and the exact row space."""
    if modes.side == "features":
        return modes.angle_bound
    sine, lower = modes.angle_bound, modes.spectrum.lower
    following = torch.nn.functional.pad(modes.spectrum.upper[1:], (0, 1))
    # Next to 1 the difference under the root is mostly rounding, and there is little to claim.
    known = (sine < 0.5) & (lower > 0.0)
    tangent = sine / (1.0 - sine * sine).sqrt() * (following / lower).sqrt()
    return torch.where(known, rounded_up(tangent), 1.0).masked_fill(known & (sine == 0.0), 0.0).clamp(max=1.0)


def _orthonormal_rows(
    design: DesignMatrix, vectors: torch.Tensor, values: torch.Tensor
) -> tuple[torch.Tensor, float, float]:
    """Q, the sine of the angle that rounding turned it by, and its orthogonality defect."""
    roots = values.sqrt()
    product = _side_by_side([accurate_adjoint(design, part, []) for part in torch.split(vectors, PANEL, dim=1)])
    x = product.value / roots
    basis, triangle = torch.linalg.qr(x)
    signs = torch.where(triangle.diagonal() < 0, -1.0, 1.0).to(x.dtype)
    basis, triangle = basis * signs, triangle * signs[:, None]
    apart = matmul(basis, triangle, -x)
    # The quotients round by u each, or underflow.
    columns = norm_upper(apart.value, dim=0) + apart.error + product.error / roots
    columns = columns + 4 * U64 * norm_upper(x, dim=0) + math.sqrt(x.shape[0]) * TINY64
    error = float(norm_upper(rounded_up(columns)))
    defect = sharp_orthogonality_defect(basis)
    triangle.diagonal().sub_(1.0)
    least = 1.0 - float(norm_upper(triangle)) * SHORT_CHAIN
    room = least * math.sqrt(max(0.0, 1.0 - defect)) / SHORT_CHAIN - error
    return basis, error / room * SHORT_CHAIN if room > error else 1.0, defect


def matmul(a: torch.Tensor, b: torch.Tensor, plus: torch.Tensor | None = None) -> Bounded:
    """`a b + plus` beyond float64, rounded once, with the 2-norm bound of each column's error."""
    if b.shape[1] == 0:
        return Bounded(b.new_zeros((a.shape[0], 0)), b.new_zeros(0))
    panels = [slice(start, start + PANEL) for start in range(0, b.shape[1], PANEL)]
    return _side_by_side([accurate_sum(a, b[:, c], [] if plus is None else [plus[:, c]]) for c in panels])


def _side_by_side(parts: list[Bounded]) -> Bounded:
    return Bounded(torch.cat([part.value for part in parts], 1), torch.cat([part.error for part in parts]))


class PrincipalAngles(NamedTuple):
    """The overlap of two row spaces.

    Attributes:
        overlap: Q_a^T Q_b, float64 [k_a, k_b].
        cosines: of the principal angles, descending, float64 [min(k_a, k_b)], in [0, 1].
        error: upper bounds of their errors, at most 1.
    """

    overlap: torch.Tensor
    cosines: torch.Tensor
    error: torch.Tensor


def principal_angles(a: RowSpace, b: RowSpace) -> PrincipalAngles:
    """The principal angles between two row spaces of the same columns.

    Cost: 6 columns k_a k_b operations and one singular value decomposition of a k_a x k_b matrix.
    """
    overlap, rounding = matmul(a.basis.T, b.basis)
    if overlap.numel() == 0:
        return PrincipalAngles(overlap, overlap.new_zeros(0), overlap.new_zeros(0))
    u, cosines, vt = torch.linalg.svd(overlap, full_matrices=False)
    scaled = u * cosines
    apart = matmul(scaled, vt, -overlap)
    lost = 2 * U64 * float(norm_upper(scaled)) * float(norm_upper(vt))
    residual = float(norm_upper(apart.value)) + float(norm_upper(apart.error)) + lost
    defects = sharp_orthogonality_defect(u), sharp_orthogonality_defect(vt.T.contiguous())
    # For p, q <= 1 both sqrt((1 + p)(1 + q)) - 1 and 1 - sqrt((1 - p)(1 - q)) are at most p + q.
    stretch = sum(defects) if max(defects) <= 1.0 else math.inf
    orthonormal = b.defect + a.defect * (1.0 + b.defect)
    shared = a.sine + b.sine + orthonormal + float(norm_upper(rounding)) + residual
    error = rounded_up(shared + stretch * cosines)
    # The exact ones lie in [0, 1].
    cosines = cosines.clamp(max=1.0)
    return PrincipalAngles(overlap, cosines, torch.minimum(error, rounded_up(torch.maximum(cosines, 1.0 - cosines))))
