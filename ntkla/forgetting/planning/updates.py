"""The head updates of all points of one decomposition, in a basis of few of them, each with its error.

Point p moves column c of the head by `x_pc = -Q (h_p * z_c)`, z the coordinates of the gradient.  The filters h_p of a
grid are nearly dependent: `H = B T` with B [K, r] the leading left part of a singular value decomposition, r a fraction
of the points.  So the features meet r updates of the basis only, `-Q (b_j * z_c)`, and each point is a combination T_p
of their images.

Error of `x_pc`, in 2-norms (the first two are derived in `forgetting.descent.trained`; for the optimum, the force is h
itself):

1. the eigenvectors: `push (sum_j columns_j |f_j| + common ||f||)`, f the force times |z_c|; adding the ridge to the
   values rounds them once, a change of R of `u a_j ||q_j||`;
2. the gradient: `filter ||what the coordinates leave of it||`, and `root` times the error of its residual;
3. the filter: `||Q|| ||(error of h) * z_c||`;
4. the basis: `||Q|| ||(B T_p - h_p) * z_c||`, as computed, its rounding added;
5. the products: `sum_j |T_jp| gamma ||Q||_F ||b_j * z_c||`.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch

from ntkla.forgetting.descent.matrix_update import Coordinates, coordinates_of
from ntkla.forgetting.planning.decomposed import Decomposed
from ntkla.forgetting.planning.filter_bank import Filters
from ntkla.linalg.arithmetic.accurate import Bounded
from ntkla.linalg.arithmetic.products import pieced_gamma, pieced_matmul
from ntkla.linalg.errors import ScaleError
from ntkla.linalg.precision import SHORT_CHAIN, TINY64, U64, gamma, norm_upper, rounded_up

# What the basis may leave of an update, beside the tolerance: it is one of several errors.
_BASIS_SHARE = 2.0**-6


class Gradient(NamedTuple):
    """g_0 = Phi^T D R of some outputs: float64 [K, C], its rounding [C], and the error of D^1/2 R, [C], 2-norms."""

    value: torch.Tensor
    error: torch.Tensor
    residual_error: torch.Tensor


class Updates(NamedTuple):
    """P updates of C columns of the head.

    Attributes:
        basis: float64 [K, C, r], the updates of the basis.
        mix: T, float64 [r, P].
        sizes: upper bounds of the norms of the basis' columns, float64 [C, r].
        errors: upper bounds of the 2-norm of the error of each column as the exact combination of the basis, [P, C].
        norms: about the norms of the columns, [P, C], from below.
    """

    basis: torch.Tensor
    mix: torch.Tensor
    sizes: torch.Tensor
    errors: torch.Tensor
    norms: torch.Tensor

    def of(self, columns: torch.Tensor) -> Updates:
        """The same for some columns, int64 [c]."""
        return Updates(
            self.basis[:, columns], self.mix, self.sizes[columns], self.errors[:, columns], self.norms[:, columns]
        )

    def whole(self, point: int) -> torch.Tensor:
        """The update of one point, float64 [K, C]."""
        return self.basis @ self.mix[:, point]


def updates(found: Decomposed, bank: Filters, gradient: Gradient, tolerance: float) -> Updates:
    """The updates of all points of one decomposition.

    Cost: `2 K^2 r C` operations for the basis, K P^2 for its decomposition, a few passes over [P, K, C] for the errors.
    """
    z = coordinates_of(found.vectors, found.defect, Bounded(gradient.value, gradient.error))
    coordinate = z.first + z.second  # [K, C]
    reduced = _basis(bank.values, norm_upper(coordinate, dim=1), tolerance)
    size, outputs = coordinate.shape
    filtered = coordinate[:, :, None] * reduced.value[:, None, :]
    basis = -pieced_matmul(found.vectors, filtered.reshape(size, -1)).view(size, outputs, -1)
    if not bool(torch.isfinite(basis).all()):
        raise ScaleError("steps: the update overflows float64. Scale the features, or lower lr * steps or the time.")
    errors, norms = _errors(found, bank, z, reduced, gradient)
    lengths = norm_upper(filtered, dim=0)
    products = pieced_gamma(size) * float(norm_upper(found.vectors)) * lengths + 4 * size**2 * TINY64  # [C, r]
    errors = rounded_up(errors + reduced.mix.abs().T @ products.T * SHORT_CHAIN)
    return Updates(basis, reduced.mix, norm_upper(basis, dim=0), errors, norms)


class _Reduced(NamedTuple):
    """`H^T = value mix + left`: value [K, r], mix [r, P], and upper bounds of |left|, [P, K]."""

    value: torch.Tensor
    mix: torch.Tensor
    left: torch.Tensor


def _basis(h: torch.Tensor, weights: torch.Tensor, tolerance: float) -> _Reduced:
    """The fewest combinations of the filters h [P, K] that give each back, where it counts, to the tolerance."""
    scales = torch.linalg.vector_norm(h * weights, dim=1)
    scales = torch.where(scales > TINY64, scales, torch.ones_like(scales))
    shares = h.T / scales
    _, sizes, rows = torch.linalg.svd(shares * weights[:, None], full_matrices=False)
    wanted = max(tolerance * _BASIS_SHARE, h.shape[1] * U64)
    tails = sizes.square().flip(0).cumsum(0).flip(0).sqrt()
    count = max(1, int((tails > wanted).sum()))
    kept = rows[:count].T
    value, mix = shares @ kept, kept.T * scales
    again = value @ mix
    rounding = gamma(count + 2) * (value.abs() @ mix.abs())
    return _Reduced(value, mix, rounded_up((again.T - h).abs() + rounding.T + U64 * h.abs() + TINY64))


def _errors(
    found: Decomposed, bank: Filters, z: Coordinates, reduced: _Reduced, gradient: Gradient
) -> tuple[torch.Tensor, torch.Tensor]:
    """Parts 1 to 4 of each error, and the norm of each update from below: [P, C] each."""
    magnitude = rounded_up((z.first + z.second).abs())
    rounded_shift = U64 * SHORT_CHAIN * bank.shifted * norm_upper(found.vectors, dim=0)
    columns = bank.forces * rounded_up(found.columns + rounded_shift)
    disturbance = columns @ magnitude * (1.0 + gamma(magnitude.shape[0] + 4))
    disturbance = disturbance + found.common * _norms(bank.forces, magnitude)
    filtered = found.vectors_norm * _norms(bank.errors + 2 * U64 * bank.values.abs() + reduced.left, magnitude)
    push, spectral, root = (x[:, None] for x in (bank.push, bank.filter, bank.root))
    rest = spectral * z.rest + root * rounded_up(gradient.residual_error)
    errors = rounded_up(push * rounded_up(disturbance) + rest + filtered)
    lengths, lost = _scaled_norms(bank.values.abs(), magnitude)
    shrunk = max(0.0, 1.0 - found.defect) * (1.0 - 4.0 * gamma(magnitude.shape[0] + 32))
    return errors, (lengths * shrunk - lost - errors).clamp(min=0.0)


def _norms(weights: torch.Tensor, magnitudes: torch.Tensor) -> torch.Tensor:
    """Upper bounds of `||weights_p * magnitudes_c||` for [P, K] and [K, C] of numbers >= 0: [P, C]."""
    lengths, lost = _scaled_norms(weights, magnitudes)
    return rounded_up(lengths * (1.0 + gamma(weights.shape[1] + 16)) + lost)


def _scaled_norms(weights: torch.Tensor, magnitudes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """About those norms, and what their squares may have lost to underflow: scaled by the largest, none overflows."""
    heights, widths = weights.amax(1, keepdim=True), magnitudes.amax(0, keepdim=True)
    left, right = weights / heights.clamp(min=TINY64), magnitudes / widths.clamp(min=TINY64)
    scale = heights * widths
    return (left.square() @ right.square()).sqrt() * scale, rounded_up(math.sqrt(weights.shape[1]) * 2.0**-500 * scale)
