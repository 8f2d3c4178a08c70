"""What the command adds to the library call: under half a second of processor time, and no package it does not need."""

from __future__ import annotations

import pytest

from tests.app.task_files import RIDGE, TaskFiles, task_files
from tests.test_house import run_python

MOST = 0.5
LIBRARY = """
import time, torch
start = time.process_time()
import ntkla
draw = torch.Generator().manual_seed(0)
x, y = (torch.randn((30, 12), generator=draw) for _ in range(2))
labels = torch.zeros(30, dtype=torch.int64)
head = ntkla.LinearHead(torch.ones((5, 12)), torch.ones(5))
old, new = ntkla.Task(x, labels=labels), ntkla.Task.from_labels(y, labels, 5)
ntkla.forecast({"a": old, "b": old}, new, head, ridge=1.0)
print(time.process_time() - start)
"""
COMMAND = """
import contextlib, io, sys, time, torch
start = time.process_time()
sys.argv = ["ntkla", *ARGUMENTS]
from ntkla.app.cli import main
with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
    main()
print(time.process_time() - start)
"""


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> TaskFiles:
    return task_files(tmp_path_factory.mktemp("files"))


def command(code: str, *arguments: str) -> str:
    return run_python(code.replace("ARGUMENTS", repr([*arguments])))


def test_the_command_adds_less_than_half_a_second(files):
    # Processor time: the wall clock of a busy machine says nothing about the command.  The first may compile bytecode.
    arguments = ["forecast", *files.arguments, "--ridge", str(RIDGE)]
    library = min(float(run_python(LIBRARY)) for _ in range(2))
    whole = min(float(command(COMMAND, *arguments)) for _ in range(2))
    assert whole - library < MOST


def test_json_needs_neither_rich_nor_matplotlib(files):
    code = COMMAND + "print(sorted({'rich', 'matplotlib', 'mlxtend', 'safetensors'} & set(sys.modules)))"
    assert command(code, "forecast", *files.arguments, "--ridge", "1", "--json").splitlines()[-1] == "[]"
