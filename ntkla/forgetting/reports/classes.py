"""Forgetting class by class: how well a class is recognised before and after, and how far its predictions drift."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ntkla.forgetting.drift_bound import root_mean_square
from ntkla.forgetting.reports.predictions import Flips, Predictions
from ntkla.linalg.decisions import Decision
from ntkla.linalg.results import Result


@dataclass(frozen=True)
class ClassForgetting(Result):
    """What happens to the samples of one class.

    Attributes:
        label: the class, as the number of its output in the whole head.
        samples: how many samples have this label, at least one.
        accuracy_before: the share of them that is recognised before the training, as far as it is decided.
        accuracy_after: the same after it: as it is forecast in a `ForgettingReport`, as it happened in a `PostMortem`.
        flips: how many of them change their predicted class.
        drift_rms: root mean square of their drift, over samples and outputs; in units of the outputs.
        drift_error: bound of its distance to that of the exact drift; infinite where the drift has no bound.
    """

    label: int
    samples: int
    accuracy_before: Decision
    accuracy_after: Decision
    flips: Decision
    drift_rms: float
    drift_error: float

    def __str__(self) -> str:
        return (
            f"class {self.label}: {self.samples} samples, accuracy {self.accuracy_before} -> {self.accuracy_after}, "
            f"{self.flips} flips, drift {self.drift_rms:.4g}"
        )


def per_class(
    before: Predictions,
    after: Predictions,
    labels: torch.Tensor,
    names: torch.Tensor,
    drift: torch.Tensor,
    error_bound: torch.Tensor,
) -> tuple[ClassForgetting, ...]:
    """One `ClassForgetting` for each class that has a sample, in the order of the task's outputs.

    Args:
        before, after: the predictions of n samples in C outputs.
        labels: int64 [n], the place of each sample's class among the C outputs.
        names: int64 [C], the number of each output in the whole head.
        drift, error_bound: float64 [n, C], the change of the predictions (entries up to 2^250) and its bound.

    Cost: a few passes over the predictions.  Deterministic.
    """
    hits = before.hits(labels), after.hits(labels)
    flips = Flips.between(before, after).judged
    order = labels.argsort(stable=True)
    present, counts = torch.unique(labels, return_counts=True)
    found = []
    for label, rows in zip(names[present].tolist(), torch.split(order, counts.tolist()), strict=True):
        rms, error = root_mean_square(drift[rows], error_bound[rows])
        first, second = (hit.of(rows).share() for hit in hits)
        found.append(ClassForgetting(label, rows.shape[0], first, second, flips.of(rows).count(), rms, error))
    return tuple(found)
