"""What a post-mortem says, in one object."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ntkla.forgetting.reports.classes import ClassForgetting
from ntkla.forgetting.reports.predictions import Flips, Predictions
from ntkla.forgetting.spectrum.decomposition import Decomposition
from ntkla.linalg.decisions import Decision
from ntkla.linalg.precision import ratio
from ntkla.linalg.results import Result, wrapped
from ntkla.linalg.status import Status

AS_FORECAST = "as_forecast"
CLOSE = "close"
DIFFERENT = "different"


@dataclass(frozen=True, eq=False)
class PostMortem(Result):
    """What training really did to an old task; tensors are float64 on the features' device.

    Comparisons are of the drifts as computed.  Where the fact is 0 there is nothing to be relative to: `norm_ratio` is
    None, and the relative difference 0 when the forecast is 0 as well, else infinite.

    Attributes:
        drift, error_bound: [n, C], the change of every old prediction that happened, and its bound.
        outputs: int64 [C], the outputs of the head that the old task uses.
        after: the old predictions of the head after the training.
        accuracy_before, accuracy_forecast, accuracy_after: on the old task, as far as decided; None without labels.
        flips: which old samples changed their predicted class.
        flips_forecast: how many were forecast to.
        cosine: of the angle between the forecast and the fact as vectors of n C entries; None when one of them is 0.
        norm_ratio: ||forecast|| / ||fact||.
        difference: ||forecast - fact||, in units of the outputs.
        largest_difference: the largest |forecast - fact| of an entry.
        relative_difference: ||forecast - fact|| / ||fact||.
        relative_error: bound of its distance to that of the exact drifts; infinite where a drift has no bound.
        beyond_bounds: how many entries certainly differ, by more than both bounds together: the training was not
            exactly the one that was forecast.
        head_rounding: what rounding each number of the head after the training once, in its own type, can add to
            `difference`.
        verdict: `"as_forecast"` when every entry has a bound and none is beyond; `"close"` when `difference` is at most
            `head_rounding`, or half of the digits that the head's type holds are those of the forecast
            (`relative_difference <= sqrt(u)`): such a difference may be rounding, which training adds at every step;
            else `"different"`.
        decomposition: the fact's energy in each mode of G_AA.
        top_modes: the fewest modes that certainly carry 90 % of the forecast's energy.
        inside_forecast, outside_forecast, inside_fact, outside_fact: the energies inside and outside of these modes.
        classes: what happened to each class; None without labels.
        training: what was forecast, in words.
        status: of the fact's drift, for the tolerance that was asked for.
    """

    drift: torch.Tensor
    error_bound: torch.Tensor
    outputs: torch.Tensor
    after: Predictions
    accuracy_before: Decision | None
    accuracy_forecast: Decision | None
    accuracy_after: Decision | None
    flips: Flips
    flips_forecast: Decision
    cosine: float | None
    norm_ratio: float | None
    difference: float
    largest_difference: float
    relative_difference: float
    relative_error: float
    beyond_bounds: int
    head_rounding: float
    verdict: str
    decomposition: Decomposition
    top_modes: int
    inside_forecast: float
    outside_forecast: float
    inside_fact: float
    outside_fact: float
    classes: tuple[ClassForgetting, ...] | None
    training: str
    status: Status

    def __str__(self) -> str:
        samples, outputs = self.drift.shape
        beyond = f"{self.beyond_bounds} of {samples * outputs} entries beyond both bounds"
        accuracy = (
            f"  accuracy      {self.accuracy_before} before, {self.accuracy_forecast} forecast, "
            f"{self.accuracy_after} after"
        )
        lines = [
            f"PostMortem: {samples} old samples, {outputs} outputs",
            *wrapped("forecast", self.training),
            *wrapped("verdict", self._in_words()),
            f"  difference    largest {self.largest_difference:.2e}, relative {self.relative_difference:.2e}; {beyond}",
            *(
                []
                if self.cosine is None
                else [f"  direction     cosine {self.cosine:.6f}, norm ratio {self.norm_ratio:.6g}"]
            ),
            *([] if self.accuracy_after is None else [accuracy]),
            f"  classes       {self.flips.count} of {samples} samples changed theirs, {self.flips_forecast} forecast",
            self._directions(),
            *wrapped("status", str(self.status)),
        ]
        return "\n".join(lines)

    def _in_words(self) -> str:
        if self.verdict == AS_FORECAST:
            return (
                "the training that happened is the training that was forecast: every entry is within the bounds, "
                f"which leave {self.relative_error:.1e} of the drift open."
            )
        times = f"{ratio(self.difference, self.head_rounding):.2g} times what rounding the trained head once can do"
        said = f"the difference is {100 * self.relative_difference:.2g} % of the drift, {times}"
        if self.norm_ratio is None:
            said = f"the predictions did not move at all, and the forecast is {times}"
        if self.verdict == CLOSE:
            return f"the training that was forecast, to half of the digits of the head's type or better: {said}."
        return f"not the training that was forecast, or many roundings of it: {said}."

    def _directions(self) -> str:
        share = 100 * float(self.decomposition.fraction[: self.top_modes].sum())
        return f"  directions    the {self.top_modes} modes with 90 % of the forecast hold {share:.4g} % of the fact"
