"""Every case, hostile ones too, is drawn readably, without a warning, to the same bytes, and leaves all else alone."""

from __future__ import annotations

import struct
import warnings
from itertools import combinations
from pathlib import Path

import matplotlib
import pytest

from ntkla.app.failures import OutputError
from ntkla.app.pictures import canvas
from ntkla.app.pictures.page import write_modes_picture
from tests.app.page_cases import CASES, made

DOTS = 200
# The box of a text has air around its letters: this many pixels of two boxes may be shared.
SLACK = 4
PNG = b"\x89PNG\r\n\x1a\n"

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
