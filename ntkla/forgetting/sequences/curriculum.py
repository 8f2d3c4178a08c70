"""A whole curriculum, forecast before it starts: every task's accuracy and drift after every step."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ntkla.forgetting.drift_bound import root_mean_square
from ntkla.forgetting.reports.predictions import Predictions
from ntkla.forgetting.sequences.sequence_head import SequenceHead
from ntkla.forgetting.tasks import Task
from ntkla.linalg.decisions import Decision
from ntkla.linalg.errors import ArgumentError
from ntkla.linalg.precision import U64, rounded_up
from ntkla.linalg.results import Result, wrapped
from ntkla.linalg.status import Status


@dataclass(frozen=True)
class CurriculumForecast(Result):
    """What a curriculum does to every task; row s of a table is after step s, row 0 before the first one.

    Attributes:
        steps: the names of the tasks in the order in which they are learned.
        tasks: the names of the columns: of the tasks that are looked at.
        accuracy: `accuracy[s][t]` of task t's test samples, as far as the bounds decide it; None without labels.
        drift: `drift[s][t]`, root mean square over samples and outputs of what has happened to the outputs since the
            task was learned; None before that, and where what the head then said was not kept.
        drift_error: upper bounds of the errors of `drift`.
        samples: how many test samples each task has.
        learned_at: after which step each task is learned; 0 for one that was learned before the curriculum, and for
            samples of none at all the number of steps.
        relative_bounds: of the head after each step, all errors inherited from earlier steps included.
        status: certified when all of them are.
    """

    steps: tuple[str, ...]
    tasks: tuple[str, ...]
    accuracy: tuple[tuple[Decision | None, ...], ...]
    drift: tuple[tuple[float | None, ...], ...]
    drift_error: tuple[tuple[float | None, ...], ...]
    samples: tuple[int, ...]
    learned_at: tuple[int, ...]
    relative_bounds: tuple[float, ...]
    status: Status

    @property
    def final_accuracy(self) -> Decision | None:
        """Of all test samples together, after the last step; None when a task has no labels."""
        ends = [d for d in self.accuracy[-1] if d is not None]
        if len(ends) < len(self.tasks):
            return None
        low, high = (
            sum(round(end * n) for end, n in zip(side, self.samples, strict=True)) / sum(self.samples)
            for side in ([d.low for d in ends], [d.high for d in ends])
        )
        return Decision(low, high)

    @property
    def forgetting(self) -> Decision | None:
        """The mean over all tasks but the last of the accuracy just after learning less the final one.

        None when a task has no labels, or there is one only.  Negative where later tasks help.
        """
        olds = [t for t, step in enumerate(self.learned_at) if step < len(self.steps)]
        pairs = [(self.accuracy[self.learned_at[t]][t], self.accuracy[-1][t]) for t in olds]
        known = [(first, last) for first, last in pairs if first is not None and last is not None]
        if not known or len(known) < len(pairs):
            return None
        low = sum(first.low - last.high for first, last in known) / len(known)
        return Decision(low, sum(first.high - last.low for first, last in known) / len(known))

    def __str__(self) -> str:
        width = max(12, *(len(name) + 1 for name in (*self.steps, *self.tasks)))
        head = "after".ljust(width) + "".join(name.rjust(width) for name in self.tasks)
        rows = [
            name.ljust(width) + "".join(_cell(d, width) for d in row)
            for name, row in zip(("(start)", *self.steps), self.accuracy, strict=True)
        ]
        last = "drift (rms)".ljust(width) + "".join(
            ("-" if x is None else f"{x:.4g}").rjust(width) for x in self.drift[-1]
        )
        ends = [] if self.final_accuracy is None else [f"  final accuracy {self.final_accuracy}"]
        ends += [] if self.forgetting is None else [f"  mean forgetting {self.forgetting}"]
        count = f"CurriculumForecast: {len(self.steps)} steps, accuracy of {len(self.tasks)} tasks after each"
        return "\n".join([count, head, *rows, last, *ends, *wrapped("status", str(self.status))])


def _cell(d: Decision | None, width: int) -> str:
    text = "-" if d is None else f"{d.low:.4f}" if d.decided else f"[{d.low:.3f},{d.high:.3f}]"
    return text.rjust(width)


@dataclass(frozen=True)
class OrderForecasts(Result):
    """The forecasts of the same tasks in several orders; `forecasts[order]` is one of them.

    It is had as `[order]` too, with an ArgumentError for one that was not asked for.

    Attributes:
        forecasts: by the names of the tasks in their order.
    """

    forecasts: dict[tuple[str, ...], CurriculumForecast]

    def __getitem__(self, order: tuple[str, ...]) -> CurriculumForecast:
        asked = tuple(order) if isinstance(order, (tuple, list)) else ()
        found = next((one for known, one in self.forecasts.items() if known == asked), None)
        if found is None:
            known = ", ".join(map(str, list(self.forecasts)[:3]))
            raise ArgumentError(f"expected one of the {len(self)} orders, such as {known}; got {order!r}.")
        return found

    def __len__(self) -> int:
        return len(self.forecasts)

    def ranked(self) -> list[tuple[str, ...]]:
        """The orders, that of the highest final accuracy (its lower end) first; empty without labels."""
        ends = {order: one.final_accuracy for order, one in self.forecasts.items()}
        known = {order: end.low for order, end in ends.items() if end is not None}
        return sorted(known, key=lambda order: -known[order])

    def __str__(self) -> str:
        lines = [f"OrderForecasts: {len(self)} orders"]
        shown = self.ranked() or list(self.forecasts)
        for order in shown if len(shown) <= 10 else [*shown[:5], *shown[-5:]]:
            one = self.forecasts[order]
            said = "" if one.final_accuracy is None else f"final accuracy {one.final_accuracy}, "
            lines.append(f"  {said}mean forgetting {one.forgetting}: {', '.join(order)}")
        return "\n".join(lines)


class Watch:
    """Looks at the tasks after each step and collects the tables."""

    def __init__(self, tests: Mapping[str, Task], learned: Mapping[str, Predictions], before: Iterable[str]) -> None:
        """Tests by name; what was kept of some tasks; and the names of all that were learned before."""
        self.tests, self.learned = dict(tests), dict(learned)
        self.learned_at = dict.fromkeys(before, 0)
        self.rows: list[tuple[list[Decision | None], list[tuple[float, float] | None]]] = []
        self.heads: list[SequenceHead] = []

    def look(self, head: SequenceHead, just_learned: str | None) -> None:
        """Adds the row of a head."""
        accuracies: list[Decision | None] = []
        drifts: list[tuple[float, float] | None] = []
        for name, task in self.tests.items():
            now = head.predict(task.features)
            if name == just_learned:
                self.learned[name], self.learned_at[name] = now, len(self.rows)
            accuracies.append(None if task.labels is None else now.accuracy(task.labels))
            drifts.append(drift_size(self.learned[name], now) if name in self.learned else None)
        self.rows.append((accuracies, drifts))
        self.heads.append(head)

    def result(self, steps: tuple[str, ...]) -> CurriculumForecast:
        """The tables."""
        found = [head.status for head in self.heads[1:]]
        return CurriculumForecast(
            steps=steps,
            tasks=tuple(self.tests),
            accuracy=tuple(tuple(row) for row, _ in self.rows),
            drift=tuple(tuple(None if x is None else x[0] for x in row) for _, row in self.rows),
            drift_error=tuple(tuple(None if x is None else x[1] for x in row) for _, row in self.rows),
            samples=tuple(task.features.shape[0] for task in self.tests.values()),
            learned_at=tuple(self.learned_at.get(name, len(steps)) for name in self.tests),
            relative_bounds=tuple(head.relative_bound for head in self.heads[1:]),
            status=next((status for status in found if not status.certified), found[-1]),
        )


def drift_size(before: Predictions, now: Predictions) -> tuple[float, float]:
    """Root mean square of what happened to the outputs, and the bound of its error."""
    drift = now.value - before.value
    bound = rounded_up(now.error_bound + before.error_bound + U64 * drift.abs())
    return root_mean_square(drift, bound)
