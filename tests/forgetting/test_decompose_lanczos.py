"""`decompose` in modes that Lanczos found, complete or not: against exact energies, and against the direct route."""

from __future__ import annotations

import dataclasses
from fractions import Fraction
from functools import cache
from itertools import accumulate

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ntkla.forgetting.spectrum.decompose import decompose
from ntkla.forgetting.spectrum.decomposition import Decomposition
from ntkla.forgetting.spectrum.ranks import KINDS, effective_rank
from ntkla.linalg.eigen.completeness import Outside, by_trace
from ntkla.linalg.eigen.leading_enclosures import Measured
from ntkla.linalg.eigen.modes import Eigenmodes
from ntkla.linalg.eigen.partial_modes import partial_modes
from ntkla.linalg.eigenmodes import eigenmodes
from ntkla.linalg.kronecker import KroneckerGram
from ntkla.linalg.operators import FunctionOperator, GramOperator
from ntkla.linalg.precision import DEFAULT_TOLERANCE
from ntkla.testing import hadamard_basis, planted_energies, planted_features
from ntkla.testing.spectra import normal

N = 32
# Singular values of features with the columns of hadamard(32) as eigenvectors, exactly.
SPECTRA = {
    "distinct": [float(N - j) for j in range(N)],
    "clusters": [4.0] * 3 + [3.0] * 2 + [2.0] * 12 + [1.0] * 15,
    "decaying": [2.0**-j for j in range(N)],
    "flat": [1.0] * N,
    "low rank": [3.0, 2.0, 1.0],
}
PROOFS = ("trace", "inertia", None)
SHARES = st.sampled_from([0.9, 0.5, 0.99, 0.1])
ORDERS = ("eigenvalue", "energy")


@cache
def modes_of(spectrum: str, k: int, prove: str | None, outputs: int = 1) -> Eigenmodes:
    gram = GramOperator(planted_features(N, N, SPECTRA[spectrum]))
    operator = gram if outputs == 1 else KroneckerGram(gram, outputs)
    if prove == "full":
        return eigenmodes(operator, k, route="full")
    return eigenmodes(operator, k, route="lanczos", block_size=1, prove=prove)


def energies_of(drift: torch.Tensor) -> list[Fraction]:
    """Exact: balls of radius far below their size, by their middle."""
    return [Fraction(float(e.mid())) for e in planted_energies(drift)]


def brute_rank(energies: list[Fraction], q: float, order: str) -> int:
    ordered = energies if order == "eigenvalue" else sorted(energies, reverse=True)
    return next(k for k, head in enumerate(accumulate(ordered, initial=0)) if head >= Fraction(q) * sum(energies))


def assert_true(result: Decomposition, energies: list[Fraction], q: float) -> None:
    """Every bound of a decomposition, for the planted eigenvectors as the basis of every cluster."""
    total = sum(energies)
    # What the middle of a ball was rounded by.
    room = Fraction(2) ** -48 * total

    def within(value: float, error: float, exact: Fraction, what: str) -> None:
        assert error == float("inf") or abs(Fraction(value) - exact) <= Fraction(error) + room, f"{what} violated"

    k = len(result.energy)
    for c, value, error in zip(result.clusters, result.cluster_energy, result.cluster_energy_error, strict=True):
        if c.stop <= k:
            within(float(value), float(error), sum(energies[c.start : c.stop]), "cluster")
    for j in range(k):
        within(float(result.energy[j]), float(result.energy_error[j]), energies[j], "energy")
        head = sum(energies[: j + 1])
        assert Fraction(float(result.cumulative_low[j])) * total <= head + room, "cumulative_low violated"
        assert Fraction(float(result.cumulative_high[j])) * total >= head - room, "cumulative_high violated"
    within(result.total, result.total_error, total, "total")
    for order in ORDERS:
        rank = result.rank(q, order)
        assert rank.low <= brute_rank(energies, q, order) <= rank.high, f"{order}: {rank} violated"
        assert rank.high <= result.modes


def drift_of(kind: str, seed: int, outputs: int) -> torch.Tensor:
    """Spread over all modes, or held by the leading ones as the paper says, or by the last ones."""
    spread = normal(N, outputs, seed)
    if kind == "spread":
        return spread
    decay = 0.5 ** torch.arange(N, dtype=torch.float64)
    return hadamard_basis(N) @ (spread * (decay if kind == "leading" else decay.flip(0))[:, None])


NAMES = st.sampled_from(sorted(SPECTRA))
DRIFTS = st.sampled_from(["spread", "leading", "last"])


@given(
    st.sampled_from(sorted(SPECTRA)), st.sampled_from(PROOFS), st.integers(1, 11), DRIFTS, st.integers(0, 99), SHARES
)
@example("flat", None, 4, "leading", 0, 0.9)
@example("clusters", "trace", 4, "leading", 0, 0.5)
@example("clusters", "inertia", 6, "leading", 0, 0.9)
@example("low rank", "trace", 5, "last", 0, 0.1)
def test_both_routes_are_true_and_agree(spectrum, prove, k, kind, seed, q):
    drift = drift_of(kind, seed, 2)
    energies = energies_of(drift)
    part = decompose(drift, modes_of(spectrum, k, prove))
    full = decompose(drift, modes_of(spectrum, k, "full"))
    for result in (part, full):
        assert_true(result, energies, q)
    assert (part.cumulative_low <= full.cumulative_high).all()
    assert (full.cumulative_low <= part.cumulative_high).all()
    assert abs(part.tail - full.tail) <= part.tail_error + full.tail_error
    for order in ORDERS:
        one, other = part.rank(q, order), full.rank(q, order)
        assert max(one.low, other.low) <= min(one.high, other.high)


@pytest.mark.parametrize("spectrum", ["distinct", "decaying", "clusters"])
def test_ranks_that_lanczos_decides_are_those_of_the_direct_route(spectrum):
    """With all that is asked for proved, and a drift in the leading modes, nothing stays open."""
    drift = drift_of("leading", 3, 2)
    part, full = (decompose(drift, modes_of(spectrum, 5, prove)) for prove in ("inertia", "full"))
    assert part.status.certified
    for q in (0.5, 0.9):
        assert part.rank(q).low == full.rank(q).low
        assert part.rank(q).high == full.rank(q).high
    wide = float(
        (part.cumulative_high - part.cumulative_low).max() - (full.cumulative_high - full.cumulative_low).max()
    )
    assert wide <= modes_of(spectrum, 5, "inertia").tolerance


@settings(max_examples=settings.default.max_examples // 3)
@given(NAMES, st.sampled_from(PROOFS), st.integers(1, 30), st.integers(0, 99), SHARES)
@example("clusters", "trace", 7, 0, 0.9)
def test_kronecker_modes_hold_the_energies_of_the_factor(spectrum, prove, k, seed, q):
    """Cluster by cluster the energy summed over the outputs, and the rank in vectors is at most C times that of G."""
    drift = drift_of("leading", seed, 3)
    energies = energies_of(drift)
    result = decompose(drift, modes_of(spectrum, k, prove, outputs=3))
    for c, value, error in zip(result.clusters, result.cluster_energy, result.cluster_energy_error, strict=True):
        if c.stop <= k:
            exact = sum(energies[c.start // 3 : c.stop // 3])
            assert abs(Fraction(float(value)) - exact) <= Fraction(float(error)) * (1 + Fraction(2) ** -48)
    rank = result.rank(q)
    # Its energies by vectors are those of the columns of the drift in a planted vector of G, in any order.
    by_vector = [e for row in (hadamard_basis(N).T @ drift).square().tolist() for e in sorted(row, reverse=True)]
    assert rank.low <= brute_rank([Fraction(e) for e in by_vector], q, "eigenvalue") <= 3 * N
    assert 3 * (brute_rank(energies, q, "eigenvalue") - 1) < rank.high <= 3 * N


def test_a_cluster_whose_end_is_not_known_claims_only_what_holds_for_any_end():
    modes = modes_of("flat", 4, None)
    assert modes.complete is None
    assert modes.clusters[-1].stop == N
    result = decompose(drift_of("leading", 0, 1), modes)
    rank = result.rank(0.9)
    assert (rank.low, rank.high, rank.value) == (1, N, None)
    assert not result.cumulative_low.any()


@pytest.mark.parametrize("missed", [0, 2, 4])
@pytest.mark.parametrize("spectrum", sorted(SPECTRA))
def test_what_is_said_holds_although_eigenvectors_were_missed(spectrum, missed):
    """Four vectors that are no leading ones, judged as Lanczos judges what it found."""
    gram = GramOperator(planted_features(N, N, SPECTRA[spectrum]))
    squares = torch.tensor(SPECTRA[spectrum] + [0.0] * (N - len(SPECTRA[spectrum])), dtype=torch.float64).square()
    found = [j for j in range(missed + 5) if j != missed][-4:]
    vectors, trace = hadamard_basis(N)[:, found] / N**0.5, gram.trace_bounds()
    measured = Measured(vectors, N * N * squares[found], gram._matmat(vectors))
    pairs = measured.pairs(gram._error_bound(vectors))
    for outside in (trace[1], by_trace(pairs, 4, trace[1])):
        proof = Outside(outside, "trace")
        modes = partial_modes(pairs, 4, proof, trace, tolerance=DEFAULT_TOLERANCE, passes=1, remedy="none")
        assert modes.complete is None or squares[missed] == squares[found[-1]]
        for kind in ("spread", "leading", "last"):
            drift = drift_of(kind, 1, 2)
            for q in (0.1, 0.5, 0.9):
                assert_true(decompose(drift, modes), energies_of(drift), q)
        for q in (0.1, 0.5, 0.9):
            rank, exact = effective_rank(modes, q=q), effective_rank(squares, q=q)
            assert rank.low <= exact.value <= rank.high
        for kind in KINDS[1:]:
            rank, exact = effective_rank(modes, kind), effective_rank(squares, kind)
            assert rank.low <= exact.high
            assert exact.low <= rank.high


def test_energies_in_modes_of_a_foreign_operator_are_conditional():
    features = planted_features(N, N, SPECTRA["decaying"])
    gram, drift = features @ features.T, drift_of("leading", 0, 2)
    foreign = FunctionOperator(lambda v: gram @ v, (N, N), torch.float64, "cpu", psd=True)
    result = decompose(drift, eigenmodes(foreign, 4))
    assert result.conditional
    assert result.status.code == "conditional"
    assert result.rank(0.5).status.code == "conditional"
    assert result.rank(0.5).value == brute_rank(energies_of(drift), 0.5, "eigenvalue")


@pytest.mark.parametrize("lie", ["a mode is missing", "the wrong angles"])
def test_modes_that_claim_too_much_are_noticed(lie):
    modes, drift = modes_of("distinct", 5, "inertia"), drift_of("leading", 0, 2)
    if lie == "a mode is missing":
        wrong = dataclasses.replace(modes, basis=torch.cat([modes.basis[:, 1:], modes.basis[:, :1]], 1))
    else:
        angles = {"angle_bound": torch.zeros(5, dtype=torch.float64)}
        clusters = tuple(dataclasses.replace(c, angle_bound=0.0) for c in modes.clusters)
        turned = modes.basis @ torch.linalg.qr(torch.eye(5, dtype=torch.float64) + 1e-6 * normal(5, 5, 0))[0]
        wrong = dataclasses.replace(modes, basis=turned, clusters=clusters, **angles)
    with pytest.raises(AssertionError, match="violated"):
        assert_true(decompose(drift, wrong), energies_of(drift), 0.9)
