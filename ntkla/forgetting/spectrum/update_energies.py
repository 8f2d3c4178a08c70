"""Enclosures of the energies of a drift `dF = Phi x` in the modes of `G = Phi Phi^T`, from x and the modes of S.

For an eigenspace of G and the one of S = Phi^T Phi with the same eigenvalues, P its projector, the part of the drift in
it is `Phi P x`, and its energy `||Phi P x||_F^2`.  Computed vectors V, values l = diag(L), and `FeatureModes` give
(`certificates.py`)

    S + E = U L U^T,  U orthogonal,  ||E||_2 <= eta (the value error),  ||V - U||_2 <= omega (the orthogonality).

Let Q be the projector on some columns of U, z = U^T x, and `a^2 = sum l_j ||z_j||^2` over a set of modes: "in" for the
set, "up" and "low" for those before and after it.

1. *The energy in Q*: `||Phi Q x||^2 = x^T Q (U L U^T - E) Q x` is within `eta ||z_in||^2` of `a_in^2`.
2. *From Q to P.*  `||Phi P x||` and `||Phi Q x||` differ by at most `||Phi (P - Q) x||`, and `P - Q = P (I - Q) -
   (I - P) Q`.  With the exact eigenvectors V' and values l', `Y = V'_p^T U_q` of two sets satisfies the Sylvester
   equation `L'_p Y - Y L_q = -V'_p^T E U_q`, so `||Y||_2 <= s = eta / gap` when one set lies above the other by gap
   (Davis and Kahan).  Solved for Y and multiplied by `L'_p^1/2` it says, with p above q,

       ||L'_p^1/2 Y z_q|| <= (eta ||z_q|| + s ||L_q z_q||) / sqrt(least l'_p),    ||L_q z_q|| <= sqrt(largest l_q) a_q,

   and with p below q, because `(l_min / l)^(3/2) <= 1`,

       ||L'_p^1/2 Y z_q|| <= sqrt(largest l'_p / least l_q) s a_q.

   Two such terms (q = up and low) for the set's own p, and one for p = up and for p = low, all three orthogonal: the
   move is at most s times amplitudes of the drift itself, and eta ||z|| / sqrt(l') for what x does elsewhere.  A norm
   of x never meets a large eigenvalue.
3. *What is computed*: z is off by `zeta = omega ||x|| + rounding`, so a by `sqrt(largest l) zeta`.
4. *The error of x*: `||Phi P (x' - x)||` is at most `sqrt(largest l') ||x' - x||_F`, and at most `||Phi (x' - x)||_F`,
   which the error of the drift bounds, but for the rounding of the product Phi x that it was computed as.

Small eigenvalues have small errors, whatever their vectors.  Energies of leading sets grow with their dimension and the
others shrink; that alone encloses the dimensions that cut a cluster.  The modes hold all of a drift `Phi x`.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch

from ntkla.forgetting.spectrum.energies import Energies, Interval, growing, squared, sum_of_squares
from ntkla.linalg.arithmetic.accurate import PANEL, accurate_sum
from ntkla.linalg.eigen.feature_modes import FeatureModes
from ntkla.linalg.precision import SHORT_CHAIN, TINY64, gamma, norm_upper
from ntkla.linalg.solve.normal import exactly_zero


class Known(NamedTuple):
    """A number or an array as computed and the Frobenius norm bound of its error; may be infinite."""

    value: torch.Tensor
    error: float


class Scaled(NamedTuple):
    """The eigenvalues, all divided by one power of four.

    Attributes:
        values: as computed, [m].
        lower, upper: their enclosures.
        error: eta.
    """

    values: torch.Tensor
    lower: torch.Tensor
    upper: torch.Tensor
    error: float


class Sets(NamedTuple):
    """Sets of consecutive modes: first, one beyond the last, and the sums of l_j ||z_j||^2 and ||z_j||^2, [s] each."""

    start: torch.Tensor
    stop: torch.Tensor
    energy: torch.Tensor
    square: torch.Tensor


class Product(NamedTuple):
    """`Phi x` as computed, [n, C], the Frobenius norm bound of its error, and that of the rounding of the product."""

    value: torch.Tensor
    error: float
    rounding: float


def scaled_spectrum(modes: FeatureModes) -> tuple[Scaled, int]:
    """The spectrum divided by 4^e, the largest eigenvalue about 1 then, and e."""
    spectrum = modes.spectrum
    lower, upper = spectrum.lower, spectrum.upper
    largest = float(upper[0])
    exponent = max(-500, (math.frexp(largest)[1] + 1) // 2) if math.isfinite(largest) else 0
    by = 2.0 ** (-2 * exponent)
    error = float(spectrum.value_error.max()) * by
    allowance = 0.0 if largest == 0.0 else TINY64
    return Scaled(spectrum.values * by, lower * by, upper * by + allowance, error + allowance), exponent


def coefficients(vectors: torch.Tensor, x: torch.Tensor) -> Known:
    """`V^T x` beyond float64, rounded once."""
    parts = [accurate_sum(vectors.T, part, []) for part in torch.split(x, PANEL, dim=1)]
    return Known(torch.cat([p.value for p in parts], 1), float(norm_upper(torch.cat([p.error for p in parts]))))


class _Modes:
    """What the enclosures of all sets share: the spectrum, and sums over the modes before and after a place."""

    def __init__(self, spectrum: Scaled, z: Known, update_error: float, drift_part: float) -> None:
        self.spectrum, self.zeta = spectrum, z.error
        self.update_error, self.drift_part = update_error, drift_part
        self.square = (z.value * z.value).sum(1)
        self.energy = spectrum.values * self.square
        self.summands = z.value.numel() + 8
        # Squares of scaled entries that underflow.
        self.lost = 0.0 if z.error == 0.0 else math.sqrt(2.0 * TINY64 * z.value.numel())

    def before(self, each: torch.Tensor) -> torch.Tensor:
        """Sums over the modes before 0, 1, ..., m."""
        return torch.cat([torch.zeros_like(each[:1]), each.cumsum(0)])

    def after(self, each: torch.Tensor) -> torch.Tensor:
        """Sums over the modes from 0, 1, ..., m on; no differences, which would cancel small ones after large ones."""
        return self.before(each.flip(0)).flip(0)

    def root(self, sums: torch.Tensor) -> torch.Tensor:
        """Upper bounds of the roots of such sums."""
        return sums.sqrt() * (1.0 + gamma(self.summands)) + self.lost

    def enclosed(self, sets: Sets) -> Interval:
        """The energies in the exact eigenspaces of some sets."""
        largest, whole = self.spectrum.values[sets.start].sqrt() * SHORT_CHAIN, self.root(sets.square) + self.zeta
        in_span = squared(sets.energy, largest * self.zeta + self.lost, self.summands)
        turned = self.spectrum.error * whole * whole * SHORT_CHAIN
        of_update = self.spectrum.upper[sets.start].sqrt() * self.update_error
        # Nothing that lies in the null space reaches an output, whatever its bound.
        of_update = torch.where(self.spectrum.upper[sets.start] == 0.0, 0.0, of_update).clamp(max=self.drift_part)
        delta = self.moved(sets, whole, largest) + of_update
        low = ((in_span.low - turned).clamp(min=0.0).sqrt() / SHORT_CHAIN - delta * SHORT_CHAIN).clamp(min=0.0)
        high = ((in_span.high + turned).sqrt() + delta) * SHORT_CHAIN
        return Interval(low * low / SHORT_CHAIN, high * high * SHORT_CHAIN)

    def moved(self, sets: Sets, whole: torch.Tensor, largest: torch.Tensor) -> torch.Tensor:
        """Part 2 of the derivation: upper bounds of ||Phi (P - Q) x||; infinite where a gap is not certified."""
        values, lower, upper, eta = self.spectrum
        m, zeta, inside = values.shape[0], self.zeta, self.root(sets.energy) + largest * self.zeta
        last, first = sets.stop - 1, sets.start
        before, after = first > 0, sets.stop < m
        up, low = (first - 1).clamp(min=0), sets.stop.clamp(max=m - 1)
        s_up = torch.where(before, self._sine(torch.minimum(values[up] - upper[first], lower[up] - values[first])), 0.0)
        s_low = torch.where(after, self._sine(torch.minimum(lower[last] - values[low], values[last] - upper[low])), 0.0)
        a_up = self.root(self.before(self.energy)[first]) + values[0].sqrt() * zeta
        a_low = self.root(self.after(self.energy)[sets.stop]) + values[low].sqrt() * zeta
        z_low = self.root(self.after(self.square)[sets.stop]) + zeta
        from_low = (eta * z_low + s_low * values[low].sqrt() * a_low) / lower[last].sqrt()
        from_up = s_up * (upper[first] / values[up]).sqrt() * a_up
        to_up = (eta * whole + s_up * values[first].sqrt() * inside) / lower[up].sqrt()
        to_low = s_low * (upper[low] / values[last]).sqrt() * inside
        own = torch.where(after, from_low, 0.0) + torch.where(before, from_up, 0.0)
        others = torch.hypot(torch.where(before, to_up, 0.0), torch.where(after, to_low, 0.0))
        return torch.nan_to_num(torch.hypot(own, others), nan=torch.inf, posinf=torch.inf) * SHORT_CHAIN

    def _sine(self, gap: torch.Tensor) -> torch.Tensor:
        return torch.where(gap > 0.0, self.spectrum.error / gap * SHORT_CHAIN, torch.inf)


def energies_of_update(update: Known, drift: Product, modes: FeatureModes, spectrum: Scaled) -> Energies:
    """Energies of `Phi x` and their enclosures, scaled: x by 2^-a, the eigenvalues by 4^-b, the drift by 2^-(a + b).

    Args:
        update: x, [columns, C], entries at most 1.
        drift: `Phi x`.
        modes: held on the side of the features.
        spectrum: of `modes`.

    Cost: 6 columns^2 C operations and one pass over the drift.
    """
    z = coefficients(modes.vectors, update.value)
    turned = 0.0 if exactly_zero(update.value) else z.error + modes.orthogonality * float(norm_upper(update.value))
    shared = _Modes(spectrum, Known(z.value, turned * SHORT_CHAIN), update.error, drift.error + drift.rounding)
    total, summands = sum_of_squares(drift.value)
    lost = 0.0 if exactly_zero(drift.value) else math.sqrt(2.0 * TINY64 * drift.value.numel())
    everything = squared(total.reshape(1), drift.error + lost, summands)
    leading, trailing = _leading(shared, everything)
    clusters = _in_clusters(shared, modes, leading, trailing)
    return Energies(shared.energy, torch.zeros_like(total), total, leading, trailing, clusters)


def _leading(shared: _Modes, everything: Interval) -> tuple[Interval, Interval]:
    """Enclosures inside and outside the leading eigenspaces of dimension 0, ..., m: nothing inside 0, or outside m."""
    m, device = shared.energy.shape[0], shared.energy.device
    cut = torch.arange(1, m, dtype=torch.int64, device=device)
    inside, outside = (
        shared.enclosed(Sets(start, stop, sums(shared.energy)[cut], sums(shared.square)[cut]))
        for start, stop, sums in (
            (torch.zeros_like(cut), cut, shared.before),
            (cut, torch.full_like(cut, m), shared.after),
        )
    )
    none = torch.zeros_like(everything.low)
    ends = (torch.cat([none, part, whole]) for part, whole in zip(inside, everything, strict=True))
    back = (torch.cat([whole, part, none]).flip(0) for part, whole in zip(outside, everything, strict=True))
    leading, falling = growing(Interval(*ends)), growing(Interval(*back))
    return leading, Interval(falling.low.flip(0), falling.high.flip(0))


def _in_clusters(shared: _Modes, modes: FeatureModes, leading: Interval, trailing: Interval) -> Interval:
    """Energies in the exact eigenspaces of the clusters; neither the modes up to one nor those from it hold less."""
    device = shared.energy.device
    start, stop = (
        torch.tensor(ends, dtype=torch.int64, device=device)
        for ends in ([c.start for c in modes.clusters], [c.stop for c in modes.clusters])
    )
    sizes = (stop - start).tolist()
    energy, square = (
        torch.stack([part.sum() for part in torch.split(each, sizes)]) for each in (shared.energy, shared.square)
    )
    low, high = shared.enclosed(Sets(start, stop, energy, square))
    return Interval(low, torch.minimum(high, torch.minimum(leading.high[stop], trailing.high[start])))
