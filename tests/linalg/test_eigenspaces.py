"""Eigenspaces: angles against exact eigenvectors, clusters, and the repeated eigenvalues of Kronecker kernels."""

from __future__ import annotations

import pytest
import torch

from ntkla.linalg.eigenmodes import eigenmodes
from ntkla.linalg.kronecker import KroneckerGram
from ntkla.linalg.operators import GramOperator
from ntkla.testing import compare_columns, planted_components, planted_features
from ntkla.testing.spectra import normal

PLANTED = {
    "distinct": (16, 16, [8.0, 7.0, 6.0, 5.0, 4.0, 3.0, 2.0, 1.0]),
    "clusters": (16, 8, [4.0, 4.0, 3.0, 2.0, 2.0, 2.0]),
    "wide": (8, 32, [5.0, 3.0, 3.0, 1.0]),
    "graded": (16, 16, [2.0**-i for i in range(16)]),
    "flat": (16, 16, [1.0] * 16),
    "rank one": (16, 4, [3.0]),
}


@pytest.mark.parametrize("name", PLANTED)
@pytest.mark.parametrize("scale", [1.0, 2.0**-40])
def test_angles_enclose_the_exact_eigenspaces(name, scale):
    n, width, singular = PLANTED[name]
    features = planted_features(n, width, singular) * scale
    for k in {1, 2, len(singular) - 1, len(singular), n} - {0}:
        modes = eigenmodes(features, k)
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
    verdict = compare_columns(away, limit, planted_components(vectors, inside))
    assert verdict.sound, str(verdict)


def test_clusters_are_the_planted_ones():
    modes = eigenmodes(planted_features(16, 8, [4.0, 4.0, 3.0, 2.0, 2.0, 2.0]), 16)
    assert [len(c) for c in modes.clusters] == [2, 1, 3, 10]
    assert not modes.cut
    assert all(c.angle_bound < modes.tolerance for c in modes.clusters)
    cut = eigenmodes(planted_features(16, 8, [4.0, 4.0, 3.0, 2.0, 2.0, 2.0]), 5)
    assert cut.cut
    assert cut.clusters[-1].stop == 6
    assert "runs through a cluster of 3" in str(cut)
    assert cut.angle_bound[-1] == 1.0
    assert cut.clusters[-1].angle_bound < cut.tolerance, "the two vectors lie in the cluster's eigenspace all the same"


def test_a_flat_spectrum_is_one_cluster_and_the_whole_space():
    modes = eigenmodes(planted_features(16, 16, [1.0] * 16), 16)
    assert [(c.start, c.stop, c.angle_bound) for c in modes.clusters] == [(0, 16, 0.0)]
    assert modes.next_value_bound == 0.0


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
