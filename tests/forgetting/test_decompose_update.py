"""`decompose_update` against ball arithmetic on drawn spectra, and against `decompose` with vectors of all samples."""

from __future__ import annotations

import dataclasses
from fractions import Fraction
from itertools import accumulate

import pytest
import torch
from hypothesis import assume, example, given
from hypothesis import strategies as st

from ntkla.forgetting.decompose import decompose
from ntkla.forgetting.decompose_update import decompose_update
from ntkla.forgetting.ranks import KINDS, effective_rank, vulnerable_rank
from ntkla.linalg.design import DesignMatrix
from ntkla.linalg.eigenmodes import eigenmodes
from ntkla.linalg.feature_modes import feature_modes
from ntkla.testing import (
    Exact,
    FeatureSpec,
    ambient_state,
    ball_matrix,
    compare,
    eigenspace_energies,
    feature_specs,
    hadamard_basis,
    hostile_states,
    planted_features,
)
from ntkla.testing.balls import flint
from ntkla.testing.spectra import normal

SEEDS = st.integers(0, 2**20)
SHARES = st.sampled_from([0.9, 0.5, 0.99, 0.1, 1.0])
# Updates relative to the features: as random numbers are, and as the optimum on like features makes them, large where
# the features are small.
KINDS_OF_UPDATE = ("random", "graded", "null", "zero")


def update_for(features: torch.Tensor, bias: bool, outputs: int, kind: str, seed: int, scale: float) -> torch.Tensor:
    columns = features.shape[1] + bias
    x = normal(columns, outputs, seed) * scale
    phi = DesignMatrix(features, bias).matmul(torch.eye(columns, dtype=torch.float64))
    largest = float(phi.abs().max()) or 1.0
    _, s, vt = torch.linalg.svd(phi / largest)
    if kind == "graded":
        sizes = torch.ones(columns, dtype=torch.float64)
        sizes[: s.shape[0]] = 1.0 / (s + 1e-6)
        return vt.T @ (sizes[:, None] * x)
    if kind == "null":
        return x - vt[:1].T @ (vt[:1] @ x)
    return torch.zeros_like(x) if kind == "zero" else x


def decomposed(features: torch.Tensor, bias: bool, update: torch.Tensor, relative: float = 0.0, seed: int = 0):
    """The decomposition of the drift of an update that is off by `relative`, and the exact update."""
    modes = feature_modes(features, bias=bias)
    shift = relative * float(update.abs().max()) * normal(*update.shape, seed + 1)
    bound = None if relative == 0.0 else shift.norm(dim=0) * (1 + 1e-3)
    result = decompose_update(DesignMatrix(features, bias).matmul(update), update, modes, update_error=bound)
    return result, modes, Exact(lambda: ball_matrix(update) + ball_matrix(shift))


def assert_energies(result, modes, features, update: Exact, bias: bool = False):
    """Every bound of a decomposition against the exact energies in the eigenspaces of its clusters."""
    m = modes.values.shape[0]
    columns = features.shape[1] + bias
    # Beyond the modes lie eigenvalues of exactly 0, which may belong to the last cluster.
    ends = [c.stop if c.stop < m else columns for c in modes.clusters]
    starts = [c.start for c in modes.clusters]
    exact = eigenspace_energies(features, update, list(zip(starts, ends, strict=True)), bias=bias)

    def rows(chosen) -> Exact:
        return Exact(lambda: flint().arb_mat(chosen([row[0] for row in exact.compute().tolist()])))

    checks = [("clusters", result.cluster_energy, result.cluster_energy_error, lambda e: [[v] for v in e])]
    checks.append(("total", [result.total], [result.total_error], lambda e: [[sum(e, flint().arb(0))]]))
    single = [i for i, c in enumerate(modes.clusters) if len(c) == 1]
    places = [modes.clusters[i].start for i in single]
    if single:
        checks.append(
            ("energy", result.energy[places], result.energy_error[places], lambda e: [[e[i]] for i in single])
        )
    for name, value, bound, chosen in checks:
        columns_of = [torch.as_tensor(part, dtype=torch.float64)[:, None] for part in (value, bound)]
        verdict = compare(*columns_of, rows(chosen), name)
        assert verdict.sound, str(verdict)
    assert result.tail == result.tail_error == 0.0
    return [Fraction(float(v.mid())) for v in (row[0] for row in exact.at(512).tolist())]


def assert_shares(result, modes, energies: list[Fraction]):
    """Shares at the ends of the clusters, where they do not depend on a basis."""
    total = sum(energies)
    if total == 0:
        return
    room = 8 * torch.finfo(torch.float64).eps
    for c, head in zip(modes.clusters, accumulate(energies), strict=True):
        share = float(head / total)
        assert (
            float(result.cumulative_low[c.stop - 1]) - room <= share <= float(result.cumulative_high[c.stop - 1]) + room
        )


@given(
    feature_specs(most=7),
    st.booleans(),
    st.integers(1, 3),
    st.sampled_from(KINDS_OF_UPDATE),
    SEEDS,
    st.sampled_from([1.0, 1e-12, 1e12]),
    st.sampled_from([0.0, 1e-14, 1e-6]),
)
@example(FeatureSpec(n=1, features=1), False, 1, "random", 0, 1.0, 0.0)
@example(FeatureSpec(n=7, features=1), False, 1, "random", 0, 1.0, 0.0)
@example(FeatureSpec(n=7, features=1, spectrum="zero"), False, 1, "random", 0, 1.0, 0.0)
@example(FeatureSpec(n=7, features=3, spectrum="zero"), True, 1, "random", 0, 1.0, 0.0)
@example(FeatureSpec(n=7, features=4, condition=1e15), False, 2, "graded", 0, 1.0, 0.0)
@example(FeatureSpec(n=7, features=4, spectrum="clustered", condition=1e6), True, 2, "graded", 3, 1.0, 1e-14)
@example(FeatureSpec(n=7, features=4, spectrum="rank_one"), False, 2, "null", 0, 1.0, 0.0)
@example(FeatureSpec(n=3, features=7, spectrum="pairs"), False, 2, "random", 0, 1.0, 1e-6)
def test_every_bound_holds_exactly(spec, bias, outputs, kind, seed, scale, relative):
    features = spec.tensor
    assume(bool(features.isfinite().all()))
    update = update_for(features, bias, outputs, kind, seed, scale)
    result, modes, exact = decomposed(features, bias, update, relative, seed)
    assert_shares(result, modes, assert_energies(result, modes, features, exact, bias))
    for value in (result.energy, result.energy_error, result.cumulative, result.cumulative_low, result.cumulative_high):
        assert value.shape == modes.values.shape
        assert not value.isnan().any()
