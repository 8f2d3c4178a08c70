"""How numbers and names come onto the axes of a picture: thinned, scaled, shortened, and always drawable."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ntkla.app.failures import need
from ntkla.app.pictures.canvas import GREY
from ntkla.linalg.decisions import Decision

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

# Powers of ten from here on stand in the label instead of in every tick.
_PLAIN = (1e-2, 1e4)
# Beyond it a power of ten or its inverse leaves float64.
_LARGEST_EXPONENT = 300
# What is smaller than the largest by more than this is rounding, and would squeeze everything else on a log axis.
_DECADES = 24
_GOLDEN = (math.sqrt(5.0) - 1.0) / 2.0


def array(x: torch.Tensor) -> Floats:
    """A tensor as float64 on the CPU."""
    return np.asarray(x.detach().cpu().numpy(), dtype=np.float64)


def evenly(count: int, limit: int) -> Integers:
    """At most `limit` of 0, ..., count - 1, ascending, the same ones every time.

    Those whose multiple of the golden ratio has the smallest fractional part: spread evenly, and with no period that
    could fall in step with the order of the labels.
    """
    index = np.arange(count, dtype=np.int64)
    if count <= limit:
        return index
    # Distinct up to 2^26 and beyond: the ratio's fractions are spaced by more than 1 / (sqrt(5) count).
    return np.sort(np.argsort(index * _GOLDEN % 1.0, kind="stable")[:limit])


def evenly_in_logarithm(count: int, limit: int) -> Integers:
    """At most `limit` of 0, ..., count - 1, ascending: the first ones and the last, ever wider apart."""
    if count <= limit:
        return np.arange(count, dtype=np.int64)
    return np.unique(np.geomspace(1, count, limit).round().astype(np.int64)) - 1


def power_of_ten(*values: Floats) -> tuple[float, str]:
    """What to divide values by so that their ticks are short, and how the label of the axis says so."""
    largest = max((float(np.abs(v[np.isfinite(v)]).max(initial=0.0)) for v in values), default=0.0)
    if largest == 0.0 or _PLAIN[0] <= largest < _PLAIN[1]:
        return 1.0, ""
    exponent = min(max(math.floor(math.log10(largest)), -_LARGEST_EXPONENT), _LARGEST_EXPONENT)
    return 10.0**exponent, rf" / $10^{{{exponent}}}$"


def logarithmic(axis: Any, *values: Floats, least: float = 0.0) -> bool:
    """Sets a logarithmic y axis that holds the positive finite values, down to `least`; False when there are none."""
    every = np.concatenate([v.ravel() for v in values])
    shown = every[np.isfinite(every) & (every > 0)]
    if shown.size == 0:
        return False
    high = float(shown.max())
    low = min(max(float(shown.min()), least, high * 10.0**-_DECADES), high)
    axis.set_yscale("log", nonpositive="mask")
    axis.yaxis.set_minor_formatter(need("matplotlib.ticker", "cli").NullFormatter())
    # Whole decades with some air, at least one, within what float64 can hold.
    axis.set_ylim(10.0 ** max(math.floor(math.log10(low) - 0.2), -307), 10.0 ** math.ceil(math.log10(high) + 0.2))
    return True


def counting_axis(axis: Any, count: int) -> None:
    """A logarithmic x axis for the numbers 1 to `count`, with more ticks where there are few decades."""
    axis.set_xscale("log")
    axis.set_xlim(0.8, 1.25 * max(count, 2))
    ticker = need("matplotlib.ticker", "cli")
    if count < 100:
        axis.xaxis.set_major_locator(ticker.LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.xaxis.set_major_formatter(ticker.FuncFormatter(lambda x, _: f"{x:,.0f}"))
    axis.xaxis.set_minor_formatter(ticker.NullFormatter())


def legend_below(part: Any, *axes: Any, columns: int = 3) -> None:
    """One legend for the axes together, below them, where no data can be."""
    found = [axis.get_legend_handles_labels() for axis in axes]
    handles, labels = ([entry for lists in found for entry in lists[kind]] for kind in (0, 1))
    part.legend(
        handles,
        labels,
        loc="outside lower center",
        ncols=columns,
        handlelength=1.4,
        handletextpad=0.4,
        columnspacing=1.0,
    )


def heading(part: Any, text: str) -> None:
    """The title of a panel, from its left edge on: wider than the axes, which names may push to the right."""
    part.suptitle(text, x=0.01, ha="left", fontsize=9.5)


def places(axis: Any, count: int) -> None:
    """An x axis for the places 1 to `count`, with no ticks between whole numbers."""
    air = max(0.03 * count, 1.0)
    axis.set_xlim(1 - air, count + air)
    axis.xaxis.set_major_locator(need("matplotlib.ticker", "cli").MaxNLocator(integer=True))


def note(axis: Any, text: str) -> None:
    """Empties an axis, and says in it why."""
    for line in list(axis.get_lines()):
        line.remove()
    axis.text(0.5, 0.5, text, transform=axis.transAxes, ha="center", va="center", color=GREY, fontsize=8)
    axis.set_xticks([])
    axis.set_yticks([])


def interval(decision: Decision, text: str = "{:.3f}") -> str:
    """A share as a person reads it; rounding never turns it into 0 or 1, and never makes an interval smaller."""
    if decision.decided:
        return _share(decision.low, text)
    # Outwards to the three digits that are shown.
    return f"{math.floor(decision.low * 1000) / 1000:.3f}\N{EN DASH}{math.ceil(decision.high * 1000) / 1000:.3f}"


def _share(x: float, text: str) -> str:
    if 0.0 < x < 0.0005:
        return "<0.001"
    return ">0.999" if 0.9995 <= x < 1.0 else text.format(x)


def middle(decision: Decision) -> float:
    """The number when decided, else the middle of what is open."""
    return decision.low + (decision.high - decision.low) / 2.0


def plain(text: str, limit: int) -> str:
    """A name as the font can draw it, no mathematics in it, on one line of at most `limit` characters."""
    manager = need("matplotlib.font_manager", "cli")
    known = manager.get_font(manager.findfont(manager.FontProperties())).get_charmap()
    drawable = "".join(c if ord(c) in known else "?" for c in " ".join(text.split()))
    if len(drawable) > limit:
        drawable = drawable[: limit // 2] + "\N{HORIZONTAL ELLIPSIS}" + drawable[len(drawable) - (limit - 1) // 2 :]
    return drawable.replace("$", r"\$")
