"""Predictions with error bounds, and what the bounds decide about them: classes, accuracies, flips.

The predicted class of a sample is the output with the largest exact value.  Class j is possible when
`value_j + bound_j >= max_k (value_k - bound_k)`; a class is certain when no other is possible.  So a tie, and a lead
smaller than the bounds, is undecided: both classes stay possible.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ntkla.forgetting.tasks import checked_labels
from ntkla.linalg.decisions import Decision
from ntkla.linalg.precision import U64, rounded_up
from ntkla.linalg.results import Result


@dataclass(frozen=True, eq=False)
class Judged:
    """Of which samples something is certain, and of which it is possible: bool [n] each."""

    certain: torch.Tensor
    possible: torch.Tensor

    def of(self, rows: torch.Tensor) -> Judged:
        """The same of some samples, int64 [m] or bool [n]."""
        return Judged(self.certain[rows], self.possible[rows])

    def count(self) -> Decision:
        """For how many samples it is true."""
        return Decision(int(self.certain.sum()), int(self.possible.sum()))

    def share(self) -> Decision:
        """For what share of the samples it is true."""
        samples = self.certain.shape[0]
        return Decision(int(self.certain.sum()) / samples, int(self.possible.sum()) / samples)


@dataclass(frozen=True, eq=False)
class Predictions(Result):
    """Outputs of a head: `Predictions(*head.predict(features))`.

    Attributes:
        value: float64 [n, C].
        error_bound: float64 [n, C], `|value - exact| <= error_bound` entry by entry.
    """

    value: torch.Tensor
    error_bound: torch.Tensor

    def of(self, rows: torch.Tensor) -> Predictions:
        """The predictions of some samples, int64 [m] or bool [n]."""
        return Predictions(self.value[rows], self.error_bound[rows])

    def moved(self, drift: torch.Tensor, drift_bound: torch.Tensor) -> Predictions:
        """The predictions after a drift [n, C] that is known within `drift_bound`."""
        value = self.value + drift
        return Predictions(value, rounded_up(self.error_bound + drift_bound + U64 * value.abs()))

    def possible_classes(self) -> torch.Tensor:
        """bool [n, C]: whether the exact outputs may be largest there; at least one a row."""
        # Two roundings of the value for the sums below: what is called impossible is.
        radius = rounded_up(self.error_bound) + 2 * U64 * self.value.abs()
        least = (self.value - radius).amax(dim=1, keepdim=True)
        return self.value + radius >= least

    def hits(self, labels: torch.Tensor) -> Judged:
        """Of which samples the predicted class is the label, int64 [n], the number of its column here.

        Raises:
            DtypeError, ShapeError, LabelError
        """
        labels = checked_labels(labels, *self.value.shape)
        possible = self.possible_classes()
        may_hit = possible.gather(1, labels[:, None])[:, 0]
        return Judged(may_hit & (possible.sum(dim=1) == 1), may_hit)

    def accuracy(self, labels: torch.Tensor) -> Decision:
        """The share of samples whose predicted class is their label, as far as it is decided."""
        return self.hits(labels).share()

    def __str__(self) -> str:
        n, c = self.value.shape
        return f"Predictions: {n} samples, {c} outputs, each within {float(self.error_bound.max()):.2e}"


@dataclass(frozen=True, eq=False)
class Flips(Result):
    """Which samples change their predicted class.

    Attributes:
        certain: bool [n], the class certainly changes.
        impossible: bool [n], the class certainly stays.
        undecided: bool [n], neither is proved.
        count: how many change.
    """

    certain: torch.Tensor
    impossible: torch.Tensor
    undecided: torch.Tensor
    count: Decision

    @classmethod
    def between(cls, before: Predictions, after: Predictions) -> Flips:
        """Compares the classes that are possible before and after."""
        first, second = before.possible_classes(), after.possible_classes()
        certain = ~(first & second).any(dim=1)
        impossible = (first == second).all(dim=1) & (first.sum(dim=1) == 1)
        judged = Judged(certain, ~impossible)
        return cls(certain, impossible, ~(certain | impossible), judged.count())

    @property
    def judged(self) -> Judged:
        """Of which samples it is proved, and of which it is not refuted, that their class changes."""
        return Judged(self.certain, ~self.impossible)

    def __str__(self) -> str:
        return f"Flips: {self.count} of {self.certain.shape[0]} samples change their predicted class"
