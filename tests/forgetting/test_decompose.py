"""`decompose` against exact energies in planted eigenbases, brute-force ranks, and the bases of clusters."""

from __future__ import annotations

import dataclasses
from fractions import Fraction
from itertools import accumulate

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from ntkla.forgetting.spectrum.decompose import decompose
from ntkla.linalg.eigenmodes import eigenmodes
from ntkla.linalg.kronecker import KroneckerGram
from ntkla.linalg.operators import GramOperator
from ntkla.testing import (
    ambient_state,
    compare,
    hadamard_basis,
    hostile_states,
    planted_energies,
    planted_features,
    vec,
)
from ntkla.testing.balls import Exact, flint
from ntkla.testing.spectra import normal, orthonormal_columns

N = 8
# Singular values of features with the columns of hadamard(8) as eigenvectors, exactly; clusters share a value.
SPECTRA = {
    "distinct": [8.0, 7.0, 6.0, 5.0, 4.0, 3.0, 2.0, 1.0],
    "clusters": [4.0, 4.0, 3.0, 2.0, 2.0, 2.0],
    "rank one": [1.0],
    "flat": [1.0] * 8,
    "low rank": [3.0, 2.0, 1.0],
}


def features(spectrum: str) -> torch.Tensor:
    return planted_features(N, N, SPECTRA[spectrum])


def fractions(energies: list) -> list[Fraction]:
    """Balls of radius far below their size as the fractions in their middle."""
    return [Fraction(float(e.mid())) for e in energies]


def assert_enclosed(name, value, bound, exact):
    verdict = compare(torch.atleast_1d(value)[:, None], torch.atleast_1d(bound)[:, None], exact, name)
    assert verdict.sound, str(verdict)


def column(balls: list) -> Exact:
    return Exact(lambda: flint().arb_mat([[b] for b in balls]))


def scalar(x: float) -> torch.Tensor:
    return torch.tensor(x, dtype=torch.float64)


def assert_energies(result, energies, k):
    """Every bound of a decomposition against the exact energies of the planted eigenvectors."""
    whole = [c for c in result.clusters if c.stop <= k]
    sums = [sum(energies[c.start : c.stop], flint().arb(0)) for c in whole]
    if whole:
        count = len(whole)
        assert_enclosed("clusters", result.cluster_energy[:count], result.cluster_energy_error[:count], column(sums))
    assert_enclosed("energy", result.energy, result.energy_error, column(energies[:k]))
    assert_enclosed("total", scalar(result.total), scalar(result.total_error), column([sum(energies, flint().arb(0))]))
    if not whole or whole[-1].stop == k:
        tail = sum(energies[k:], flint().arb(0))
        assert_enclosed("tail", scalar(result.tail), scalar(result.tail_error), column([tail]))


def brute_rank(energies: list[Fraction], q: float, order: str) -> int:
    ordered = energies if order == "eigenvalue" else sorted(energies, reverse=True)
    return next(k for k, head in enumerate(accumulate(ordered, initial=0)) if head >= Fraction(q) * sum(energies))


SEEDS = st.integers(0, 2**20)
SHARES = st.sampled_from([0.9, 0.5, 0.99, 0.1])


@given(st.sampled_from(sorted(SPECTRA)), SEEDS, st.integers(1, N), st.integers(1, 3), SHARES)
@example("clusters", 0, 5, 2, 0.9)
@example("rank one", 0, 8, 1, 0.9)
def test_energies_and_ranks_are_enclosed(spectrum, seed, k, outputs, q):
    drift = normal(N, outputs, seed)
    result = decompose(drift, eigenmodes(features(spectrum), k))
    energies = planted_energies(drift)
    assert_energies(result, energies, k)
    known = fractions(energies)
    shares = [float(head / sum(known)) for head in accumulate(known)][:k]
    room = 4 * torch.finfo(torch.float64).eps
    assert (torch.tensor(shares, dtype=torch.float64) >= result.cumulative_low - room).all()
    assert (torch.tensor(shares, dtype=torch.float64) <= result.cumulative_high + room).all()
    for order in ("eigenvalue", "energy"):
        rank = result.rank(q, order)
        assert rank.low <= brute_rank(known, q, order) <= rank.high
        assert (rank.value is None) == (rank.low < rank.high)


@given(SEEDS, SHARES, st.sampled_from([1e-12, 1e-3, 1.0]))
def test_an_error_of_the_drift_widens_every_bound(seed, q, relative):
    drift, k = normal(N, 2, seed), 6
    bound = relative * normal(N, 2, seed + 1).abs()
    shift = bound * torch.sign(normal(N, 2, seed + 2))
    result = decompose(drift, eigenmodes(features("distinct"), k), error_bound=bound)
    energies = planted_energies(drift, shift)
    assert_energies(result, energies, k)
    for order in ("eigenvalue", "energy"):
        rank = result.rank(q, order)
        assert rank.low <= brute_rank(fractions(energies), q, order) <= rank.high


def test_comfortable_ranks_are_decided():
    basis = hadamard_basis(N)
    drift = basis @ torch.tensor([[1.0], [3.0], [0.5], [2.0], [0.0], [0.0], [0.0], [0.0]], dtype=torch.float64)
    result = decompose(drift, eigenmodes(features("distinct"), 5))
    assert result.status.certified
    for q in (0.05, 0.5, 0.9, 0.95):
        for order in ("eigenvalue", "energy"):
            found = result.rank(q, order)
            assert found.value == brute_rank(fractions(planted_energies(drift)), q, order)
            assert found.status.certified


def test_bounds_are_tight_somewhere():
    """Shares are certain to the tolerance where eigenvalues are well apart; some error is near its bound."""
    ratio = 0.0
    for seed in range(20):
        drift = normal(N, 2, seed)
        modes = eigenmodes(features("distinct"), N)
        result = decompose(drift, modes)
        assert float((result.cumulative_high - result.cumulative_low).max()) < modes.tolerance
        exact = column(planted_energies(drift))
        verdict = compare(result.energy[:, None], result.energy_error[:, None], exact)
        ratio = max(ratio, verdict.largest_ratio)
    assert ratio > 1 / 1000


@pytest.mark.parametrize("name", ["energy_error", "cluster_energy_error", "total_error", "tail_error"])
def test_a_bound_scaled_by_a_ten_thousandth_is_noticed(name):
    found = 0
    for seed in range(20):
        drift = normal(N, 2, seed)
        result = decompose(drift, eigenmodes(features("distinct"), 6))
        smaller = dataclasses.replace(result, **{name: getattr(result, name) * 1e-4})
        try:
            assert_energies(smaller, planted_energies(drift), 6)
        except AssertionError:
            found += 1
    assert found > 0


def test_a_drift_moved_by_1e_8_is_noticed():
    drift = normal(N, 2, 0)
    moved = decompose(drift * (1 + 1e-8), eigenmodes(features("distinct"), 6))
    with pytest.raises(AssertionError, match="violated"):
        assert_energies(moved, planted_energies(drift), 6)


def test_cluster_energies_do_not_depend_on_the_basis():
    """Turning the vectors inside a cluster changes single energies, but neither cluster sums nor certified bounds."""
    drift, modes = normal(N, 2, 3), eigenmodes(features("clusters"), 6)
    turn = torch.eye(6, dtype=torch.float64)
    turn[3:, 3:] = orthonormal_columns(3, 3, 1)
    plain, turned = decompose(drift, modes), decompose(drift, dataclasses.replace(modes, basis=modes.basis @ turn))
    assert ((plain.energy - turned.energy).abs() <= plain.energy_error + turned.energy_error).all()
    assert float((plain.energy - turned.energy).abs().max()) > float(plain.cluster_energy_error.max())
    both = plain.cluster_energy_error + turned.cluster_energy_error
    assert ((plain.cluster_energy - turned.cluster_energy).abs() <= both).all()


def test_a_share_reached_inside_a_cluster_is_an_interval():
    basis = hadamard_basis(N)
    drift = basis[:, 3:4] + basis[:, 4:5]
    result = decompose(drift, eigenmodes(features("clusters"), 6))
    assert (result.rank(0.4).low, result.rank(0.4).high) == (4, 6)
    assert (result.rank(0.4, "energy").low, result.rank(0.4, "energy").high) == (1, 2)


def test_modes_that_do_not_reach_the_share_say_more_than_k():
    basis = hadamard_basis(N)
    result = decompose(basis[:, 7:], eigenmodes(features("distinct"), 3))
    rank = result.rank(0.5)
    assert rank.value is None
    assert (rank.low, rank.high) == (4, 8)
    assert "between 4 and 8" in str(rank)
    assert result.rank(0.5, "energy").low == 1, "one mode beyond the k may hold it all"


@pytest.mark.parametrize("order", ["class", "sample"])
def test_kronecker_energies_are_those_of_the_dense_vectors(order):
    gram, drift = GramOperator(normal(6, 4, 1)), normal(6, 3, 2)
    for k in (1, 4, 9, 14, 18):
        modes = eigenmodes(KroneckerGram(gram, 3, order), k)
        result = decompose(drift, modes)
        dense = (modes.vectors.T @ vec(drift, order)).square().flatten()
        assert torch.allclose(result.energy, dense, rtol=0.0, atol=float(result.total) * modes.tolerance)
        assert result.modes == 18
    whole = decompose(drift, eigenmodes(gram, 6))
    assert torch.allclose(
        result.energy.reshape(6, 3).sum(1), whole.energy, rtol=0.0, atol=float(whole.energy_error.max())
    )
    low, high = (3 * (whole.rank(0.9).value - 1), 3 * whole.rank(0.9).value)
    assert low < result.rank(0.9).low <= result.rank(0.9).high == high


@pytest.mark.parametrize("state", hostile_states())
def test_ambient_state_changes_no_bound(state):
    drift = normal(N, 2, 7)
    before = ambient_state()
    with hostile_states()[state]():
        result = decompose(drift, eigenmodes(features("clusters"), 6), error_bound=torch.zeros_like(drift))
        rank = result.rank(0.9)
    assert ambient_state() == before
    assert result.energy.dtype == torch.float64
    energies = planted_energies(drift)
    assert_energies(result, energies, 6)
    assert rank.low <= brute_rank(fractions(energies), 0.9, "eigenvalue") <= rank.high
