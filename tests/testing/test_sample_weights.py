"""Sample weights of the references: each says what repeated samples say, and each drawn kind is what it is called."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ntkla.linalg.precision import U64
from ntkla.testing import (
    WEIGHTINGS,
    Exact,
    dense_drift_primal,
    dense_ridge_solution,
    gradient_descent,
    gradient_flow,
    head_update,
    looped_gradient_descent,
    minimum_norm_solution,
    problems,
    ridge_problems,
    ridge_solution,
    sample_weights,
)
from ntkla.testing.spectra import normal

COUNTS = torch.tensor([2, 1, 0, 3, 1])
WEIGHTS = COUNTS.to(torch.float64)
REPEATED = torch.repeat_interleave(torch.arange(5), COUNTS)
R = normal(5, 2, 2)
# Wider and narrower than the samples: the exact solver takes another road for many columns.
FEATURES = [normal(5, width, 1) for width in (3, 11)]


def same(left: Exact, right: Exact) -> bool:
    """Two enclosures of one matrix, as tight as a rounding of float64, overlap."""
    pairs = zip(left.within(U64).entries(), right.within(U64).entries(), strict=True)
    return all(a.overlaps(b) for a, b in pairs)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("phi", FEATURES, ids=lambda phi: str(tuple(phi.shape)))
def test_exact_references_take_weights_as_counts(phi: torch.Tensor, bias: bool) -> None:
    start = normal(phi.shape[1] + int(bias), 2, 3)
    head = {"weight_decay": 0.2, "head_weight": start[: phi.shape[1]].T, "head_bias": start[-1] if bias else None}
    steps = {"lr": 0.01, "steps": 7, "momentum": 0.5, "penalties": 0.1, "decays": 0.2, "start": start, "bias": bias}
    flow = {"time": 0.3, "penalties": 0.1, "bias": bias}
    for reference, options in [
        (ridge_solution, {"ridge": 0.1, "bias": bias, "penalize_bias": False}),
        (ridge_solution, {"ridge": 0.1, "bias": bias}),
        (minimum_norm_solution, {"bias": bias}),
        (head_update, {"ridge": 0.1, "bias": bias, **head}),
        (gradient_descent, steps),
        (gradient_flow, flow),
    ]:
        weighted = reference(phi, R, weights=WEIGHTS, **options)
        assert same(weighted, reference(phi[REPEATED], R[REPEATED], **options)), reference.__name__
        assert not same(weighted, reference(phi, R, **options)), reference.__name__


@pytest.mark.parametrize("phi", FEATURES, ids=lambda phi: str(tuple(phi.shape)))
def test_dense_references_take_weights_as_counts(phi: torch.Tensor) -> None:
    twice, old = (phi[REPEATED], R[REPEATED]), normal(4, phi.shape[1], 5)
    run = {"lr": 0.01, "steps": 9, "momentum": 0.5, "penalty": 0.1}
    for weighted, repeated in [
        (dense_ridge_solution(phi, R, 0.1, WEIGHTS), dense_ridge_solution(*twice, 0.1)),
        (dense_drift_primal(old, phi, R, 0.1, weights=WEIGHTS), dense_drift_primal(old, *twice, 0.1)),
        (looped_gradient_descent(phi, R, weights=WEIGHTS, **run), looped_gradient_descent(*twice, **run)),
    ]:
        assert float((weighted - repeated).norm()) <= 2.0**20 * U64 * float(repeated.norm())


@given(st.sampled_from(WEIGHTINGS), st.integers(0, 2**20), st.integers(1, 40), st.sampled_from(("float64", "bfloat16")))
def test_drawn_weights_are_what_they_are_called(kind: str, seed: int, n: int, dtype: str) -> None:
    weights = sample_weights(kind, n, seed=seed, dtype=dtype)
    if kind == "none":
        assert weights is None
        return
    again = sample_weights(kind, n, seed=seed, dtype=dtype)
    assert torch.equal(weights, again)
    assert weights.shape == (n,)
    assert weights.dtype == getattr(torch, dtype)
    assert bool((weights >= 0).all())
    assert bool((weights > 0).any())
    values = weights.to(torch.float64)
    if kind == "powers":
        assert bool((torch.frexp(values).mantissa == 0.5).all())
    if kind == "counts":
        assert set(values.tolist()) <= {1.0, 2.0, 3.0, 4.0}
    if kind == "one_only":
        assert int((values > 0).sum()) == 1
    if kind == "ones":
        assert bool((values == 1).all())


@given(ridge_problems(weighted=True), problems(weighted=True))
def test_weighted_problems_carry_their_weights(regression, forgetting) -> None:
    for problem, n in ((regression, regression.design.n), (forgetting, forgetting.new.n)):
        assert problem.arguments()["weights"].shape == (n,)
        assert f"weighting={problem.weighting!r}" in repr(problem)


@given(ridge_problems(), problems())
def test_problems_are_drawn_without_weights_unless_asked(regression, forgetting) -> None:
    assert regression.arguments()["weights"] is None
    assert forgetting.arguments()["weights"] is None
