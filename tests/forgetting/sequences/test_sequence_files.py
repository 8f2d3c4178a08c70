"""The file of a sequence: where it cannot be, what it lets others do, and what is told when it cannot be had."""

from __future__ import annotations

import builtins
import os

import pytest

from ntkla.forgetting.sequences.sequence import TaskSequence
from ntkla.linalg.errors import ArgumentError, MissingPackageError, SavedStateError
from tests.forgetting.sequences.curricula import learned, some_head, task

safetensors = pytest.importorskip("safetensors.torch", reason="files of sequences need safetensors")


def after(count: int) -> TaskSequence:
    return learned([task(number, seed=number) for number in range(count)], head=some_head(), modes=2)[0]


def test_a_file_that_cannot_be_written_is_named(tmp_path):
    with pytest.raises(SavedStateError, match="cannot be written"):
        after(0).save(tmp_path / "no" / "folder" / "x")
    (tmp_path / "folder").mkdir()
    with pytest.raises(SavedStateError, match="cannot be written"):
        after(0).save(tmp_path / "folder")
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_a_file_has_the_permissions_of_any_new_one_and_is_on_the_disk(tmp_path, monkeypatch):
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", lambda handle: synced.append(os.fstat(handle).st_size))
    (tmp_path / "new").touch()
    after(1).save(tmp_path / "x")
    assert (tmp_path / "x").stat().st_mode == (tmp_path / "new").stat().st_mode
    assert synced == [(tmp_path / "x").stat().st_size]


@pytest.mark.parametrize("path", [3, None, b"x", ["x"]])
def test_what_is_no_path_is_named(path):
    with pytest.raises(ArgumentError, match="path"):
        after(0).save(path)
    with pytest.raises(ArgumentError, match="path"):
        TaskSequence.load(path)


def test_a_path_that_no_file_can_have_is_named():
    with pytest.raises(SavedStateError, match="cannot be written"):
        after(0).save("a\0b")
    with pytest.raises(SavedStateError, match="cannot be read"):
        TaskSequence.load("a\0b")


def test_too_little_memory_is_not_called_damage(tmp_path, monkeypatch):
    after(1).save(tmp_path / "x")

    def full(content):
        raise MemoryError

    monkeypatch.setattr(safetensors, "load", full)
    with pytest.raises(MemoryError):
        TaskSequence.load(tmp_path / "x")


def test_without_the_package_it_says_what_to_install(monkeypatch, tmp_path):
    plain = builtins.__import__

    def without(name, *arguments, **named):
        if name.startswith("safetensors"):
            raise ModuleNotFoundError(f"No module named {name!r}", name="safetensors")
        return plain(name, *arguments, **named)

    one = after(1)
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingPackageError, match=r"ntkla\[cli\]"):
        one.save(tmp_path / "x")
    with pytest.raises(MissingPackageError, match="state_dict"):
        TaskSequence.load(tmp_path / "x")
    assert not list(tmp_path.iterdir())
