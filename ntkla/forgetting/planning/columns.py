"""What a plan says about one task at every point, as columns, and at one point, as numbers."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from ntkla.forgetting.planning.effects import Effects
from ntkla.forgetting.planning.watched import Watched
from ntkla.linalg.decisions import Decision
from ntkla.linalg.results import Result


@dataclass(frozen=True)
class Scores(Result):
    """How well a head does one task.

    Attributes:
        loss: mean over the samples of half the squared error, `1/(2 n) ||Phi W^T - Y||_F^2`, or of the cross-entropy in
            a plan of that loss; None without targets.
        loss_error: bound of its error.
        accuracy: share of the samples whose predicted class is their label, as far as decided; None without labels.
    """

    loss: float | None
    loss_error: float | None
    accuracy: Decision | None

    def __str__(self) -> str:
        said = [] if self.accuracy is None else [f"accuracy {self.accuracy}"]
        said += [] if self.loss is None else [f"loss {self.loss:.4g}"]
        return ", ".join(said) if said else "neither labels nor targets"


@dataclass(frozen=True)
class TaskOutcome(Scores):
    """What one point of a plan does to one task.

    Attributes:
        drift: Frobenius norm of the change of its predictions, over samples and outputs.
        drift_error: bound of its error.
        drift_rms: root mean square of that change over samples and outputs, in units of the outputs.
        flips: how many samples change their predicted class, as far as decided.
    """

    drift: float
    drift_error: float
    drift_rms: float
    flips: Decision

    def __str__(self) -> str:
        return f"{super().__str__()}, drift {self.drift_rms:.3g} rms, {self.flips} flips"


@dataclass(frozen=True, eq=False)
class TaskColumns(Result):
    """The same for every point of a plan: [N] each, float64, counts int64; at a point that diverges losses and drifts
    are infinite and counts open.

    Attributes:
        samples, outputs: of the task.
        drift, drift_error: as in `TaskOutcome`.
        loss, loss_error: as in `Scores`; None without targets.
        hits_low, hits_high: how many samples are certainly, and possibly, predicted as labelled; None without labels.
        flips_low, flips_high: how many certainly, and possibly, change their predicted class.
    """

    samples: int
    outputs: int
    drift: torch.Tensor
    drift_error: torch.Tensor
    loss: torch.Tensor | None
    loss_error: torch.Tensor | None
    hits_low: torch.Tensor | None
    hits_high: torch.Tensor | None
    flips_low: torch.Tensor
    flips_high: torch.Tensor

    @property
    def accuracy_low(self) -> torch.Tensor | None:
        """The accuracy that is certain, [N]."""
        return None if self.hits_low is None else self.hits_low.to(torch.float64) / self.samples

    @property
    def drift_rms(self) -> torch.Tensor:
        """Root mean square of the change of the predictions, [N]."""
        return self.drift / math.sqrt(self.samples * self.outputs)

    def at(self, number: int) -> TaskOutcome:
        """What one point does."""
        scores = _scores(self, number)
        drift = float(self.drift[number])
        flips = Decision(int(self.flips_low[number]), int(self.flips_high[number]))
        rms = drift / math.sqrt(self.samples * self.outputs)
        return TaskOutcome(*scores, drift, float(self.drift_error[number]), rms, flips)

    def scores(self, number: int) -> Scores:
        """How well the head does the task at one point."""
        return Scores(*_scores(self, number))


def _scores(columns: TaskColumns, number: int) -> tuple[float | None, float | None, Decision | None]:
    accuracy = None
    if columns.hits_low is not None and columns.hits_high is not None:
        low, high = int(columns.hits_low[number]), int(columns.hits_high[number])
        accuracy = Decision(low / columns.samples, high / columns.samples)
    loss, error = (None if x is None else float(x[number]) for x in (columns.loss, columns.loss_error))
    return loss, error, accuracy


@dataclass(eq=False)
class Table:
    """Columns being filled for one task: a point that is never filled in stays as one that diverges."""

    watched: Watched
    columns: TaskColumns

    @classmethod
    def empty(cls, watched: Watched, points: int) -> Table:
        """For so many points."""
        samples, outputs = watched.base.shape
        floats = [torch.full((points,), math.inf, dtype=torch.float64, device=watched.base.device) for _ in range(4)]
        least = [torch.zeros(points, dtype=torch.int64, device=watched.base.device) for _ in range(2)]
        most = [torch.full_like(x, samples) for x in least]
        loss, error = (None, None) if watched.residual is None else (floats[2], floats[3])
        low, high = (None, None) if watched.labels is None else (least[0], most[0])
        return cls(
            watched, TaskColumns(samples, outputs, floats[0], floats[1], loss, error, low, high, least[1], most[1])
        )

    def fill(self, points: torch.Tensor, effects: Effects) -> None:
        """Writes what is known of some points, int64 [P]."""
        for name in Effects._fields:
            column, values = getattr(self.columns, name), getattr(effects, name)
            if column is not None and values is not None:
                column[points] = values.to(column.device)


def before(watched: Watched, effects: Effects) -> Scores:
    """How well the head does a task as it stands, from the effects of no update at all."""
    table = Table.empty(watched, 1)
    table.fill(torch.zeros(1, dtype=torch.int64, device=watched.base.device), effects)
    return table.columns.scores(0)
