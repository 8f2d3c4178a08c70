"""The forecast as tables for a terminal, at most 100 columns wide."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from rich.console import Console, Group
from rich.text import Text

from ntkla.app.command_line.notation import FIT
from ntkla.app.reports.outcome import Outcome
from ntkla.app.reports.screen import shortened, table, titled
from ntkla.app.reports.words import answer, count, opening, percent, training
from ntkla.forgetting.reports.classes import ClassForgetting
from ntkla.forgetting.reports.post_mortem_result import PostMortem
from ntkla.forgetting.reports.report import ForgettingReport
from ntkla.forgetting.reports.samples import SampleDrift

_MOST_CLASSES = 20
_WHERE = (
    "mode: the one that most of the sample's drift lies in; size there: how long that part is, in % of the drift's "
    "length (modes are not at right angles within one sample, so it may be above 100)"
)
_VERDICTS = (
    "as forecast: all within the proved bounds; close: within the rounding of the head's type; different: the head was "
    "not trained as stated: check the loss (cross-entropy?), mini-batches, the learning rate, --mean-loss"
)


def show(console: Console, outcome: Outcome) -> None:
    """Prints the tables and, after them, the answer in words; the console is at most 100 columns wide."""
    reports, new = outcome.reports.tasks, outcome.files.new.name
    if outcome.options.head == FIT:
        fitted = ", ".join(reports)
        console.print(f"The head was fitted to {fitted}: its accuracy before is on samples it has seen.", markup=False)
    console.print(opening(new, outcome.tasks.new, outcome.tasks.head), markup=False)
    console.print(f"How: {training(outcome.settings, outcome.reports.protected)}.\n", markup=False)
    console.print(_overview(reports))
    share = 100 * outcome.options.modes_share
    console.print(
        "open: the bounds leave it undecided; r50, r90: modes that hold 50, 90 % of the drift; "
        f"k_G: modes that hold {share:g} % of the kernel"
    )
    for name, report in reports.items():
        if report.classes:
            console.print("", _classes(name, report.classes))
        if report.samples:
            console.print("", _samples(name, report.samples, outcome.tasks.rows[name]), _WHERE)
    if outcome.facts is not None:
        console.print("", _post_mortems(outcome.facts), _VERDICTS)
        console.print("", _inside(outcome.facts))
    for name, report in reports.items():
        console.print(f"\n{answer(report, name, new)}", markup=False)


def _overview(reports: Mapping[str, ForgettingReport]) -> Group:
    columns = ("samples", "accuracy %", "classes\nchange", "\nopen", "rms\ndrift", "proven\nbound", "\nr50", "\nr90")
    made = table("task", *columns, "\nk_G")
    for name, report in reports.items():
        accuracy = f"{percent(report.accuracy_before)} -> {percent(report.accuracy_forecast)}"
        made.add_row(
            _cell(name),
            str(report.drift.shape[0]),
            "-" if report.accuracy_before is None else accuracy,
            *(str(int(which.sum())) for which in (report.flips.certain, report.flips.undecided)),
            f"{report.drift_rms:.3g}",
            f"{float(report.error_bound.max()):.1e}",
            *(count(rank) for rank in (report.r_50, report.r_90, report.k_G)),
        )
    return titled("Old tasks", made)


def _classes(name: str, classes: tuple[ClassForgetting, ...]) -> Group:
    worst = sorted(classes, key=_loss, reverse=True)[:_MOST_CLASSES]
    title = f"Classes of {shortened(name)}, the most forgotten first"
    title += f" ({_MOST_CLASSES} of {len(classes)})" if len(classes) > _MOST_CLASSES else ""
    made = table("class", "samples", "accuracy %", "changes", "rms drift", left=0)
    for one in worst:
        accuracy = f"{percent(one.accuracy_before)} -> {percent(one.accuracy_after)}"
        made.add_row(str(one.label), str(one.samples), accuracy, count(one.flips), f"{one.drift_rms:.3g}")
    return titled(title, made)


def _loss(one: ClassForgetting) -> tuple[float, float]:
    """Accuracy that is lost, by the middle of each interval; then the drift."""
    before, after = one.accuracy_before, one.accuracy_after
    return (before.low + before.high - after.low - after.high, one.drift_rms)


def _samples(name: str, samples: tuple[SampleDrift, ...], rows: torch.Tensor | None) -> Group:
    title = f"Samples of {shortened(name)} that drift most"
    made = table("row", "label", "class", "drift", "changes", "mode", "size there", left=0)
    for one in samples:
        made.add_row(
            str(one.index if rows is None else int(rows[one.index])),
            "-" if one.label is None else str(one.label),
            f"{_possible(one.classes_before)} -> {_possible(one.classes_after)}",
            f"{one.norm:.3g}",
            {"certain": "yes", "impossible": "no"}.get(one.flip, "open"),
            *_home(one),
        )
    return titled(title, made)


def _possible(classes: tuple[int, ...]) -> str:
    return str(classes[0]) if len(classes) == 1 else f"one of {len(classes)}"


def _home(one: SampleDrift) -> tuple[str, str]:
    """The mode, and the size of the drift in it; what does not drift has none."""
    if one.modes is None:
        return "-" if one.norm == 0 else "open", "-"
    return _modes(*one.modes), f"{100 * one.share_low:.1f} %"


def _modes(start: int, stop: int) -> str:
    return str(start + 1) if stop == start + 1 else f"{start + 1}-{stop}"


def _post_mortems(facts: Mapping[str, PostMortem]) -> Group:
    columns = ("accuracy %\nforecast", "\nfact", "changes\nforecast", "\nfact", "cosine of\nthe drifts")
    made = table("task", *columns, "relative\ndifference", "training,\nas a whole")
    for name, fact in facts.items():
        made.add_row(
            _cell(name),
            *(percent(share) for share in (fact.accuracy_forecast, fact.accuracy_after)),
            *(count(number) for number in (fact.flips_forecast, fact.flips.count)),
            "-" if fact.cosine is None else f"{fact.cosine:.6f}",
            f"{fact.relative_difference:.1e}",
            fact.verdict.replace("_", " "),
        )
    return titled("What the training really did", made)


def _inside(facts: Mapping[str, PostMortem]) -> Group:
    columns = ("modes", "forecast %\ninside", "\noutside", "fact %\ninside", "\noutside")
    made = table("task", *columns)
    for name, fact in facts.items():
        pairs = (fact.inside_forecast, fact.outside_forecast), (fact.inside_fact, fact.outside_fact)
        made.add_row(_cell(name), str(fact.top_modes), *(cell for pair in pairs for cell in _shares(*pair)))
    return titled("Energy of the drift inside and outside the modes that carry 90 % of the forecast", made)


def _shares(inside: float, outside: float) -> tuple[str, str]:
    total = inside + outside
    return (f"{100 * inside / total:.2f}", f"{100 * outside / total:.2f}") if total > 0 else ("-", "-")


def _cell(name: str) -> Text:
    return Text(shortened(name))
