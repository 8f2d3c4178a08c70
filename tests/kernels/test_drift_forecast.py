"""Forecasts whose last product the kernel `drift` makes: in one pass, and with the bounds and decisions of torch."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings

import ntkla
from ntkla.forgetting.drift_bound import RowSizes
from ntkla.linalg import errors
from ntkla.linalg.arithmetic.products import pieced_gamma
from ntkla.linalg.backends import kernels
from ntkla.linalg.design import DesignMatrix
from ntkla.linalg.drift_product import moved
from ntkla.linalg.precision import NEGLIGIBLE
from ntkla.testing import FeatureSpec, Problem, hostile_states, problems
from tests.kernels.draws import DEVICE
from tests.kernels.drift_problems import columns_of, wide
from tests.soundness.judge import forecast, judge_forgetting

pytest.importorskip("triton", reason="the kernels need Triton, which is made for Linux only")


def refuse(sizes: RowSizes) -> torch.Tensor:
    raise AssertionError("the features are read for the norms of their rows")


def test_the_certificate_reads_the_features_once(monkeypatch):
    """No pass for the norms of rows, and the bound of torch but for what differs in the update."""
    old, new, residual = wide(23, 18) + 2, wide(40, 18, seed=1), wide(40, 3, seed=2)
    for kind in ({}, {"bias": True}, {"bias": True, "penalize_bias": False}):
        in_torch = ntkla.predict_forgetting(old, new, residual, ridge=1e-3, **kind)
        for name in ("norms", "distances"):
            monkeypatch.setattr(RowSizes.__dict__[name], "func", refuse)
        with ntkla.backend("triton"):
            found = ntkla.predict_forgetting(old, new, residual, ridge=1e-3, **kind)
            assert ntkla.last_dispatch() == "triton:drift:float64"
        monkeypatch.undo()
        assert found.status.certified
        allowed = (found.error_bound + in_torch.error_bound) * (1 + pieced_gamma(8))
        assert ((found.drift - in_torch.drift).abs() <= allowed).all()


@pytest.mark.parametrize("rows", ["zeros", "tiny"])
def test_rows_too_small_for_plain_squares_are_certified_in_torch(rows):
    old, new, residual = wide(5, 4), wide(9, 4, seed=1), wide(9, 2, seed=2)
    old[2:4] *= 0.0 if rows == "zeros" else 2.0**-600
    in_torch = ntkla.predict_forgetting(old, new, residual, ridge=1.0)
    with ntkla.backend("triton"):
        found = ntkla.predict_forgetting(old, new, residual, ridge=1.0)
    assert found.status.certified
    assert (found.error_bound[2:4] <= max(2 * float(in_torch.error_bound[2:4].max()), NEGLIGIBLE)).all()


HOSTILE = [
    Problem(FeatureSpec(5, 3, scale=1e-38, dtype=kind), FeatureSpec(5, 3, scale=1e-38, dtype=kind), 2, bias=bias)
    for kind, bias in (("float32", False), ("bfloat16", True))
]
HOSTILE.append(Problem(FeatureSpec(5, 3, scale=1e-308), FeatureSpec(5, 3), 2, ridge_relative=1e-6, bias=True))


@pytest.mark.skipif(DEVICE == "cuda", reason="problems of ntkla.testing lie on the CPU")
@pytest.mark.parametrize("state", hostile_states())
def test_ambient_state_breaks_no_bound(state):
    """Among them arithmetic that flushes the subnormal features to zero, where the interpreter would."""
    for problem in HOSTILE:
        problem.arguments()
        with hostile_states()[state](), ntkla.backend("triton"):
            found = forecast(problem)
        judge_forgetting(problem, found)


@pytest.mark.skipif(DEVICE == "cuda", reason="problems of ntkla.testing lie on the CPU")
@settings(max_examples=12)
@given(problems(extreme=True))
def test_drawn_forecasts_are_within_their_bounds(problem):
    with ntkla.backend("triton"):
        judge_forgetting(problem, forecast(problem))


def test_a_kernel_that_cannot_run_is_named(monkeypatch):
    monkeypatch.setattr(kernels, "why_not", lambda *call: "it is planted")
    with ntkla.backend("triton"), pytest.raises(errors.BackendError, match=r"drift: .* forced, but it is planted"):
        moved(DesignMatrix(wide(3, 2)), wide(2, 1), columns_of(1), centre=None)


def test_the_product_is_checked_on_request(monkeypatch):
    right = kernels.drift
    design, w = DesignMatrix(wide(9, 4), True), wide(5, 3, seed=1)
    with ntkla.backend("triton"), ntkla.checked_products(vectors=20):
        moved(design, w, columns_of(3), centre=None)
        monkeypatch.setattr(kernels, "drift", lambda *given: (right(*given)[0] * (1 + 1e-8), *right(*given)[1:]))
        with pytest.raises(errors.KernelFaultError, match="drift"):
            moved(design, w, columns_of(3), centre=None)


def test_wide_reports_decide_the_same():
    """Accuracies and flips of a forecast whose features come in a narrow type."""
    targets = torch.eye(3, dtype=torch.float64)[torch.arange(24) % 3]
    old, new = (
        ntkla.Task(FeatureSpec(24, 6, dtype="float32", seed=s).tensor, targets, labels=torch.arange(24) % 3)
        for s in (1, 2)
    )
    head = ntkla.LinearHead(FeatureSpec(3, 6, seed=3).tensor.float())
    in_torch = ntkla.forecast(old, new, head, ridge=0.5)
    with ntkla.backend("triton"):
        by_kernel = ntkla.forecast(old, new, head, ridge=0.5)
    lines = [[line for line in str(found).splitlines()[:5] if "proved" not in line] for found in (by_kernel, in_torch)]
    assert lines[0] == lines[1]
    assert torch.equal(by_kernel.flips.certain, in_torch.flips.certain)
