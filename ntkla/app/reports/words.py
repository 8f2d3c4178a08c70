"""Numbers and findings in words for people: percent with three digits, and the sentences that answer the question."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

import torch

from ntkla.app.command_line.settings import Settings
from ntkla.forgetting.descent.training import GradientFlow, Training
from ntkla.forgetting.heads import LinearHead
from ntkla.forgetting.penalties.protection import ProtectedModes
from ntkla.forgetting.reports.report import ForgettingReport
from ntkla.forgetting.spectrum.ranks import Rank
from ntkla.forgetting.tasks import Task
from ntkla.linalg.decisions import Decision


def percent(share: Decision | None, unit: str = "") -> str:
    """A share in percent, as an interval when it is open: `97.0`, `40.0-42.0`; a dash for none."""
    if share is None:
        return "-"
    ends = [f"{100 * end:.1f}" for end in (share.low, share.high)]
    return (ends[0] if share.decided else "-".join(ends)) + unit


def count(number: Decision | Rank) -> str:
    """A count, as an interval when it is open: `12`, `11-13`."""
    return f"{number.low:.0f}" if number.low == number.high else f"{number.low:.0f}-{number.high:.0f}"


def opening(name: str, new: Task, head: LinearHead) -> str:
    """What is trained on what, so that a forgotten bias, or an output that was not meant to be trained, is seen."""
    samples, features = new.features.shape
    used = head.outputs if new.outputs is None else new.outputs.shape[0]
    outputs = f"all {used} outputs" if used == head.outputs else f"{used} of {head.outputs} outputs"
    bias = "a bias" if head.bias is not None else "no bias"
    return (
        f"Training on {name}: {samples} samples, {_labels(new)}, {outputs} trained; a head with {bias}, "
        f"{features} features."
    )


def _labels(task: Task) -> str:
    if task.labels is None:
        return "targets and no labels"
    low, high = (int(label) for label in torch.aminmax(task.labels))
    return f"label {low}" if low == high else f"labels {low} to {high}"


def training(settings: Settings, protected: Sequence[ProtectedModes] = ()) -> str:
    """How the head is trained: numbers as typed and, where that is another loss, those of half the sum as well."""
    how, halves, squared = way(settings.training), settings.halves, settings.loss == "squared"
    how = how if squared else f"cross-entropy, {how}"
    # Of each number its name, as it was typed, what to add to it, and as half the sum has it.
    numbers = [(name, value * halves, "", value) for name, value in _rate(settings.training)]
    if settings.ridge > 0 or settings.training is None:
        unit = settings.mean_eigenvalue
        strength = f" ({settings.ridge / unit:.3g} mean eigenvalues)" if unit > 0 else ""
        numbers.append(("ridge", settings.ridge / halves, strength, settings.ridge))
    if settings.weight_decay > 0:
        numbers.append(("weight decay", settings.weight_decay / halves, "", settings.weight_decay))
    for (modes, weight), names in _alike(protected).items():
        numbers.append(("penalty weight", weight / halves, f" ({modes} modes of {_and(names)})", weight))
    typed = [f"{name} {number:.6g}{more}" for name, number, more, _ in numbers]
    if halves == 1:
        return ", ".join([how, *typed])
    used = [f"{number:.4g}" for *_, number in numbers]
    return f"{how}, {_and(typed)} of the mean loss ({_and(used)} of {'half the sum' if squared else 'the sum'})"


def _alike(protected: Sequence[ProtectedModes]) -> dict[tuple[int, float], list[str]]:
    """The names of the tasks that so many modes of are protected with such a weight."""
    found: dict[tuple[int, float], list[str]] = {}
    for one in protected:
        found.setdefault((one.modes, one.weight), []).append(one.name)
    return found


def _rate(chosen: Training | None) -> list[tuple[str, float]]:
    if chosen is None:
        return []
    return [("time", chosen.time) if isinstance(chosen, GradientFlow) else ("learning rate", chosen.lr)]


def way(chosen: Training | None) -> str:
    """Where training goes: the optimum, or so many steps."""
    if chosen is None:
        return "to the optimum"
    if isinstance(chosen, GradientFlow):
        return "gradient flow"
    steps = "one full-batch step" if chosen.steps == 1 else f"{chosen.steps} full-batch steps"
    # Not rounded: 0.99999 is not 1.
    momentum = f", {'Nesterov ' if chosen.nesterov else ''}momentum {chosen.momentum!r}" if chosen.momentum else ""
    return f"{steps} of SGD{momentum}"


def _and(parts: list[str]) -> str:
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)


def answer(report: ForgettingReport, old: str, new: str) -> str:
    """What a person asked: what training on `new` would do to `old`, in a few sentences."""
    return " ".join([_outcome(report, old, new), _directions(report), _proof(report)])


def _outcome(report: ForgettingReport, old: str, new: str) -> str:
    samples, outputs = report.drift.shape
    drift = f"by {report.drift_rms:.3g} (root mean square)"
    if outputs == 1:
        return f"Training on {new} would change the predictions on {old} {drift}."
    certain, open_ = int(report.flips.certain.sum()), int(report.flips.undecided.sum())
    flips = f"{certain} of {samples} predicted classes certainly change"
    flips += f" and {open_} more may" if open_ else ""
    if report.accuracy_before is None or report.accuracy_forecast is None:
        return f"Training on {new} would change the predictions on {old} {drift}: {flips}."
    before, after = percent(report.accuracy_before, " %"), percent(report.accuracy_forecast, " %")
    if before == after:
        return f"Training on {new} would leave the accuracy on {old} at {after}: {flips}."
    return f"Training on {new} would take the accuracy on {old} from {before} to {after}: {flips}."


def _directions(report: ForgettingReport) -> str:
    if report.r_90.high == 0:
        return "Nothing drifts."
    few, most, everything = count(report.r_50), count(report.r_90), report.modes.values.shape[0]
    features = report.forgetting.head_update.shape[1]
    both = f" ({features} features and the bias)" if everything > features else ""
    return f"Of its {everything} feature directions{both}, half of the drift lies in {few}, and 90 % of it in {most}."


def _proof(report: ForgettingReport) -> str:
    bound = float(report.error_bound.max())
    if bound == 0:
        return "Proved: the numbers of the drift are exact."
    proved = f"Proved: each number of the drift is within {bound:.1e} (absolute) of the exact one."
    if report.status.certified:
        return proved
    # A bound that misses the tolerance is proved all the same.
    return (f"{proved} " if math.isfinite(bound) else "") + f"Not certified ({report.status})"


def as_options(text: str) -> str:
    """A sentence of the library with its arguments written as the options of the command."""
    return re.sub(r"\b(prove|route)='(\w+)'", r"--\1 \2", text).replace("block_size", "--block-size")
