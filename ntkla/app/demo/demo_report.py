"""The demo's report: one row for each (old task, new task, training), as JSON and as tables for 80 columns."""

from __future__ import annotations

import dataclasses
import json
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Group

from ntkla.app.reports.screen import table, titled

Count = int | list[int]
SCHEMA = 1
FILE = "report.json"
_KEY_COLUMNS = 3
_WIDTH = 79
_EXACTNESS = (
    "cosine, norm ratio: of the forecast drift and the one that happened; holds: no output differs by more than what "
    "was proved beforehand and the rounding of the training itself"
)
_DIRECTIONS = (
    "r50, r90: modes of the old images' kernel G that hold 50, 90 % of the drift; k_G: modes that hold 90 % of G "
    "itself; k*: the same for the kernel of all outputs, where each mode counts once an output"
)


@dataclass(frozen=True)
class Row:
    """Forecast against fact for the held-out samples of one old task.

    Attributes:
        old, new: numbers of the tasks in the sequence, from 1.
        training: `"optimum"` or `"sgd"`.
        cosine, norm_ratio: between the forecast drift and the drift that happened; the ratio is forecast over fact.
        max_difference: the largest difference of the two, over samples and outputs.
        bound: the largest proven error bound of the forecast.
        training_rounding: the largest rounding error of the training that happened.
        drift_norm: Frobenius norm of the drift that happened, over samples and outputs.
        overlap_bound: what the overlap of the two tasks proves about that norm beforehand (`ntkla.task_overlap`).
        accuracy_before, accuracy_forecast, accuracy_after: on those samples, between 0 and 1.
        r50, r90: the fewest modes of G_AA, largest eigenvalue first, with 50 and 90 % of the forecast drift's energy.
        k_G, k_star: the share rank (90 %) of G_AA, and of K_AA counted in whole eigenspaces.
            A rank that the error bounds leave open is its interval, a list of two.
        seconds_forecast, seconds_training: wall time on one thread of the one forecast, and the one training, of the
            new task; each serves all old tasks.
    """

    old: int
    new: int
    training: str
    cosine: float
    norm_ratio: float
    max_difference: float
    bound: float
    training_rounding: float
    drift_norm: float
    overlap_bound: float
    accuracy_before: float
    accuracy_forecast: float
    accuracy_after: float
    r50: Count
    r90: Count
    k_G: Count
    k_star: Count
    seconds_forecast: float
    seconds_training: float

    @property
    def holds(self) -> bool:
        """True when forecast and fact differ by no more than what was proved and what the training itself lost."""
        return self.max_difference <= self.bound + self.training_rounding


def to_json(rows: Sequence[Row], more: Mapping[str, Any] | None = None) -> str:
    """The rows as a JSON document with its schema version, and whatever else it holds by name."""
    document = {"schema": SCHEMA, "rows": [dataclasses.asdict(row) for row in rows], **(more or {})}
    return json.dumps(document, indent=1, allow_nan=False) + "\n"


def tables(rows: Sequence[Row], names: Sequence[str]) -> Group:
    """Two tables, each with its legend: how exact each forecast was, and what it said.

    Args:
        rows: the report.
        names: of the tasks in their order, such as `"0/1"`.
    """
    exactness, directions = (textwrap.fill(legend, _WIDTH) for legend in (_EXACTNESS, _DIRECTIONS))
    return Group(_exactness(rows, names), exactness, "", _forgetting(rows, names), directions)


def _keys(row: Row, names: Sequence[str]) -> tuple[str, str, str]:
    return names[row.old - 1], names[row.new - 1], row.training


def _exactness(rows: Sequence[Row], names: Sequence[str]) -> Group:
    made = table(
        *("\nold", "\nnew", "\ntraining", "\ncosine", "norm\nratio"),
        *("largest\ndifference", "proven\nbound", "training\nrounding", "\nholds"),
        left=_KEY_COLUMNS,
    )
    for row in rows:
        made.add_row(
            *_keys(row, names),
            f"{row.cosine:.7f}",
            f"{row.norm_ratio:.7f}",
            *(f"{value:.1e}" for value in (row.max_difference, row.bound, row.training_rounding)),
            "yes" if row.holds else "[bold red]NO[/]",
        )
    return titled("Forecast against fact: drift of every output on the old task's held-out images", made)


def _forgetting(rows: Sequence[Row], names: Sequence[str]) -> Group:
    made = table(
        *("\nold", "\nnew", "\ntraining", "\nbefore", "\nforecast", "\nafter"),
        *("\n r50", "\n r90", "\n k_G", "\n  k*", "seconds to\nforecast", "\ntrain"),
        left=_KEY_COLUMNS,
        gap=1,
    )
    for row in rows:
        made.add_row(
            *_keys(row, names),
            *(f"{100 * value:.1f}" for value in (row.accuracy_before, row.accuracy_forecast, row.accuracy_after)),
            *(_count(value) for value in (row.r50, row.r90, row.k_G, row.k_star)),
            *(f"{value:.2f}" for value in (row.seconds_forecast, row.seconds_training)),
        )
    return titled("Accuracy in % on those images, and how few modes carry the drift", made)


def _count(value: Count) -> str:
    return str(value) if isinstance(value, int) else f"{value[0]}-{value[1]}"
