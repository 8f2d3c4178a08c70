"""The report: its schema, its tables, its pictures."""

from __future__ import annotations

import dataclasses
import json

import pytest
from matplotlib.image import imread

from ntkla.app.demo import demo_report as report
from ntkla.app.demo.demo import conclusion, introduction, write
from ntkla.app.demo.sequence import Plan
from ntkla.app.failures import OutputError
from ntkla.app.reports.screen import console
from ntkla.app.reports.written import make_folder

COUNTS = ["r50", "r90", "k_G", "k_star"]
MEASURES = ["cosine", "norm_ratio", "max_difference", "bound", "training_rounding", "drift_norm", "overlap_bound"]
ACCURACIES = ["accuracy_before", "accuracy_forecast", "accuracy_after"]
SECONDS = ["seconds_forecast", "seconds_training"]


@pytest.fixture(scope="module")
def rows(comparisons):
    return [c.row() for c in comparisons]


@pytest.fixture(scope="module")
def names(small_tasks):
    return [task.name for task in small_tasks]


def printed(shown) -> str:
    screen = console()
    with screen.capture() as capture:
        screen.print(shown)
    return capture.get()


def test_the_schema(rows):
    document = json.loads(report.to_json(rows))
    assert list(document) == ["schema", "rows"]
    assert document["schema"] == 1
    for row in document["rows"]:
        assert list(row) == ["old", "new", "training", *MEASURES, *ACCURACIES, *COUNTS, *SECONDS]
        assert all(isinstance(row[key], int) for key in ["old", "new", *COUNTS])
        assert all(isinstance(row[key], float) for key in MEASURES + ACCURACIES + SECONDS)
        assert row["training"] in ("optimum", "sgd")
        assert row["max_difference"] <= row["bound"] + row["training_rounding"]
        assert row["drift_norm"] <= row["overlap_bound"]


def width(text: str) -> int:
    return max(len(line.rstrip()) for line in text.splitlines())


def test_the_tables_fit_80_columns(rows, names):
    large = dataclasses.replace(rows[0], k_star=12800, k_G=1280, r90=1280, bound=1.0, seconds_forecast=100.0)
    text = printed(report.tables([*rows, large], names))
    assert width(text) < 80
    assert "12800" in text
    assert "NO" not in text


def test_an_interval_is_shown_whole(rows, names):
    text = printed(report.tables([dataclasses.replace(rows[0], k_star=[5500, 5510], r90=[10, 11])], names))
    assert "5500-5510" in text
    assert " 10-11" in text
    assert width(text) <= 100


def test_a_violation_is_told(rows, comparisons, names):
    assert "NO" in printed(report.tables([dataclasses.replace(rows[0], max_difference=1.0)], names))
    bad = dataclasses.replace(comparisons[0], forecast=comparisons[0].forecast + 1)
    assert "Nothing was touched, every number is proved" in conclusion(comparisons)
    loose = sorted(c.row().overlap_bound / c.row().drift_norm for c in comparisons)
    assert f"here {loose[0]:.3g} to {loose[-1]:.3g} times what happened" in conclusion(comparisons)
    assert conclusion([bad, *comparisons[1:]]).startswith(f"\n{len(comparisons) - 1} of {len(comparisons)} ")


def test_the_introduction_says_what_will_run(small_tasks):
    text = printed(introduction(small_tasks, Plan(steps=123), "efficientnet-lite0"))
    assert "3 tasks of two digits, each with 40 training and 20 held-out images" in text
    assert "123 full-batch steps" in text


def test_the_pictures(comparisons, names, planned, curve, tmp_path):
    # One of the ranks is left open by the bounds: an interval is drawn as well.
    ranks = dataclasses.replace(comparisons[0].ranks, r90=[3, 4], k_gram=[5, 6])
    paths = write(tmp_path, [dataclasses.replace(comparisons[0], ranks=ranks), *comparisons[1:]], names, planned, curve)
    pictures = ["spectrum.png", "forecast.png", "accuracy.png", "demo.png", "plan.png", "protection.png"]
    assert [path.name for path in paths] == [report.FILE, *pictures]
    for path in paths[1:]:
        picture = imread(path)
        assert min(picture.shape[:2]) > 300
        assert picture[..., :3].std() > 0.05  # something was drawn
    assert paths[4].stat().st_size < 200_000  # the README shows it


def test_a_folder_that_cannot_be_written(tmp_path, comparisons, names, planned, curve):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="--output"):
        make_folder(tmp_path / "file")
    with pytest.raises(OutputError, match=report.FILE):
        write(tmp_path / "missing", comparisons, names, planned, curve)
    (tmp_path / "spectrum.png").mkdir()
    with pytest.raises(OutputError, match=r"spectrum\.png"):
        write(tmp_path, comparisons, names, planned, curve)
