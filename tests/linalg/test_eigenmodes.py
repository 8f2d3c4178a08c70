"""`eigenmodes` against ball arithmetic, exact eigenvectors, dense references, and the cases that break others."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch
from hypothesis import assume, example, given
from hypothesis import strategies as st
from scipy.linalg import hadamard

from ntkla import ArgumentError, DtypeError, MemoryEstimateError, NonFiniteError, ShapeError
from ntkla.linalg import checks
from ntkla.linalg.eigenmodes import eigenmodes
from ntkla.linalg.kronecker import KroneckerGram
from ntkla.linalg.operators import FunctionOperator, GramOperator
from ntkla.testing import FeatureSpec, ambient_state, check_eigenmodes, compare_columns, feature_specs, hostile_states
from ntkla.testing.balls import Exact, ball_matrix, flint
from ntkla.testing.spectra import normal


def planted(n: int, features: int, singular: list[float]) -> torch.Tensor:
    """Features [n, F] whose Gram matrix has the eigenvalues n F s^2, exactly, with the columns of `hadamard(n)`."""
    left, right = (torch.tensor(hadamard(size), dtype=torch.float64) for size in (n, features))
    rank = len(singular)
    return (left[:, :rank] * torch.tensor(singular, dtype=torch.float64)) @ right[:, :rank].T


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
    features = planted(8, 8, [4.0, 2.0, 2.0, 2.0, 1.0])
    modes = eigenmodes(features, 5)
    kept = [i for i in range(5) if i != dropped]
    without = {name: getattr(modes, name)[kept] for name in ("values", "value_error", "residual_norms")}
    lost = dataclasses.replace(modes, **without, basis=modes.basis[:, kept], next_value_bound=0.0)
    assert not all(verdict.sound for verdict in check_eigenmodes(lost, features))


PLANTED = {
    "distinct": (16, 16, [8.0, 7.0, 6.0, 5.0, 4.0, 3.0, 2.0, 1.0]),
    "clusters": (16, 8, [4.0, 4.0, 3.0, 2.0, 2.0, 2.0]),
    "wide": (8, 32, [5.0, 3.0, 3.0, 1.0]),
    "graded": (16, 16, [2.0**-i for i in range(16)]),
    "flat": (16, 16, [1.0] * 16),
    "rank one": (16, 4, [3.0]),
}


def complement(n: int, inside: range, vectors: torch.Tensor) -> Exact:
    """The components of the vectors outside the exact eigenspace spanned by columns of `hadamard(n)`."""
    outside = [j for j in range(n) if j not in inside]
    basis = torch.tensor(hadamard(n), dtype=torch.float64)[:, outside]
    return Exact(lambda: ball_matrix(basis).transpose() * ball_matrix(vectors) / flint().arb(n).sqrt())


@pytest.mark.parametrize("name", PLANTED)
@pytest.mark.parametrize("scale", [1.0, 2.0**-40])
def test_angles_enclose_the_exact_eigenspaces(name, scale):
    n, width, singular = PLANTED[name]
    features = planted(n, width, singular) * scale
    for k in {1, 2, len(singular) - 1, len(singular), n} - {0}:
        modes = eigenmodes(features, k)
        assert_sound(modes, features)
        for cluster in modes.clusters:
            vectors = modes.vectors[:, cluster.start : cluster.stop]
            if cluster.stop < n or cluster.start > 0:
                assert_within(vectors, n, range(cluster.start, cluster.stop), cluster.angle_bound, modes)
        for j, bound in enumerate(modes.angle_bound.tolist()):
            if bound < 1 and j + 1 < n:
                assert_within(modes.vectors[:, : j + 1], n, range(j + 1), bound, modes)


def assert_within(vectors, n, inside, bound, modes):
    """Each column's component outside the exact eigenspace is at most the bound times the column's norm."""
    limit = torch.full((vectors.shape[1],), bound * (1 + modes.orthogonality), dtype=torch.float64)
    away = torch.zeros(n - len(inside), vectors.shape[1], dtype=torch.float64)
    verdict = compare_columns(away, limit, complement(n, inside, vectors))
    assert verdict.sound, str(verdict)


def test_clusters_are_the_planted_ones():
    modes = eigenmodes(planted(16, 8, [4.0, 4.0, 3.0, 2.0, 2.0, 2.0]), 16)
    assert [len(c) for c in modes.clusters] == [2, 1, 3, 10]
    assert not modes.cut
    assert all(c.angle_bound < modes.tolerance for c in modes.clusters)
    cut = eigenmodes(planted(16, 8, [4.0, 4.0, 3.0, 2.0, 2.0, 2.0]), 5)
    assert cut.cut
    assert cut.clusters[-1].stop == 6
    assert "runs through a cluster of 3" in str(cut)
    assert cut.angle_bound[-1] == 1.0
    assert cut.clusters[-1].angle_bound < cut.tolerance, "the two vectors lie in the cluster's eigenspace all the same"


def test_a_flat_spectrum_is_one_cluster_and_the_whole_space():
    modes = eigenmodes(planted(16, 16, [1.0] * 16), 16)
    assert [(c.start, c.stop, c.angle_bound) for c in modes.clusters] == [(0, 16, 0.0)]
    assert modes.next_value_bound == 0.0


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


def kronecker_dense(features, outputs, order):
    return KroneckerGram(GramOperator(features), outputs, order).to_dense()


@pytest.mark.parametrize("order", ["class", "sample"])
@pytest.mark.parametrize("k", [1, 3, 7, 12, 24])
def test_kronecker_modes_are_those_of_the_dense_kernel(order, k):
    features = normal(8, 5, 7)
    dense = kronecker_dense(features, 3, order)
    modes = eigenmodes(KroneckerGram(GramOperator(features), 3, order), k)
    reference = torch.linalg.eigvalsh(dense).flip(0)
    assert ((modes.values - reference[:k]).abs() <= 2 * modes.value_error + modes.spectrum.value_error[0]).all()
    vectors = modes.vectors
    residuals = torch.linalg.vector_norm(dense @ vectors - vectors * modes.values, dim=0)
    assert (residuals <= 2 * modes.residual_norms + modes.spectrum.value_error[0]).all()
    assert (
        torch.linalg.matrix_norm(vectors.T @ vectors - torch.eye(k, dtype=torch.float64), 2) <= 2 * modes.orthogonality
    )
    assert modes.cut == ((k % 3 != 0 and k <= 15) or 15 < k < 24)
    assert modes.next_value_bound >= (float(reference[k]) if k < 24 else 0.0)
    assert modes.complete


def test_kronecker_shapes_and_factor():
    features = normal(8, 5, 7)
    modes = eigenmodes(KroneckerGram(GramOperator(features, bias=True), 3), 7)
    assert modes.factor is not None
    assert modes.factor.values.shape == (3,)
    assert modes.output_index.tolist() == [0, 1, 2, 0, 1, 2, 0]
    assert modes.basis.shape == (8, 3)
    assert torch.equal(modes.factor.values, eigenmodes(features, 3, bias=True).values)


def test_the_multiplicity_table_of_the_peers():
    """K = I_10 (x) G with rank(G) = 24: its 30 largest eigenvalues are 3 values, 10 times each.

    Single-vector Lanczos finds 7 copies or 11, with every flag saying converged; here all ten, no more and no fewer.
    """
    features = normal(100, 24, 0)
    modes = eigenmodes(KroneckerGram(GramOperator(features), 10), 30)
    exact = torch.linalg.svdvals(features)[:3].square()
    assert modes.status.certified
    assert [(c.start, c.stop) for c in modes.clusters] == [(0, 10), (10, 20), (20, 30)]
    assert not modes.cut
    spread = 2 * float(modes.spectrum.value_error[0])
    assert torch.allclose(modes.values.reshape(3, 10), exact[:, None].expand(3, 10), rtol=0.0, atol=spread)
    assert modes.next_value_bound < float(modes.values[-1] - modes.value_error[-1])


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
            DtypeError,
            "a GramOperator or a KroneckerGram",
            lambda: eigenmodes(FunctionOperator(lambda v: v, (3, 3), torch.float64, "cpu", psd=True), 1),
        ),
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
