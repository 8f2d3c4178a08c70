"""`ntkla forecast` from beginning to end: read, say what it will cost, forecast, compare, show, write."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from ntkla.app.command_line import inputs
from ntkla.app.command_line.estimate import Estimate, of_forecast, of_modes
from ntkla.app.command_line.forecast_options import ForecastOptions
from ntkla.app.command_line.protecting import penalties
from ntkla.app.command_line.settings import Settings, in_typed_units, settle
from ntkla.app.failures import need
from ntkla.app.files.cache import save
from ntkla.app.reports import forecast_json, strict_json
from ntkla.app.reports.outcome import Outcome
from ntkla.app.reports.progress import Stage, watched
from ntkla.app.reports.words import percent, training
from ntkla.app.reports.written import make_folder, written
from ntkla.forgetting.forecast import forecast
from ntkla.forgetting.reports.post_mortem import post_mortem
from ntkla.forgetting.reports.post_mortem_result import PostMortem
from ntkla.forgetting.reports.report import ForgettingReports
from ntkla.linalg.errors import TrainingDivergesError


def run_forecast(options: ForecastOptions) -> bool:
    """Runs the command: prints what it finds, and writes it where that was asked for.

    Returns:
        Whether every old task's drift is certified.

    Raises:
        NtklaError: whatever a person can mend.
    """
    options.check()
    # Before the long part, so that what would stop the command at its end costs no time.
    if not options.json:
        need("rich", "cli")
    if options.output is not None:
        for module in ("matplotlib", "safetensors"):
            need(module, "cli")
        make_folder(options.output)
    files = inputs.read(options)
    with watched(_expected(options, files), "the forecast") as stage:
        outcome = _outcome(options, files, stage)
        stage("report")
        document = strict_json.text(forecast_json.document(outcome))
        paths = [] if options.output is None else _write(options.output, outcome, document)
    if options.json:
        print(document, end="")
    else:
        screen = need("ntkla.app.reports.screen", "cli").console()
        need("ntkla.app.reports.forecast_tables", "cli").show(screen, outcome)
        if paths:
            screen.print(f"\nWritten to {options.output}: " + ", ".join(path.name for path in paths), markup=False)
    for name, report in outcome.reports.tasks.items():
        before, guessed = report.accuracy_before, 1 / report.outputs.shape[0]
        if before is not None and before.high < guessed / 2:
            right = f"the head is right on {percent(before, ' %')} of {name} before training"
            print(f"ntkla: note: {right}: are OLD and NEW swapped?", file=sys.stderr)
        if not report.status.certified:
            print(f"ntkla: warning: {name}: {report.status}", file=sys.stderr)
    return outcome.reports.status.certified


def _expected(options: ForecastOptions, files: inputs.Files) -> Estimate:
    olds = [file.features for file in files.olds.values()]
    bias, early = files.head.bias is not None, options.sgd is not None or options.flow is not None
    whole = of_forecast(
        olds, files.new.features, files.head.outputs, bias=bias, finite=early, cross_entropy=options.cross_entropy
    )
    if options.protect is None:
        return whole
    parts = [of_modes(old, min(options.protect, *old.shape), bias=bias) for old in olds]
    return Estimate(sum(part.seconds for part in (whole, *parts)), max(part.bytes for part in (whole, *parts)))


def _outcome(options: ForecastOptions, files: inputs.Files, stage: Stage) -> Outcome:
    stage("reading")
    tasks = inputs.tasks(files, options)
    settings = settle(options, tasks.new, tasks.head)
    stage("drift and modes")
    try:
        reports = _forecast(tasks, settings, options)
    except TrainingDivergesError as error:
        raise in_typed_units(options, error, settings) from error
    return Outcome(options, files, tasks, settings, reports, _facts(tasks, reports, options))


def _forecast(tasks: inputs.Tasks, settings: Settings, options: ForecastOptions) -> ForgettingReports:
    return forecast(
        tasks.olds,
        tasks.new,
        tasks.head,
        ridge=settings.ridge,
        penalize_bias=settings.penalize_bias,
        weight_decay=settings.weight_decay,
        loss=settings.loss,
        training=settings.training,
        penalty=penalties(options, tasks, settings),
        q=options.modes_share,
        top=options.top,
        tol=settings.tolerance,
    )


def _facts(tasks: inputs.Tasks, reports: ForgettingReports, options: ForecastOptions) -> dict[str, PostMortem] | None:
    if tasks.after is None:
        return None
    return {
        name: post_mortem(report, tasks.olds[name], tasks.head, tasks.after, tol=options.tol)
        for name, report in reports.tasks.items()
    }


def _write(folder: Path, outcome: Outcome, document: str) -> list[Path]:
    """Writes `report.json`, `drift.safetensors` and `page.png`; returns their paths."""
    write_page = need("ntkla.app.pictures.page", "cli").write_page
    tasks = outcome.reports.tasks
    arrays: dict[str, torch.Tensor] = {}
    for name, report in tasks.items():
        arrays |= {f"{name}.drift": report.drift.cpu(), f"{name}.error_bound": report.error_bound.cpu()}
        rows = outcome.tasks.rows[name]
        arrays |= {} if rows is None else {f"{name}.rows": rows.cpu()}
    arrays = {name: array.contiguous() for name, array in arrays.items()}
    title = f"Training on {outcome.files.new.name}: what becomes of {', '.join(tasks)}"
    labels = {name: task.labels for name, task in outcome.tasks.olds.items()}
    return [
        written(folder / "report.json", lambda path: path.write_text(document, encoding="utf-8")),
        written(folder / "drift.safetensors", lambda path: save(arrays, path, {})),
        write_page(
            folder / "page.png",
            tasks,
            outcome.facts,
            title,
            training=training(outcome.settings, outcome.reports.protected),
            labels=labels,
        ),
    ]
