"""The page: one picture of a forecast that can be put into a paper, and the picture of a spectrum."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ntkla.app.pictures import canvas, page_classes, page_samples, page_spectrum
from ntkla.app.pictures.axes import plain
from ntkla.forgetting.reports.post_mortem_result import PostMortem
from ntkla.forgetting.reports.report import ForgettingReport
from ntkla.linalg.eigen.feature_modes import FeatureModes
from ntkla.linalg.eigen.modes import Eigenmodes

_INCHES_WIDE = 7.2
_DOTS_PER_INCH = 200
# Of 8 points; digits are wider than most letters, and a line of nothing else fits as well.
_CHARACTERS_WIDE = 98
_STYLE = {"axes.labelsize": 8.5, "xtick.labelsize": 8, "ytick.labelsize": 8, "axes.axisbelow": True}


def write_page(
    path: Path,
    reports: Mapping[str, ForgettingReport],
    post_mortems: Mapping[str, PostMortem] | None = None,
    title: str = "",
    *,
    training: str,
    labels: Mapping[str, torch.Tensor | None] | None = None,
) -> Path:
    """Writes one PNG page about a forecast: four panels, 7.2 inches wide at 200 dots per inch.

    (a) spectrum and energy and (b) the samples are of the old task that drifts most (root mean square over samples and
    outputs); (c) has every task, (d) the classes of all tasks.  At most some 2,000 marks a panel are drawn, the same
    ones every time; where there are more, the panel says so.

    Args:
        path: of the file, in a folder that is there; replaced in one step.
        reports: by the names of the old tasks, at least one.
        post_mortems: by the same names, of the tasks of which it is known what happened: (b) is then forecast against
            fact, else who changes class.
        title: above the page; none when empty.
        training: what was forecast, in words.
        labels: int64 [n], by the same names, as the tasks have them: (b) then shows each sample's own class.

    Returns:
        The path.

    Raises:
        MissingPackageError: without matplotlib.  OutputError: when the file cannot be written.

    Deterministic: same reports and versions, same bytes.
    """
    facts = dict(post_mortems or {})
    focus = max(reports, key=lambda name: reports[name].drift_rms)
    with canvas.style(**_STYLE):
        lines = page_classes.class_lines(reports, facts)
        rows = max(len(reports), min(len(lines), page_classes.CLASSES))
        heights = (3.9, 1.6 + 0.16 * max(rows, 7))
        figure = canvas.figure((_INCHES_WIDE, sum(heights) + 0.5))
        (a, b), (c, d) = figure.subfigures(2, 2, height_ratios=heights, wspace=0.04, hspace=0.03)
        page_spectrum.spectrum_and_energy(a, reports[focus], "(a) Spectrum and energy" + _of(focus, reports))
        _samples(b, focus, reports, facts, (labels or {}).get(focus))
        _tasks(c, reports, facts)
        _classes(d, lines, reports, focus)
        if title:
            figure.suptitle(plain(title, 85), fontsize=10)
        figure.supxlabel(_caption(focus, reports, training), fontsize=8, x=0.01, ha="left")
        return canvas.save(figure, path, _DOTS_PER_INCH)


def _of(name: str, reports: Mapping[str, ForgettingReport]) -> str:
    """Which task, where there are several."""
    return "" if len(reports) == 1 else f": {plain(name, 22)}"


def _samples(
    part: Any,
    focus: str,
    reports: Mapping[str, ForgettingReport],
    facts: Mapping[str, PostMortem],
    labels: torch.Tensor | None,
) -> None:
    if focus in facts:
        title = "(b) Forecast and fact" + _of(focus, reports)
        page_samples.forecast_and_fact(part, reports[focus], facts[focus], labels, title)
    else:
        title = "(b) Who changes class" if reports[focus].drift.shape[1] > 1 else "(b) Output before and after"
        page_samples.margins(part, reports[focus], title + _of(focus, reports))


def _tasks(part: Any, reports: Mapping[str, ForgettingReport], facts: Mapping[str, PostMortem]) -> None:
    lines = page_classes.accuracy_lines(reports, facts)
    if lines:
        missing = len(reports) - len(lines)
        what = "accuracy" + (f" ({missing} without labels)" if missing else "")
        page_classes.tasks(part, lines, "(c) Accuracy on old tasks", what)
    else:
        kept = page_classes.kept_lines(reports, facts)
        page_classes.tasks(part, kept, "(c) Predicted classes that stay", "share of the samples")


def _classes(
    part: Any, lines: list[page_classes.ClassLine], reports: Mapping[str, ForgettingReport], focus: str
) -> None:
    if not lines:
        page_classes.drifts(part, reports[focus], "(d) How far samples drift" + _of(focus, reports))
        return
    shown = min(len(lines), page_classes.CLASSES)
    many = "" if shown == len(lines) else f", the {shown} most forgotten of {len(lines):,}"
    page_classes.classes(part, lines, "(d) Class by class" + many)


def _caption(focus: str, reports: Mapping[str, ForgettingReport], training: str) -> str:
    """What was forecast, how exactly, and which task is shown where there are several."""
    report = reports[focus]
    bound = float(report.error_bound.max())
    proved = "Some entries of the drift have no proven bound."
    if math.isfinite(bound):
        proved = (
            f"Each entry of the drift is proved to be within {bound:.1e} of the exact one, in units of the outputs."
        )
    shown = (
        "" if len(reports) == 1 else f" (a), (b): {plain(focus, 40)}, which drifts most of {len(reports)} old tasks."
    )
    said = f"Forecast of: {plain(training, 300)}. {proved}{shown}"
    return "\n".join(textwrap.wrap(said, _CHARACTERS_WIDE))


def write_modes_picture(path: Path, modes: Eigenmodes | FeatureModes, outputs: int = 1) -> Path:
    """Writes the spectrum of a Gram matrix as PNG: eigenvalues, what is proved of them, and their share of the trace.

    Args:
        path: of the file, in a folder that is there; replaced in one step.
        modes: of the features.
        outputs: C, of the kernel whose directions are counted.

    Raises:
        MissingPackageError: without matplotlib.  OutputError: when the file cannot be written.
    """
    with canvas.style():
        figure = canvas.figure((4.6, 4.6))
        page_spectrum.spectrum_alone(figure, modes.spectrum, modes.values.shape[0], outputs)
        return canvas.save(figure, path, _DOTS_PER_INCH)
