"""`decompose_update` against ball arithmetic on drawn spectra, and against `decompose` with vectors of all samples."""

from __future__ import annotations

import dataclasses
from fractions import Fraction
from itertools import accumulate

import pytest
import torch
from hypothesis import assume, example, given
from hypothesis import strategies as st

from ntkla import ArgumentError, DtypeError, NonFiniteError, ShapeError
from ntkla.forgetting.spectrum.decompose import decompose
from ntkla.forgetting.spectrum.decompose_update import decompose_update, product_rounding
from ntkla.forgetting.spectrum.ranks import KINDS, effective_rank, vulnerable_rank
from ntkla.linalg.design import DesignMatrix
from ntkla.linalg.eigen.feature_modes import feature_modes
from ntkla.linalg.eigenmodes import eigenmodes
from ntkla.linalg.precision import NEGLIGIBLE
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
    with_bias,
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
    phi = with_bias(features) if bias else features.to(torch.float64)
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


def drawn(features, modes, update: Exact, bias: bool = False) -> Exact:
    """The exact energies in the eigenspaces of the clusters."""
    m, columns = modes.values.shape[0], features.shape[1] + bias
    # Beyond the modes lie eigenvalues of exactly 0, which may belong to the last cluster.
    sets = [(c.start, c.stop if c.stop < m else columns) for c in modes.clusters]
    return eigenspace_energies(features, update, sets, bias=bias)


def assert_energies(result, exact: Exact):
    """Every bound of a decomposition against the exact energies in the eigenspaces of its clusters."""

    def judge(name, value, bound, chosen):
        rows = Exact(lambda: flint().arb_mat([[ball] for ball in chosen([row[0] for row in exact.compute().tolist()])]))
        verdict = compare(
            *(torch.as_tensor(part, dtype=torch.float64).reshape(-1, 1) for part in (value, bound)), rows, name
        )
        assert verdict.sound, str(verdict)

    single = [i for i, c in enumerate(result.clusters) if len(c) == 1]
    places = [result.clusters[i].start for i in single]
    judge("clusters", result.cluster_energy, result.cluster_energy_error, lambda e: e)
    judge("total", result.total, result.total_error, lambda e: [sum(e, flint().arb(0))])
    if single:
        judge("energy", result.energy[places], result.energy_error[places], lambda e: [e[i] for i in single])
    assert result.tail == result.tail_error == 0.0


def fractions(exact: Exact) -> list[Fraction]:
    """Energies as fractions, far closer than any bound that they judge; zeros where all of them vanish."""
    arb = flint().arb

    def vanish(balls) -> bool:
        # No precision tells a zero from this: the balls around it only get smaller.
        return all(bool(abs(e) <= arb(2) ** -2000) for e in balls.entries())

    def satisfied(balls) -> bool:
        total = sum((abs(e) for e in balls.entries()), arb(0))
        return vanish(balls) or all(bool(arb(e.rad()) <= total * 2.0**-80) for e in balls.entries())

    found = exact.until(satisfied)
    return [Fraction(0) if vanish(found) else Fraction(float(e.mid())) for e in found.entries()]


def assert_shares(result, energies: list[Fraction]):
    """Shares at the ends of the clusters, where they do not depend on a basis."""
    total = sum(energies)
    if total == 0:
        return
    room = 8 * torch.finfo(torch.float64).eps
    for c, head in zip(result.clusters, accumulate(energies), strict=True):
        share = float(head / total)
        assert (
            float(result.cumulative_low[c.stop - 1]) - room <= share <= float(result.cumulative_high[c.stop - 1]) + room
        )


@given(
    feature_specs(most=6),
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
@example(
    FeatureSpec(n=2, features=2, spectrum="flat", condition=1.0, layout="expanded", twist="twin_columns"),
    False, 1, "null", 1, 1.0, 0.0,
)  # fmt: skip
def test_every_bound_holds_exactly(spec, bias, outputs, kind, seed, scale, relative):
    features = spec.tensor
    assume(bool(features.isfinite().all()))
    update = update_for(features, bias, outputs, kind, seed, scale)
    result, modes, exact = decomposed(features, bias, update, relative, seed)
    energies = drawn(features, modes, exact, bias)
    assert_energies(result, energies)
    assert_shares(result, fractions(energies))
    for value in (result.energy, result.energy_error, result.cumulative, result.cumulative_low, result.cumulative_high):
        assert value.shape == modes.values.shape
        assert not value.isnan().any()


@given(feature_specs(most=6), st.booleans(), st.sampled_from(KINDS_OF_UPDATE), SEEDS, SHARES)
@example(FeatureSpec(n=6, features=4, spectrum="flat"), False, "random", 0, 0.5)
@example(FeatureSpec(n=6, features=4), True, "graded", 0, 0.9)
def test_it_is_one_answer_with_vectors_of_all_samples(spec, bias, kind, seed, q):
    features = spec.tensor
    assume(bool(features.isfinite().all()))
    update = update_for(features, bias, 2, kind, seed, 1.0)
    result, modes, _ = decomposed(features, bias, update)
    drift = DesignMatrix(features, bias).matmul(update)
    rounding = torch.full_like(drift, product_rounding(modes, update))
    lifted = decompose(drift, eigenmodes(features, modes.values.shape[0], bias=bias), error_bound=rounding)
    # Energies inside a cluster belong to a basis, and the two have each their own.
    pairs = [("energy", torch.tensor([len(c) == 1 for c in modes.clusters for _ in range(len(c))])), ("total", True)]
    for name, comparable in pairs:
        first, second = (torch.as_tensor(getattr(part, name), dtype=torch.float64) for part in (result, lifted))
        errors = sum(torch.as_tensor(getattr(part, f"{name}_error"), dtype=torch.float64) for part in (result, lifted))
        assert (((first - second).abs() <= errors) | ~torch.as_tensor(comparable)).all()
    assert (result.cumulative_low <= lifted.cumulative_high).all()
    assert (lifted.cumulative_low <= result.cumulative_high).all()
    for order in ("eigenvalue", "energy"):
        one, other = result.rank(q, order), lifted.rank(q, order)
        assert max(one.low, other.low) <= min(one.high, other.high)


def brute_rank(energies: list[Fraction], q: float, order: str) -> int:
    ordered = energies if order == "eigenvalue" else sorted(energies, reverse=True)
    return next(k for k, head in enumerate(accumulate(ordered, initial=0)) if head >= Fraction(q) * sum(energies))


# The right singular vectors are the columns of hadamard(8), exactly, and Phi^T Phi has the eigenvalues 128 s^2.
SINGULAR = [8.0, 7.0, 6.0, 5.0, 4.0, 3.0, 2.0, 1.0]
PLANTED = planted_features(16, 8, SINGULAR)


def planted(update: Exact) -> Exact:
    """The exact energies of an update of the planted features: 128 s^2 ||v^T x||^2."""

    def energies():
        coefficients = (ball_matrix(hadamard_basis(8)).transpose() * update.compute()).tolist()
        sizes = [sum((c * c for c in row), flint().arb(0)) for row in coefficients]
        return flint().arb_mat([[16 * s * s * size] for s, size in zip(SINGULAR, sizes, strict=True)])

    return Exact(energies)


@given(SEEDS, SHARES, st.sampled_from([0.0, 1e-12, 1e-3]))
def test_ranks_contain_the_exact_rank(seed, q, relative):
    result, _, exact = decomposed(PLANTED, False, normal(8, 2, seed), relative, seed)
    assert_energies(result, planted(exact))
    energies = fractions(planted(exact))
    for order in ("eigenvalue", "energy"):
        rank = result.rank(q, order)
        assert rank.low <= brute_rank(energies, q, order) <= rank.high
        assert rank.high <= 8, "the modes hold all of the drift"
        assert (rank.value is None) == (rank.low < rank.high)


def test_bounds_are_tight_somewhere():
    """Shares are certain to the tolerance where eigenvalues are well apart; some error is near its bound."""
    ratio = 0.0
    for seed in range(20):
        update = normal(8, 2, seed)
        result, modes, exact = decomposed(PLANTED, False, update)
        assert result.status.certified
        assert float((result.cumulative_high - result.cumulative_low).max()) < modes.tolerance
        verdict = compare(result.energy[:, None], result.energy_error[:, None], planted(exact))
        ratio = max(ratio, verdict.largest_ratio)
    assert ratio > 1 / 1000


@pytest.mark.parametrize("name", ["energy_error", "cluster_energy_error", "total_error"])
def test_a_bound_scaled_by_a_ten_thousandth_is_noticed(name):
    found = 0
    for seed in range(20):
        result, _, exact = decomposed(PLANTED, False, normal(8, 2, seed))
        smaller = dataclasses.replace(result, **{name: getattr(result, name) * 1e-4})
        try:
            assert_energies(smaller, planted(exact))
        except AssertionError:
            found += 1
    assert found > 0


def test_an_update_moved_by_1e_8_is_noticed():
    update = normal(8, 2, 0)
    moved, _, _ = decomposed(PLANTED, False, update * (1 + 1e-8))
    with pytest.raises(AssertionError, match="violated"):
        assert_energies(moved, planted(Exact(lambda: ball_matrix(update))))


def test_an_error_of_the_update_that_is_left_out_is_noticed():
    update = normal(8, 2, 0)
    _, modes, exact = decomposed(PLANTED, False, update, 1e-6)
    result = decompose_update(PLANTED @ update, update, modes)
    with pytest.raises(AssertionError, match="violated"):
        assert_energies(result, planted(exact))


def test_small_modes_have_small_errors_whatever_the_update_does_elsewhere():
    """An update that is large where the features are small: its norm meets no large eigenvalue in the bounds."""
    features = FeatureSpec(n=64, features=16, spectrum="geometric", condition=1e8).tensor
    update = update_for(features, False, 2, "graded", 0, 1.0)
    result, modes, _ = decomposed(features, False, update)
    crude = float(modes.value_error[0]) * float(update.square().sum())
    assert crude > result.total * modes.tolerance, "eta ||x||^2 alone would not do"
    assert float(result.energy_error[0]) < 1e-2 * crude


def test_a_share_of_one_needs_no_more_than_all_modes():
    result, _, _ = decomposed(PLANTED, False, normal(8, 2, 1))
    assert float(result.cumulative_low[-1]) == 1.0
    assert result.rank(1.0).high == 8
    assert result.modes == 16


def test_no_update_has_no_energy():
    result, _, _ = decomposed(PLANTED, False, torch.zeros(8, 2, dtype=torch.float64))
    assert result.total == result.total_error == 0.0
    assert not result.energy_error.any()
    assert result.rank(0.9).value == 0
    assert result.status.certified


@pytest.mark.parametrize("features", [PLANTED, PLANTED.T.contiguous()])
def test_infinite_bounds_say_nothing_and_break_nothing(features):
    update = normal(features.shape[1], 2, 3)
    modes, drift = feature_modes(features), features @ update
    for error in (torch.full_like(drift, torch.inf), None):
        unknown = torch.full((2,), torch.inf, dtype=torch.float64)
        result = decompose_update(drift, update, modes, error_bound=error, update_error=unknown)
        assert result.rank(0.9).low == 0
        assert not result.status.certified
        for value in (result.cumulative_low, result.cumulative_high, result.energy_error, result.energy):
            assert not value.isnan().any()


@pytest.mark.parametrize("shape", [(5, 2), (2, 5)])
@pytest.mark.parametrize("scale", [2.0**-200, 2.0**40, 2.0**200])
def test_no_update_has_no_energy_at_any_scale_of_the_features(shape, scale):
    features, update = normal(*shape, 3) * scale, torch.zeros(shape[1], 2, dtype=torch.float64)
    result = decompose_update(features @ update, update, feature_modes(features))
    assert result.total == result.total_error == 0.0


@pytest.mark.parametrize("shape", [(5, 2), (2, 5)])
def test_features_of_zeros_make_no_drift_of_an_unknown_update(shape):
    features = torch.zeros(*shape, dtype=torch.float64)
    update, unknown = normal(shape[1], 2, 3), torch.full((2,), torch.inf, dtype=torch.float64)
    result = decompose_update(features @ update, update, feature_modes(features), update_error=unknown)
    for value in (result.energy_error, result.cluster_energy_error, result.cumulative_low, result.cumulative_high):
        assert not value.isnan().any()
    assert result.total == 0.0 <= result.total_error < NEGLIGIBLE


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(20, 8), (8, 20)])
def test_ranks_of_feature_modes_are_those_of_the_features(dtype, shape):
    features = normal(*shape, 3).to(dtype)
    modes = feature_modes(features, bias=True)
    for kind in KINDS:
        one, other = effective_rank(modes, kind), effective_rank(features, kind, bias=True)
        assert max(one.low, other.low) <= min(one.high, other.high)
        assert one.status.certified
    assert vulnerable_rank(modes, 3).value == 3 * effective_rank(modes).value


@pytest.mark.parametrize("state", hostile_states())
def test_ambient_state_changes_no_bound(state):
    update = normal(8, 2, 7)
    before = ambient_state()
    with hostile_states()[state]():
        result, _, exact = decomposed(PLANTED.to(torch.float32), False, update)
    assert ambient_state() == before
    assert result.energy.dtype == torch.float64
    assert_energies(result, planted(exact))


@pytest.mark.parametrize("scale", [2.0**-300, 2.0**-40, 2.0**40, 2.0**200])
def test_shares_do_not_depend_on_the_scale(scale):
    update = normal(8, 2, 5)
    plain, scaled = decomposed(PLANTED, False, update)[0], decomposed(PLANTED, False, update * scale)[0]
    assert torch.equal(plain.cumulative_low, scaled.cumulative_low)
    assert torch.equal(plain.cumulative_high, scaled.cumulative_high)
    assert torch.equal(plain.energy * scale * scale, scaled.energy)


UPDATE = normal(8, 2, 0)
DRIFT = PLANTED @ UPDATE
MODES = feature_modes(PLANTED)


@pytest.mark.parametrize(
    ("error", "words", "call"),
    [
        (ShapeError, "drift: expected 16 rows, got 7", lambda: decompose_update(DRIFT[:7], UPDATE, MODES)),
        (ShapeError, "update: expected 8 rows, got 7", lambda: decompose_update(DRIFT, UPDATE[:7], MODES)),
        (ShapeError, "update: expected 2 columns, got 1", lambda: decompose_update(DRIFT, UPDATE[:, :1], MODES)),
        (NonFiniteError, "update", lambda: decompose_update(DRIFT, UPDATE / 0.0, MODES)),
        (DtypeError, "result of feature_modes", lambda: decompose_update(DRIFT, UPDATE, eigenmodes(PLANTED, 8))),
        (ShapeError, "update_error", lambda: decompose_update(DRIFT, UPDATE, MODES, update_error=UPDATE.abs())),
        (ShapeError, "update_error", lambda: decompose_update(DRIFT, UPDATE, MODES, update_error=1e-9)),
        (
            ArgumentError,
            "update_error.*negative",
            lambda: decompose_update(DRIFT, UPDATE, MODES, update_error=-UPDATE[0].abs()),
        ),
        (NonFiniteError, "NaN", lambda: decompose_update(DRIFT, UPDATE, MODES, error_bound=DRIFT * torch.nan)),
        (ArgumentError, "tol", lambda: decompose_update(DRIFT, UPDATE, MODES, tol=-1.0)),
    ],
)
def test_bad_input_is_named(error, words, call):
    with pytest.raises(error, match=words):
        call()
