"""Sample by sample: panel (b) of the page, either who changes class, or forecast against fact."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch

from ntkla.app.pictures.axes import (
    Floats,
    array,
    evenly,
    heading,
    legend_below,
    logarithmic,
    note,
    places,
    power_of_ten,
)
from ntkla.app.pictures.canvas import BLACK, BLUE, GREY, VERMILION
from ntkla.forgetting.reports.post_mortem_result import PostMortem
from ntkla.forgetting.reports.predictions import Predictions
from ntkla.forgetting.reports.report import ForgettingReport
from ntkla.forgetting.tasks import positions

MARKS = 1500


def forecast_and_fact(
    part: Any, report: ForgettingReport, fact: PostMortem, labels: torch.Tensor | None, title: str
) -> None:
    """Above: the drift forecast and the drift that happened.  Below: the difference, and what was proved of it.

    Of each sample the output of its own class; of each sample every output where there are no labels.
    """
    upper, lower = part.subplots(2, 1)
    rows, columns, of_all = _entries(report, labels)
    expected, happened, limit = (
        array(x[rows, columns]) for x in (report.drift, fact.drift, report.error_bound + fact.error_bound)
    )
    unit, per = power_of_ten(expected, happened)
    upper.plot(expected / unit, happened / unit, "o", color=BLUE, markersize=3.5, mew=0, alpha=0.5)
    upper.axline((0, 0), slope=1, color=GREY, linewidth=0.8, zorder=0)
    heading(part, title)
    own = "drift of the own class" if labels is not None else "drift of an output"
    upper.set_xlabel(f"{own}, forecast{per}")
    upper.set_ylabel(f"fact{per}")
    _difference(lower, expected, happened, limit)
    lower.set_xlabel(f"{of_all}, by |forecast drift|")
    entries = report.drift.numel()
    lower.set_title(
        f"{fact.beyond_bounds:,} of {entries:,} beyond both bounds\nrelative difference {fact.relative_difference:.2g}",
        fontsize=8,
    )
    legend_below(part, lower)


def _entries(report: ForgettingReport, labels: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor, str]:
    """Rows and columns of the entries that are drawn, and in words which these are."""
    samples, outputs = report.drift.shape
    count, what = (samples, "sample") if labels is not None else (samples * outputs, "entry")
    chosen = torch.from_numpy(evenly(count, MARKS)).to(report.drift.device)
    shown = what if len(chosen) == count else f"{len(chosen):,} of {count:,} {what.replace('entry', 'entrie')}s"
    if labels is None:
        return chosen // outputs, chosen % outputs, shown
    return chosen, positions(labels.to(report.drift.device)[chosen], report.outputs), shown


def _difference(axis: Any, expected: Floats, happened: Floats, limit: Floats) -> None:
    """|forecast - fact| with its limit, in the order of the forecast's size."""
    order = np.argsort(np.abs(expected), kind="stable")
    difference, limit = np.abs(expected - happened)[order], limit[order]
    place = np.arange(1, len(order) + 1)
    proved = np.isfinite(limit)
    if not logarithmic(axis, difference, limit):
        note(axis, "forecast and fact are equal" + ("" if proved.any() else "; no limit is proved"))
        return
    known = "proven limit" if proved.all() else f"proven limit (none for {np.count_nonzero(~proved):,})"
    axis.plot(place[proved], limit[proved], "_", color=VERMILION, markersize=4, label=known)
    equal = np.count_nonzero(difference == 0)
    label = "|forecast $-$ fact|" + (f"\n({equal:,} differ by exactly 0)" if equal else "")
    axis.plot(place, difference, "o", color=BLUE, markersize=2.5, mew=0, alpha=0.7, label=label)
    axis.set_ylabel("difference")
    places(axis, len(order))


class _Verdict(NamedTuple):
    """The samples of one verdict: how many, those that are drawn, and how."""

    label: str
    mark: str
    colour: str
    total: int
    drawn: torch.Tensor

    @classmethod
    def of(cls, rows: torch.Tensor, label: str, mark: str, colour: str, limit: int) -> _Verdict:
        found = torch.nonzero(rows).flatten()
        drawn = found[torch.from_numpy(evenly(len(found), limit)).to(found.device)]
        thinned = "" if len(drawn) == len(found) else f" ({len(drawn):,} drawn)"
        return cls(f"{label}: {len(found):,}{thinned}", mark, colour, len(found), drawn)


def margins(part: Any, report: ForgettingReport, title: str) -> None:
    """How far the class that is predicted before is ahead of the next, before and after: below 0 it has changed.

    With one output there is no class: the output itself, before and after.
    """
    axis = part.subplots()
    heading(part, title)
    flips, one = report.flips, report.drift.shape[1] == 1
    groups = [
        _Verdict.of(flips.impossible, "samples" if one else "class stays", "o", GREY, 900),
        _Verdict.of(flips.undecided, "undecided", "D", BLUE, 200),
        _Verdict.of(flips.certain, "certainly changes", "X", VERMILION, 400),
    ]
    points = [_points(report, group.drawn) for group in groups]
    unit, per = power_of_ten(*(values for p in points for values in (p.before, p.after)))
    for group, p in zip(groups, points, strict=True):
        if group.total:
            style: dict[str, Any] = (
                {"mfc": "none"} if group.mark == "D" else {"mew": 0, "alpha": 0.6 if group.mark == "o" else 0.8}
            )
            style |= {"color": group.colour, "markersize": 3.0 if group.mark == "o" else 4.5}
            axis.plot(p.before / unit, p.after / unit, group.mark, label=group.label, **style)
    # Whether a lead is positive is the question.
    axis.update_datalim([(0.0, 0.0)])
    axis.autoscale_view()
    _bars(axis, points[1], unit)
    axis.axline((0, 0), slope=1, color=GREY, linewidth=0.8, zorder=0)
    axis.axhline(0, color=BLACK, linewidth=0.8, zorder=1.5)
    if not one:
        axis.set_title(
            "Of each sample: how far the class predicted\nbefore the training is ahead of the next one.\n"
            "Below 0: another class has overtaken it.",
            fontsize=8,
        )
    axis.set_xlabel(("output" if one else "lead of that class") + f", before{per}")
    axis.set_ylabel(("output" if one else "lead of that class") + f", after{per}")
    legend_below(part, axis, columns=1)


class _Points(NamedTuple):
    """Leads of some samples before and after, and the bounds of both."""

    before: Floats
    after: Floats
    error_before: Floats
    error_after: Floats


def _points(report: ForgettingReport, rows: torch.Tensor) -> _Points:
    before, after = report.before.of(rows), report.after.of(rows)
    predicted = before.value.argmax(dim=1, keepdim=True)
    (first, error_first), (second, error_second) = (_lead(x, predicted) for x in (before, after))
    return _Points(array(first), array(second), array(error_first), array(error_second))


def _lead(predictions: Predictions, chosen: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """By how much the chosen output, [n, 1], is above the largest other one, and the bound of that."""
    value, bound = predictions.value, predictions.error_bound
    own, own_bound = value.gather(1, chosen)[:, 0], bound.gather(1, chosen)[:, 0]
    if value.shape[1] == 1:
        return own, own_bound
    return own - value.scatter(1, chosen, -torch.inf).amax(dim=1), own_bound + bound.scatter(1, chosen, 0.0).amax(dim=1)


def _bars(axis: Any, points: _Points, unit: float) -> None:
    """What the bounds leave open, as far as it is finite; the axes keep to the marks."""
    limits = axis.get_xlim(), axis.get_ylim()
    known = np.isfinite(points.error_before) & np.isfinite(points.error_after)
    before, after, error_before, error_after = (values[known] / unit for values in points)
    axis.errorbar(before, after, error_after, error_before, fmt="none", ecolor=BLUE, elinewidth=0.8)
    axis.set_xlim(limits[0])
    axis.set_ylim(limits[1])
