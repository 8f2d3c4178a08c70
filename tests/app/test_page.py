"""The page: hostile cases are drawn without a warning, what is written on it is what the report says."""

from __future__ import annotations

import dataclasses
import math
import struct
import warnings
from itertools import combinations
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import torch

import ntkla
from ntkla.app import canvas, page
from ntkla.app.axes import evenly, evenly_in_logarithm, interval, plain, power_of_ten
from ntkla.app.failures import OutputError
from ntkla.app.page import write_modes_picture, write_page
from ntkla.forgetting.classes import per_class
from ntkla.forgetting.predictions import Flips
from ntkla.forgetting.report import ForgettingReport
from ntkla.forgetting.tasks import positions
from ntkla.linalg.decisions import Decision

DOTS = 200
# The box of a text has air around its letters: this many pixels of two boxes may be shared.
SLACK = 4
# As long as it gets, and digits are the widest letters.
TRAINING = (
    "100000 full-batch steps of SGD, Nesterov momentum 0.987654321, learning rate 0.0123457, ridge 123.457 "
    "(0.000123 mean eigenvalues) and weight decay 0.00123457 of the mean loss (8.333e-06, 1.234e+05 and 2.4 of half "
    "the sum)"
)
PNG = b"\x89PNG\r\n\x1a\n"


@dataclasses.dataclass(frozen=True)
class Case:
    """A forecast and its post-mortem for the head that it forecasts."""

    reports: dict[str, ForgettingReport]
    facts: dict[str, ntkla.PostMortem]
    labels: dict[str, torch.Tensor | None]

    def write(self, path: Path, *, fact: bool, title: str = "") -> Path:
        return write_page(
            path, self.reports, self.facts if fact else None, title, training=TRAINING, labels=self.labels
        )


def made(
    n: int = 24,
    features: int = 6,
    classes: int = 4,
    *,
    names: tuple[str, ...] = ("old",),
    labelled: bool = True,
    scale: float = 1.0,
    ridge: float = 1.0,
    outputs: list[int] | None = None,
    old: torch.Tensor | None = None,
    still: bool = False,
    uncertainty: float | None = None,
) -> Case:
    generator = torch.Generator().manual_seed(17)

    def noise(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    head = ntkla.LinearHead(noise(classes, features) * scale)
    inputs = noise(max(classes, 9), features)
    targets = inputs @ head.weight.T if still else noise(len(inputs), classes) * scale
    new = ntkla.Task(inputs * (0.0 if still else 1.0), targets * (0.0 if still else 1.0))
    used = list(range(classes)) if outputs is None else outputs
    labels = torch.tensor(used)[torch.arange(n) % len(used)] if labelled else None
    tasks = {
        name: ntkla.Task(noise(n, features) if old is None else old, labels=labels, outputs=outputs) for name in names
    }
    reports = ntkla.forecast(tasks, new, head, ridge=ridge).tasks
    after = ntkla.LinearHead(head.weight + next(iter(reports.values())).forgetting.head_update)
    if uncertainty is not None:
        reports = {name: less_certain(report, labels, uncertainty) for name, report in reports.items()}
    facts = {name: ntkla.post_mortem(report, tasks[name], head, after) for name, report in reports.items()}
    return Case(reports, facts, dict.fromkeys(names, labels))


def less_certain(report: ForgettingReport, labels: torch.Tensor, bound: float) -> ForgettingReport:
    """The same drift, known less exactly."""
    wide = torch.full_like(report.error_bound, bound)
    after = report.before.moved(report.drift, wide)
    places = positions(labels, report.outputs)
    parts = ntkla.decompose(report.drift, report.modes.eigenmodes(), error_bound=wide)
    return dataclasses.replace(
        report,
        error_bound=wide,
        after=after,
        flips=Flips.between(report.before, after),
        decomposition=parts,
        r_50=parts.rank(0.5),
        r_90=parts.rank(0.9),
        accuracy_forecast=after.accuracy(places),
        classes=per_class(report.before, after, places, report.outputs, report.drift, wide),
    )


CASES = {
    "usual": {},
    "no labels": {"labelled": False},
    "one sample": {"n": 1},
    "one mode": {"features": 1},
    "one output": {"classes": 1, "labelled": False},
    "two classes": {"classes": 2},
    "nothing drifts": {"still": True},
    "nothing drifts, no labels": {"still": True, "labelled": False},
    "all features are zero": {"old": torch.zeros((5, 6), dtype=torch.float64), "n": 5},
    "one cluster": {"old": torch.eye(6, dtype=torch.float64), "n": 6},
    "ties": {"old": torch.ones((5, 6), dtype=torch.float64), "n": 5},
    "wide bounds": {"uncertainty": 0.2, "n": 6, "old": torch.eye(6, dtype=torch.float64)},
    "no bounds": {"uncertainty": math.inf, "n": 6, "old": torch.eye(6, dtype=torch.float64)},
    "minimum norm": {"ridge": 0.0},
    "ten tasks": {"names": tuple(f"a rather long name of the old task {i}" for i in range(10))},
    "strange names": {"names": ("a$b$", "x_1^2 \N{CJK UNIFIED IDEOGRAPH-4E2D}", "line\nbreak \\frac{", "")},
    "one head of several": {"classes": 6, "outputs": [5, 1]},
    "a thousand classes": {"classes": 1000, "n": 1500, "features": 4},
    "many samples": {"n": 100_000, "features": 3},
    "very small": {"scale": 1e-70},
    "very large": {"scale": 1e60},
}


# Drawn in every run; a page takes a second of processor time, and all of them twice only when slow tests are asked for.
ALWAYS = (
    ("one sample", False),
    ("one mode", True),
    ("one output", False),
    ("nothing drifts", True),
    ("nothing drifts, no labels", False),
    ("all features are zero", True),
    ("one cluster", False),
    ("wide bounds", False),
    ("no bounds", True),
    ("ten tasks", True),
    ("strange names", False),
    ("very small", True),
)


def size_of_picture(path: Path) -> tuple[int, int]:
    content = path.read_bytes()
    assert content.startswith(PNG)
    width, height = struct.unpack(">II", content[16:24])
    return width, height


@pytest.fixture
def figures(monkeypatch):
    """Every figure that is saved, after it is."""
    kept = []
    save = canvas.save
    monkeypatch.setattr(canvas, "save", lambda figure, path, dots: kept.append(figure) or save(figure, path, dots))
    return kept


@pytest.mark.parametrize(
    ("name", "fact"),
    [
        pytest.param(name, fact, marks=[] if (name, fact) in ALWAYS else [pytest.mark.slow])
        for name in CASES
        for fact in (True, False)
    ],
)
def test_every_case_is_drawn_readably_and_without_a_warning(name, fact, tmp_path, figures):
    case = made(**CASES[name])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        written = case.write(tmp_path / "page.png", fact=fact, title=f"{name} $, " * 20)
    width, height = size_of_picture(written)
    assert width == round(7.2 * DOTS)
    # A page: higher than wide at most by half.
    assert 0.8 * width < height < 1.5 * width
    assert list(tmp_path.iterdir()) == [written]
    assert flaws(figures[0]) == []


@pytest.mark.parametrize("name", ["one sample", "one cluster", "all features are zero", "wide bounds"])
def test_the_spectrum_is_drawn_readably_and_without_a_warning(name, tmp_path, figures):
    modes = made(**CASES[name]).reports["old"].modes
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        written = write_modes_picture(tmp_path / "modes.png", modes, 1000)
    assert size_of_picture(written) == (round(4.6 * DOTS), round(4.6 * DOTS))
    assert flaws(figures[0]) == []


def flaws(figure) -> list[str]:
    """Texts that are cut off at the figure's edge, lie on another one, or are smaller than 8 points."""
    figure.set_dpi(DOTS)  # as when it was saved: the legends stand where they stood then
    boxes = [(text.get_text(), text.get_window_extent()) for text in written_texts(figure)]
    found = [f"{text.get_text()!r} is small" for text in written_texts(figure) if text.get_fontsize() < 8]
    found += [f"{text!r} is cut off" for text, box in boxes if not holds(figure.bbox, box)]
    return found + [
        f"{one!r} lies on {other!r}" for (one, a), (other, b) in combinations(boxes, 2) if overlap(a, b) > SLACK
    ]


def test_planted_flaws_are_found(tmp_path, figures):
    made().write(tmp_path / "page.png", fact=False)
    assert flaws(figures[0]) == []
    for place, size in ((0.05, 5), (0.99, 8)):
        text = figures[0].text(place, 0.5, "planted", fontsize=size)
        assert any("planted" in flaw for flaw in flaws(figures[0]))
        text.remove()
    on = written_texts(figures[0])[0].get_window_extent()
    figures[0].text(on.x0 / figures[0].bbox.x1, on.y0 / figures[0].bbox.y1, "planted", fontsize=8)
    assert any("lies on" in flaw for flaw in flaws(figures[0]))


def written_texts(figure) -> list[matplotlib.text.Text]:
    """All texts that are drawn: of the ticks, those within their axis."""
    ticks = [
        (tick, axis.get_view_interval())
        for axes in figure.findobj(matplotlib.axes.Axes)
        for axis in (axes.xaxis, axes.yaxis)
        for tick in axis.get_major_ticks() + axis.get_minor_ticks()
    ]
    labels = {label for tick, _ in ticks for label in (tick.label1, tick.label2)}
    hidden = labels - {tick.label1 for tick, view in ticks if min(view) <= tick.get_loc() <= max(view)}
    found = figure.findobj(lambda a: isinstance(a, matplotlib.text.Text) and a.get_visible() and a.get_text() != "")
    return [text for text in found if text not in hidden]


def overlap(one, other) -> float:
    """In pixels, of the narrower side of what two boxes share."""
    wide = min(one.x1, other.x1) - max(one.x0, other.x0)
    high = min(one.y1, other.y1) - max(one.y0, other.y0)
    return min(wide, high)


def holds(outer, inner) -> bool:
    return inner.x0 >= 0 and inner.y0 >= 0 and inner.x1 <= outer.x1 and inner.y1 <= outer.y1


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


def test_samples_that_are_drawn_do_not_follow_the_order_of_the_labels():
    chosen = evenly(100_000, 2000)
    assert len(np.unique(chosen)) == 2000
    assert chosen.max() < 100_000
    for period in (2, 3, 10, 50, 100):
        counts = np.bincount(chosen % period, minlength=period)
        assert counts.min() > 0.5 * 2000 / period
    assert evenly(7, 10).tolist() == list(range(7))


def test_modes_that_are_drawn_hold_the_first_ones_and_the_last():
    chosen = evenly_in_logarithm(20_000, 500)
    assert len(chosen) <= 500
    assert chosen[:20].tolist() == list(range(20))
    assert chosen[-1] == 19_999
    assert (np.diff(chosen) > 0).all()


def test_two_runs_give_the_same_bytes(tmp_path):
    case = made(names=("first", "second"))
    first, second = (case.write(tmp_path / f"{run}.png", fact=True).read_bytes() for run in range(2))
    assert first == second


def test_drawing_leaves_the_settings_of_matplotlib_alone(tmp_path):
    before = dict(matplotlib.rcParams)
    made().write(tmp_path / "page.png", fact=True)
    assert dict(matplotlib.rcParams) == before


def test_a_page_that_cannot_be_written_leaves_what_was_there(tmp_path):
    case = made()
    (tmp_path / "folder.png").mkdir()
    for place in (tmp_path / "folder.png", tmp_path / "missing" / "page.png"):
        with pytest.raises(OutputError, match="cannot be written"):
            case.write(place, fact=False)
        with pytest.raises(OutputError, match="cannot be written"):
            write_modes_picture(place, case.reports["old"].modes)
    assert [path.name for path in tmp_path.iterdir()] == ["folder.png"]


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


@pytest.mark.parametrize(
    ("decision", "text"),
    [
        (Decision(0.25, 0.25), "0.250"),
        (Decision(0.99996, 0.99996), ">0.999"),
        (Decision(1.0, 1.0), "1.000"),
        (Decision(0.0001, 0.0001), "<0.001"),
        (Decision(0.0, 0.0), "0.000"),
        (Decision(0.12345, 0.98765), "0.123\N{EN DASH}0.988"),
    ],
)
def test_rounding_claims_nothing_that_is_not_so(decision, text):
    assert interval(decision) == text


def test_names_are_one_line_without_mathematics():
    assert plain("a $x$\nb", 20) == r"a \$x\$ b"
    assert plain("beginning and end", 9) == "begi\N{HORIZONTAL ELLIPSIS} end"
    assert plain("\N{CJK UNIFIED IDEOGRAPH-4E2D}", 20) == "?"


@pytest.mark.parametrize("largest", [5e-324, 1e-70, 1e-3, 0.5, 9999.0, 1e4, 1e300])
def test_ticks_stay_short(largest):
    unit, label = power_of_ten(np.array([0.0, -largest, math.inf]))
    assert math.isfinite(largest / unit)
    assert largest / unit < 1e4
    assert (unit == 1.0) == (label == "")
