"""`eigenmodes` against ball arithmetic, exact eigenvectors, dense references, and the cases that break others."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch
from hypothesis import assume, example, given
from hypothesis import strategies as st

from ntkla import ArgumentError, DtypeError, MemoryEstimateError, NonFiniteError, ShapeError
from ntkla.linalg import checks
from ntkla.linalg.eigenmodes import eigenmodes
from ntkla.linalg.kronecker import KroneckerGram
from ntkla.linalg.operators import CrossGram, FunctionOperator, GramOperator
from ntkla.testing import FeatureSpec, ambient_state, check_eigenmodes, feature_specs, hostile_states, planted_features
from ntkla.testing.spectra import normal


def assert_sound(modes, features, bias=False):
    for verdict in check_eigenmodes(modes, features, bias=bias):
        assert verdict.sound, str(verdict)


SPEC = FeatureSpec(n=8, features=5, spectrum="clustered", condition=1e6, seed=3)


@given(feature_specs(most=8, extreme=True), st.booleans(), st.floats(0, 1))
@example(FeatureSpec(n=1, features=1), False, 1.0)
@example(FeatureSpec(n=8, features=1, spectrum="zero"), False, 1.0)
@example(FeatureSpec(n=8, features=8, spectrum="flat"), False, 0.5)
@example(FeatureSpec(n=8, features=3, condition=1e15), False, 1.0)
@example(FeatureSpec(n=8, features=8, spectrum="rank_one", scale=1e12, dtype="bfloat16"), True, 1.0)
@example(FeatureSpec(n=5, features=5, scale=1e-300), False, 1.0)
def test_every_bound_holds_exactly(spec, bias, part):
    features = spec.tensor
    assume(bool(features.isfinite().all()))  # the largest scales overflow the narrow types
    k = max(1, round(part * features.shape[0]))
    modes = eigenmodes(features, k, bias=bias)
    assert_sound(modes, features, bias)
    assert (
        modes.values.shape == modes.value_error.shape == modes.residual_norms.shape == modes.angle_bound.shape == (k,)
    )
    assert modes.vectors.shape == (features.shape[0], k)
    assert modes.complete
    assert modes.next_value_bound <= float(modes.values[-1] + modes.value_error[-1])
    assert (modes.values.diff() <= 0).all()
    assert (modes.values >= 0).all()
    assert [c.start for c in modes.clusters[1:]] == [c.stop for c in modes.clusters[:-1]]
    assert modes.clusters[0].start == 0
    assert modes.clusters[-1].start < k <= modes.clusters[-1].stop
    assert modes.cut == (modes.clusters[-1].stop > k)
    for tensor in (modes.values, modes.value_error, modes.residual_norms, modes.angle_bound, modes.vectors):
        assert not tensor.isnan().any()


def test_bounds_are_tight_somewhere():
    """Within a factor of 100 of the true error for some draw."""
    ratios = {}
    for seed in range(20):
        features = FeatureSpec(n=8, features=8, spectrum="flat", seed=seed).tensor
        for verdict in check_eigenmodes(eigenmodes(features, 4), features):
            ratios[verdict.name] = max(ratios.get(verdict.name, 0.0), verdict.largest_ratio)
    assert min(ratios.values()) > 1 / 100, ratios


SHRUNK = ["value_error", "residual_norms", "orthogonality", "next_value_bound"]


@pytest.mark.parametrize("name", SHRUNK)
def test_a_bound_scaled_by_a_thousandth_is_noticed(name):
    found = 0
    for seed in range(10):
        features = FeatureSpec(n=8, features=8, spectrum="flat", seed=seed).tensor
        modes = eigenmodes(features, 4)
        smaller = dataclasses.replace(modes, **{name: getattr(modes, name) * 1e-3})
        found += not all(verdict.sound for verdict in check_eigenmodes(smaller, features))
    assert found > 0


@pytest.mark.parametrize("dropped", range(4))
def test_a_dropped_copy_of_an_eigenvalue_is_noticed(dropped):
    features = planted_features(8, 8, [4.0, 2.0, 2.0, 2.0, 1.0])
    modes = eigenmodes(features, 5)
    kept = [i for i in range(5) if i != dropped]
    without = {name: getattr(modes, name)[kept] for name in ("values", "value_error", "residual_norms")}
    lost = dataclasses.replace(modes, **without, basis=modes.basis[:, kept], next_value_bound=0.0)
    assert not all(verdict.sound for verdict in check_eigenmodes(lost, features))


def test_vectors_beyond_the_rank_complete_an_orthonormal_basis():
    features = normal(12, 3, 1)
    modes = eigenmodes(features, 12)
    assert (modes.values[3:] == 0).all()
    assert (modes.value_error[3:] == 0).all()
    assert modes.orthogonality < modes.tolerance
    assert_sound(modes, features)


@pytest.mark.parametrize("shape", [(60, 12), (12, 60)])
def test_vectors_of_vanishing_singular_values_are_orthonormal(shape):
    features = FeatureSpec(*shape, spectrum="geometric", condition=1e28, seed=5).tensor
    modes = eigenmodes(features, 12)
    assert modes.status.certified
    assert modes.orthogonality < modes.tolerance
    assert_sound(eigenmodes(features[:9, :7], 7), features[:9, :7])


def test_both_sides_give_one_spectrum():
    features = normal(30, 9, 2)
    tall, wide = eigenmodes(features, 9), eigenmodes(features.T, 9)
    assert ((tall.values - wide.values).abs() <= tall.value_error + wide.value_error).all()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("n", "width"), [(3000, 200), (150, 900)])
def test_the_default_tolerance_is_met(dtype, n, width):
    modes = eigenmodes(normal(n, width, 4).to(dtype), 20, bias=True)
    assert modes.status.certified
    assert modes.converged
    assert float(modes.value_error.max()) <= modes.tolerance * float(modes.values[0])


def test_a_tolerance_that_is_not_met_is_said():
    modes = eigenmodes(normal(50, 20, 4), 3, tol=1e-300)
    assert not modes.converged
    assert modes.complete
    assert modes.status.code == "above_tolerance"
    assert "tolerance" in modes.status.message
    assert torch.equal(modes.values, eigenmodes(normal(50, 20, 4), 3).values)


def test_a_zero_matrix_is_known_exactly():
    modes = eigenmodes(torch.zeros(5, 3), 2)
    assert modes.status.certified
    assert not modes.values.any()
    assert not modes.value_error.any()
    assert not modes.residual_norms.any()
    assert [(c.start, c.stop) for c in modes.clusters] == [(0, 5)]


def test_operators_and_features_agree():
    features = normal(9, 4, 1)
    direct, wrapped = eigenmodes(features, 3, bias=True), eigenmodes(GramOperator(features, bias=True), 3)
    assert direct.to_dict() == wrapped.to_dict()
    json.dumps(direct.to_dict())


def test_inputs_are_detached_and_left_alone():
    features = normal(9, 4, 1).requires_grad_()
    before = features.detach().clone()
    first, second = eigenmodes(features, 3), eigenmodes(features, 3)
    assert torch.equal(features.detach(), before)
    assert not first.values.requires_grad
    assert first.to_dict() == second.to_dict(), "the same inputs give the same bits"


@pytest.mark.parametrize("state", hostile_states())
def test_ambient_state_changes_no_bound(state):
    features = [spec.tensor for spec in (SPEC, dataclasses.replace(SPEC, n=4, features=9, dtype="bfloat16"))]
    features.append(torch.zeros(3, 2, dtype=torch.float64))
    before = ambient_state()
    with hostile_states()[state]():
        inside = ambient_state()
        results = [eigenmodes(x, 3) for x in features]
        kronecker = eigenmodes(KroneckerGram(GramOperator(features[0]), 3), 4).vectors
        assert ambient_state() == inside
    assert ambient_state() == before
    assert kronecker.dtype == torch.float64
    for x, modes in zip(features, results, strict=True):
        assert_sound(modes, x)


FEATURES = normal(6, 4, 0)


@pytest.mark.parametrize(
    ("error", "words", "call"),
    [
        (ArgumentError, "k: expected an integer >= 1 and <= 6, got 0", lambda: eigenmodes(FEATURES, 0)),
        (ArgumentError, "<= 6, got 7", lambda: eigenmodes(FEATURES, 7)),
        (ArgumentError, "<= 18, got 19", lambda: eigenmodes(KroneckerGram(GramOperator(FEATURES), 3), 19)),
        (ArgumentError, "k: expected an integer", lambda: eigenmodes(FEATURES, 2.5)),
        (ArgumentError, "tol", lambda: eigenmodes(FEATURES, 2, tol=0.0)),
        (ArgumentError, "tol", lambda: eigenmodes(FEATURES, 2, tol=float("nan"))),
        (ArgumentError, "bias=True", lambda: eigenmodes(GramOperator(FEATURES), 2, bias=True)),
        (ArgumentError, "bias", lambda: eigenmodes(FEATURES, 2, bias=FEATURES[0])),
        (DtypeError, "torch.Tensor", lambda: eigenmodes(FEATURES.numpy(), 2)),
        (DtypeError, "float64", lambda: eigenmodes(FEATURES.long(), 2)),
        (ShapeError, "two dimensions", lambda: eigenmodes(FEATURES[0], 1)),
        (ShapeError, "at least one row", lambda: eigenmodes(FEATURES[:0], 1)),
        (NonFiniteError, "1 NaN", lambda: eigenmodes(torch.full((1, 1), torch.nan), 1)),
        (
            ArgumentError,
            "Make it with psd=True",
            lambda: eigenmodes(FunctionOperator(lambda v: v, (3, 3), torch.float64, "cpu"), 1),
        ),
        (
            ArgumentError,
            "Rayleigh quotient -1",
            lambda: eigenmodes(FunctionOperator(lambda v: -v, (3, 3), torch.float64, "cpu", psd=True), 1),
        ),
        (ShapeError, "square", lambda: eigenmodes(CrossGram(FEATURES, FEATURES[:2]), 1)),
        (ArgumentError, "block_size", lambda: eigenmodes(FEATURES, 1, block_size=0)),
        (ArgumentError, "prove", lambda: eigenmodes(FEATURES, 1, prove="full")),
        (ArgumentError, "seed", lambda: eigenmodes(FEATURES, 1, seed=-1)),
        (ArgumentError, "route", lambda: eigenmodes(FEATURES, 1, route="dense")),
        (ArgumentError, "more than the 4 dimensions", lambda: eigenmodes(FEATURES, 1, route="lanczos")),
        (DtypeError, "progress", lambda: eigenmodes(FEATURES, 1, progress=3)),
    ],
)
def test_bad_input_is_named(error, words, call):
    with pytest.raises(error, match=words.replace("(", r"\(")):
        call()


def test_memory_is_refused_before_it_is_tried(monkeypatch):
    modes = eigenmodes(KroneckerGram(GramOperator(FEATURES), 3), 4)
    monkeypatch.setattr(checks, "available_memory", lambda device: 100)
    with pytest.raises(MemoryEstimateError, match="eigenmodes needs about") as caught:
        eigenmodes(FEATURES, 2)
    assert caught.value.bytes_needed > 100
    with pytest.raises(MemoryEstimateError, match=r"Eigenmodes.vectors"):
        _ = modes.vectors
