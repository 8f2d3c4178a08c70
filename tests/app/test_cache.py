"""The cache never hands out anything stale, half-written or damaged, and does without a folder it cannot write."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ntkla.app.files import cache


class Builder:
    """Builds the same arrays every time and counts how often."""

    def __init__(self) -> None:
        self.calls = 0
        self.arrays = {"features": torch.arange(6, dtype=torch.float32).reshape(2, 3).T, "labels": torch.tensor([1, 2])}

    def __call__(self) -> dict[str, torch.Tensor]:
        self.calls += 1
        return {name: array.contiguous() for name, array in self.arrays.items()}


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "ntkla"


def ask(builder, parts=("a",), notes=None):
    return cache.cached("test", parts, builder, (notes if notes is not None else []).append)


def same(left, right):
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def test_computed_once_then_read(folder):
    builder = Builder()
    assert same(ask(builder), builder.arrays)
    assert same(ask(builder), builder.arrays)
    assert builder.calls == 1
    assert [path.suffix for path in folder.iterdir()] == [".safetensors"]


def test_the_key_is_the_content(folder, tmp_path):
    source = tmp_path / "data.bin"
    source.write_bytes(b"one")
    builder = Builder()
    ask(builder, ["v1", source])
    source.rename(tmp_path / "renamed.bin")
    ask(builder, ["v1", tmp_path / "renamed.bin"])
    assert builder.calls == 1
    (tmp_path / "renamed.bin").write_bytes(b"two")
    ask(builder, ["v1", tmp_path / "renamed.bin"])
    ask(builder, ["v2", tmp_path / "renamed.bin"])
    assert builder.calls == 3


def test_parts_do_not_run_together():
    assert cache.key_of(["ab", "c"]) != cache.key_of(["a", "bc"])
    assert cache.key_of(["a"]) != cache.key_of(["a", ""])


@pytest.mark.parametrize("damage", ["empty", "cut", "flipped", "garbage", "extended", "folder"])
def test_a_damaged_file_is_computed_again(folder, damage):
    builder, notes = Builder(), []
    ask(builder)
    (path,) = folder.iterdir()
    content = path.read_bytes()
    flipped = content[:-3] + bytes([content[-3] ^ 1]) + content[-2:]
    damaged = {
        "empty": b"",
        "cut": content[:-1],
        "flipped": flipped,
        "garbage": b"\xff" * 64,
        "extended": content + b"0",
    }
    path.unlink()
    if damage == "folder":
        path.mkdir()
    else:
        path.write_bytes(damaged[damage])
    assert same(ask(builder, notes=notes), builder.arrays)
    assert builder.calls == 2
    assert "damaged" in notes[0]
    if damage != "folder":
        assert same(ask(builder), builder.arrays)
        assert builder.calls == 2


def test_a_run_killed_while_writing_leaves_no_file(folder, monkeypatch):
    def killed(*_):
        raise KeyboardInterrupt

    builder = Builder()
    with monkeypatch.context() as during:
        during.setattr(cache.os, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            ask(builder)
    assert list(folder.iterdir()) == []
    ask(builder)
    assert builder.calls == 2


def test_a_cache_that_cannot_be_written_is_done_without(tmp_path, monkeypatch):
    (tmp_path / "ntkla").write_text("a file where the folder should be")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    builder, notes = Builder(), []
    assert same(ask(builder, notes=notes), builder.arrays)
    assert "could not be kept" in notes[0]


def test_the_folder_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache.folder() == tmp_path / "ntkla"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")  # the specification says: ignore it
    assert cache.folder().name == "ntkla"
    assert cache.folder().is_absolute()
