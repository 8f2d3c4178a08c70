"""What every command shows people with: the console, the bar of its progress, and tables at most 100 columns wide."""

from __future__ import annotations

from rich.cells import cell_len, set_cell_size
from rich.console import Console, Group
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

WIDTH = 100
_NAME = 24


def console(stderr: bool = False) -> Console:
    """A console at most 100 columns wide; exactly that where no terminal says how wide it is."""
    found = Console(stderr=stderr, highlight=False)
    found.width = min(found.width, WIDTH) if found.is_terminal else WIDTH
    return found


def progress_bar(notes: Console) -> Progress:
    """What is done of how many, and the time that it took and will take; seen only when a person is watching.

    Args:
        notes: the console on stderr.
    """
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("left"),
    )
    return Progress(*columns, console=notes, transient=True, disable=not notes.is_terminal)


def table(*columns: str, left: int = 1, gap: int = 2) -> Table:
    """An empty table with `gap` blanks between columns.

    The first `left` are texts, which are broken where there is no room; the others are numbers, which are kept whole.
    """
    made = Table(box=None, pad_edge=False, padding=(0, gap, 0, 0))
    for number, column in enumerate(columns):
        made.add_column(column, justify="left" if number < left else "right", no_wrap=number >= left)
    return made


def titled(title: str, content: Table) -> Group:
    """A table below its title, which may be wider than the table; names in it are no markup."""
    return Group(Text(title, "bold"), content)


def shortened(name: str) -> str:
    """A name that leaves room for the numbers."""
    # By the places that it takes on the screen: the characters of some scripts take two.
    return name if cell_len(name) <= _NAME else f"{set_cell_size(name, _NAME - 3).rstrip()}..."
