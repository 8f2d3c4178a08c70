"""Progress for a person who watches: a bar that is filled by the clock, as far as the estimate goes, and its stages."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ntkla.app.command_line.estimate import Estimate

Stage = Callable[[str], None]
# Beyond the estimate the bar waits here: it is full only when all is done.
_ALMOST = 0.99
_PERIOD = 0.2


@contextmanager
def watched(estimate: Estimate, what: str) -> Iterator[Stage]:
    """Says on stderr how long it will take when that is long, and shows a bar where stderr is a terminal.

    Args:
        estimate: of the work inside the block.
        what: how the work is called.

    Yields:
        What to call with the name of each stage as it begins.
    """
    if not estimate.long:
        yield lambda stage: None
        return
    print(f"ntkla: {what} needs {estimate}", file=sys.stderr)
    if not sys.stderr.isatty():
        yield lambda stage: None
        return
    with _bar(estimate.seconds) as stage:
        yield stage


@contextmanager
def _bar(seconds: float) -> Iterator[Stage]:
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    from ntkla.app.reports.screen import console

    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    done = threading.Event()
    with Progress(*columns, console=console(stderr=True), transient=True) as progress:
        bar = progress.add_task("", total=seconds)

        def fill() -> None:
            while not done.wait(_PERIOD):
                elapsed = progress.tasks[0].elapsed or 0.0
                progress.update(bar, completed=min(elapsed, _ALMOST * seconds))

        thread = threading.Thread(target=fill, daemon=True)
        thread.start()
        try:
            yield lambda stage: progress.update(bar, description=stage)
        finally:
            done.set()
            thread.join()
