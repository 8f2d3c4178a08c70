"""`ntkla forecast`: every option against the library, every error in one readable line, exit codes, files."""

from __future__ import annotations

import json
import math
import re
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

import ntkla
from ntkla.app.command_line.commands import app
from ntkla.app.failures import EXIT_ERROR, EXIT_NOT_CERTIFIED
from tests.app.task_files import CLASSES, FEATURES, RIDGE, task_files

EXACT = ("--ridge", str(RIDGE))


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return task_files(tmp_path_factory.mktemp("files"))


def run(*arguments: object):
    return CliRunner().invoke(app, ["forecast", *map(str, arguments)])


def document(*arguments: object) -> dict:
    result = run(*arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def line_of(*arguments: object) -> str:
    """The one line on stderr of a command that failed."""
    result = run(*arguments)
    assert result.exit_code == EXIT_ERROR, result.output
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1
    assert result.stderr.startswith("ntkla: ")
    return result.stderr


def test_the_tables_answer_the_question(files):
    result = run(*files.arguments, *EXACT, "--after", files.after)
    assert result.exit_code == 0, result.output
    assert result.stderr == ""
    assert max(map(len, result.stdout.splitlines())) <= 100
    report = files.forecast()["first_x"]
    flips = f"{int(report.flips.count)} of 30 predicted classes certainly change"
    said = " ".join(result.stdout.split())
    assert "Training on new_x would take the accuracy on first_x from" in said
    for wanted in (flips, "Classes of second", "Samples of first_x that drift most", "What the training really did"):
        assert wanted in said
    assert "\x1b" not in result.stdout


SETTINGS = {
    "a ridge": (["--ridge", "3"], {"ridge": 3.0}),
    "a free bias": (["--ridge", "3", "--free-bias"], {"ridge": 3.0, "penalize_bias": False}),
    "weight decay": (["--ridge", "3", "--weight-decay", "0.5"], {"ridge": 3.0, "weight_decay": 0.5}),
    "sgd": (["--sgd", "1e-3,7"], {"ridge": 0.0, "training": ntkla.GradientDescent(1e-3, 7)}),
    "momentum": (["--sgd", "1e-3,7,0.9"], {"ridge": 0.0, "training": ntkla.GradientDescent(1e-3, 7, 0.9)}),
    "nesterov": (
        ["--sgd", "1e-3,7,0.9,nesterov", "--ridge", "1"],
        {"ridge": 1.0, "training": ntkla.GradientDescent(1e-3, 7, 0.9, True)},
    ),
    "flow": (["--flow", "0.02"], {"ridge": 0.0, "training": ntkla.GradientFlow(0.02)}),
    "cross-entropy": (["--ridge", "3", "--cross-entropy"], {"ridge": 3.0, "loss": "cross_entropy"}),
    "a tolerance": (["--ridge", "3", "--tol", "1e-3"], {"ridge": 3.0, "tol": 1e-3}),
    "a share": (["--ridge", "3", "--modes-share", "0.5", "--top", "3"], {"ridge": 3.0, "q": 0.5, "top": 3}),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_a_setting_reaches_the_library(files, name):
    options, settings = SETTINGS[name]
    found, expected = document(*files.arguments, *options), files.forecast(**settings)
    assert found["settings"]["training_in_words"] == expected.training
    for task in found["tasks"]:
        report = expected[task["name"]]
        assert task["drift"]["largest"] == float(report.drift.abs().max())
        assert task["drift"]["bound_largest"] == float(report.error_bound.max())
        assert task["k_G"] == {"low": report.k_G.low, "high": report.k_G.high}
        assert len(task["largest_drifts"]) == len(report.samples)


def test_torchs_mean_loss_is_converted(files):
    samples = files.new_task.features.shape[0]
    typed = ["--sgd", "0.5,9", "--weight-decay", "0.01", "--ridge", "0.02", "--mean-loss"]
    converted = ntkla.from_torch_sgd(lr=0.5, steps=9, samples=samples, outputs=CLASSES, weight_decay=0.01)
    found = document(*files.arguments, *typed)["settings"]
    assert found["training"]["lr"] == converted.training.lr
    assert found["weight_decay"] == converted.weight_decay
    assert found["ridge"] == 0.02 * (samples * CLASSES / 2)
    flow = document(*files.arguments, "--flow", "0.5", "--mean-loss")["settings"]
    assert flow["training"]["time"] == 2 * 0.5 / (samples * CLASSES)


def test_the_mean_loss_counts_the_outputs_that_are_trained(files):
    typed = [*files.arguments, "--ridge", "0.02", "--mean-loss", "--new-outputs", "2-4"]
    assert document(*typed)["settings"]["ridge"] == 0.02 * (files.new_task.features.shape[0] * 3 / 2)


def test_the_mean_of_cross_entropy_is_over_samples(files):
    typed = [*files.arguments, "--ridge", "0.02", "--cross-entropy"]
    found, plain = document(*typed, "--mean-loss")["settings"], document(*typed)["settings"]
    assert (found["ridge"], plain["ridge"]) == (0.02 * len(files.new_task.features), 0.02)
    assert found["loss"] == plain["loss"] == "cross_entropy"
    assert "cross-entropy, to the optimum" in run(*typed).stdout


@pytest.mark.parametrize("mean", [[], ["--mean-loss"]])
def test_the_stable_rate_that_is_named_is_stable(files, mean):
    line = line_of(*files.arguments, "--sgd", "77,5,0.9", *mean)
    named = re.search(r"a learning rate of 77.0 diverges on this task; up to (\S+) is stable", line).group(1)
    assert run(*files.arguments, "--sgd", f"{named},5,0.9", *mean).exit_code == 0
    more = math.nextafter(float(named), math.inf) * (1 + 1e-3)
    assert "diverges" in line_of(*files.arguments, "--sgd", f"{more},5,0.9", *mean)


def test_a_relative_ridge_is_in_mean_eigenvalues(files):
    settings = document(*files.arguments, "--relative-ridge", "0.25")["settings"]
    columns = torch.nn.functional.pad(files.new_task.features.double(), (0, 1), value=1.0)
    matrix = columns.T @ columns
    exact = float(torch.linalg.eigvalsh(matrix).mean())
    # The trace rounds once a term, the eigenvalues by a few roundings of the largest an eigenvalue.
    allowed = (columns.numel() + FEATURES + 1) * torch.finfo(torch.float64).eps * float(matrix.diagonal().sum())
    assert abs(settings["mean_eigenvalue"] - exact) <= allowed
    assert settings["ridge"] == 0.25 * settings["mean_eigenvalue"]
    mean = document(*files.arguments, "--relative-ridge", "0.25", "--mean-loss")["settings"]
    assert mean["ridge"] == settings["ridge"]


def test_outputs_and_classes_are_selected(files):
    found = document(
        *files.arguments,
        *EXACT,
        "--old-outputs",
        "0-2",
        "--new-outputs",
        "2-4",
        "--old-classes",
        "1",
        "--old-classes",
        "2",
    )
    outputs, trained = torch.tensor([0, 1, 2]), torch.tensor([2, 3, 4])
    olds = {
        name: ntkla.Task(task.features, labels=task.labels, outputs=outputs).select([kept])
        for (name, task), kept in zip(files.olds.items(), (1, 2), strict=True)
    }
    new = ntkla.Task.from_labels(files.new_task.features, files.new_task.labels, CLASSES, outputs=trained)
    expected = ntkla.forecast(olds, new, files.linear, ridge=RIDGE)
    for task in found["tasks"]:
        report = expected[task["name"]]
        assert task["outputs"] == [0, 1, 2]
        assert task["drift"]["largest"] == float(report.drift.abs().max())
    labels = files.olds["first_x"].labels
    assert found["tasks"][0]["rows"] == (labels == 1).nonzero().flatten().tolist()
    assert found["inputs"]["new"]["outputs"] == [2, 3, 4]


def test_new_classes_select_samples(files):
    found = document(*files.arguments, *EXACT, "--new-classes", "3,4")
    expected = ntkla.forecast(files.olds, files.new_task.select([3, 4]), files.linear, ridge=RIDGE)
    assert found["tasks"][0]["drift"]["largest"] == float(expected["first_x"].drift.abs().max())
    assert found["inputs"]["new"]["samples"] == int((files.new_task.labels >= 3).sum())


def test_targets_and_weights_reach_the_library(files, tmp_path):
    draw = torch.Generator().manual_seed(8)
    features, samples = files.new_task.features, len(files.new_task.features)
    targets = torch.randn((samples, CLASSES), generator=draw)
    weights = torch.rand(samples, generator=draw)
    weights[:3] = 0.0
    for name, array in (("x", features), ("t", targets), ("w", weights)):
        np.save(tmp_path / f"{name}.npy", array.numpy())
    typed = ",".join(str(tmp_path / f"{name}.npy") for name in "xwt")
    found = document(files.first, typed, files.head, "--relative-ridge", "0.5")
    exact = (weights.double() * (features.double().square().sum(1) + 1)).sum() / (FEATURES + 1)
    unit = found["settings"]["mean_eigenvalue"]
    # Each square and each sum rounds once, in either order.
    assert abs(unit - float(exact)) <= 2 * features.numel() * torch.finfo(torch.float64).eps * unit
    new = ntkla.Task(features, targets, weights=weights)
    expected = ntkla.forecast(files.olds["first_x"], new, files.linear, ridge=0.5 * unit)
    assert found["tasks"][0]["drift"]["largest"] == float(expected.drift.abs().max())


def test_names(files):
    found = document(*files.arguments, *EXACT, "--name", "dogs", "--name", "cats")
    assert [task["name"] for task in found["tasks"]] == ["dogs", "cats"]
    twice = document(files.first, files.first, files.new, files.head, *EXACT)
    assert [task["name"] for task in twice["tasks"]] == ["first_x 1", "first_x 2"]


def test_a_name_that_no_screen_can_show(files, tmp_path):
    path = str(tmp_path).encode() + b"/\xff\x1b[31m.npy"
    with open(path, "wb") as file:
        np.save(file, files.olds["first_x"].features.numpy())
    old, folder = path.decode("utf-8", "surrogateescape"), tmp_path / "there"
    result = run(old, files.new, files.head, *EXACT, "--output", folder)
    assert result.exit_code == 0, result.output
    assert "\x1b" not in result.stdout
    assert set(load_file(folder / "drift.safetensors")) == {"??[31m.drift", "??[31m.error_bound"}
    assert json.loads((folder / "report.json").read_text())["tasks"][0]["name"] == "??[31m"


def test_one_old_task_without_labels(files):
    features = files.first.split(",")[0]
    result = run(features, files.new, files.head, *EXACT)
    assert result.exit_code == 0, result.output
    assert "predicted classes certainly change" in " ".join(result.stdout.split())
    assert "accuracy on" not in result.stdout


def test_strict_is_exit_code_3(files):
    tight = [*files.arguments, *EXACT, "--tol", "1e-300"]
    easy = run(*tight)
    assert easy.exit_code == 0
    assert easy.stderr.startswith("ntkla: warning: first_x: above_tolerance: ")
    strict = run(*tight, "--strict")
    assert strict.exit_code == EXIT_NOT_CERTIFIED
    assert strict.stdout == easy.stdout
    assert run(*files.arguments, *EXACT, "--strict").exit_code == 0


def test_an_infinite_bound_is_a_string_in_json(files, tmp_path):
    flat = ntkla.Task(files.new_task.features.clone())
    flat.features[:, 1] = flat.features[:, 0]
    new = tmp_path / "flat.safetensors"
    save_file({"features": flat.features, "labels": files.new_task.labels}, new)
    found = document(files.second, new, files.head, "--ridge", "0")
    assert found["status"]["code"] == "rank_deficient"
    assert found["tasks"][0]["drift"]["bound_largest"] == "inf"


def test_the_folder_holds_all_files(files, tmp_path):
    folder = tmp_path / "made" / "here"
    result = run(*files.arguments, *EXACT, "--output", folder, "--old-classes", "0,2")
    assert result.exit_code == 0, result.output
    assert sorted(path.name for path in folder.iterdir()) == ["drift.safetensors", "page.png", "report.json"]
    arrays, report = load_file(folder / "drift.safetensors"), files.forecast()["second"]
    assert torch.equal(arrays["second.drift"], report.drift)
    assert torch.equal(arrays["second.error_bound"], report.error_bound)
    chosen = arrays["first_x.rows"]
    assert torch.equal(chosen, (files.olds["first_x"].labels == 0).nonzero().flatten())
    assert json.loads((folder / "report.json").read_text())["tasks"][0]["rows"] == chosen.tolist()


NAMED = {
    "nothing says how": ([], "Add --ridge or --relative-ridge"),
    "two ridges": (["--ridge", "1", "--relative-ridge", "1"], "Leave one out"),
    "two trainings": (["--sgd", "1,1", "--flow", "1"], "Leave one out"),
    "no steps": (["--sgd", "0.1"], "expected lr,steps"),
    "steps that are no number": (["--sgd", "0.1,many"], "expected lr,steps"),
    "another word": (["--sgd", "0.1,5,0.9,adam"], "expected lr,steps"),
    "a momentum of 1": (["--sgd", "0.1,5,1"], "--sgd: momentum: expected"),
    "early cross-entropy": (["--sgd", "0.1,5", "--cross-entropy"], "has no closed form under it"),
    "a momentum of 1 for the mean": (["--sgd", "0.1,5,1", "--mean-loss"], "--sgd: momentum: expected"),
    "steps of their own": (["--lr", "0.1", "--steps", "5"], "are one word after --sgd: --sgd LR,STEPS"),
    "blanks after sgd": (["--sgd", "0.02", "50", "0.9"], "one word without blanks: --sgd 0.02,50,0.9."),
    "blanks and commas": (["--sgd", "0.02,", "50"], "one word without blanks: --sgd 0.02,50."),
    "an unstable rate": (
        ["--sgd", "5,5"],
        "is stable. If it is meant for torch's MSELoss()",
    ),
    "a negative ridge": (["--ridge", "-1"], "--ridge: expected a finite number >= 0"),
    "a negative relative ridge": (["--relative-ridge", "-1"], "--relative-ridge: expected"),
    "a negative decay": ([*EXACT, "--weight-decay", "-1"], "--weight-decay: expected"),
    "time zero": (["--flow", "0"], "--flow: expected"),
    "no tolerance": ([*EXACT, "--tol", "0"], "--tol: expected"),
    "a share above 1": ([*EXACT, "--modes-share", "2"], "--modes-share: expected"),
    "top below 0": ([*EXACT, "--top", "-1"], "--top: expected"),
    "one name for two": ([*EXACT, "--name", "a"], "expected one for each of 2 OLD"),
    "names that a screen shows alike": ([*EXACT, "--name", "a\n", "--name", "a\t"], "expected different names"),
    "the same name": ([*EXACT, "--name", "a", "--name", "a"], "expected different names"),
    "outputs in words": ([*EXACT, "--old-outputs", "all"], "such as 0-4,7"),
    "outputs backwards": ([*EXACT, "--old-outputs", "4-0"], "Write 0-4"),
    "outputs beyond": ([*EXACT, "--new-outputs", "0-9"], "the head has the outputs 0 to 4"),
    "outputs twice": ([*EXACT, "--new-outputs", "2-4,3"], "each number once"),
    "outputs thrice": ([*EXACT, *("--old-outputs", "0") * 3], "once for all, or 2 times, once an OLD"),
    "outputs without the labels": ([*EXACT, "--new-outputs", "2,3"], "labels: [4] are not among the task's outputs"),
    "a class without samples": ([*EXACT, "--old-classes", "0"], "--old-classes: "),
    "a device": ([*EXACT, "--device", "abacus"], "--device: 'abacus' cannot be used here"),
    "a device that needs a module": ([*EXACT, "--device", "hpu"], "--device: 'hpu' cannot be used here"),
    "a device without float64": ([*EXACT, "--device", "meta"], "'cpu' always works"),
    "a head that is not there": ([*EXACT, "--after", "nowhere.safetensors"], "nowhere.safetensors"),
}


@pytest.mark.parametrize("name", NAMED)
def test_an_error_is_one_line_with_the_remedy(files, name):
    options, wanted = NAMED[name]
    assert wanted in line_of(*files.arguments, *options)


def test_a_head_of_another_backbone_says_which_is_which(files, tmp_path):
    head, narrow = tmp_path / "turned.npy", tmp_path / "narrow.npy"
    np.save(head, files.linear.weight.T.contiguous().numpy())
    np.save(narrow, np.ones((3, FEATURES - 1), dtype=np.float32))
    line = line_of(*files.arguments[:-1], head, *EXACT)
    assert f"[{FEATURES}, {CLASSES}], {FEATURES} outputs of {CLASSES} features each" in line
    assert f"first_y.npy holds {FEATURES} features a sample" in line
    line = line_of(narrow, files.new, files.head, *EXACT)
    assert f"narrow.npy holds {FEATURES - 1} features a sample. Features and head must be of one backbone." in line


def test_a_transposed_head_is_recognised(files, tmp_path):
    head, features = tmp_path / "turned.npy", tmp_path / "square.npy"
    np.save(head, np.ones((FEATURES, 3), dtype=np.float32))
    np.save(features, np.ones((4, FEATURES), dtype=np.float32))
    assert f"It looks transposed: save weight.T, [3, {FEATURES}]" in line_of(features, files.new, head, *EXACT)


def test_mixed_types_are_refused_by_the_names_of_the_files(files, tmp_path):
    wide = tmp_path / "wide.npy"
    np.save(wide, files.olds["second"].features.double().numpy())
    line = line_of(wide, files.new, files.head, *EXACT)
    assert "float64 in" in line
    assert "float32 in" in line


def test_a_new_task_needs_something_to_learn(files):
    assert "needs labels or targets" in line_of(files.second, files.new.split(",")[0], files.head, *EXACT)


def test_classes_of_a_task_without_labels(files):
    line = line_of(files.first.split(",")[0], files.new, files.head, *EXACT, "--old-classes", "1")
    assert "--old-classes: " in line
    assert "expected a task with labels" in line


def test_another_kind_of_head_after_the_training_is_found_before_the_work(files, tmp_path, monkeypatch):
    from ntkla.app.reports import forecast_run

    monkeypatch.setattr(forecast_run, "forecast", lambda *_, **__: pytest.fail("found out too late"))
    after = tmp_path / "after.npy"
    np.save(after, files.linear.weight.numpy())
    assert "after.npy: this head has no bias, and HEAD has one" in line_of(*files.arguments, *EXACT, "--after", after)
    np.save(after, files.linear.weight[1:].numpy())
    said = f"after.npy: expected a weight [{CLASSES}, {FEATURES}], as HEAD has, got [{CLASSES - 1}, {FEATURES}]"
    assert said in line_of(*files.arguments, *EXACT, "--after", after)


def test_classes_are_selected_before_the_outputs_must_hold_their_labels(files):
    found = document(*files.arguments, *EXACT, "--new-classes", "3,4", "--new-outputs", "3-4")
    trained = torch.tensor([3, 4])
    kept = torch.isin(files.new_task.labels, trained)
    new = ntkla.Task.from_labels(files.new_task.features[kept], files.new_task.labels[kept], CLASSES, outputs=trained)
    expected = ntkla.forecast(files.olds, new, files.linear, ridge=RIDGE)
    assert found["tasks"][0]["drift"]["largest"] == float(expected["first_x"].drift.abs().max())
    assert found["inputs"]["new"]["outputs"] == [3, 4]


def test_classes_of_a_task_whose_arrays_differ_in_length(files, tmp_path):
    np.save(tmp_path / "short.npy", files.olds["first_x"].labels[1:].numpy())
    old = f"{files.first.split(',')[0]},{tmp_path}/short.npy"
    line = line_of(old, files.new, files.head, *EXACT, "--old-classes", "1")
    assert "labels: expected one row a sample, 30, got 29" in line


def test_debug_shows_where_an_error_came_from(files):
    result = run(*files.arguments, "--debug")
    assert isinstance(result.exception, ntkla.ArgumentError)


def test_a_folder_that_cannot_be_written_is_found_before_the_work(files, tmp_path, monkeypatch):
    from ntkla.app.reports import forecast_run

    monkeypatch.setattr(forecast_run, "forecast", lambda *_, **__: pytest.fail("found out too late"))
    (tmp_path / "file").write_text("")
    line = line_of(*files.arguments, *EXACT, "--output", tmp_path / "file")
    assert f"--output: {tmp_path / 'file'} is a file, not a folder" in line


@pytest.mark.parametrize(
    ("package", "options"), [("rich", []), ("matplotlib", ["--output", "x"]), ("safetensors", ["--output", "x"])]
)
def test_a_missing_package_is_found_before_the_work(files, package, options, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, package, None)
    assert "pip install 'ntkla[cli]'" in line_of(*files.arguments, *EXACT, *options)


def test_help_is_guide_enough():
    said = " ".join(run("--help").stdout.split())
    for wanted in ("weight [C, F]", "features [n, F]", "--relative-ridge 0.1", "Exit codes", "OLD... NEW HEAD"):
        assert wanted in said


@pytest.mark.parametrize(
    ("count", "last", "wanted"),
    [
        (2, None, "ArgumentError: HEAD is missing: the head's file (WEIGHT.npy,BIAS.npy), or the word fit."),
        (2, "fit", "ArgumentError: NEW is missing: the new task's files"),
        (1, None, "ArgumentError: NEW and HEAD are missing: the new task's files"),
        (0, None, "ArgumentError: OLD, NEW and HEAD are missing: the old task's files"),
    ],
)
def test_what_is_missing_is_named(files, count, last, wanted):
    typed = [files.first, last or files.new][:count]
    assert wanted in line_of(*typed, *EXACT)
