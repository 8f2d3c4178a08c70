"""Enclosures of the energies of a drift in certified modes.

With the exact drift d = given + error, `||error||_F <= eps`, D = ||given||_F, omega the orthogonality defect of the
computed vectors U, and s the sine bound of a computed subspace against the exact eigenspace (`Eigenmodes.angle_bound`,
`Cluster.angle_bound`):

- the energy of an exact eigenspace with projector P is `||P d||_F^2`; its root is an amplitude;
- `||P_U - P||_2 <= s` for subspaces of one dimension, and replacing P_U by computed columns that are orthonormal only
  to omega moves an amplitude, inside or outside the subspace, by less than 8 omega times the norm;
- forming U^T d and d - U U^T d in float64 (sums in pieces, m columns) moves it by less than rho D,
  `rho = 3 (gamma_n + gamma_m) sqrt(m) (1 + omega)^2`.

So every amplitude is off by at most `delta = (s + 8 omega) (D + eps) + rho D + eps`, and energies are squares of
intervals.  Energies of leading subspaces grow with their dimension and the energies outside shrink: each bound may be
replaced by the best of its neighbours.  That alone encloses the dimensions that cut a cluster, where s = 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch

from ntkla.linalg.arithmetic.products import pieced_gamma, pieced_matmul
from ntkla.linalg.eigen.modes import Eigenmodes
from ntkla.linalg.precision import SHORT_CHAIN, TINY64, gamma, norm_upper
from ntkla.linalg.solve.normal import exactly_zero


class Interval(NamedTuple):
    """Lower and upper bounds of the same shape."""

    low: torch.Tensor
    high: torch.Tensor


class Energies(NamedTuple):
    """Energies of a drift [n, C] in k modes.

    Attributes:
        each: [k], of the computed vectors.
        outside: a scalar, of what no computed vector holds.
        total: a scalar, of the drift as given.
        leading, trailing: [k + 1], enclosures of the exact energies inside and outside the leading eigenspaces of
            dimension 0, 1, ..., k.
        clusters: one for each cluster: enclosure of the energy in its exact eigenspace.
    """

    each: torch.Tensor
    outside: torch.Tensor
    total: torch.Tensor
    leading: Interval
    trailing: Interval
    clusters: Interval


def energies_in(drift: torch.Tensor, error: float, modes: Eigenmodes) -> Energies:
    """Energies of a float64 drift, scaled so that its entries are at most 1, with their enclosures.

    Args:
        drift: [n, C].
        error: Frobenius norm bound of its error; may be infinite.
        modes: of the n x n Gram matrix, or of the Kronecker kernel with C outputs.

    Cost: 4 n k C operations.
    """
    k, columns = modes.values.shape[0], modes.basis.shape[1]
    coefficients = pieced_matmul(modes.basis.T, drift)
    if modes.output_index is not None:
        coefficients.view(-1)[k:] = 0.0
    rest = drift - pieced_matmul(modes.basis, coefficients)
    squares = coefficients * coefficients
    each = squares.sum(1) if modes.output_index is None else squares.reshape(-1)[:k]
    (outside, summands), (total, _) = sum_of_squares(rest), sum_of_squares(drift)
    size, defect = float(norm_upper(drift)), modes.orthogonality
    rho = 3 * (pieced_gamma(drift.shape[0]) + pieced_gamma(columns)) * math.sqrt(columns) * (1.0 + defect) ** 2
    # The last term: squares of scaled entries that underflow; a zero drift loses nothing.
    underflow = 0.0 if exactly_zero(drift) else math.sqrt(2.0 * TINY64 * drift.numel())
    size = size if underflow else 0.0
    fixed = rho * size + error + underflow

    def enclosed(energy: torch.Tensor, angle: torch.Tensor) -> Interval:
        return squared(energy, (angle + 8.0 * defect) * (size + error) + fixed, summands + drift.shape[1] + k)

    everything = squared(total.reshape(1), fixed, summands)
    inside = enclosed(each.cumsum(0), modes.angle_bound)
    # Summed from the end and without the mode itself: subtracting a large energy would cancel the small ones after it.
    later = torch.cat([each[1:], torch.zeros_like(each[:1])]).flip(0).cumsum(0).flip(0)
    after = enclosed(later + outside, modes.angle_bound)
    none = torch.zeros_like(everything.low)
    leading = growing(
        Interval(torch.cat([none, inside.low]), torch.cat([none, inside.high]).clamp_(max=everything.high))
    )
    beyond = growing(Interval(*(torch.cat([t, x]).flip(0) for t, x in zip(everything, after, strict=True))))
    trailing = Interval(beyond.low.flip(0), beyond.high.flip(0))
    return Energies(each, outside, total, leading, trailing, _in_clusters(each, modes, enclosed, trailing))


def shares(energies: Energies) -> tuple[torch.Tensor, torch.Tensor]:
    """Bounds of inside / (inside + outside) for the leading eigenspaces of dimension 1, ..., k; 0 for a zero drift."""
    inside, outside = energies.leading, energies.trailing
    low = inside.low / (inside.low + outside.high).clamp(min=TINY64) / SHORT_CHAIN
    low = torch.where((outside.high == 0.0) & (inside.low > 0.0), 1.0, low)
    high = inside.high / (inside.high + outside.low).clamp(min=TINY64) * SHORT_CHAIN
    return low[1:], torch.where(inside.high.isinf(), 1.0, high)[1:].clamp(max=1.0)


def sum_of_squares(x: torch.Tensor) -> tuple[torch.Tensor, int]:
    """The sum of the squares of float64 [n, C], in parts, and how many roundings it counts: C + 256 + n / 256."""
    parts = torch.split((x * x).sum(1), 256)
    return torch.stack([part.sum() for part in parts]).sum(), x.shape[1] + min(x.shape[0], 256) + len(parts)


def squared(energy: torch.Tensor, delta: torch.Tensor | float, summands: int) -> Interval:
    """The squares of `sqrt(energy) +- delta`, the energy being a sum of so many float64 squares."""
    root, rounding = energy.sqrt(), gamma(summands + 8)
    low = (root * (1.0 - rounding) - delta).clamp(min=0.0)
    high = root * (1.0 + rounding) + delta
    return Interval(low * low / SHORT_CHAIN, high * high * SHORT_CHAIN)


def growing(x: Interval) -> Interval:
    """The same enclosures, tightened by the knowledge that what they enclose grows along the sequence."""
    return Interval(x.low.cummax(0).values, x.high.flip(0).cummin(0).values.flip(0))


def _in_clusters(
    each: torch.Tensor,
    modes: Eigenmodes,
    enclosed: Callable[[torch.Tensor, torch.Tensor], Interval],
    trailing: Interval,
) -> Interval:
    """Energies in the exact eigenspaces of the clusters; of one that is cut only part of the vectors is at hand."""
    starts = torch.tensor([c.start for c in modes.clusters], dtype=torch.int64, device=each.device)
    index = torch.bucketize(torch.arange(each.shape[0], dtype=torch.int64, device=each.device), starts, right=True) - 1
    sums = torch.zeros(starts.shape[0], dtype=torch.float64, device=each.device).index_add_(0, index, each)
    angles = torch.tensor([c.angle_bound for c in modes.clusters], dtype=torch.float64, device=each.device)
    low, high = enclosed(sums, angles)
    # Nothing outside the leading modes holds more than all of it.
    high = torch.minimum(high, trailing.high[starts])
    if modes.cut:
        high[-1] = trailing.high[starts[-1]]
    return Interval(low, high)
