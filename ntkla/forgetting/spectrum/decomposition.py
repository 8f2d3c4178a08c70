"""What `decompose` and `decompose_update` say of a drift: its energy in each eigenmode, with bounds, and its ranks."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from ntkla.forgetting.spectrum.energies import Energies, Interval, shares
from ntkla.forgetting.spectrum.ranks import Rank, counted, share_between_0_and_1
from ntkla.linalg import checks
from ntkla.linalg.eigen.feature_modes import FeatureModes
from ntkla.linalg.eigen.modes import Cluster, Eigenmodes
from ntkla.linalg.precision import SHORT_CHAIN, gamma, rounded_up
from ntkla.linalg.results import Result
from ntkla.linalg.status import CONDITIONAL, Status

ORDERS = ("eigenvalue", "energy")


@dataclass(frozen=True, eq=False)
class Decomposition(Result):
    """A drift in eigenmodes.  Shares are of `total`; for a zero drift every share is 0 and every rank 0.

    In modes of a `SoftmaxGram` every energy is in the metric of the cross-entropy: dF stands for `B^T dF`.

    Attributes:
        energy, energy_error: float64 [k], the energy of each computed vector and a bound of its distance to the energy
            of the exact mode; for a mode of a larger cluster, to that of any vector of the cluster's eigenspace basis.
        fraction: [k], energy / total.
        cumulative, cumulative_low, cumulative_high: [k], the share in the first j + 1 modes, and its certified bounds;
            inside a cluster they hold for every basis of its eigenspace.
        tail, tail_error: the energy that the k modes do not hold.
        total, total_error: `||dF||_F^2`.
        cluster_energy, cluster_energy_error: [number of clusters], the energy in each cluster's eigenspace.
        clusters: the clusters, as in `Eigenmodes`.
        modes: how many modes the operator has.
        conditional: whether every bound holds for a foreign operator as evaluated only.
        status: `"certified"` when the energies of all whole clusters are within the tolerance, relative to the total;
            `"conditional"` when they are for a foreign operator as evaluated.
    """

    energy: torch.Tensor
    energy_error: torch.Tensor
    fraction: torch.Tensor
    cumulative: torch.Tensor
    cumulative_low: torch.Tensor
    cumulative_high: torch.Tensor
    tail: float
    tail_error: float
    total: float
    total_error: float
    cluster_energy: torch.Tensor
    cluster_energy_error: torch.Tensor
    clusters: tuple[Cluster, ...]
    modes: int
    conditional: bool
    status: Status

    def rank(self, q: float, order: str = "eigenvalue") -> Rank:
        """r_q, the fewest modes that carry the share q of the energy.

        Args:
            q: the share, 0 < q <= 1.
            order: `"eigenvalue"` takes the modes by descending eigenvalue, `"energy"` by descending energy.

        Returns:
            A `Rank`: a number when the bounds decide it, else `value=None` and the interval.  When the k modes do not
            reach the share, `low` is at least k + 1 and `high` the number of all modes.  Within a cluster the bounds
            hold for every basis of its eigenspace.

        Raises:
            ArgumentError
        """
        q = share_between_0_and_1(q)
        by_energy = checks.choice("order", order, ORDERS) == "energy"
        low, high = self._shares_by_energy() if by_energy else (self.cumulative_low, self.cumulative_high)
        if self.total == self.total_error == 0.0:
            return counted(0, 0, order, q, self.conditional)
        certain, possible = (torch.nonzero(share >= q).flatten() for share in (low, high))
        least = int(possible[0]) + 1 if possible.numel() else low.shape[0] + 1
        # An exact drift of zero has rank 0; it is excluded when the total is certainly positive.
        most = low.shape[0] if self.tail == self.tail_error == 0.0 else self.modes
        least = 0 if self.total_error >= self.total else min(least, most)
        most = min(int(certain[0]) + 1, most) if certain.numel() else most
        return counted(least, most, order, q, self.conditional)

    def _shares_by_energy(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Bounds of the share in the j + 1 modes of largest energy.

        Whatever the basis of a cluster's eigenspace, its energy is spread at most evenly and at least onto one mode.
        What no whole cluster holds may be one mode, or spread over so many that nothing is certain.
        """
        whole = [i for i, c in enumerate(self.clusters) if c.stop <= self.energy.shape[0]]
        sizes = torch.tensor([len(self.clusters[i]) for i in whole], dtype=torch.int64, device=self.energy.device)
        energy, error = self.cluster_energy[whole], self.cluster_energy_error[whole]
        even = ((energy - error).clamp(min=0.0) / sizes).repeat_interleave(sizes)
        elsewhere = self.total + self.total_error - (energy - error).clamp(min=0.0).sum()
        single = torch.cat([energy + error, elsewhere.clamp(min=0.0).reshape(1)])
        slack = 1.0 + gamma(even.shape[0] + 8)
        least_total = max(self.total - self.total_error, 0.0)
        low = even.sort(descending=True).values.cumsum(0) / slack / ((self.total + self.total_error) * SHORT_CHAIN)
        high = single.sort(descending=True).values.cumsum(0) * slack / least_total if least_total > 0 else single + 1.0
        return low, high

    def __str__(self) -> str:
        k = self.energy.shape[0]
        return "\n".join(
            [
                f"Decomposition: {k} of {self.modes} modes hold {float(self.cumulative[-1]):.4%} of the energy",
                f"  first mode {float(self.fraction[0]):.4%}, {self.rank(0.5)}, {self.rank(0.9)}",
                f"  {self.status}",
            ]
        )


def assembled(energies: Energies, modes: Eigenmodes | FeatureModes, exponent: int, tolerance: float) -> Decomposition:
    """The result, from the energies of a drift that was divided by 2^exponent."""
    each, total, clusters, trailing = energies.each, energies.total, energies.clusters, energies.trailing
    k = each.shape[0]
    sizes = torch.tensor([len(c) for c in modes.clusters], dtype=torch.int64, device=each.device)
    members = torch.tensor([min(c.stop, k) - c.start for c in modes.clusters], dtype=torch.int64, device=each.device)
    in_any_basis = Interval(torch.where(sizes == 1, clusters.low, 0.0), clusters.high)
    of_mode = Interval(*(end.repeat_interleave(members) for end in in_any_basis))
    of_cluster = torch.stack([part.sum() for part in torch.split(each, members.tolist())])
    errors = {
        "energy_error": _distance(each, of_mode),
        "cluster_energy_error": _distance(of_cluster, clusters),
        "total_error": _distance(total, Interval(trailing.low[0], trailing.high[0])),
        "tail_error": _distance(energies.outside, Interval(trailing.low[-1], trailing.high[-1])),
    }
    whole = errors["cluster_energy_error"][: len(modes.clusters) - int(modes.cut)]
    worst = float(torch.cat([whole, errors["total_error"].reshape(1)]).max())
    low, high = shares(energies)
    back = 2.0**exponent
    scaled = {name: torch.where(e == 0.0, 0.0, rounded_up(e * back * back)) for name, e in errors.items()}
    # Beside a drift that all but vanishes, what rounding leaves in a mode may be larger than it.
    fraction = (each / total).clamp(max=1.0) if bool(total > 0) else torch.zeros_like(each)
    return Decomposition(
        energy=each * back * back,
        energy_error=scaled["energy_error"],
        fraction=fraction,
        cumulative=fraction.cumsum(0).clamp_(max=1.0),
        cumulative_low=low,
        cumulative_high=high,
        tail=float(energies.outside * back * back),
        tail_error=float(scaled["tail_error"]),
        total=float(total * back * back),
        total_error=float(scaled["total_error"]),
        cluster_energy=of_cluster * back * back,
        cluster_energy_error=scaled["cluster_energy_error"],
        clusters=modes.clusters,
        modes=modes.spectrum.size * modes.spectrum.multiplicity,
        conditional=modes.spectrum.conditional,
        status=_status(worst, float(total), tolerance, modes.spectrum.conditional),
    )


def _distance(value: torch.Tensor, interval: Interval) -> torch.Tensor:
    """Upper bound of the distance from a value to anything in an interval."""
    return torch.maximum(interval.high - value, value - interval.low).clamp(min=0.0) * SHORT_CHAIN


def _status(worst: float, total: float, tolerance: float, conditional: bool) -> Status:
    relative = worst / total if total > 0 else (math.inf if worst > 0 else 0.0)
    found = Status.of_bound(
        relative,
        tolerance,
        "close eigenvalues leave eigenspaces less certain. The bounds hold: use them.",
        what="the error of whole clusters' energies, relative to the total,",
    )
    if conditional and found.certified:
        return Status(CONDITIONAL, f"{found.message} That holds for the operator as evaluated: it says no error.")
    return found
