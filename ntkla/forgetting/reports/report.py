"""What a forecast says, in one object."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from ntkla.forgetting.drift_bound import root_mean_square
from ntkla.forgetting.drifts import Forgetting
from ntkla.forgetting.penalties.protection import ProtectedModes
from ntkla.forgetting.reports.classes import ClassForgetting
from ntkla.forgetting.reports.predictions import Flips, Predictions
from ntkla.forgetting.reports.samples import SampleDrift
from ntkla.forgetting.spectrum.decomposition import Decomposition
from ntkla.forgetting.spectrum.ranks import Rank
from ntkla.linalg.decisions import Decision
from ntkla.linalg.eigen.feature_modes import FeatureModes
from ntkla.linalg.results import Result, wrapped
from ntkla.linalg.status import Status


@dataclass(frozen=True, eq=False)
class ForgettingReport(Result):
    """The forecast of `forecast`; tensors are float64 on the features' device.

    Attributes:
        drift, error_bound: [n_A, C], the change of every old prediction and its bound.
        outputs: int64 [C], the outputs of the head that the old task uses: the columns of all that follows.
        before, after: the old predictions before and after the training.
        accuracy_before, accuracy_forecast: on the old task, as far as decided; None without labels.
        flips: which old samples change their predicted class.
        classes: forgetting class by class, in the order of `outputs`; None without labels.
        samples: those that drift most, the largest drift first.
        r_50, r_90: the fewest modes of G_AA, by descending eigenvalue, that carry half and 90 % of the drift's energy.
        k_G: the share rank of G_AA.
        k_star: k_G for the kernel of all C outputs, in whole eigenspaces: C k_G.
        forgetting: the head update and how it was reached.
        decomposition: the drift's energy in each mode of G_AA.
        modes: all modes of G_AA, held through its smaller side.
        training: what was forecast, in words.
        seconds: wall time of each part, and `"total"`.
        status: of the drift, for the tolerance that was asked for.
        protected: what penalties protect, of this and of other old tasks.
    """

    drift: torch.Tensor
    error_bound: torch.Tensor
    outputs: torch.Tensor
    before: Predictions
    after: Predictions
    accuracy_before: Decision | None
    accuracy_forecast: Decision | None
    flips: Flips
    classes: tuple[ClassForgetting, ...] | None
    samples: tuple[SampleDrift, ...]
    r_50: Rank
    r_90: Rank
    k_G: Rank
    k_star: Rank
    forgetting: Forgetting
    decomposition: Decomposition
    modes: FeatureModes
    training: str
    seconds: dict[str, float]
    status: Status
    protected: tuple[ProtectedModes, ...] = ()

    @property
    def drift_rms(self) -> float:
        """Root mean square of the drift, over samples and outputs; in units of the outputs."""
        return root_mean_square(self.drift, self.error_bound)[0]

    def __str__(self) -> str:
        samples, outputs = self.drift.shape
        parts = ", ".join(f"{name} {value:.2f}" for name, value in self.seconds.items() if name != "total")
        modes = self.decomposition.modes
        accuracy = f"  accuracy      {self.accuracy_before} before, {self.accuracy_forecast} forecast"
        lines = [
            f"ForgettingReport: {samples} old samples, {outputs} outputs",
            *wrapped("training", self.training),
            f"  drift         root mean square {self.drift_rms:.4g}, largest {float(self.drift.abs().max()):.4g}",
            f"  proved        each entry within {float(self.error_bound.max()):.2e}, "
            f"relative {self.forgetting.relative_bound:.2e}",
            *([] if self.accuracy_before is None else [accuracy]),
            f"  flips         {self.flips.count} of {samples} samples change their predicted class",
            *self._details(),
            f"  directions    r_50 = {_count(self.r_50)}, r_90 = {_count(self.r_90)} modes of {modes}",
            f"  kernel        k_G = {_count(self.k_G)}, k* = {_count(self.k_star)} at {self.k_G.q:g} of the trace",
            f"  seconds       {self.seconds['total']:.2f} ({parts})",
            *wrapped("status", str(self.status)),
        ]
        return "\n".join(lines)

    def _details(self) -> list[str]:
        """The class that loses most, and the sample that drifts most; `classes` and `samples` tell of the others."""
        lines = []
        if self.classes:
            worst = max(self.classes, key=lambda c: c.accuracy_before.low - c.accuracy_after.high)
            lines += wrapped("worst class", str(worst).removeprefix("class "))
        return lines + (wrapped("worst sample", str(self.samples[0]).removeprefix("sample ")) if self.samples else [])


@dataclass(frozen=True, eq=False)
class ForgettingReports(Result):
    """The forecast of one training for several old tasks; `reports[name]` is one of them, iterating gives the names.

    Attributes:
        tasks: the reports by name, in the order in which the tasks were given.
        training: what was forecast, in words.
        seconds: wall time of each part, and `"total"`.
        protected: what penalties protect.
    """

    tasks: dict[str, ForgettingReport]
    training: str
    seconds: dict[str, float]
    protected: tuple[ProtectedModes, ...] = ()

    @property
    def status(self) -> Status:
        """Certified when every task's is; else the first that is not."""
        found = [report.status for report in self.tasks.values()]
        return next((status for status in found if not status.certified), found[0])

    def __getitem__(self, name: str) -> ForgettingReport:
        return self.tasks[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.tasks)

    def __len__(self) -> int:
        return len(self.tasks)

    def __str__(self) -> str:
        return "\n".join(f"{name}: {report}" for name, report in self.tasks.items())


def _count(rank: Rank) -> str:
    return str(Decision(rank.low, rank.high))
