"""All that one `ntkla forecast` found, as its tables, its JSON and its files need it."""

from __future__ import annotations

from dataclasses import dataclass

from ntkla.app.command_line.forecast_options import ForecastOptions
from ntkla.app.command_line.inputs import Files, Tasks
from ntkla.app.command_line.settings import Settings
from ntkla.forgetting.reports.post_mortem_result import PostMortem
from ntkla.forgetting.reports.report import ForgettingReports


@dataclass(frozen=True, eq=False)
class Outcome:
    """What went in and what came out.

    Attributes:
        options: as typed.
        files, tasks: what was read, and what was made of it.
        settings: in the library's units.
        reports: the forecast.
        facts: what really happened, by the names of the old tasks; None without the head after the training.
    """

    options: ForecastOptions
    files: Files
    tasks: Tasks
    settings: Settings
    reports: ForgettingReports
    facts: dict[str, PostMortem] | None
