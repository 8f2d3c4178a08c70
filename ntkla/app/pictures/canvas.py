"""What all pictures share: the palette, the style, an empty figure, and a file that is whole or not there.

Drawn with matplotlib's object interface, so no global state of pyplot and no display is needed.  Colours are from the
palette of Okabe and Ito, which people with any kind of colour vision can tell apart; every series has its own mark.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from ntkla.app.failures import need
from ntkla.app.reports.written import written

BLUE, VERMILION, GREY, BLACK = "#0072B2", "#D55E00", "#8A8A8A", "#1A1A1A"
_STYLE = {
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#E6E6E6",
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "lines.linewidth": 1.4,
}


def style(**more: Any) -> AbstractContextManager[None]:
    """Figures made, drawn and saved inside this block have the style of the house, with what `more` says beside it.

    Raises:
        MissingPackageError: without matplotlib.
    """
    block: AbstractContextManager[None] = need("matplotlib", "cli").rc_context(_STYLE | more)
    return block


def figure(size: tuple[float, float]) -> Any:
    """An empty figure, so many inches wide and high."""
    return need("matplotlib.figure", "cli").Figure(figsize=size, layout="constrained")


def save(drawn: Any, path: Path, dots_per_inch: int) -> Path:
    """Writes a figure as PNG, whole or not at all.

    Raises:
        OutputError: when it cannot be written.
    """
    return written(path, lambda place: drawn.savefig(place, format="png", dpi=dots_per_inch))
