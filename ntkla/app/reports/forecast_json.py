"""The forecast as a JSON document, for programs: what `ntkla forecast --json` prints and `report.json` holds.

Values are written as `strict_json` says.  Rows of samples count those that were used, from 0; with --old-classes,
`rows` says which row of the file each of them is.  Where a field is said to be as in a class of the library, that class
documents it.

    schema        1; grows when a field is removed or changes its meaning, not when one is added
    ntkla         version
    command       "forecast"
    inputs        old: {name: file}, new: file, head: {argument, weight: shape, bias: bool, dtype}, after: as head, or
                  null; a file is {argument, arrays: {role: {path, shape, dtype}}, samples and outputs that were used}
    settings      loss: "squared" | "cross_entropy"; training: {kind: "optimum" | "gradient_descent" |
                  "gradient_flow", and its fields}, in the units of the summed loss, as are ridge (absolute) and
                  weight_decay; mean_eigenvalue of the new task's normal matrix; penalize_bias, tolerance, modes_share,
                  top, device; training_in_words; protected: a list as ForgettingReports.protected
    status        {code, message, certified}: the first task's that is not certified, else that of the first
    seconds       wall time of each part
    tasks         a list, in the order of the command line; each:
        name, samples, rows (null: all), outputs (numbers of the head's outputs), status, seconds, route
        drift                   {rms, largest, bound_largest, relative_bound}
        accuracy_before, accuracy_forecast      null without labels
        flips                   {low, high, certain: [rows], undecided: [rows]}
        r_50, r_90, k_G, k_star
        modes                   {values, value_error, energy, energy_error: one a mode; clusters: [[start, stop]];
                                tail, tail_error, total, total_error: energies}
        classes                 as ForgettingReport.classes, or null without labels
        largest_drifts          as ForgettingReport.samples
    post_mortem   null, or {name: as PostMortem, without its arrays}
"""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from ntkla import __version__
from ntkla.app.reports.inputs_json import file_entry, head_entry, training_entry
from ntkla.app.reports.outcome import Outcome
from ntkla.app.reports.strict_json import plain
from ntkla.forgetting.reports.post_mortem_result import PostMortem
from ntkla.forgetting.reports.predictions import Flips
from ntkla.forgetting.reports.report import ForgettingReport

SCHEMA = 1
_NOT_IN_A_POST_MORTEM = ("drift", "error_bound", "after", "decomposition", "flips")


def document(outcome: Outcome) -> dict[str, Any]:
    """The whole document as plain Python values that `strict_json.text` can write."""
    options, files, tasks, reports = outcome.options, outcome.files, outcome.tasks, outcome.reports
    settings, facts = outcome.settings, outcome.facts
    return {
        "schema": SCHEMA,
        "ntkla": __version__,
        "command": "forecast",
        "inputs": {
            "old": {name: file_entry(file, tasks.olds[name], files.head) for name, file in files.olds.items()},
            "new": file_entry(files.new, tasks.new, files.head),
            "head": head_entry(options.head, files.head),
            "after": None if files.after is None else head_entry(str(options.after), files.after),
        },
        "settings": {
            "training": training_entry(settings.training),
            "training_in_words": reports.training,
            "loss": settings.loss,
            "ridge": settings.ridge,
            "weight_decay": settings.weight_decay,
            "mean_eigenvalue": settings.mean_eigenvalue,
            "penalize_bias": settings.penalize_bias,
            "tolerance": settings.tolerance,
            "modes_share": options.modes_share,
            "top": options.top,
            "device": options.device,
            "protected": plain(reports.protected),
        },
        "status": plain(reports.status),
        "seconds": plain(reports.seconds),
        "tasks": [
            {"name": name, "rows": plain(tasks.rows[name]), **_task(report)} for name, report in reports.tasks.items()
        ],
        "post_mortem": None if facts is None else {name: _fact(fact) for name, fact in facts.items()},
    }


def _task(report: ForgettingReport) -> dict[str, Any]:
    parts, found = report.decomposition, report.forgetting
    return {
        "samples": report.drift.shape[0],
        "outputs": plain(report.outputs),
        "status": plain(report.status),
        "seconds": plain(report.seconds),
        "route": found.route,
        "drift": {
            "rms": report.drift_rms,
            "largest": float(report.drift.abs().max()),
            "bound_largest": plain(float(report.error_bound.max())),
            "relative_bound": plain(found.relative_bound),
        },
        "accuracy_before": plain(report.accuracy_before),
        "accuracy_forecast": plain(report.accuracy_forecast),
        "flips": _flips(report.flips),
        **{name: plain(getattr(report, name)) for name in ("r_50", "r_90", "k_G", "k_star")},
        "modes": {
            "values": plain(report.modes.values),
            "value_error": plain(report.modes.value_error),
            "energy": plain(parts.energy),
            "energy_error": plain(parts.energy_error),
            "clusters": [[cluster.start, cluster.stop] for cluster in parts.clusters],
            **{name: plain(getattr(parts, name)) for name in ("tail", "tail_error", "total", "total_error")},
        },
        "classes": plain(report.classes),
        "largest_drifts": plain(report.samples),
    }


def _flips(flips: Flips) -> dict[str, Any]:
    rows = {"certain": flips.certain, "undecided": flips.undecided}
    return {**plain(flips.count), **{name: plain(which.nonzero().flatten()) for name, which in rows.items()}}


def _fact(fact: PostMortem) -> dict[str, Any]:
    kept = {field.name: plain(getattr(fact, field.name)) for field in fields(fact) if _is_kept(field.name)}
    return {
        **kept,
        "flips": _flips(fact.flips),
        "energy": plain(fact.decomposition.energy),
        "energy_error": plain(fact.decomposition.energy_error),
    }


def _is_kept(name: str) -> bool:
    return name not in _NOT_IN_A_POST_MORTEM
