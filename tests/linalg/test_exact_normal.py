"""Normal equations without rounding, whatever the order, the cut, the layout and the state of the process."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ntkla.linalg import checks
from ntkla.linalg.arithmetic.accurate import accurate_normal_matrix
from ntkla.linalg.design import DesignMatrix
from ntkla.linalg.errors import ArgumentError, MemoryEstimateError
from ntkla.linalg.precision import U64, norm_upper
from ntkla.linalg.solve import exact_sums as module
from ntkla.linalg.solve.exact_normal import ExactNormal, exact_normal
from ntkla.testing import FeatureSpec, RidgeProblem, hostile_states, ridge_problems
from ntkla.testing.spectra import normal
from tests.linalg.exact_reference import normal_equations, value


def of(problem: RidgeProblem, rows: torch.Tensor | slice = slice(None)) -> ExactNormal:
    weights = None if problem.weights is None else problem.weights[rows].to(torch.float64)
    return exact_normal(DesignMatrix(problem.design.tensor[rows], problem.bias), (problem.targets[rows],), weights)


def is_exact(found: ExactNormal, problem: RidgeProblem) -> bool:
    square, right = normal_equations(problem.design.tensor, problem.targets, problem.bias, problem.weights)
    return value(found.square) == square and value(found.right) == right


TINY = RidgeProblem(FeatureSpec(5, 3, scale=1e-308), 2, targets_scale=1e-300, bias=True)
HUGE = RidgeProblem(FeatureSpec(5, 3, scale=1e70), 2, targets_scale=1e-30, bias=True)


@given(ridge_problems(extreme=True, weighted=True))
@example(TINY)
@example(HUGE)
def test_sums_are_exact(problem):
    assert is_exact(of(problem), problem)


@given(ridge_problems(extreme=True, weighted=True), st.data())
def test_any_cut_in_any_order_merges_to_the_same_bits(problem, data):
    n = problem.design.n
    order = torch.tensor(data.draw(st.permutations(range(n))))
    cut = data.draw(st.integers(0, n))
    parts = [rows for rows in (order[:cut], order[cut:]) if rows.numel()]
    merged = of(problem, parts[0])
    for rows in parts[1:]:
        merged = merged + of(problem, rows)
    assert merged.equals(of(problem))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_samples_of_very_different_sizes_in_many_blocks_are_exact(dtype):
    """Blocks that are cut into other slices than their neighbours: outliers, small rows, rows of zeros."""
    x, y = normal(5000, 3, 1).relu(), normal(5000, 2, 2)
    x[1500] *= 1e12
    x[2048:3072] *= 2.0**-40
    x[3072:4096] = 0.0
    x = x.to(dtype)
    whole = exact_normal(DesignMatrix(x, True), (y,))
    parts = [exact_normal(DesignMatrix(x[rows], True), (y[rows],)) for rows in torch.arange(5000).split(500)]
    merged = parts[0]
    for part in parts[1:]:
        merged = merged + part
    assert merged.equals(whole)
    square, right = normal_equations(x, y, True, None)
    assert value(whole.square) == square
    assert value(whole.right) == right


@pytest.mark.parametrize("name", hostile_states())
@settings(max_examples=8)
@example(TINY)
@example(RidgeProblem(FeatureSpec(5, 3, scale=1e-38, dtype="float32"), 2, bias=True))
@given(problem=ridge_problems(extreme=True, weighted=True))
def test_no_state_of_the_process_changes_a_bit(name, problem):
    problem.arguments()
    plain = of(problem)
    with hostile_states()[name]():
        under = of(problem)
    assert under.equals(plain)


FULL = 2**20 - 1  # an integer whose slices are as large as they come


@pytest.mark.parametrize("rows", [2**13 - 1, 2**13, 2**13 + 1, 3 * 2**13 + 5])
@pytest.mark.parametrize("weighted", [False, True])
def test_long_sums_of_the_largest_slices_stay_exact(rows, weighted):
    """Every product at its limit: two slices of -2^19 and their sum, over more rows than float64 adds exactly."""
    largest = float(-(2**19) * (1 + 2**20))
    x = torch.full((rows, 2), largest, dtype=torch.float64)
    x[::2, 1] = -largest - 1
    y = torch.full((rows, 1), float(FULL), dtype=torch.float64)
    weights = torch.full((rows,), largest.__abs__(), dtype=torch.float64) if weighted else None
    found = exact_normal(DesignMatrix(x), (y,), weights)
    count = int(-largest) if weighted else 1
    a, evens = int(largest), -(-rows // 2)
    columns = [[a] * rows, [-a - 1 if i % 2 == 0 else a for i in range(rows)]]
    cross = evens * a * (-a - 1) + (rows - evens) * a * a
    squares = [rows * a * a, evens * (a + 1) ** 2 + (rows - evens) * a * a]
    assert value(found.square) == [[count * squares[0], count * cross], [count * cross, count * squares[1]]]
    assert value(found.right) == [[count * FULL * sum(column)] for column in columns]


def test_one_sum_too_long_is_inexact(monkeypatch):
    """The planted error: what the limit of products added in float64 is for."""
    monkeypatch.setattr(module, "MOST_SUMMANDS", 2**17)
    odd = 2**19 - 1
    x = torch.full((2**16 + 1, 1), float(odd * (1 + 2**20)), dtype=torch.float64)
    found = exact_normal(DesignMatrix(x), (torch.ones_like(x),))
    assert value(found.square) != [[len(x) * (odd * (1 + 2**20)) ** 2]]


def test_targets_add_up_exactly():
    x, high, low = normal(7, 3, 1), normal(7, 2, 2), normal(7, 2, 3) * 2.0**-60
    both = exact_normal(DesignMatrix(x), (high, low)).right
    apart = exact_normal(DesignMatrix(x), (high,)).right + exact_normal(DesignMatrix(x), (low,)).right
    assert both.equals(apart)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_agrees_with_the_doubled_sum_within_its_bound(dtype):
    design = DesignMatrix(normal(3000, 40, 4).to(dtype), bias=True)
    exact = exact_normal(design, (normal(3000, 2, 5),)).square.rounded()
    accurate = accurate_normal_matrix(design)
    distance = float(norm_upper(exact.value.high - accurate.matrix))
    assert distance <= accurate.error + 2 * U64 * float(norm_upper(exact.value.high))
    # One rounding against a bound of thousands: the exact sum is the nearest float64 number.
    assert bool((exact.value.low.abs() <= U64 * exact.value.high.abs()).all())


def test_memory_is_told_before_it_is_needed(monkeypatch):
    monkeypatch.setattr(checks, "available_memory", lambda device: 1000)
    with pytest.raises(MemoryEstimateError):
        exact_normal(DesignMatrix(normal(4, 3, 1)), (normal(4, 1, 2),))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("weighted", [False, True])
def test_a_gpu_finds_the_same_bits(dtype, weighted):
    features, targets = normal(20_001, 301, 1).to(dtype), normal(20_001, 3, 2)
    weights = normal(20_001, 1, 3)[:, 0].abs() + 1.0 if weighted else None
    here = exact_normal(DesignMatrix(features, True), (targets,), weights)
    moved = None if weights is None else weights.cuda()
    there = exact_normal(DesignMatrix(features.cuda(), True), (targets.cuda(),), moved)
    assert torch.equal(there.square.limbs.cpu(), here.square.limbs)
    assert torch.equal(there.right.limbs.cpu(), here.right.limbs)


# The sums in a process of their own: what they hold at their peak, less what was held before, over the estimate.  So
# many rows that sums move into fixed point while a block is held in slices, as the estimate counts.
MEASURED = """
import sys, torch
from ntkla.linalg.design import DesignMatrix
from ntkla.linalg.solve.exact_normal import exact_normal, memory_estimate
from ntkla.testing.spectra import normal

def status(field):
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith(field))

dtype, weighted = getattr(torch, sys.argv[1]), sys.argv[2] == "weighted"
exact_normal(DesignMatrix(normal(50, 40, 1).to(dtype)), (normal(50, 3, 2),))
features, targets = normal(3000, 1000, 1).to(dtype), torch.ones((3000, 10), dtype=torch.float64)
weights = normal(3000, 1, 3)[:, 0].abs() + 1.0 if weighted else None
design, before = DesignMatrix(features), status("VmRSS")
open("/proc/self/clear_refs", "w").write("5")
sums = exact_normal(design, (targets,), weights)
print((status("VmHWM") - before) / memory_estimate(design, 10, weighted))
"""
ROOM = 1.2


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="no /proc that forgets a process's peak")
@pytest.mark.parametrize(("dtype", "weights"), [("float32", "plain"), ("bfloat16", "plain"), ("float64", "weighted")])
def test_the_peak_is_what_was_estimated(dtype, weights):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    ratios: list[float] = []
    # A busy system only ever adds to a peak.
    while len(ratios) < 3 and (not ratios or ratios[-1] > ROOM):
        command = [sys.executable, "-c", MEASURED, dtype, weights]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, env=environment)
        assert done.returncode == 0, done.stderr
        ratios.append(float(done.stdout))
    assert 1 / 2 < min(ratios) <= ROOM, ratios


@pytest.mark.parametrize(("columns", "outputs", "name"), [(-1, 2, "columns"), (3, -1, "outputs"), (2.5, 1, "columns")])
def test_sums_of_no_samples_have_sizes(columns, outputs, name):
    with pytest.raises(ArgumentError, match=f"{name}: expected an integer"):
        ExactNormal.zeros(columns, outputs, torch.device("cpu"))
