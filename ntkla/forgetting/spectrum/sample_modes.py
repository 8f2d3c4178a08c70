"""In which modes the drift of single samples lives.

The part of sample i's drift row in an eigenspace of `G = Phi Phi^T` is `(U U^T dF)_i = b P t`, with P the projector on
the eigenspace of the smaller side: b = phi_i and t = x, the update, on the side of the features, b the i-th unit vector
and t = dF on the side of the samples.  Parts in different modes are not orthogonal to each other: their norms are not
shares of a sum, and one of them may be larger than the row.

With `f = V^T b`, `z = V^T t` as computed, off by at most phi and zeta, "c" for a cluster and s for the sine between its
computed and its exact eigenspace (`FeatureModes`, `update_energies.py`: `s = eta / gap`):

- `|b P_V t - f_c z_c| <= phi ||z_c|| + (|f_c| + phi) zeta` and the rounding of the product;
- `|b (P - P_V) t| <= s ((|f_c| + s |b|) ||t|| + |b| ||z_c||)`, because `P - P_V = P (I - P_V) - (I - P) P_V`;
- an error e of t adds `(|f_c| + s |b|) ||e||`.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch

from ntkla.forgetting.drift_bound import size_of
from ntkla.forgetting.reports.samples import Home
from ntkla.forgetting.spectrum.update_energies import Known, coefficients
from ntkla.linalg.design import widened
from ntkla.linalg.eigen.feature_modes import FeatureModes
from ntkla.linalg.precision import SHORT_CHAIN, TINY64, gamma, norm_upper


class _Parts(NamedTuple):
    """Norms of the parts of r rows in each of s clusters, [r, s], between bounds."""

    low: torch.Tensor
    high: torch.Tensor


def homes_of(
    rows: torch.Tensor,
    features: torch.Tensor,
    drift: torch.Tensor,
    error_bound: torch.Tensor,
    update: torch.Tensor,
    update_error: torch.Tensor,
    modes: FeatureModes,
) -> list[Home]:
    """For some samples, the cluster of modes that carries the largest part of the drift.

    Args:
        rows: int64 [r], which samples; a few.
        features: [n, F], those of `modes`.
        drift, error_bound: float64 [n, C], the drift and the entrywise bound of its error.
        update, update_error: float64 [columns, C] and [C], what the drift is the product of the features with, and the
            2-norm bound of each column's error.
        modes: `feature_modes(features)`.

    Cost: 6 r columns^2 + 6 columns^2 C operations on the side of the features, and 2 r columns C.
    """
    if modes.side == "features":
        left, right, error = _design_rows(features[rows], modes.bias), update, float(norm_upper(update_error))
    else:
        left, right, error = _unit_rows(rows, drift.shape[0]), drift, float(norm_upper(error_bound))
    b_scale, t_scale = (2.0 ** -max(-1000, math.frexp(float(x.abs().max()))[1]) for x in (left, right))
    parts = _parts(left * b_scale, Known(right * t_scale, error * t_scale), modes)
    first, second = max(b_scale, t_scale), min(b_scale, t_scale)
    sizes = size_of(drift[rows] * first * second, error_bound[rows] * first * second, dim=1)
    least, most = (
        ((sizes.value - sizes.error) / SHORT_CHAIN).tolist(),
        ((sizes.value + sizes.error) * SHORT_CHAIN).tolist(),
    )
    return [_home(*one, modes) for one in zip(parts.low, parts.high, least, most, strict=True)]


def _design_rows(part: torch.Tensor, bias: bool) -> torch.Tensor:
    wide = widened(part)
    return torch.cat([wide, torch.ones_like(wide[:, :1])], 1) if bias else wide


def _unit_rows(rows: torch.Tensor, samples: int) -> torch.Tensor:
    units = torch.zeros((rows.shape[0], samples), dtype=torch.float64, device=rows.device)
    return units.scatter_(1, rows[:, None], 1.0)


def _parts(left: torch.Tensor, right: Known, modes: FeatureModes) -> _Parts:
    """The parts of the rows of `left t`, t known as `right`; entries of both are at most 1."""
    f, z = coefficients(modes.vectors, left.T), coefficients(modes.vectors, right.value)
    b, t = norm_upper(left, dim=1), float(norm_upper(right.value))
    f_error, zeta = f.error + modes.orthogonality * b, z.error + modes.orthogonality * t
    sizes = [len(c) for c in modes.clusters]
    pairs = zip(torch.split(f.value.T, sizes, 1), torch.split(z.value, sizes), strict=True)
    norms = [(norm_upper(fc, dim=1), norm_upper(zc), norm_upper(fc @ zc, dim=1)) for fc, zc in pairs]
    f_c, z_c, value = (
        torch.stack([n[0] for n in norms], 1),
        torch.stack([n[1] for n in norms]),
        torch.stack([n[2] for n in norms], 1),
    )
    sine, b_column, f_column = _sines(modes, f_c.device), b[:, None], f_error[:, None]
    reach = f_c + f_column + sine * b_column
    computed = f_column * (z_c + zeta) + f_c * zeta + gamma(max(sizes) + z.value.shape[1] + 16) * f_c * z_c
    turned = sine * (reach * (t + zeta) + b_column * (z_c + zeta))
    inherited = reach * right.error if right.error > 0.0 else torch.zeros_like(reach)
    delta = torch.nan_to_num((computed + turned + inherited) * SHORT_CHAIN + TINY64 * modes.columns, nan=torch.inf)
    return _Parts(((value - delta) / SHORT_CHAIN).clamp(min=0.0), (value + delta) * SHORT_CHAIN)


def _sines(modes: FeatureModes, device: torch.device) -> torch.Tensor:
    """eta / gap of each cluster, two-sided; 0 when there is only one."""
    eta = float(modes.value_error.max())
    sines = [eta / c.gap * SHORT_CHAIN if c.gap < math.inf else 0.0 for c in modes.clusters]
    return torch.tensor(sines, dtype=torch.float64, device=device)


def _home(low: torch.Tensor, high: torch.Tensor, least: float, most: float, modes: FeatureModes) -> Home:
    """The cluster whose part is certainly larger than that in any other, and its share of a row between bounds."""
    best = int(low.argmax())
    others = torch.cat([high[:best], high[best + 1 :]])
    if float(low[best]) == 0.0 or least <= 0.0 or bool((others >= low[best]).any()):
        return Home()
    cluster = modes.clusters[best]
    share_high = float(high[best]) / least * SHORT_CHAIN
    return Home((cluster.start, cluster.stop), float(low[best]) / most / SHORT_CHAIN, share_high)
