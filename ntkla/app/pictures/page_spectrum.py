"""The spectrum of G_AA and where in it the drift lives: panel (a) of the page, and the picture of `ntkla modes`."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ntkla.app.pictures.axes import (
    Floats,
    array,
    counting_axis,
    evenly_in_logarithm,
    heading,
    legend_below,
    logarithmic,
    note,
)
from ntkla.app.pictures.canvas import BLACK, BLUE, GREY
from ntkla.app.spectrum_bounds import Ends
from ntkla.forgetting.reports.report import ForgettingReport
from ntkla.forgetting.spectrum.decomposition import Decomposition
from ntkla.forgetting.spectrum.ranks import Rank, effective_rank, vulnerable_rank
from ntkla.linalg.decisions import Decision
from ntkla.linalg.eigen.modes import Spectrum

MARKS = 600
# Shares below it are not drawn.
_LEAST_SHARE = 1e-12
# A band narrower than this cannot be told from its curve.
VISIBLE = 0.004


def spectrum_and_energy(part: Any, report: ForgettingReport, title: str) -> None:
    """Above: each mode's share of the trace of G_AA and of the drift's energy.  Below: the same, summed up."""
    upper, lower = part.subplots(2, 1, sharex=True)
    trace = _shares(report.modes.spectrum)
    shown = evenly_in_logarithm(len(trace), MARKS)
    upper.plot(
        shown + 1, trace[shown], color=BLACK, marker=_alone(trace), label="eigenvalues of $G_{AA}$,\nshare of the trace"
    )
    energy = _energies(upper, report.decomposition)
    if logarithmic(upper, trace, energy, least=_LEAST_SHARE):
        # Nothing is above 1.
        upper.set_ylim(top=2.0)
    else:
        note(upper, "all features are zero")
    lower.plot(shown + 1, np.cumsum(trace)[shown], color=BLACK)
    _mark_of_share(lower, report.k_G, np.cumsum(trace), BLACK, "D")
    _cumulative(lower, report)
    counting_axis(lower, len(trace))
    lower.set_ylim(0, 1.08)
    heading(part, title)
    upper.set_ylabel("share of one mode")
    lower.set_ylabel("share up to a mode")
    lower.set_xlabel("mode of $G_{AA}$, largest eigenvalue first")
    legend_below(part, upper, lower, columns=2)


def _alone(values: Floats) -> str:
    """A line through one point is not seen without a mark."""
    return "_" if len(values) == 1 else ""


def _shares(spectrum: Spectrum) -> Floats:
    values = array(spectrum.values)
    return values / spectrum.trace if spectrum.trace > 0 else np.zeros_like(values)


def _energies(axis: Any, parts: Decomposition) -> Floats:
    """Marks for the modes' shares of the energy; in a cluster only the mean is defined, and its marks are open."""
    total = parts.total if parts.total > 0 else 1.0
    share = array(parts.energy) / total
    several = np.zeros(len(share), dtype=bool)
    for cluster, energy in zip(parts.clusters, parts.cluster_energy.tolist(), strict=True):
        if len(cluster) > 1:
            inside = slice(cluster.start, min(cluster.stop, len(share)))
            share[inside], several[inside] = energy / total / (inside.stop - inside.start), True
    share[share < _LEAST_SHARE] = 0.0
    shown = evenly_in_logarithm(len(share), MARKS)
    style = {"color": BLUE, "markersize": 3.2}
    for kind, face, label in (
        (~several, BLUE, "energy of the drift"),
        (several, "none", "mean energy in a cluster"),
    ):
        chosen = shown[kind[shown] & (share[shown] > 0)]
        if chosen.size:
            axis.plot(chosen + 1, share[chosen], "s", mfc=face, mew=0.6, label=label, **style)
    return share


def _cumulative(axis: Any, report: ForgettingReport) -> None:
    """The drift's energy up to a mode, with the band that is proved for it where that can be seen, and its ranks."""
    parts = report.decomposition
    curve, low, high = (array(x) for x in (parts.cumulative, parts.cumulative_low, parts.cumulative_high))
    shown = evenly_in_logarithm(len(curve), MARKS)
    axis.plot(shown + 1, curve[shown], color=BLUE, linestyle="--")
    if float((high - low).max()) > VISIBLE:
        axis.fill_between(
            shown + 1, low[shown], high[shown], color=BLUE, alpha=0.2, linewidth=0, label="proved to lie here"
        )
    for share in (0.5, 0.9):
        axis.axhline(share, color=GREY, linestyle=":", linewidth=0.8)
    _mark(axis, report.r_50, "r_{50}", curve, BLUE, "^")
    _mark(axis, report.r_90, "r_{90}", curve, BLUE, "v")


def _mark(axis: Any, rank: Rank, name: str, curve: Floats, colour: str, mark: str) -> None:
    """A rank on its curve, or the interval that is left of it, at the height of its share."""
    low, high = int(rank.low), int(rank.high)
    size = 8 if mark == "D" else 5.5
    label = f"${name}$ = {low:,}" if low == high else f"${name}$: {low:,} to {high:,}"
    if low != high:
        axis.plot([max(low, 1), high], [rank.q] * 2, "-" + mark, color=colour, linewidth=2.5, label=label)
    elif 1 <= low <= len(curve):
        axis.plot([low], [curve[low - 1]], mark, color=colour, markersize=size, label=label)
    else:
        axis.plot([], [], mark, color=colour, markersize=size, label=label)


def spectrum_alone(part: Any, spectrum: Spectrum, computed: int, outputs: int) -> None:
    """Above: the eigenvalues.  Below: their share of the trace, with the ranks of three shares."""
    upper, lower = part.subplots(2, 1, sharex=True)
    values, ends = array(spectrum.values), Ends.of(spectrum)
    shown = evenly_in_logarithm(len(values), MARKS)
    upper.plot(shown + 1, values[shown], color=BLACK, marker=_alone(values), label="eigenvalue of $G$")
    first = shown[shown < computed]
    upper.plot(first + 1, values[first], "o", color=BLUE, markersize=3, label=f"the {computed:,} asked for")
    largest = float(values.max(initial=0.0))
    if largest > 0.0 and logarithmic(upper, values, ends.high, least=_LEAST_SHARE * largest):
        _band(upper, ends.low, ends.high, ends.low < (1.0 - VISIBLE) * ends.high, label="proved to lie here")
    else:
        note(upper, "all features are zero")
    lower.set_ylim(0, 1.08)
    _share_up_to(lower, spectrum, ends, outputs)
    counting_axis(lower, len(ends.low))
    upper.set_ylabel("eigenvalue")
    lower.set_ylabel("share of the trace up to it")
    lower.set_xlabel("mode, largest eigenvalue first")
    legend_below(part, upper, lower, columns=2)


def _share_up_to(axis: Any, spectrum: Spectrum, ends: Ends, outputs: int) -> None:
    """The curve as far as eigenvalues were computed, what is proved of it, and the ranks of three shares."""
    if not math.isfinite(spectrum.trace_error):
        note(axis, "the trace is not known")
        return
    curve = np.cumsum(_shares(spectrum))
    shown = evenly_in_logarithm(len(curve), MARKS)
    axis.plot(shown + 1, curve[shown], color=BLACK, marker=_alone(curve))
    low, high = ends.shares(spectrum.trace)
    _band(axis, low, high, low < high - VISIBLE)
    for q, mark in ((0.5, "^"), (0.9, "D"), (0.99, "v")):
        rank, directions = effective_rank(spectrum, q=q), vulnerable_rank(spectrum, outputs, q)
        times = "" if outputs == 1 else f", $k^*$ = {Decision(directions.low, directions.high)}"
        axis.axhline(q, color=GREY, linestyle=":", linewidth=0.8)
        _mark_of_share(axis, rank, curve, BLUE, mark, times)


def _band(axis: Any, low: Floats, high: Floats, visible: NDArray[np.bool_], **style: Any) -> None:
    """Where numbers are proved to lie, if that can be told from a curve anywhere, as far as the axis goes."""
    if not bool(visible.any()):
        return
    shown = evenly_in_logarithm(len(low), MARKS)
    bottom, top = axis.get_ylim()
    inside = [np.clip(side[shown], bottom, top) for side in (low, high)]
    axis.fill_between(shown + 1, *inside, color=BLACK, alpha=0.2, linewidth=0, **style)


def _mark_of_share(axis: Any, rank: Rank, curve: Floats, colour: str, mark: str, more: str = "") -> None:
    """k_G, with the share that it was counted for."""
    _mark(axis, rank, "k_G", curve, colour, mark)
    last = axis.get_lines()[-1]
    last.set_label(f"{last.get_label()} at {100 * (rank.q or 0.0):g} %{more}")
