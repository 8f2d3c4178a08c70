"""All that one `ntkla plan` found, as its tables, its JSON and its picture need it."""

from __future__ import annotations

from dataclasses import dataclass

from ntkla.app.command_line import inputs
from ntkla.app.command_line.plan_options import PlanOptions
from ntkla.app.command_line.plan_settings import PlanSettings
from ntkla.forgetting.planning.result import Plan, Recommendation
from ntkla.forgetting.tasks import Task


@dataclass(frozen=True, eq=False)
class PlanOutcome:
    """What went in and what came out.

    Attributes:
        options, files, tasks, settings: as typed, as read, as the library takes them, and the grid.
        old_tests, new_test: held-out samples of old tasks, by name, and of the new one or None.
        plan: every point.
        choice: the recommended one.
    """

    options: PlanOptions
    files: inputs.Files
    tasks: inputs.Tasks
    settings: PlanSettings
    old_tests: dict[str, Task]
    new_test: Task | None
    plan: Plan
    choice: Recommendation
