"""The tables and sentences for people: width, what is open, many classes, names that look like markup, no drift."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from typer.testing import CliRunner

import ntkla
from ntkla.app import words
from ntkla.app.commands import app
from ntkla.app.settings import Settings

CLASSES, FEATURES = 30, 8


def settings(**changed) -> Settings:
    plain = Settings(
        ridge=0.0, weight_decay=0.0, training=None, mean_eigenvalue=4.0, penalize_bias=True, tolerance=1e-10
    )
    return dataclasses.replace(plain, **changed)


@pytest.fixture
def folder(tmp_path):
    """Two tasks of 30 classes, a head that gives every class a value of its own, and one that gives all 0."""
    draw = np.random.default_rng(4)
    for name in ("old", "new"):
        np.save(tmp_path / f"{name}.npy", draw.standard_normal((90, FEATURES)))
        np.save(tmp_path / f"{name}_labels.npy", np.arange(90) % CLASSES)
    np.save(tmp_path / "head.npy", draw.standard_normal((CLASSES, FEATURES)))
    np.save(tmp_path / "zero.npy", np.zeros((CLASSES, FEATURES)))
    return tmp_path


def run(folder, *options: str, head: str = "head.npy") -> str:
    old, new = (f"{folder}/{name}.npy,{folder}/{name}_labels.npy" for name in ("old", "new"))
    result = CliRunner().invoke(app, ["forecast", old, new, str(folder / head), *options])
    assert result.exit_code == 0, result.output
    assert max(map(len, result.stdout.splitlines())) <= 100
    return result.stdout


def rows_below(output: str, title: str) -> list[str]:
    """The rows of the table with this title, without its header."""
    lines = output.splitlines()
    start = next(j for j, line in enumerate(lines) if line.startswith(title))
    table = lines[start + 2 :]
    return table[: table.index("")]


def test_a_name_of_wide_characters_leaves_the_numbers_whole(folder):
    name = "\N{CJK UNIFIED IDEOGRAPH-732B}" * 30
    wide, narrow = run(folder, "--ridge", "0.1", "--name", name), run(folder, "--ridge", "0.1", "--name", "cat")
    row, expected = (rows_below(output, "Old tasks")[1].split()[1:] for output in (wide, narrow))
    assert row == expected
    assert "\N{HORIZONTAL ELLIPSIS}" not in wide


def test_at_most_20_classes_the_most_forgotten_first(folder):
    output = run(folder, "--ridge", "0.1")
    title = "Classes of old, the most forgotten first (20 of 30)"
    lost = []
    for row in rows_below(output, title):
        before, after = row.split()[2], row.split()[4]
        lost.append(float(before) - float(after))
    assert len(lost) == 20
    assert lost == sorted(lost, reverse=True)


def test_the_samples_that_drift_most_come_first(folder):
    rows = rows_below(run(folder, "--ridge", "0.1", "--top", "12"), "Samples of old that drift most")
    sizes = [float(row.split()[5]) for row in rows]
    assert len(sizes) == 12
    assert sizes == sorted(sizes, reverse=True)
    assert "Samples of" not in run(folder, "--ridge", "0.1", "--top", "0")


def test_rows_are_those_of_the_file(folder):
    rows = rows_below(run(folder, "--ridge", "0.1", "--old-classes", "7"), "Samples of old that drift most")
    assert sorted(int(row.split()[0]) for row in rows) == [7, 37, 67]


def test_what_is_open_is_an_interval(folder):
    output = " ".join(run(folder, "--ridge", "0.1", head="zero.npy").split())
    assert "from 0.0-100.0 % to" in output
    assert "90 more may" in output
    assert "one of 30 ->" in output


def test_a_name_is_no_markup_and_long_ones_are_cut(folder):
    output = run(folder, "--ridge", "0.1", "--name", "[red]old[/red] " + "x" * 200)
    assert "Classes of [red]old[/red] xxxxxx..., the most forgotten first" in output


def test_nothing_drifts(folder):
    output = " ".join(run(folder, "--ridge", "0.1", "--old-outputs", "0-29", "--new-outputs", "0-29").split())
    assert "Nothing drifts" not in output
    labels = np.arange(90) % 2
    np.save(folder / "old_labels.npy", labels)
    np.save(folder / "new_labels.npy", labels + 2)
    still = " ".join(run(folder, "--ridge", "0.1", "--old-outputs", "0,1", "--new-outputs", "2,3").split())
    assert "would leave the accuracy on old at" in still
    assert "Nothing drifts. Proved: the numbers of the drift are exact." in still


def test_one_output_has_no_classes_to_change(folder):
    for name in ("old", "new"):
        np.save(folder / f"{name}_labels.npy", np.ones((90, 1)))
    np.save(folder / "head.npy", np.ones((1, FEATURES)))
    output = " ".join(run(folder, "--ridge", "0.1").split())
    assert "would change the predictions on old by" in output
    assert "predicted classes" not in output


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"ridge": 2.0}, "to the optimum, ridge 2 (0.5 mean eigenvalues)"),
        ({"mean_eigenvalue": 0.0}, "to the optimum, ridge 0"),
        ({"training": ntkla.GradientFlow(0.25)}, "gradient flow for a time of 0.25"),
        ({"training": ntkla.GradientDescent(0.1, 1)}, "one full-batch step of SGD, learning rate 0.1"),
        (
            {"training": ntkla.GradientDescent(0.1, 50, 0.9, True), "weight_decay": 0.01},
            "50 full-batch steps of SGD, learning rate 0.1, Nesterov momentum 0.9, weight decay 0.01",
        ),
        (
            {"training": ntkla.GradientDescent(0.1, 50, 0.9), "ridge": 1.0},
            "50 full-batch steps of SGD, learning rate 0.1, momentum 0.9, ridge 1 (0.25 mean eigenvalues)",
        ),
    ],
)
def test_the_training_in_words(changed, said):
    assert words.training(settings(**changed)) == said
