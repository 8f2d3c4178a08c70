"""The tables and sentences for people: width, what is open, many classes, names that look like markup, no drift."""

from __future__ import annotations

import dataclasses
import re

import numpy as np
import pytest
from typer.testing import CliRunner

import ntkla
from ntkla.app.command_line.commands import app
from ntkla.app.command_line.settings import Settings
from ntkla.app.reports import words

CLASSES, FEATURES = 30, 8


def settings(**changed) -> Settings:
    plain = Settings(
        ridge=0.0,
        weight_decay=0.0,
        training=None,
        mean_eigenvalue=4.0,
        halves=1.0,
        penalize_bias=True,
        tolerance=1e-10,
        loss="squared",
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
    """The rows of the table with this title, without its header and what is said below it."""
    lines = output.splitlines()
    start = next(j for j, line in enumerate(lines) if line.startswith(title))
    table = lines[start + 2 :]
    return table[: next(j for j, line in enumerate(table) if line == "" or line.startswith("mode: "))]


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
        ({"training": ntkla.GradientFlow(0.25)}, "gradient flow, time 0.25"),
        ({"training": ntkla.GradientDescent(0.1, 1)}, "one full-batch step of SGD, learning rate 0.1"),
        (
            {"training": ntkla.GradientDescent(0.1, 50, 0.9, True), "weight_decay": 0.01},
            "50 full-batch steps of SGD, Nesterov momentum 0.9, learning rate 0.1, weight decay 0.01",
        ),
        (
            {"training": ntkla.GradientDescent(0.1, 50, 0.9), "ridge": 1.0},
            "50 full-batch steps of SGD, momentum 0.9, learning rate 0.1, ridge 1 (0.25 mean eigenvalues)",
        ),
        (
            {"training": ntkla.GradientDescent(8.333e-6, 50, 0.99999), "weight_decay": 2.4, "halves": 2400.0},
            "50 full-batch steps of SGD, momentum 0.99999, learning rate 0.0199992 and weight decay 0.001 of the mean "
            "loss (8.333e-06 and 2.4 of half the sum)",
        ),
        (
            {"training": ntkla.GradientFlow(0.25), "ridge": 2.0, "weight_decay": 3.0, "halves": 10.0},
            "gradient flow, time 2.5, ridge 0.2 (0.5 mean eigenvalues) and weight decay 0.3 of the mean loss "
            "(0.25, 2 and 3 of half the sum)",
        ),
    ],
)
def test_the_training_in_words(changed, said):
    assert words.training(settings(**changed)) == said


def test_the_numbers_of_the_mean_loss_appear_as_typed(folder):
    output = " ".join(run(folder, "--sgd", "0.02,5,0.99999", "--weight-decay", "0.001", "--mean-loss").split())
    halves = 90 * CLASSES / 2
    used = f"({0.02 / halves:.4g} and {0.001 * halves:.4g} of half the sum)"
    rate = "learning rate 0.02 and weight decay 0.001 of the mean loss"
    assert f"How: 5 full-batch steps of SGD, momentum 0.99999, {rate} {used}." in output


def test_the_first_line_says_what_is_trained(folder):
    assert " ".join(run(folder, "--ridge", "1").split()).startswith(
        "Training on new: 90 samples, labels 0 to 29, all 30 outputs trained; a head with no bias, 8 features. How: "
    )
    np.save(folder / "new.npy", np.ones((3, FEATURES)))
    np.save(folder / "new_labels.npy", np.full(3, 4))
    np.save(folder / "bias.npy", np.ones(CLASSES))
    head = f"head.npy,{folder}/bias.npy"
    said = run(folder, "--ridge", "1", "--new-outputs", "3-5", head=head)
    assert " ".join(said.split()).startswith(
        "Training on new: 3 samples, label 4, 3 of 30 outputs trained; a head with a bias, 8 features. How: "
    )


def test_every_column_is_explained_below_its_table(folder):
    output = run(folder, "--ridge", "0.1", "--modes-share", "0.75", "--after", str(folder / "zero.npy"))
    said = " ".join(output.split())
    assert "r50, r90: modes that hold 50, 90 % of the drift; k_G: modes that hold 75 % of the kernel" in said
    assert "size there: how long that part is, in % of the drift's length" in said
    assert "different: the head was not trained as stated: check the loss (cross-entropy?)" in said
    lines = output.splitlines()
    assert lines[next(j for j, line in enumerate(lines) if line.startswith("Energy of the drift")) - 1] == ""


def test_a_sample_that_does_not_drift_has_no_mode(folder):
    np.save(folder / "old.npy", np.eye(90, FEATURES))
    rows = rows_below(run(folder, "--ridge", "0.1", "--top", "90"), "Samples of old that drift most")
    still = [row.split()[-2:] for row in rows if row.split()[-4] == "0"]
    assert still == [["-", "-"]] * (90 - FEATURES)


def test_the_bias_is_counted_apart(folder):
    np.save(folder / "bias.npy", np.ones(CLASSES))
    with_bias = " ".join(run(folder, "--ridge", "1", head=f"head.npy,{folder}/bias.npy").split())
    assert "Of its 9 feature directions (8 features and the bias), half" in with_bias
    assert "Of its 8 feature directions, half" in " ".join(run(folder, "--ridge", "1").split())


def test_a_bound_that_misses_the_tolerance_is_told_all_the_same(folder):
    loose = " ".join(run(folder, "--ridge", "0.1", "--tol", "1e-300").split())
    proved = r"Proved: each number of the drift is within \S+ \(absolute\) of the exact one"
    assert re.search(rf"{proved}\. Not certified \(above_tolerance: ", loose)
    assert re.search(proved, " ".join(run(folder, "--ridge", "0.1").split()))


def test_tasks_that_may_be_swapped(folder):
    np.save(folder / "head.npy", np.eye(CLASSES, FEATURES))
    np.save(folder / "old_labels.npy", np.full(90, 20))
    np.save(folder / "old.npy", np.ones((90, FEATURES)))
    old, new = (f"{folder}/{name}.npy,{folder}/{name}_labels.npy" for name in ("old", "new"))
    result = CliRunner().invoke(app, ["forecast", old, new, str(folder / "head.npy"), "--ridge", "1"])
    assert result.stderr == (
        "ntkla: note: the head is right on 0.0 % of old before training: are OLD and NEW swapped?\n"
    )


def test_a_head_that_guesses_is_no_sign_of_swapped_tasks(folder):
    np.save(folder / "head.npy", np.eye(CLASSES, FEATURES))
    old, new = (f"{folder}/{name}.npy,{folder}/{name}_labels.npy" for name in ("old", "new"))
    np.save(folder / "old.npy", np.ones((90, FEATURES)) * np.linspace(1, 2, FEATURES))
    result = CliRunner().invoke(app, ["forecast", old, new, str(folder / "head.npy"), "--ridge", "1"])
    assert result.stderr == ""
