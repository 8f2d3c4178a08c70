"""Drawn spectra by both routes: every bound in ball arithmetic, subspaces by exact principal angles, never by sign.

Spectra are planted without rounding (`ntkla.testing.planted`), so their eigenvalues and eigenspaces are known exactly;
features that are rounded after they were drawn are judged by enclosures of their eigenvalues.
"""

from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from ntkla.linalg.eigen.lanczos_search import has_room
from ntkla.linalg.eigenmodes import eigenmodes
from ntkla.linalg.operators import FunctionOperator, GramOperator
from ntkla.linalg.precision import UNIT_ROUNDOFF, gamma, norm_upper
from ntkla.testing import (
    FeatureSpec,
    check_eigenmodes,
    compare_columns,
    eigenvalues,
    feature_specs,
    gram_eigenvalues,
    planted_components,
    planted_features,
)
from ntkla.testing.balls import flint

N = 32
# Singular values whose squares and sums float64 holds.
PLANTED = {
    "all equal": [1.0] * N,
    "copies": [2.0 ** -(j // 5) for j in range(N)],
    "pairs": [2.0 ** -(j // 4) * (1.0 - 2.0**-20 * (j % 2)) for j in range(N)],
    "decay": [2.0**-j for j in range(N)],
    "steep decay": [2.0 ** (-15 * j) for j in range(4)],
    "rank one": [1.0],
    "rank n - 1": [1.0 + 2.0**-4 * j for j in range(N - 1)],
    "outlier": [2.0**20, *[1.0 + 2.0**-5 * j for j in range(N - 1)]],
    "noise": [1.0] + [2.0**-26] * (N - 1),
    "close": [1.0 + 2.0**-12 * j for j in range(N)],
}


@st.composite
def cases(draw):
    """Features, their eigenvalues, and options of `eigenmodes`."""
    scale = 2.0 ** draw(st.sampled_from([0, 0, 20, -20, 200, -200]))
    singular = sorted(PLANTED[draw(st.sampled_from(sorted(PLANTED)))], reverse=True)
    width = draw(st.sampled_from([N, 2 * N]))
    block = draw(st.integers(1, 2))
    options = {
        "route": "lanczos",
        "block_size": block,
        "prove": draw(st.sampled_from(["trace", "inertia", None])),
        "seed": draw(st.integers(0, 2**63 - 1)),
        "tol": draw(st.sampled_from([None, None, 1e-3, 1e-300])),
    }
    k = draw(st.integers(1, (N - 9 * block) // 2))
    features = planted_features(N, width, singular) * scale
    exact = N * width * (torch.tensor(singular + [0.0] * (N - len(singular)), dtype=torch.float64) * scale) ** 2
    if draw(st.booleans()):
        options, block = {"route": "full", "tol": options["tol"]}, 0
    return features, exact, k, options


@given(cases())
def test_every_promise_holds_on_exact_spectra(case):
    features, exact, k, options = case
    modes = eigenmodes(features, k, **options)
    assert_promises(modes, exact, k)
    for cluster in modes.clusters:
        if cluster.angle_bound < 1.0 and cluster.stop - cluster.start < N:
            vectors = modes.vectors[:, cluster.start : cluster.stop]
            assert_within(vectors, range(cluster.start, cluster.stop), cluster.angle_bound, modes)
    tight = int(modes.angle_bound.argmin())
    if modes.angle_bound[tight] < 1.0 and tight + 1 < N:
        assert_within(modes.vectors[:, : tight + 1], range(tight + 1), float(modes.angle_bound[tight]), modes)
    if modes.tolerance == 1e-10:
        assert modes.converged
    if options.get("prove") == "inertia" and modes.tolerance == 1e-10:
        assert modes.complete


def assert_promises(modes, exact, k):
    """Values, enclosures and the next value, of a spectrum that is known exactly."""
    low, high = modes.values - modes.value_error, modes.values + modes.value_error
    assert (low <= exact[:k]).all(), "no ghost: the lower bounds hold in order, whether complete or not"
    assert modes.next_value_bound >= (float(exact[k]) if k < N else 0.0)
    known = modes.spectrum.values.shape[0]
    assert (modes.spectrum.lower <= exact[:known]).all()
    assert (modes.spectrum.upper >= exact[:known]).all()
    assert modes.spectrum.rest >= (float(exact[known]) if known < N else 0.0)
    if modes.complete:
        assert (high >= exact[:k]).all(), "no miss"
        assert modes.next_value_bound <= float(high[-1])
    assert matched(low.tolist(), high.tolist(), exact.tolist())
    for tensor in (modes.values, modes.value_error, modes.residual_norms, modes.angle_bound, modes.vectors):
        assert not tensor.isnan().any()


def matched(low, high, exact):
    """Whether every interval holds an eigenvalue of its own: each takes the largest that is left for it."""
    left = list(exact)
    for interval in sorted(zip(low, high, strict=True), reverse=True):
        inside = [value for value in left if interval[0] <= value <= interval[1]]
        if not inside:
            return False
        left.remove(max(inside))
    return True


def assert_within(vectors, inside, bound, modes):
    """Each column's component outside the exact eigenspace is at most the bound times the column's norm."""
    limit = torch.full((vectors.shape[1],), bound * (1 + modes.orthogonality), dtype=torch.float64)
    away = torch.zeros(N - len(inside), vectors.shape[1], dtype=torch.float64)
    verdict = compare_columns(away, limit, planted_components(vectors, inside))
    assert verdict.sound, str(verdict)


@given(
    st.one_of(feature_specs(n=12, features=11, extreme=True), feature_specs(n=11, features=13, extreme=True)),
    st.sampled_from(["trace", "inertia", None]),
    st.integers(0, 9),
)
def test_lanczos_is_sound_on_drawn_features(spec, prove, seed):
    features = spec.tensor
    assume(bool(features.isfinite().all()) and has_room(1, 1, min(features.shape)))
    modes = eigenmodes(features, 1, route="lanczos", block_size=1, prove=prove, seed=seed)
    assert_sound(modes, features)


def assert_sound(modes, features):
    """By ball arithmetic; where completeness is not proved, the upper bound of each value is another."""
    for verdict in check_eigenmodes(modes, features):
        assert verdict.sound or (not modes.complete and verdict.name in ("eigenvalues", "spectrum")), str(verdict)
    if not modes.complete:
        arb, radius = flint().arb, max(2.0**-1070, 2.0**-30 * float(modes.value_error.max()))
        for i, exact in enumerate(gram_eigenvalues(features, radius=radius)[: modes.values.shape[0]]):
            assert not exact < arb(float(modes.spectrum.lower[i])), "lower bound"
            assert not exact > arb(float(modes.spectrum.upper[i])), "upper bound"


@given(
    feature_specs(n=8, features=6),
    st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
    st.integers(1, 8),
)
def test_operators_in_narrow_types_keep_their_promise(spec, dtype, k):
    """The stored matrix is the operator: exact numbers, multiplied in float64 and rounded once."""
    features = spec.tensor.to(torch.float64)
    size = float(features.abs().max())
    assume(size > 0.0)
    stored = GramOperator(features / size).to_dense().to(dtype).to(torch.float64)
    rounding = UNIT_ROUNDOFF[dtype] * (1.0 + gamma(10)) * float(norm_upper(stored))
    operator = FunctionOperator(
        lambda v: (stored @ v.to(torch.float64)).to(dtype),
        (8, 8),
        dtype,
        "cpu",
        psd=True,
        matmul_error=2.0 * rounding + 8.0 * torch.finfo(dtype).tiny,
    )
    exact = eigenvalues(stored, radius=2.0**-70)
    assume(all(value > -UNIT_ROUNDOFF[dtype] for value in exact))
    # Rounding to the type may have made it indefinite: by so little that the products' error covers it.
    modes = eigenmodes(operator, k)
    assert modes.complete
    for value, error, ball in zip(modes.values.tolist(), modes.value_error.tolist(), exact[:k], strict=True):
        assert abs(ball - value) < error
    if k < 8:
        assert exact[k] < modes.next_value_bound


def lanczos_modes(seed=0, **options):
    features = FeatureSpec(n=14, features=14, spectrum="clustered", condition=1e4, seed=seed).tensor
    return features, eigenmodes(features, 2, route="lanczos", block_size=1, prove="inertia", **options)


def test_bounds_of_lanczos_are_tight_somewhere():
    """The residuals within a factor of 10 of what is true for some draw, the others within 3000."""
    ratios = {}
    for seed in range(12):
        features, modes = lanczos_modes(seed, tol=1e-6)
        for verdict in check_eigenmodes(modes, features):
            ratios[verdict.name] = max(ratios.get(verdict.name, 0.0), verdict.largest_ratio)
    assert ratios["residuals"] > 1 / 10, ratios
    assert min(ratios.values()) > 1 / 3000, ratios


@pytest.mark.parametrize("name", ["value_error", "residual_norms", "orthogonality", "next_value_bound"])
def test_a_bound_of_lanczos_scaled_by_a_thousandth_is_noticed(name):
    found = 0
    for seed in range(12):
        features, modes = lanczos_modes(seed, tol=1e-6)
        assert all(verdict.sound for verdict in check_eigenmodes(modes, features))
        smaller = dataclasses.replace(modes, **{name: getattr(modes, name) * 1e-3})
        found += not all(verdict.sound for verdict in check_eigenmodes(smaller, features))
    assert found > 0


@pytest.mark.parametrize("dropped", range(4))
def test_a_copy_that_lanczos_lost_is_noticed(dropped):
    features = planted_features(32, 32, [4.0, 2.0, 2.0, 2.0, 1.0])
    exact = 1024.0 * torch.tensor([16.0, 4.0, 4.0, 4.0, 1.0] + [0.0] * 27, dtype=torch.float64)
    modes = eigenmodes(features, 5, route="lanczos", block_size=1, prove="inertia")
    assert_promises(modes, exact, 5)
    kept = [i for i in range(5) if i != dropped]
    parts = {name: getattr(modes, name)[kept] for name in ("values", "value_error", "residual_norms", "angle_bound")}
    spectrum = dataclasses.replace(
        modes.spectrum, values=modes.spectrum.values[kept], value_error=modes.spectrum.value_error[kept]
    )
    lost = dataclasses.replace(modes, **parts, basis=modes.basis[:, kept], spectrum=spectrum)
    with pytest.raises(AssertionError):
        assert_promises(lost, exact, 4)


@pytest.mark.parametrize("ghost", range(3))
def test_a_copy_that_lanczos_made_up_is_noticed(ghost):
    features = planted_features(32, 32, [4.0, 2.0, 1.0, 0.5])
    exact = 1024.0 * torch.tensor([16.0, 4.0, 1.0, 0.25] + [0.0] * 28, dtype=torch.float64)
    modes = eigenmodes(features, 3, route="lanczos", block_size=1)
    twice = sorted([0, 1, 2, ghost])[:3] if ghost < 2 else [0, 1, 1]
    doubled = dataclasses.replace(modes, values=modes.values[twice], value_error=modes.value_error[twice])
    with pytest.raises(AssertionError, match="no ghost"):
        assert_promises(doubled, exact, 3)
