"""`ntkla plan` from beginning to end: read, work the grid out, choose, show, write."""

from __future__ import annotations

import math
import sys
from pathlib import Path

from ntkla.app.command_line import inputs
from ntkla.app.command_line.plan_options import PlanOptions
from ntkla.app.command_line.plan_settings import PlanSettings, settle
from ntkla.app.failures import need
from ntkla.app.reports import plan_json, strict_json
from ntkla.app.reports.plan_outcome import PlanOutcome
from ntkla.app.reports.written import make_folder, written
from ntkla.forgetting.planning.plan import plan
from ntkla.forgetting.planning.result import Plan
from ntkla.forgetting.tasks import Task
from ntkla.linalg.errors import ArgumentError, TrainingDivergesError


def run_plan(options: PlanOptions) -> bool:
    """Runs the command: prints what it finds, and writes it where that was asked for.

    Returns:
        Whether a point keeps what was asked for.

    Raises:
        NtklaError: whatever a person can mend.
    """
    options.check()
    # Before the long part, so that what would stop the command at its end costs no time.
    need("rich", "cli")
    if options.output is not None:
        need("matplotlib", "cli")
        make_folder(options.output)
    files = inputs.read(options)
    outcome = _outcome(options, files)
    document = strict_json.text(plan_json.document(outcome))
    paths = [] if options.output is None else _write(options.output, outcome, document)
    if options.json:
        print(document, end="")
    else:
        screen = need("ntkla.app.reports.screen", "cli").console()
        need("ntkla.app.reports.plan_tables", "cli").show(screen, outcome)
        if paths:
            screen.print(f"\nWritten to {options.output}: " + ", ".join(path.name for path in paths), markup=False)
    if not outcome.choice.satisfied:
        print(f"ntkla: note: {outcome.choice.status.message}", file=sys.stderr)
    return outcome.choice.satisfied


def _outcome(options: PlanOptions, files: inputs.Files) -> PlanOutcome:
    for name, file in files.olds.items():
        if file.labels is None:
            raise ArgumentError(f"{name}: a plan keeps the accuracy of OLD. Add its labels, FEATURES.npy,LABELS.npy.")
    tasks = inputs.tasks(files, options, old_targets=True)
    old_tests, new_test = inputs.held_out(files, options, options.old_test, options.new_test)
    settings = settle(options, tasks)
    found = _plan(tasks, old_tests, new_test, settings)
    choice = found.recommend(options.max_forgetting, options.on)
    return PlanOutcome(options, files, tasks, settings, old_tests, new_test, found, choice)


def _plan(tasks: inputs.Tasks, old_tests: dict[str, Task], new_test: Task | None, settings: PlanSettings) -> Plan:
    screen = need("ntkla.app.reports.screen", "cli")
    with screen.progress_bar(screen.console(stderr=True)) as progress:
        bar = progress.add_task("decompositions", total=None)
        try:
            return plan(
                tasks.olds,
                tasks.new,
                tasks.head,
                ridges=settings.ridges,
                strengths=settings.strengths,
                weights=settings.weights,
                modes=settings.modes,
                steps=settings.steps,
                lr=settings.lr,
                momentum=settings.momentum,
                nesterov=settings.nesterov,
                probes=settings.probes,
                old_tests=old_tests,
                new_test=new_test,
                penalize_bias=settings.penalize_bias,
                loss=settings.loss,
                tol=settings.tolerance,
                progress=lambda done, total: progress.update(bar, completed=done, total=total),
            )
        except TrainingDivergesError as error:
            raise _in_typed_units(error, settings) from error


def _in_typed_units(error: TrainingDivergesError, settings: PlanSettings) -> TrainingDivergesError:
    """The same error about the learning rate as it was typed; the rate that it names is rounded down."""
    limit = error.largest_stable_lr * settings.typed_lr_unit
    unit = 10.0 ** (math.floor(math.log10(limit)) - 3)
    return TrainingDivergesError(
        f"--lr: training diverges at every point of the grid; up to {math.floor(limit / unit) * unit:.4g} is stable at "
        "one of them. Lower it, or add the word optimum to --steps.",
        limit,
    )


def _write(folder: Path, outcome: PlanOutcome, document: str) -> list[Path]:
    """Writes `plan.json` and `plan.png`; returns their paths."""
    picture = need("ntkla.app.pictures.plan_page", "cli").write_plan_picture
    shown = folder / "plan.png"
    title = f"Training on {outcome.files.new.name} without forgetting {', '.join(outcome.tasks.olds)}"
    picture(shown, outcome.plan, outcome.choice, title)
    return [written(folder / "plan.json", lambda path: path.write_text(document, encoding="utf-8")), shown]
