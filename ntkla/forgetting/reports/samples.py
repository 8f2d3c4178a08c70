"""The samples that drift most, one by one: how far, from which class to which, and in which direction."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch

from ntkla.forgetting.drift_bound import Size, size_of
from ntkla.forgetting.reports.predictions import Flips, Predictions
from ntkla.linalg.decisions import Decision
from ntkla.linalg.precision import SHORT_CHAIN
from ntkla.linalg.results import Result


class Home(NamedTuple):
    """Where the drift of a sample lives.

    Attributes:
        modes: start and stop of the cluster of modes that carries most of the drift, counted from 0; None when the
            bounds leave it open.
        share_low, share_high: bounds of |the part of the drift in that cluster| / |the drift|.
    """

    modes: tuple[int, int] | None = None
    share_low: float = 0.0
    share_high: float = 1.0


@dataclass(frozen=True)
class SampleDrift(Result):
    """The drift of one sample.

    Attributes:
        index: the sample's row.
        label: its label, or None.
        norm: the 2-norm of its drift over the outputs; in units of the outputs.
        norm_error: bound of its distance to the norm of the exact drift; infinite where the drift has no bound.
        place: its place among all samples of the task, 1 for the one that drifts most: one more than the number of
            samples that drift strictly further.  Where norms are closer than their errors it is an interval: the order
            in which samples are listed is a fact only where their places are decided.
        classes_before, classes_after: the classes that may be predicted, as numbers of outputs of the whole head; one
            where the prediction is decided.
        flip: whether the predicted class changes: `"certain"`, `"impossible"` or `"undecided"`.
        modes: start and stop of the cluster of modes that carries most of the sample's drift, counted from 0; None
            when the bounds leave it open.
        share_low, share_high: bounds of |the part of the drift in that cluster| / |the drift|.
    """

    index: int
    label: int | None
    norm: float
    norm_error: float
    place: Decision
    classes_before: tuple[int, ...]
    classes_after: tuple[int, ...]
    flip: str
    modes: tuple[int, int] | None
    share_low: float
    share_high: float

    def __str__(self) -> str:
        label = "" if self.label is None else f" (label {self.label})"
        classes = " -> ".join(_named(c) for c in (self.classes_before, self.classes_after))
        mode = "" if self.modes is None else f", {_counted(*self.modes)} {self.share_low:.3g} of it"
        return f"sample {self.index}{label}: drift {self.norm:.4g}, class {classes}, flip {self.flip}{mode}"


def _named(classes: tuple[int, ...]) -> str:
    shown = " or ".join(str(c) for c in classes[:3])
    return shown if len(classes) <= 3 else f"one of {len(classes)}"


def _counted(start: int, stop: int) -> str:
    """Modes in words are counted from 1, as in tables and pictures."""
    return f"mode {stop} holds" if stop == start + 1 else f"modes {start + 1} to {stop} hold"


def most_drifting(
    before: Predictions,
    after: Predictions,
    labels: torch.Tensor | None,
    outputs: torch.Tensor,
    drift: torch.Tensor,
    error_bound: torch.Tensor,
    top: int,
    homes: Callable[[torch.Tensor], Sequence[Home]] | None = None,
) -> tuple[SampleDrift, ...]:
    """The samples of largest computed drift, the largest first; samples of equal drift in the order of their rows.

    Args:
        before, after: the predictions of n samples in C outputs.
        labels: int64 [n], the place of each sample's class among the C outputs; None without labels.
        outputs: int64 [C], the number of each output in the whole head.
        drift, error_bound: float64 [n, C], the change of the predictions (entries up to 2^250) and its bound.
        top: how many at most, >= 0.
        homes: gives for some samples, int64 [m], where the drift of each lives; None leaves it open.

    Cost: a few passes over the predictions and a sort of n numbers.  Deterministic.
    """
    sizes = size_of(drift, error_bound, dim=1)
    chosen = sizes.value.argsort(descending=True, stable=True)[:top]
    places = _places(sizes, chosen)
    first, second = (_possible(predictions, chosen, outputs) for predictions in (before, after))
    flips = _verdicts(before, after, chosen)
    names = [None] * chosen.shape[0] if labels is None else outputs[labels[chosen]].tolist()
    where = homes(chosen) if homes is not None and chosen.numel() else [Home()] * chosen.shape[0]
    norms, errors = (part[chosen].tolist() for part in sizes)
    rows = zip(chosen.tolist(), names, norms, errors, places, first, second, flips, where, strict=True)
    return tuple(SampleDrift(*row, *home) for *row, home in rows)


def _places(sizes: Size, chosen: torch.Tensor) -> list[Decision]:
    """For each chosen sample, how many samples certainly and possibly drift strictly further, and one."""
    low = ((sizes.value - sizes.error) / SHORT_CHAIN).clamp(min=0.0)
    high = (sizes.value + sizes.error) * SHORT_CHAIN
    samples = low.shape[0]
    further = samples - torch.searchsorted(low.sort().values, high[chosen], right=True)
    # The sample itself is among those that reach beyond its lower end, unless it has no width.
    itself = (high[chosen] > low[chosen]).to(torch.int64)
    perhaps = samples - torch.searchsorted(high.sort().values, low[chosen], right=True) - itself
    return [Decision(1 + a, 1 + b) for a, b in zip(further.tolist(), perhaps.tolist(), strict=True)]


def _possible(predictions: Predictions, rows: torch.Tensor, outputs: torch.Tensor) -> list[tuple[int, ...]]:
    return [tuple(outputs[row].tolist()) for row in predictions.of(rows).possible_classes()]


def _verdicts(before: Predictions, after: Predictions, rows: torch.Tensor) -> list[str]:
    flips = Flips.between(before.of(rows), after.of(rows))
    pairs = zip(flips.certain.tolist(), flips.impossible.tolist(), strict=True)
    return ["certain" if sure else "impossible" if never else "undecided" for sure, never in pairs]
