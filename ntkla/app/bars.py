"""The progress bar of the commands."""

from __future__ import annotations

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


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
