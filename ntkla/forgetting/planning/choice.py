"""Choosing among the points of a plan: how much each forgets, how well it learns, and which no other point beats.

Everything is compared by what is certain: of a point's forgetting the most that the bounds leave possible, of its
accuracy the least.  Forgetting is counted in the first of these units that all old tasks have:

- `"accuracy"`: accuracy before less accuracy after, with labels;
- `"loss"`: mean loss after less mean loss before, with targets;
- `"drift"`: root mean square of the drift.

What a point is good for is told by the new task's test samples where there are any, else by its training samples.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from ntkla.forgetting.planning.columns import Scores, TaskColumns
from ntkla.linalg import checks
from ntkla.linalg.precision import SHORT_CHAIN

OVER = ("worst", "mean")


@dataclass(frozen=True, eq=False)
class Choice:
    """The two sides of every point, float64 [N] each.

    Attributes:
        unit: of the forgetting: "accuracy", "loss" or "drift".
        forgotten: upper bounds of what is forgotten, over the old tasks.
        gained: lower bounds of the new task's accuracy; all 0 without labels.
        loss: upper bounds of its loss.
        labelled: whether the new task has labels.
    """

    unit: str
    forgotten: torch.Tensor
    gained: torch.Tensor
    loss: torch.Tensor
    labelled: bool

    @classmethod
    def among(
        cls,
        olds: Mapping[str, TaskColumns],
        before: Mapping[str, Scores],
        new: TaskColumns,
        diverges: torch.Tensor,
        on: object = "worst",
    ) -> Choice:
        """The sides of a plan; `on` is "worst" or "mean" over the old tasks, `diverges` bool [N]."""
        worst = checks.choice("on", on, OVER) == "worst"
        unit = unit_of(olds)
        lost = torch.stack([_forgotten(unit, columns, before[name]) for name, columns in olds.items()])
        forgotten = (lost.amax(dim=0) if worst else lost.mean(dim=0)).masked_fill(diverges, torch.inf)
        loss = forgotten.new_full(forgotten.shape, torch.inf)
        if new.loss is not None and new.loss_error is not None:
            loss = new.loss + new.loss_error
        gained = new.accuracy_low
        labelled = gained is not None
        return cls(unit, forgotten, torch.zeros_like(loss) if gained is None else gained, loss, labelled)

    def order(self) -> list[int]:
        """The points, best first: by accuracy (by loss without labels), then what is forgotten, then loss and number.

        So the first of those that keep to a limit is on the front.
        """
        value = -self.gained if self.labelled else self.loss
        sides = zip(value.tolist(), self.forgotten.tolist(), self.loss.tolist(), strict=True)
        return [number for *_, number in sorted((*side, number) for number, side in enumerate(sides))]

    def front(self) -> list[int]:
        """The points that no other beats, the one that forgets least first.

        One point beats another that is no better in accuracy (in loss without labels) or in forgetting, and worse in
        one of the two; of points that agree in both the one with the least loss stays.
        """
        value = self.gained if self.labelled else -self.loss
        sides = list(zip(self.forgotten.tolist(), value.tolist(), self.loss.tolist(), strict=True))
        found: list[int] = []
        best = -torch.inf
        for number in sorted(range(len(sides)), key=lambda n: (sides[n][0], -sides[n][1], sides[n][2], n)):
            if sides[number][1] > best and sides[number][0] < torch.inf:
                found.append(number)
                best = sides[number][1]
        return found


def unit_of(olds: Mapping[str, TaskColumns]) -> str:
    """What forgetting is counted in."""
    if all(columns.hits_low is not None for columns in olds.values()):
        return "accuracy"
    return "loss" if all(columns.loss is not None for columns in olds.values()) else "drift"


def _forgotten(unit: str, columns: TaskColumns, before: Scores) -> torch.Tensor:
    """Upper bounds of what one task forgets, [N], with room for the mean of 50 of them."""
    if unit == "accuracy" and columns.hits_low is not None and before.accuracy is not None:
        # In samples first: one percent of 2000 is then the quotient that a person types.
        hits = round(before.accuracy.high * columns.samples)
        return (hits - columns.hits_low).to(torch.float64) / columns.samples
    if unit == "loss" and columns.loss is not None and columns.loss_error is not None:
        loss, error = before.loss or 0.0, before.loss_error or 0.0
        more = columns.loss + columns.loss_error
        return more - (loss - error) + (SHORT_CHAIN - 1.0) * (more + loss)
    return (columns.drift_rms + columns.drift_error) * SHORT_CHAIN
