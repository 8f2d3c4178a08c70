"""The plan as a JSON document, for programs: what `ntkla plan --json` prints and `plan.json` holds.

Values are written as `strict_json` says; points and outcomes as `ntkla.forgetting.planning` documents them.

    schema        1; grows when a field is removed or changes its meaning, not when one is added
    ntkla         version
    command       "plan"
    inputs        old: {name: file}, new: file, head, each as in a forecast's document; old_test, new_test: as typed
    settings      ridges, strengths (null: weights were typed), weights, modes, steps (null: the optimum), lr, momentum,
                  nesterov, penalize_bias, loss, tolerance, probes (how many of each old task, null: all), in the units
                  of the summed loss; mean_eigenvalue of the new task's normal matrix; device
    plan          {points: [PlanPoint], pareto: [numbers of points], unit, before, joint, tolerance, seconds}
    choice        {point: its number, forgotten, unit, max_forgetting, on, status}
"""

from __future__ import annotations

from typing import Any

from ntkla import __version__
from ntkla.app.reports.inputs_json import file_entry, head_entry
from ntkla.app.reports.plan_outcome import PlanOutcome
from ntkla.app.reports.strict_json import plain

SCHEMA = 1
_SETTINGS = (
    *("ridges", "strengths", "weights", "modes", "steps", "lr", "momentum", "nesterov", "penalize_bias", "loss"),
    *("tolerance", "mean_eigenvalue"),
)


def document(outcome: PlanOutcome) -> dict[str, Any]:
    """The whole document as plain Python values that `strict_json.text` can write."""
    options, files, tasks, choice = outcome.options, outcome.files, outcome.tasks, outcome.choice
    return {
        "schema": SCHEMA,
        "ntkla": __version__,
        "command": "plan",
        "inputs": {
            "old": {name: file_entry(file, tasks.olds[name], files.head) for name, file in files.olds.items()},
            "new": file_entry(files.new, tasks.new, files.head),
            "old_test": options.old_test,
            "new_test": options.new_test,
            "head": head_entry(options.head, files.head),
        },
        "settings": {
            **{name: plain(getattr(outcome.settings, name)) for name in _SETTINGS},
            "probes": options.probes,
            "device": options.device,
        },
        "plan": plain(outcome.plan.to_dict()),
        "choice": {
            "point": choice.point.number,
            **{name: plain(getattr(choice, name)) for name in ("forgotten", "unit", "max_forgetting", "on", "status")},
        },
    }
