"""The demo's pictures: where in the spectrum the drift lives, forecast and fact, accuracy, modes that are enough."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ntkla.app.demo.comparison import Comparison
from ntkla.app.demo.protection import ProtectionCurve
from ntkla.app.pictures import canvas
from ntkla.app.pictures.axes import middle
from ntkla.app.pictures.canvas import BLACK, BLUE, GREY, VERMILION

COLOUR = {"optimum": BLUE, "sgd": VERMILION}
MARK = {"optimum": "s", "sgd": "o"}
LABEL = {"optimum": "ridge optimum", "sgd": "SGD"}
# Leaves room for a legend below the smallest energies.
_LEAST_SHARE = 1e-10
# The optimum's marks stand a little to the right of SGD's, so that both are seen where they agree.
_ASIDE = 0.22


def write_pictures(folder: Path, comparisons: Sequence[Comparison], names: Sequence[str]) -> list[Path]:
    """Writes `spectrum.png`, `forecast.png`, `accuracy.png`, and `demo.png`, which shows all three side by side.

    Args:
        folder: an existing folder.
        comparisons: of the whole sequence; the first two pictures show old task 1 under new task 2.
        names: of the tasks in their order.

    Returns:
        The paths written.

    Raises:
        MissingPackageError: without matplotlib.  OutputError: when a picture cannot be written.
    """
    first = [c for c in comparisons if (c.old, c.new) == (1, 2)]
    sketches = {
        "spectrum.png": ((4.6, 4.2), lambda part: spectrum(part, first, names)),
        "forecast.png": ((4.6, 4.2), lambda part: forecast_against_fact(part, first, names)),
        "accuracy.png": ((7.6, 4.2), lambda part: accuracy(part, comparisons, names)),
    }
    with canvas.style():
        paths = [_save(folder / name, size, [(1.0, draw)]) for name, (size, draw) in sketches.items()]
        shares = [(size[0], draw) for size, draw in sketches.values()]
        paths.append(_save(folder / "demo.png", (15.6, 4.4), shares, dots_per_inch=100))
    return paths


def _save(path: Path, size: tuple[float, float], parts: Sequence[tuple[float, Any]], dots_per_inch: int = 200) -> Path:
    figure = canvas.figure(size)
    subfigures = np.atleast_1d(
        figure.subfigures(1, len(parts), width_ratios=[share for share, _ in parts], wspace=0.03)
    )
    for subfigure, (_, draw) in zip(subfigures, parts, strict=True):
        draw(subfigure)
    return canvas.save(figure, path, dots_per_inch)


def spectrum(part: Any, pair: Sequence[Comparison], names: Sequence[str]) -> None:
    """Above: each mode's share of the trace of G_AA and of the drift's energy.  Below: the same, summed up."""
    upper, lower = part.subplots(2, 1, sharex=True)
    trace_share = pair[0].eigenvalues / pair[0].eigenvalues.sum()
    index = np.arange(1, len(trace_share) + 1)
    k_gram = pair[0].ranks.k_gram
    marked = [(k_gram, np.cumsum(trace_share), BLACK, "D")]
    upper.loglog(index, trace_share, color=BLACK, label="eigenvalue of $G_{AA}$, share of the trace")
    lower.plot(index, np.cumsum(trace_share), color=BLACK, label=f"eigenvalues: $k_G$ = {k_gram}")
    for c in pair:
        share = c.energy / (c.forecast**2).sum()
        colour, label = COLOUR[c.training], LABEL[c.training]
        upper.plot(
            index,
            share,
            MARK[c.training],
            color=colour,
            markersize=2.5,
            mew=0,
            alpha=0.7,
            label=f"energy of the drift, {label}",
        )
        lower.plot(
            index,
            np.cumsum(share),
            color=colour,
            label=f"{label}: $r_{{50}}$ = {c.ranks.r50}, $r_{{90}}$ = {c.ranks.r90}",
        )
        marked.append((c.ranks.r90, np.cumsum(share), colour, MARK[c.training]))
    for rank, curve, colour, mark in marked:
        modes = np.atleast_1d(rank)
        lower.plot(modes, curve[modes - 1], mark, color=colour, markersize=5)
    lower.axhline(0.9, color=GREY, linestyle=":", linewidth=1)
    upper.set_title(f"Few modes carry the damage (old {names[pair[0].old - 1]}, new {names[pair[0].new - 1]})")
    upper.set_ylabel("share of one mode")
    upper.set_ylim(_LEAST_SHARE, 1.5)
    upper.legend(loc="lower left")
    lower.set_xlabel("mode of $G_{AA}$, largest eigenvalue first")
    lower.set_ylabel("share up to a mode")
    lower.set_ylim(0, 1.05)
    lower.legend(loc="lower right")


def forecast_against_fact(part: Any, pair: Sequence[Comparison], names: Sequence[str]) -> None:
    """The output of each held-out image's own class.  Above: its drift.  Below: the difference, and what was proved."""
    upper, lower = part.subplots(2, 1)
    for c in pair:
        style = {"color": COLOUR[c.training], "mew": 0}
        rows = np.arange(len(c.labels))
        own = (rows, c.labels)
        upper.plot(
            c.forecast[own], c.fact[own], MARK[c.training], markersize=4, alpha=0.5, label=LABEL[c.training], **style
        )
        order = np.argsort(np.abs(c.forecast[own]))
        lower.plot(rows + 1, (c.bound + c.rounding)[own][order], linewidth=1, **style)
        lower.plot(rows + 1, c.difference[own][order], MARK[c.training], markersize=2.5, alpha=0.7, **style)
    upper.axline((0, 0), slope=1, color=GREY, linewidth=0.8, zorder=0)
    upper.set_title(
        f"Forecast before training, fact after (old {names[pair[0].old - 1]}, new {names[pair[0].new - 1]})"
    )
    upper.set_xlabel("forecast drift of the image's own class")
    upper.set_ylabel("drift that happened")
    upper.legend(loc="upper left")
    lower.set_yscale("log", nonpositive="clip")
    lower.set_xlabel("held-out image, by the size of that drift")
    lower.set_ylabel("|forecast $-$ fact| (dots),\nproven limit (lines)")


def accuracy(part: Any, comparisons: Sequence[Comparison], names: Sequence[str]) -> None:
    """One panel an old task: its accuracy after each task of the sequence, fact (filled) and forecast (open marks)."""
    rows = [c.row() for c in comparisons]
    olds = sorted({row.old for row in rows})
    panels = np.atleast_1d(part.subplots(1, len(olds), sharex=True, sharey=True))
    for old, panel in zip(olds, panels, strict=True):
        for training in ("sgd", "optimum"):
            mine = sorted((r for r in rows if (r.old, r.training) == (old, training)), key=lambda r: r.new)
            colour, mark = COLOUR[training], MARK[training]
            # Only the head that SGD trained is carried on, so only its accuracies form a line.
            carried = training == "sgd"
            stages = [r.new + (0.0 if carried else _ASIDE) for r in mine]
            forecast = [r.accuracy_forecast for r in mine]
            panel.plot(
                stages, forecast, mark, color=colour, mfc="none", markersize=9, label=f"forecast, {LABEL[training]}"
            )
            fact = [r.accuracy_after for r in mine]
            if carried:
                stages, fact = [old, *stages], [mine[0].accuracy_before, *fact]
            panel.plot(
                stages,
                fact,
                mark + ("-" if carried else ""),
                color=colour,
                markersize=4,
                label=f"fact, {LABEL[training]}",
            )
        panel.set_title(f"old task {names[old - 1]}")
        panel.set_xticks(range(1, len(names) + 1), names)
        panel.set_ylim(-0.05, 1.05)
    panels[0].set_ylabel("accuracy on held-out images")
    part.supxlabel("after training on", fontsize=9)
    part.legend(
        *panels[0].get_legend_handles_labels(),
        loc="outside upper center",
        ncols=4,
        handletextpad=0.4,
        columnspacing=1.2,
    )


def write_protection(path: Path, curve: ProtectionCurve) -> Path:
    """Writes the final accuracy of the sequence against the number of protected modes.

    Raises:
        MissingPackageError: without matplotlib.  OutputError: when the picture cannot be written.
    """
    with canvas.style():
        figure = canvas.figure((4.6, 3.2))
        axis = figure.subplots()
        places = range(len(curve.rows))
        axis.plot(places, [middle(row.final_accuracy) for row in curve.rows], "o-", color=BLUE, label="protected")
        axis.axhline(middle(curve.joint_accuracy), color=BLACK, linestyle="--", linewidth=1, label="all tasks together")
        axis.set_xticks(list(places), [str(row.modes) if row.modes else "none" for row in curve.rows])
        axis.set_xlabel("modes protected of each task")
        axis.set_ylabel("final accuracy, held-out images")
        axis.set_ylim(0, 1.05)
        axis.set_title("Five tasks in a row: how many modes are enough")
        axis.legend(loc="lower right")
        return canvas.save(figure, path, 200)
