"""Where the drift of single samples lives, against the exact parts of their drift rows in ball arithmetic."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import assume, example, given
from hypothesis import strategies as st

from ntkla.forgetting.reports.samples import Home
from ntkla.forgetting.spectrum.sample_modes import homes_of
from ntkla.linalg.design import DesignMatrix
from ntkla.linalg.eigen.feature_modes import feature_modes
from ntkla.linalg.precision import gamma, norm_upper
from ntkla.testing import (
    Exact,
    FeatureSpec,
    ball_matrix,
    eigenspace_parts,
    feature_specs,
    hadamard_basis,
    hostile_states,
    planted_features,
)
from ntkla.testing.balls import ball, euclidean_norm, working_precision
from ntkla.testing.spectra import normal

BITS = 512


def found(features, update, shift=None, *, bias=False, modes=None):
    """The homes of all samples, for an update that is off by `shift`."""
    phi = DesignMatrix(features, bias)
    shift = torch.zeros_like(update) if shift is None else shift
    drift = phi.matmul(update)
    error = norm_upper(shift, dim=0)
    sizes = phi.row_norms()
    bound = torch.outer(sizes, error + gamma(phi.columns + 4) * norm_upper(update, dim=0))
    modes = feature_modes(features, bias=bias) if modes is None else modes
    rows = torch.arange(features.shape[0], dtype=torch.int64, device=features.device)
    return homes_of(rows, features, drift, bound, update, error, modes), modes


def exact_shares(features, update, shift, modes, bias):
    """For each sample the exact |part| of each cluster and the |row|, as balls."""
    m, columns = modes.values.shape[0], features.shape[1] + bias
    sets = [(c.start, c.stop if c.stop < m else columns) for c in modes.clusters]
    exact = Exact(lambda: ball_matrix(update) + ball_matrix(shift))
    with working_precision(BITS):
        parts = [p.compute().tolist() for p in eigenspace_parts(features, exact, sets, bias=bias)]
        rows = [[euclidean_norm(part[i]) for part in parts] for i in range(features.shape[0])]
        whole = [[sum((p[i][c] for p in parts), ball(0.0)) for c in range(update.shape[1])] for i in range(len(rows))]
        return rows, [euclidean_norm(row) for row in whole]


def assert_homes(homes, modes, features, update, shift, bias=False):
    parts, sizes = exact_shares(features, update, shift, modes, bias)
    starts = [c.start for c in modes.clusters]
    for home, row, size in zip(homes, parts, sizes, strict=True):
        if home.modes is None:
            continue
        assert home.modes[1] == modes.clusters[starts.index(home.modes[0])].stop
        best = row[starts.index(home.modes[0])]
        with working_precision(BITS):
            assert not any(bool(other > best) for other in row), "a larger part lives elsewhere"
            assert not bool(best < ball(home.share_low) * size)
            assert not bool(best > ball(home.share_high) * size)


@given(
    feature_specs(most=6),
    st.booleans(),
    st.integers(1, 3),
    st.integers(0, 2**20),
    st.sampled_from([1.0, 1e-12, 1e12]),
    st.sampled_from([0.0, 1e-13, 1e-3]),
)
@example(FeatureSpec(n=1, features=1), False, 1, 0, 1.0, 0.0)
@example(FeatureSpec(n=6, features=1), True, 1, 0, 1.0, 0.0)
@example(FeatureSpec(n=6, features=3, spectrum="clustered"), False, 2, 1, 1.0, 1e-13)
@example(FeatureSpec(n=3, features=6, spectrum="pairs"), False, 2, 1, 1.0, 0.0)
@example(FeatureSpec(n=6, features=3, spectrum="zero"), False, 2, 1, 1.0, 0.0)
def test_homes_and_shares_hold_exactly(spec, bias, outputs, seed, scale, relative):
    features = spec.tensor
    assume(bool(features.isfinite().all()))
    update = normal(features.shape[1] + bias, outputs, seed) * scale
    shift = relative * scale * normal(*update.shape, seed + 1)
    homes, modes = found(features, update, shift, bias=bias)
    assert_homes(homes, modes, features, update, shift, bias)


@pytest.mark.parametrize("shape", [(40, 8), (8, 16)])
def test_comfortable_homes_are_decided_closely(shape):
    features = FeatureSpec(*shape, spectrum="geometric", condition=1e3, seed=2).tensor
    update = normal(features.shape[1], 3, 5)
    homes, modes = found(features, update)
    assert sum(home.modes is not None for home in homes) >= len(homes) - 1
    assert all(home.share_high - home.share_low < modes.tolerance for home in homes if home.modes is not None)
    assert_homes(homes, modes, features, update, torch.zeros_like(update))


def test_planted_homes_are_found():
    """Samples that are single right singular vectors drift in one mode only; a cluster is one home."""
    singular = [8.0, 4.0, 4.0, 1.0]
    features = planted_features(8, 4, singular)
    basis = hadamard_basis(4)
    for mode, home in enumerate([(0, 1), (1, 3), (1, 3), (3, 4)]):
        homes, _ = found(features, basis[:, mode : mode + 1])
        assert [h.modes for h in homes] == [home] * 8
        assert all(h.share_low <= 1.0 <= h.share_high for h in homes)


def test_parts_may_be_larger_than_the_row():
    """Two modes of one output that all but cancel: each part is larger than what is left of them."""
    features = torch.tensor([[4.0, 3.0], [4.0, -3.0], [1.0, 0.0]], dtype=torch.float64)
    homes, modes = found(features, torch.tensor([[1.0], [-1.25]], dtype=torch.float64))
    assert len(modes.clusters) == 2
    assert homes[0].modes == (0, 1)
    assert homes[0].share_low > 1.0
    assert homes[1].share_high < 1.0


def test_what_is_not_known_is_left_open():
    features, update = normal(9, 4, 1), normal(4, 2, 2)
    for scale in (10.0, torch.inf):
        homes, _ = found(features, update, torch.ones_like(update) * scale)
        assert homes == [Home()] * 9
    homes, _ = found(features, torch.zeros_like(update))
    assert homes == [Home()] * 9, "no drift lives nowhere"


def test_moved_vectors_are_noticed():
    """Vectors turned by 1e-6 under the bounds of the right ones give shares that the exact ones refute."""
    features, update = normal(9, 4, 1), normal(4, 2, 2)
    modes = feature_modes(features)
    turn = torch.linalg.matrix_exp(1e-6 * (normal(4, 4, 3) - normal(4, 4, 3).T))
    homes, _ = found(features, update, modes=dataclasses.replace(modes, vectors=modes.vectors @ turn))
    with pytest.raises(AssertionError):
        assert_homes(homes, modes, features, update, torch.zeros_like(update))


@pytest.mark.parametrize("state", hostile_states())
def test_ambient_state_changes_no_bound(state):
    features, update = normal(9, 4, 1).to(torch.float32), normal(4, 2, 2)
    with hostile_states()[state]():
        homes, modes = found(features, update)
    assert_homes(homes, modes, features, update, torch.zeros_like(update))
