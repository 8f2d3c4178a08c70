"""`--protect`: the penalty that keeps what the head says now along the leading modes of every old task."""

from __future__ import annotations

from ntkla.app.command_line.forecast_options import ForecastOptions
from ntkla.app.command_line.inputs import Tasks
from ntkla.app.command_line.settings import Settings
from ntkla.app.failures import before
from ntkla.forgetting.heads import LinearHead
from ntkla.forgetting.penalties.spectral_penalty import SpectralPenalty
from ntkla.forgetting.tasks import Task
from ntkla.linalg.eigenmodes import eigenmodes


def penalties(options: ForecastOptions, tasks: Tasks, settings: Settings) -> dict[str, SpectralPenalty] | None:
    """One penalty for each old task by its name; None without `--protect`.

    Raises:
        ArgumentError: more modes than a task's features certainly have.

    Cost: the leading modes of every old task.
    """
    if options.protect is None:
        return None
    found = {}
    for name, task in tasks.olds.items():
        with before(f"--protect {options.protect} ({name})"):
            found[name] = _penalty(options.protect, options.protect_weight, task, tasks.head, settings.halves)
    return found


def _penalty(k: int, weight: float | None, task: Task, head: LinearHead, halves: float) -> SpectralPenalty:
    """A weight that was typed is in the units of the other options; without one a mode counts as a sample would."""
    said = head.select(task.outputs)(task.features)
    columns = None if task.outputs is None else task.outputs.tolist()
    used = k * said.shape[1] / 2 if weight is None else weight * halves
    return SpectralPenalty(eigenmodes(task.features, k, bias=head.bias is not None), said, used, columns=columns)
