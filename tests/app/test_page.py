"""What is written on the page is what the report says."""

from __future__ import annotations

import math

import matplotlib
import pytest
import torch

import ntkla
from ntkla.app.pictures import canvas, page
from ntkla.app.pictures.axes import interval
from ntkla.app.pictures.page import write_modes_picture
from tests.app.page_cases import CASES, TRAINING, Case, made


class Drawn:
    """The figure that was saved: all that is written on it, and its marks."""

    def __init__(self, figure) -> None:
        self.figure = figure

    def texts(self) -> list[str]:
        found = self.figure.findobj(matplotlib.text.Text)
        return [text.get_text() for text in found if text.get_visible() and text.get_text()]

    def says(self, wanted: str) -> bool:
        return any(wanted in " ".join(text.split()) for text in self.texts())

    def marks(self) -> int:
        """Of the panel that has most: points of lines that are drawn as marks."""
        return max(
            sum(len(line.get_xdata()) for axis in part.axes for line in axis.lines if line.get_linestyle() == "None")
            for part in self.figure.subfigs
        )


@pytest.fixture
def drawn(monkeypatch, tmp_path):
    """Draws a case and gives what was saved."""

    def draw(case: Case, *, fact: bool, title: str = "") -> Drawn:
        saved = []
        monkeypatch.setattr(canvas, "save", lambda figure, path, dots: saved.append(figure) or path)
        case.write(tmp_path / "page.png", fact=fact, title=title)
        return Drawn(saved[0])

    return draw


@pytest.mark.parametrize("fact", [True, False])
def test_the_page_states_the_true_numbers(drawn, fact):
    case = made(names=("first", "second"))
    figure = drawn(case, fact=fact, title="a title")
    focus = max(case.reports, key=lambda name: float(case.reports[name].drift.square().mean()))
    report = case.reports[focus]
    assert figure.says("a title")
    assert figure.says("eigenvalues of $G_{AA}$, share of the trace")
    assert figure.says(f"$r_{{50}}$ = {int(report.r_50.low)}")
    assert figure.says(f"$r_{{90}}$ = {int(report.r_90.low)}")
    assert figure.says(f"$k_G$ = {int(report.k_G.low)} at 90 %")
    assert figure.says(f"within {float(report.error_bound.max()):.1e} of the exact one")
    assert figure.says(f"(a), (b): {focus}, which drifts most of 2 old tasks")
    assert figure.says(TRAINING)
    for name, each in case.reports.items():
        numbers = f"{float(each.accuracy_before):.3f} \N{RIGHTWARDS ARROW} {float(each.accuracy_forecast):.3f}"
        assert figure.says(numbers + (f" ({float(case.facts[name].accuracy_after):.3f})" if fact else ""))
        assert figure.says(name)
        assert all(figure.says(f"{name}: {c.label}") for c in each.classes)
    if fact:
        assert figure.says(f"{case.facts[focus].beyond_bounds} of {report.drift.numel()} beyond both bounds")
        assert figure.says("differ by exactly 0)")
    else:
        assert figure.says("Below 0: another class has overtaken it.")
        assert figure.says(f"certainly changes: {int(report.flips.certain.sum())}")
        assert figure.says(f"class stays: {int(report.flips.impossible.sum())}")


def test_what_is_undecided_is_an_interval(drawn):
    case = made(**CASES["wide bounds"])
    report = case.reports["old"]
    assert not report.accuracy_forecast.decided
    assert report.r_90.low != report.r_90.high
    figure = drawn(case, fact=False)
    assert figure.says(interval(report.accuracy_forecast))
    assert figure.says(f"$r_{{90}}$: {int(report.r_90.low)} to {int(report.r_90.high)}")
    assert figure.says("proved to lie here")
    assert figure.says(f"undecided: {int(report.flips.undecided.sum())}")


def test_what_has_no_bound_says_so(drawn):
    case = made(**CASES["no bounds"])
    assert drawn(case, fact=False).says("Some entries of the drift have no proven bound")
    figure = drawn(case, fact=True)
    assert figure.says("drift, no bound")
    assert figure.says("forecast and fact are equal; no limit is proved")
    other = made(n=6, uncertainty=math.inf, scale=3.0)
    assert not torch.equal(other.facts["old"].drift, other.reports["old"].drift)
    assert drawn(other, fact=True).says("proven limit (none for 6)")


def test_the_classes_that_lose_most_come_first(drawn):
    case = made(classes=30, n=300, features=12)
    classes = case.reports["old"].classes
    assert drawn(case, fact=False).says(f"the 20 most forgotten of {len(classes)}")
    lost = {c.label: float(c.accuracy_before) - float(c.accuracy_after) for c in classes}
    lines = page.page_classes.class_lines(case.reports, {})
    shown = [lost[int(line.name)] for line in lines]
    assert shown == sorted(lost.values(), reverse=True)
    assert shown[0] > shown[-1]


def test_without_labels_the_page_counts_classes_that_stay(drawn):
    case = made(labelled=False)
    report = case.reports["old"]
    figure = drawn(case, fact=False)
    assert figure.says("Predicted classes that stay")
    assert figure.says(f"{1 - int(report.flips.count) / len(report.drift):.3f}")
    assert figure.says("How far samples drift")


@pytest.mark.parametrize("fact", [True, False])
def test_of_many_samples_some_are_drawn_and_the_page_says_so(drawn, fact):
    case = made(**CASES["many samples"])
    figure = drawn(case, fact=fact)
    # Difference and limit are drawn at the same places, and forecast against fact once more.
    assert 1000 <= figure.marks() <= 3 * page.page_samples.MARKS
    flips = int(case.reports["old"].flips.certain.sum())
    assert figure.says("1,500 of 100,000 samples" if fact else f"{flips:,} (400 drawn)")


def test_the_modes_picture_counts_directions(monkeypatch, tmp_path):
    saved = []
    monkeypatch.setattr(canvas, "save", lambda figure, path, dots: saved.append(figure) or path)
    features = torch.randn((9, 5), generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    modes = ntkla.eigenmodes(features, 3)
    write_modes_picture(tmp_path / "modes.png", modes, 7)
    for q in (0.5, 0.9, 0.99):
        rank = ntkla.effective_rank(modes, q=q)
        assert Drawn(saved[0]).says(f"$k_G$ = {rank.value} at {100 * q:g} %, $k^*$ = {7 * rank.value}")
    assert Drawn(saved[0]).says("the 3 asked for")


def test_the_modes_picture_shows_what_is_not_known_as_a_band(monkeypatch, tmp_path):
    saved = []
    monkeypatch.setattr(canvas, "save", lambda figure, path, dots: saved.append(figure) or path)
    draw = torch.Generator().manual_seed(3)
    features = torch.randn((60, 50), generator=draw, dtype=torch.float64) * 0.98 ** torch.arange(50)
    whole = ntkla.eigenmodes(features, 50, route="full")
    for prove in ("trace", "inertia"):
        modes = ntkla.eigenmodes(features, 3, route="lanczos", block_size=4, prove=prove)
        assert bool(modes.complete) == (prove == "inertia")
        write_modes_picture(tmp_path / "modes.png", modes)
        figure = Drawn(saved[-1])
        rank = ntkla.effective_rank(modes)
        assert rank.low < rank.high
        assert figure.says(f"$k_G$: {rank.low:,} to {rank.high:,} at 90 %")
        assert figure.says("proved to lie here")
        upper, lower = figure.figure.axes
        truth = whole.values, whole.values.cumsum(0) / whole.spectrum.trace
        for axis, values in zip((upper, lower), truth, strict=True):
            (band,) = axis.collections
            corners = band.get_paths()[0].vertices
            for place, value in enumerate(values.tolist(), start=1):
                ends = corners[corners[:, 0] == place, 1]
                # What is below the axis is drawn at its edge; the curve's own width covers its rounding.
                shown = min(max(value, axis.get_ylim()[0]), axis.get_ylim()[1])
                assert ends.min() <= shown * (1 + page.page_spectrum.VISIBLE)
                assert shown <= ends.max() * (1 + page.page_spectrum.VISIBLE)


def test_the_modes_picture_without_a_trace_says_so(monkeypatch, tmp_path):
    saved = []
    monkeypatch.setattr(canvas, "save", lambda figure, path, dots: saved.append(figure) or path)
    values = torch.linspace(2.0, 1.0, 40, dtype=torch.float64)[:, None]
    operator = ntkla.FunctionOperator(lambda v: values * v, (40, 40), torch.float64, "cpu", psd=True)
    write_modes_picture(tmp_path / "modes.png", ntkla.eigenmodes(operator, 1, block_size=1))
    assert Drawn(saved[0]).says("the trace is not known")
    assert Drawn(saved[0]).says("proved to lie here")
