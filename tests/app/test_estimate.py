"""Time and memory told beforehand, against operations that are counted, a measured peak and, slowly, the clock."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import ntkla
from ntkla.app.command_line import estimate
from ntkla.app.command_line.estimate import Estimate, of_forecast, of_modes
from ntkla.app.command_line.estimate import _report as of_report
from ntkla.app.command_line.estimate import _update as of_update
from ntkla.app.reports import progress
from ntkla.linalg.arithmetic import products
from ntkla.linalg.design import DesignMatrix

# What people are told may be half or twice the truth.
FACTOR = 2.0
# (n_A, n_B, F, C), whether training stops early, the old task's side that is smaller, the route.
PROBLEMS = {
    "many samples": ((900, 700, 120, 20), False),
    "wide features": ((150, 100, 300, 10), False),
    "many outputs": ((200, 400, 60, 200), False),
    "training that stops": ((400, 500, 150, 10), True),
}


def problem(sizes: tuple[int, int, int, int]) -> tuple[ntkla.Task, ntkla.Task, ntkla.LinearHead]:
    draw, (olds, news, features, outputs) = torch.Generator().manual_seed(2), sizes
    old, new = (torch.randn((n, features), generator=draw) for n in (olds, news))
    labels = torch.randint(outputs, (news,), generator=draw)
    head = ntkla.LinearHead(0.01 * torch.randn((outputs, features), generator=draw), torch.zeros(outputs))
    return ntkla.Task(old), ntkla.Task.from_labels(new, labels, outputs), head


def run(tasks: tuple[ntkla.Task, ntkla.Task, ntkla.LinearHead], early: bool) -> None:
    old, new, head = tasks
    training = ntkla.GradientDescent(1e-7, 50) if early else None
    ntkla.forecast(old, new, head, ridge=0.0 if early else 0.01 * len(new.features), training=training)


class Counted(TorchDispatchMode):
    """Counts operations of matrix products, Cholesky factors and their solves, and those of eigendecompositions."""

    def __init__(self) -> None:
        super().__init__()
        self.products = self.decompositions = 0.0

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), options: Any = None) -> Any:
        name = function.overloadpacket.__name__
        if name == "mm":
            self.products += 2 * arguments[0].numel() * arguments[1].shape[1]
        elif name == "linalg_cholesky_ex":
            self.products += arguments[0].shape[0] ** 3 / 3
        elif name == "cholesky_solve":
            self.products += 2 * arguments[1].shape[0] ** 2 * arguments[0].shape[1]
        elif name == "_linalg_eigh":
            self.decompositions += 10 * arguments[0].shape[0] ** 3
        return function(*arguments, **(options or {}))


@pytest.mark.parametrize("name", PROBLEMS)
def test_the_operations_are_those_that_run(name, monkeypatch):
    sizes, early = PROBLEMS[name]
    old, new, head = problem(sizes)
    genuine = products._blas_update
    with Counted() as counted:

        def update(accumulator: torch.Tensor, piece: torch.Tensor) -> None:
            counted.products += piece.shape[0] * piece.shape[1] ** 2  # one triangle
            genuine(accumulator, piece)

        monkeypatch.setattr(products, "_blas_update", update)
        run((old, new, head), early)
    update = of_update(DesignMatrix(new.features, True), head.outputs, early)
    parts = update, of_report(DesignMatrix(old.features, True), head.outputs)
    assert 1 / FACTOR <= sum(part.products for part in parts) / counted.products <= FACTOR
    assert sum(part.decompositions for part in parts) == counted.decompositions


def decaying(rows: int, columns: int) -> torch.Tensor:
    draw = torch.Generator().manual_seed(2)
    return torch.randn((rows, columns), generator=draw) * torch.logspace(0, -2, columns)


@pytest.mark.parametrize("route", ["full", "lanczos"])
@pytest.mark.parametrize(("shape", "k"), [((2500, 500), 10), ((500, 2500), 10)], ids=str)
def test_the_operations_of_modes_are_those_that_run(shape, k, route, monkeypatch):
    genuine, told, features = products._blas_update, [], decaying(*shape)
    monkeypatch.setattr(estimate, "_seconds", lambda work, device: told.append(work) or 0.0)
    of_modes(features, k, bias=False, route=route)
    with Counted() as counted:

        def update(accumulator: torch.Tensor, piece: torch.Tensor) -> None:
            counted.products += piece.shape[0] * piece.shape[1] ** 2  # one triangle
            genuine(accumulator, piece)

        monkeypatch.setattr(products, "_blas_update", update)
        ntkla.eigenmodes(features, k, route=route)
    assert 1 / FACTOR <= told[0].products / counted.products <= FACTOR
    if route == "full":
        assert told[0].decompositions == counted.decompositions


def test_modes_are_told_by_the_route_that_is_taken():
    features = torch.zeros((1, 1)).expand(20_000, 2_000)
    lanczos, full = (of_modes(features, 10, bias=False, route=route) for route in ("lanczos", "full"))
    assert of_modes(features, 10, bias=False).bytes == lanczos.bytes < full.bytes
    assert of_modes(features, 1_000, bias=False).bytes > full.bytes
    assert of_modes(features, 10, bias=False, prove="inertia").bytes > lanczos.bytes
    assert of_modes(features, 10, bias=False, block=64).bytes > lanczos.bytes
    # What will be refused is not announced.
    assert not of_modes(features, 1_000, bias=False, route="lanczos").long


# In a process of its own: what a forecast holds at its peak, less what it held before, over the estimate.
MEASURED = """
import sys
from ntkla.app.command_line.estimate import of_forecast
from tests.app.test_estimate import problem, run

def status(field):
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith(field))

sizes, early = tuple(map(int, sys.argv[1:5])), sys.argv[5] == "True"
# A small one first: libraries set up their own buffers once.
run(problem((50, 50, 10, 3)), early)
old, new, head = problem(sizes)
expected = of_forecast([old.features], new.features, head.outputs, bias=True, finite=early)
before = status("VmRSS")
open("/proc/self/clear_refs", "w").write("5")  # the peak starts again from here
run((old, new, head), early)
print((status("VmHWM") - before) / expected.bytes)
"""


def output_of(script: str, arguments: tuple[object, ...]) -> str:
    command = [sys.executable, "-c", script, *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="no /proc that forgets a process's peak")
@pytest.mark.parametrize(
    ("sizes", "early"), [((20000, 1000, 100, 100), False), ((1500, 1500, 1000, 10), True)], ids=["outputs", "squares"]
)
def test_the_peak_is_what_was_estimated(sizes, early):
    assert 1 / FACTOR <= float(output_of(MEASURED, (*sizes, early))) <= FACTOR


# The same for modes: rows, columns, k, route, proof.
MODES_MEASURED = """
import sys
import ntkla
from ntkla.app.command_line.estimate import of_modes
from tests.app.test_estimate import decaying

def status(field):
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith(field))

rows, columns, k = map(int, sys.argv[1:4])
options = {"route": sys.argv[4], "prove": sys.argv[5]}
ntkla.eigenmodes(decaying(300, 250), 2, **options)
features = decaying(rows, columns)
expected = of_modes(features, k, bias=False, **options)
before = status("VmRSS")
open("/proc/self/clear_refs", "w").write("5")
ntkla.eigenmodes(features, k, **options)
print((status("VmHWM") - before) / expected.bytes)
"""


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="no /proc that forgets a process's peak")
@pytest.mark.parametrize(
    "options", [(1500, 1000, 10, "full", "trace"), (1500, 1000, 10, "lanczos", "inertia")], ids=str
)
def test_the_peak_of_modes_is_what_was_estimated(options):
    assert 1 / FACTOR <= float(output_of(MODES_MEASURED, options)) <= FACTOR


@pytest.mark.slow
@pytest.mark.parametrize("sizes", [(5000, 5000, 1024, 100), (20000, 20000, 768, 100), (3000, 500, 2048, 10)], ids=str)
def test_the_clock_agrees(sizes):
    old, new, head = problem(sizes)
    expected = of_forecast([old.features], new.features, head.outputs, bias=True, finite=False)
    began = time.perf_counter()
    run((old, new, head), False)
    assert 1 / FACTOR <= expected.seconds / (time.perf_counter() - began) <= FACTOR


def test_small_problems_need_no_probe(monkeypatch):
    monkeypatch.setattr(torch.linalg, "eigh", lambda _: pytest.fail("probed"))
    old, new, _ = problem((30, 30, 10, 3))
    assert not of_forecast([old.features], new.features, 3, bias=True, finite=False).long
    assert not of_modes(old.features, 5, bias=False).long


@pytest.mark.parametrize(
    ("seconds", "size", "said"),
    [
        (40.2, 3_040_000_000, "about 40 s and 3.0 GB"),
        (600, 52_000_000, "about 10 min and 52 MB"),
        (9000, 10**9, "about 2.5 h and 1.0 GB"),
    ],
)
def test_an_estimate_in_words(seconds, size, said):
    assert str(Estimate(seconds, size)) == said


def test_a_long_command_is_announced(capsys):
    with progress.watched(Estimate(40, 3 * 10**9), "the forecast") as stage:
        stage("reading")
    assert capsys.readouterr().err == "ntkla: the forecast needs about 40 s and 3.0 GB\n"
    with progress.watched(Estimate(1, 10), "the forecast") as stage:
        stage("reading")
    assert capsys.readouterr().err == ""


def test_a_person_who_watches_sees_the_stages(capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(progress, "_PERIOD", 0.01)
    with progress.watched(Estimate(3.0, 10), "the forecast") as stage:
        stage("reading")
        time.sleep(0.2)
        stage("forecast")
        time.sleep(0.2)
    shown = capsys.readouterr().err
    assert "reading" in shown
    assert "forecast" in shown
