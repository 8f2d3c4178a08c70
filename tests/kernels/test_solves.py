"""Certified results where the kernels multiply: proved by the same oracle, and within both bounds of torch's results.

A kernel forms the matrix of a factor and multiplies the corrections; the certificate is made of float64 residuals.
"""

from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import given, settings

import ntkla
from ntkla.linalg import errors
from ntkla.linalg.backends import choices, dispatch, kernels
from ntkla.linalg.precision import SHORT_CHAIN
from ntkla.linalg.solve import formed
from ntkla.testing import FeatureSpec, Problem, RidgeProblem, ridge_problems
from tests.kernels.draws import DEVICE
from tests.soundness.judge import forecast, judge_forgetting, judge_ridge, promised_ridge, solve

pytest.importorskip("triton", reason="the kernels need Triton, which is made for Linux only")

pytestmark = pytest.mark.skipif(
    DEVICE == "cuda", reason="problems of ntkla.testing lie on the CPU, where the kernels run in the interpreter only"
)

# The factor's matrix in float32, from 16-bit features, in float64, on the dual side; with weights and a free bias.
RIDGES = {
    "float32": (
        "ieee",
        RidgeProblem(FeatureSpec(60, 9, "geometric", dtype="float32"), 2, ridge_relative=1.0, bias=True),
    ),
    "bfloat16": (
        "bf16",
        RidgeProblem(FeatureSpec(40, 12, dtype="bfloat16", layout="transposed"), 3, ridge_relative=0.1),
    ),
    "bfloat16, weighted": (
        "ieee",
        RidgeProblem(FeatureSpec(30, 5, dtype="bfloat16"), 2, ridge_relative=1.0, bias=True, weighting="uniform"),
    ),
    "float64": ("float64", RidgeProblem(FeatureSpec(50, 7, "geometric", condition=1e10), 2, ridge_relative=1e-6)),
    "free bias": ("float64", RidgeProblem(FeatureSpec(50, 7, "clustered"), 2, bias=True, penalize_bias=False)),
    "dual": ("float64", RidgeProblem(FeatureSpec(8, 60, condition=1e6), 2, ridge_relative=1e-6, bias=True)),
    "dual, bfloat16": ("float64", RidgeProblem(FeatureSpec(6, 40, dtype="bfloat16"), 2)),
    "no ridge": ("float64", RidgeProblem(FeatureSpec(30, 5, "geometric"), 2, ridge_relative=0.0)),
}


@pytest.mark.parametrize("name", RIDGES)
def test_ridge_solve_is_certified_through_the_kernels(name):
    mode, problem = RIDGES[name]
    with ntkla.backend("triton"):
        by_kernels = solve(problem)
    assert by_kernels.diagnostics.factor.endswith(f" of triton:gram:{mode}")
    judge_ridge(problem, by_kernels)
    assert by_kernels.status.certified, by_kernels.status
    in_torch = solve(problem)
    assert " of " not in in_torch.diagnostics.factor
    difference = (by_kernels.solution - in_torch.solution).abs()
    assert bool((difference <= (by_kernels.error_bound + in_torch.error_bound) * SHORT_CHAIN).all())


@pytest.mark.parametrize("name", ["bfloat16, weighted", "dual"])
def test_matrices_are_summed_over_slabs(name, monkeypatch):
    monkeypatch.setattr(formed, "_SLAB_ENTRIES", 64)
    mode, problem = RIDGES[name]
    with ntkla.backend("triton"):
        solution = solve(problem)
    judge_ridge(problem, solution)
    assert solution.status.certified
    assert solution.diagnostics.factor.endswith(f" of triton:gram:{mode}")


def test_corrections_go_through_the_one_pass_kernel():
    _, problem = RIDGES["float32"]
    with ntkla.backend("triton"):
        solution = solve(problem)
    assert solution.diagnostics.corrections > 0
    assert ntkla.last_dispatch() == "triton:normal_matmul:float64"


NARROW, WIDE = FeatureSpec(40, 6, dtype="float32", seed=1), FeatureSpec(8, 20, seed=1)
FORECASTS = [
    Problem(FeatureSpec(9, 6, dtype="float32"), NARROW, 2, ridge_relative=1e-2),
    Problem(FeatureSpec(7, 20), WIDE, 3, ridge_relative=1e-3, bias=True, weight_decay_relative=1e-3),
]


@pytest.mark.parametrize("problem", FORECASTS, ids=repr)
def test_a_forecast_is_certified_through_the_kernels(problem):
    with ntkla.backend("triton"):
        by_kernels = forecast(problem)
    assert " of triton:gram:" in by_kernels.diagnostics.factor
    judge_forgetting(problem, by_kernels)
    assert by_kernels.status.certified, by_kernels.status
    in_torch = forecast(problem)
    allowed = (by_kernels.error_bound + in_torch.error_bound) * SHORT_CHAIN
    assert bool(((by_kernels.drift - in_torch.drift).abs() <= allowed).all())


def test_a_report_decides_the_same_through_the_kernels():
    targets = torch.eye(3, dtype=torch.float64)[torch.arange(12) % 3]
    old, new = (ntkla.Task(FeatureSpec(12, 5, seed=seed).tensor, targets) for seed in (1, 2))
    head = ntkla.LinearHead(FeatureSpec(3, 5, seed=3).tensor)
    in_torch = ntkla.forecast(old, new, head, ridge=0.5)
    with ntkla.backend("triton"):
        by_kernels = ntkla.forecast(old, new, head, ridge=0.5)
    assert " of triton:gram:" in by_kernels.forgetting.diagnostics.factor
    assert by_kernels.status.code == in_torch.status.code == "certified"
    assert str(by_kernels).splitlines()[:5] == str(in_torch).splitlines()[:5]


def test_modes_are_iterated_by_the_one_pass_kernel():
    features = FeatureSpec(16, 11, "geometric", condition=1e8).tensor
    modes = ntkla.eigenmodes(features, 1, route="lanczos", block_size=1)
    with ntkla.backend("triton"):
        by_kernel = ntkla.eigenmodes(features, 1, route="lanczos", block_size=1)
        assert ntkla.last_dispatch() == "triton:normal_matmul:float64"
    assert by_kernel.converged
    assert ((by_kernel.values - modes.values).abs() <= by_kernel.value_error + modes.value_error).all()


@settings(max_examples=15)
@given(ridge_problems())
def test_drawn_problems_are_certified_where_that_is_promised(problem):
    with ntkla.backend("triton"):
        solution = solve(problem)
    judge_ridge(problem, solution)
    if promised_ridge(problem):
        assert solution.status.certified, solution.status


def test_a_kernel_that_cannot_run_is_named_where_it_was_forced(monkeypatch):
    monkeypatch.setattr(kernels, "why_not", lambda *call: "it is planted")
    with ntkla.backend("triton"), pytest.raises(errors.BackendError, match=r"gram: .* forced, but it is planted"):
        solve(RIDGES["float64"][1])


def test_a_kernel_that_the_table_prefers_and_that_fails_leaves_a_certified_result(monkeypatch):
    _, problem = RIDGES["float32"]
    monkeypatch.setattr(dispatch, "_given_up", set())
    monkeypatch.setattr(dispatch, "takes_kernel", lambda *call: True)
    monkeypatch.setattr(kernels, "why_not", lambda *call: "it is planted")
    with pytest.warns(RuntimeWarning, match="it is planted"):
        solution = solve(dataclasses.replace(problem, seed=1))
    judge_ridge(dataclasses.replace(problem, seed=1), solution)
    assert solution.status.certified


def _first_row(mode: str) -> choices.Choice:
    return next(row for row in choices.CHOICES if (row.primitive, row.mode) == ("gram", mode))


PLANTED = {
    "as it is": lambda matrix: matrix,
    "off by its hundredth": lambda matrix: matrix * 1.01,
    "off in one entry": lambda matrix: matrix.index_put([torch.tensor(0), torch.tensor(0)], matrix.abs().max() * 3),
    "zeros": torch.zeros_like,
    "not a number": lambda matrix: matrix * torch.nan,
    "indefinite": torch.neg,
}


@pytest.mark.parametrize("fault", PLANTED)
@pytest.mark.parametrize("mode", ["split", "ieee"])
def test_a_factor_takes_the_mode_of_the_table_and_a_bad_matrix_costs_corrections_only(mode, fault, monkeypatch):
    """In production order: the table, no backend forced; what the kernel gives is spoiled."""
    _, problem = RIDGES["float32"]
    plain = solve(problem)
    row = dataclasses.replace(_first_row(mode), device="cpu", least_work=0.0)
    monkeypatch.setattr(choices, "CHOICES", (row,))
    monkeypatch.setattr(dispatch, "_given_up", set())
    name = {"split": "split_gram", "ieee": "gram"}[mode]
    kernel = getattr(kernels, name)
    monkeypatch.setattr(kernels, name, lambda *args: PLANTED[fault](kernel(*args)))
    found = solve(problem)
    judge_ridge(problem, found)
    assert found.status.certified, found.status
    if fault == "as it is":
        assert found.diagnostics.factor == f"cholesky:float32 of triton:gram:{mode}"
        assert found.diagnostics.escalations == ()
    else:
        more = found.diagnostics.corrections > plain.diagnostics.corrections
        assert more or found.diagnostics.escalations, found.diagnostics
