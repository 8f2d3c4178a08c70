"""Files that are whole or not there."""

from __future__ import annotations

import os
import stat

import pytest

from ntkla.app.failures import OutputError
from ntkla.app.reports.written import make_folder, written


def test_a_file_appears_whole(tmp_path):
    def write(path):
        assert not (tmp_path / "a.json").exists()
        path.write_text("{}")

    assert written(tmp_path / "a.json", write).read_text() == "{}"
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_what_was_there_stays_when_writing_fails(tmp_path):
    (tmp_path / "a.json").write_text("old")

    def fails(path):
        path.write_text("half")
        raise OSError(28, "No space left on device")

    with pytest.raises(OutputError, match=r"a\.json cannot be written \(No space left on device\)"):
        written(tmp_path / "a.json", fails)
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("a.json", "old")]


def test_the_usual_permissions(tmp_path):
    before = os.umask(0o027)
    try:
        made = written(tmp_path / "a.json", lambda path: path.write_text(""))
        assert stat.S_IMODE(made.stat().st_mode) == 0o640
        assert os.umask(0o027) == 0o027
    finally:
        os.umask(before)


def test_a_folder_is_made_or_refused(tmp_path):
    make_folder(tmp_path / "a" / "b")
    assert list((tmp_path / "a" / "b").iterdir()) == []
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="file is a file, not a folder"):
        make_folder(tmp_path / "file")
    with pytest.raises(OutputError, match="cannot write to"):
        make_folder(tmp_path / "file" / "inside")
