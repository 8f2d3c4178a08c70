"""What `drift_split` says of a training: the drift inside and outside of a subspace, each number between its ends."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ntkla.linalg.results import Result
from ntkla.linalg.status import Status


@dataclass(frozen=True)
class Enclosure(Result):
    """A number as computed, and the ends of what the exact one certainly lies in; `float()` gives the former."""

    value: float
    low: float
    high: float

    def __float__(self) -> float:
        return self.value

    def __str__(self) -> str:
        """Four digits where both ends have the same, else the ends."""
        low, high = f"{self.low:.4g}", f"{self.high:.4g}"
        return low if low == high else f"[{low}, {high}]"


@dataclass(frozen=True)
class DriftSplit(Result):
    """The drift of the old outputs inside and outside of the first k modes; 0 throughout where nothing moved.

    Attributes:
        inside, outside: `||P D||_F` and `||D - P D||_F`, in units of the outputs; in modes of a `SoftmaxGram` of
            `B^T D`, whose square is twice the KL divergence that the drift makes, to second order.
        total: `||D||_F`.
        share: `inside^2 / total^2`, the part of the drift's energy that lies inside.
        ratio: `inside / outside`; infinite when nothing moved outside.
        k: how many modes are inside, counted in the operator of the modes.
        status: `"certified"` when inside and outside are within the tolerance, relative to the total; `"conditional"`
            when they are for a foreign operator as evaluated.
    """

    inside: Enclosure
    outside: Enclosure
    total: Enclosure
    share: Enclosure
    ratio: Enclosure
    k: int
    status: Status

    def __str__(self) -> str:
        return "\n".join(
            [
                f"DriftSplit: {self.inside} inside of the first {self.k} modes, {self.outside} outside",
                f"  ratio {self.ratio}, share of the energy {self.share}",
                f"  {self.status}",
            ]
        )


@dataclass(frozen=True)
class DriftSplits(Result):
    """The drifts of several trainings in the same modes; `splits["EWC"]`, iteration in the order of `inside`.

    Attributes:
        splits: name -> DriftSplit, the least drift inside first.
    """

    splits: dict[str, DriftSplit]

    def __getitem__(self, name: str) -> DriftSplit:
        return self.splits[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.splits)

    def __len__(self) -> int:
        return len(self.splits)

    def __str__(self) -> str:
        k = next(iter(self.splits.values())).k
        rows = [["", "inside", "outside", "ratio", "share"]]
        rows += [[name, *map(str, (s.inside, s.outside, s.ratio, s.share))] for name, s in self.splits.items()]
        widths = [max(len(row[i]) for row in rows) for i in range(5)]
        lines = ["  " + "  ".join(cell.rjust(w) for cell, w in zip(row, widths, strict=True)) for row in rows]
        open_ones = [f"  {name}: {s.status}" for name, s in self.splits.items() if not s.status.certified]
        return "\n".join([f"DriftSplits: inside and outside of the first {k} modes", *lines, *open_ones])
