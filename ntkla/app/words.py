"""Numbers and findings in words for people: percent with three digits, and the sentences that answer the question."""

from __future__ import annotations

from ntkla.app.settings import Settings
from ntkla.forgetting.ranks import Rank
from ntkla.forgetting.report import ForgettingReport
from ntkla.forgetting.training import GradientFlow, Training
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


def training(settings: Settings) -> str:
    """How the head is trained, in the units of the summed loss."""
    said = [_way(settings.training)]
    if settings.ridge > 0 or settings.training is None:
        unit = settings.mean_eigenvalue
        strength = f" ({settings.ridge / unit:.3g} mean eigenvalues)" if unit > 0 else ""
        said.append(f"ridge {settings.ridge:.4g}{strength}")
    if settings.weight_decay > 0:
        said.append(f"weight decay {settings.weight_decay:.4g}")
    return ", ".join(said)


def _way(chosen: Training | None) -> str:
    if chosen is None:
        return "to the optimum"
    if isinstance(chosen, GradientFlow):
        return f"gradient flow for a time of {chosen.time:.4g}"
    steps = "one full-batch step" if chosen.steps == 1 else f"{chosen.steps} full-batch steps"
    momentum = f", {'Nesterov ' if chosen.nesterov else ''}momentum {chosen.momentum:.4g}" if chosen.momentum else ""
    return f"{steps} of SGD, learning rate {chosen.lr:.4g}{momentum}"


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
    return f"Of its {everything} feature directions, half of the drift lies in {few}, and 90 % of it in {most}."


def _proof(report: ForgettingReport) -> str:
    bound = float(report.error_bound.max())
    if bound == 0:
        return "Proved: the numbers of the drift are exact."
    if report.status.certified:
        return f"Proved: each number of the drift is within {bound:.1e} of the exact one."
    return f"Not certified ({report.status})"
