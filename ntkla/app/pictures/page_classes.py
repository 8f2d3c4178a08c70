"""Task by task and class by class: panels (c) and (d) of the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ntkla.app.pictures.axes import array, heading, interval, legend_below, middle, note, plain, power_of_ten
from ntkla.app.pictures.canvas import BLACK, BLUE, GREY, VERMILION
from ntkla.forgetting.drift_bound import size_of
from ntkla.forgetting.reports.classes import ClassForgetting
from ntkla.forgetting.reports.post_mortem_result import PostMortem
from ntkla.forgetting.reports.report import ForgettingReport
from ntkla.linalg.decisions import Decision

TASKS, CLASSES = 12, 20
NAME = 16


@dataclass(frozen=True)
class Line:
    """One row of a panel: its name as it is drawn, and a share before, as forecast, and as it came (None: unknown)."""

    name: str
    before: Decision
    forecast: Decision
    fact: Decision | None


@dataclass(frozen=True)
class ClassLine(Line):
    """One class, with its root mean square drift."""

    rms: float
    error: float

    @property
    def lost(self) -> float:
        """How much accuracy the forecast takes."""
        return middle(self.before) - middle(self.forecast)


def accuracy_lines(reports: Mapping[str, ForgettingReport], facts: Mapping[str, PostMortem]) -> list[Line]:
    """One for each task with labels."""
    found = []
    for name, report in reports.items():
        if report.accuracy_before is not None and report.accuracy_forecast is not None:
            fact = facts[name].accuracy_after if name in facts else None
            found.append(Line(plain(name, NAME), report.accuracy_before, report.accuracy_forecast, fact))
    return found


def kept_lines(reports: Mapping[str, ForgettingReport], facts: Mapping[str, PostMortem]) -> list[Line]:
    """For tasks without labels: the share of the samples that keep their predicted class."""

    def kept(flips: Decision, samples: int) -> Decision:
        return Decision((samples - flips.high) / samples, (samples - flips.low) / samples)

    return [
        Line(
            plain(name, NAME),
            Decision(1.0, 1.0),
            kept(report.flips.count, len(report.drift)),
            kept(facts[name].flips.count, len(report.drift)) if name in facts else None,
        )
        for name, report in reports.items()
    ]


def class_lines(reports: Mapping[str, ForgettingReport], facts: Mapping[str, PostMortem]) -> list[ClassLine]:
    """The classes of all tasks, those that lose most accuracy first, then those that drift most."""
    found = []
    for name, report in reports.items():
        happened = {c.label: c.accuracy_after for c in _classes(facts.get(name))}
        for c in _classes(report):
            label = f"{c.label}" if len(reports) == 1 else f"{plain(name, NAME)}: {c.label}"
            fact = happened.get(c.label)
            found.append(ClassLine(label, c.accuracy_before, c.accuracy_after, fact, c.drift_rms, c.drift_error))
    return sorted(found, key=lambda line: (-line.lost, -line.rms))


def _classes(result: ForgettingReport | PostMortem | None) -> Sequence[ClassForgetting]:
    return () if result is None or result.classes is None else result.classes


def tasks(part: Any, lines: Sequence[Line], title: str, what: str) -> None:
    """Panel (c): one row a task, its share before, as forecast and as it came, and the same as numbers."""
    axis = part.subplots()
    heading(part, title)
    shown = _most(lines, TASKS)
    _dumbbells(axis, shown)
    _rows(axis, shown)
    axis.set_xticks([0.0, 0.5, 1.0])
    axis.set_xlabel(what if len(shown) == len(lines) else f"{what}; {len(shown)} of {len(lines)} tasks")
    for place, line in enumerate(shown):
        text = f"{interval(line.before)} \N{RIGHTWARDS ARROW} {interval(line.forecast)}"
        text += "" if line.fact is None else f" ({interval(line.fact)})"
        axis.text(1.03, place, text, transform=axis.get_yaxis_transform(), va="center", fontsize=8)
    header = "before \N{RIGHTWARDS ARROW} forecast" + (" (after)" if any(line.fact for line in shown) else "")
    below = {"xytext": (0, -18), "textcoords": "offset points", "va": "top"}
    axis.annotate(header, (1.03, 0), xycoords="axes fraction", fontsize=8, color=GREY, **below)
    legend_below(part, axis)


def _most(lines: Sequence[Line], limit: int) -> list[Line]:
    """The rows that lose most where there are too many, in their own order."""
    lost = sorted(range(len(lines)), key=lambda i: middle(lines[i].forecast) - middle(lines[i].before))
    return [lines[i] for i in sorted(lost[:limit])]


def classes(part: Any, lines: Sequence[ClassLine], title: str) -> None:
    """Panel (d): one row a class, its drift with the bound, and its accuracy before, as forecast and as it came."""
    left, right = part.subplots(1, 2, sharey=True)
    shown = lines[:CLASSES]
    rms, error = (np.array(x) for x in zip(*((line.rms, line.error) for line in shown), strict=True))
    unit, per = power_of_ten(rms)
    place, known = np.arange(len(shown)), np.isfinite(error)
    left.barh(place, rms / unit, height=0.55, color="#C7DCEB", zorder=2)
    look: dict[str, Any] = {"color": BLUE, "markersize": 3}
    if known.any():
        bars = {"xerr": error[known] / unit, "elinewidth": 1, "capsize": 2}
        left.errorbar(rms[known] / unit, place[known], fmt="D", label="drift $\\pm$ bound", **bars, **look)
    if not known.all():
        left.plot(rms[~known] / unit, place[~known], "D", mfc="white", label="drift, no bound", **look)
    left.set_xlim(0, 1.12 * float((rms / unit).max()) or 1.0)
    left.set_xlabel(f"rms drift{per}")
    _dumbbells(right, shown)
    _rows(left, shown)
    right.set_xlabel("accuracy")
    heading(part, title)
    legend_below(part, left, right, columns=4 if known.all() else 3)


def drifts(part: Any, report: ForgettingReport, title: str) -> None:
    """Panel (d) without labels: how far the samples drift."""
    axis = part.subplots()
    heading(part, title)
    sizes = size_of(report.drift, report.error_bound, dim=1)
    rms = array(sizes.value) / report.drift.shape[1] ** 0.5
    if not rms.any():
        note(axis, "no sample drifts")
        return
    unit, per = power_of_ten(rms)
    axis.hist(rms / unit, bins=min(40, max(5, int(len(rms) ** 0.5))), color=BLUE, alpha=0.85)
    middle_one = float(np.median(rms)) / unit
    axis.axvline(middle_one, color=BLACK, linestyle="--", linewidth=1, label=f"median {middle_one:.3g}")
    axis.set_xlabel(f"rms drift of a sample over its outputs{per}")
    axis.set_ylabel("samples")
    legend_below(part, axis)


def _dumbbells(axis: Any, lines: Sequence[Line]) -> None:
    """Before, forecast and fact on one line; the marks are of three sizes, so that equal ones are all seen."""
    place = np.arange(len(lines))
    before, forecast = ([getattr(line, name) for line in lines] for name in ("before", "forecast"))
    axis.hlines(place, [middle(d) for d in before], [middle(d) for d in forecast], color=GREY, linewidth=0.8)
    facts = [(i, line.fact) for i, line in zip(place, lines, strict=True) if line.fact is not None]
    series = [
        (place, before, "o", BLACK, 7.5, "before"),
        (place, forecast, "s", BLUE, 5.5, "forecast"),
        ([i for i, _ in facts], [d for _, d in facts], "X", VERMILION, 4.5, "after"),
    ]
    for places, decisions, mark, colour, size, label in series:
        if len(decisions):
            middles = np.array([middle(d) for d in decisions])
            # A decided one has no bar.
            half = np.array([np.nan if d.decided else (d.high - d.low) / 2 for d in decisions])
            axis.errorbar(middles, places, xerr=half, fmt="none", ecolor=colour, elinewidth=2.2, alpha=0.5, capsize=3)
            style = {"mfc": "none"} if mark != "X" else {"mew": 0}
            axis.plot(middles, places, mark, color=colour, markersize=size, label=label, **style)
    axis.set_xlim(-0.05, 1.05)


def _rows(axis: Any, lines: Sequence[Line]) -> None:
    axis.set_yticks(range(len(lines)), [line.name for line in lines], fontsize=8)
    # Few rows stand close together in the middle.
    air = max(4 - len(lines), 0) / 2
    axis.set_ylim(len(lines) - 0.4 + air, -0.6 - air)
    axis.grid(visible=False, axis="y")
