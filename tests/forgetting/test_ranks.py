"""Effective ranks against fractions and ball arithmetic: a number where the bounds decide it, else an interval."""

from __future__ import annotations

import dataclasses
from fractions import Fraction

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from ntkla import ArgumentError, DtypeError, NonFiniteError, ShapeError
from ntkla.forgetting.spectrum.ranks import KINDS, counted, effective_rank, vulnerable_rank
from ntkla.linalg.eigen.modes import Spectrum
from ntkla.linalg.eigenmodes import eigenmodes, spectrum_of
from ntkla.linalg.kronecker import KroneckerGram
from ntkla.linalg.operators import GramOperator
from ntkla.testing import DTYPES, FeatureSpec, feature_specs, gram_eigenvalues, hostile_states, working_precision
from ntkla.testing.balls import ball, flint
from ntkla.testing.spectra import normal

SHARES = st.sampled_from([0.9, 0.5, 0.99, 1.0, 0.1, 1e-9, 0.25])
VALUES = st.lists(st.one_of(st.floats(0, 8), st.sampled_from([0.0, 1.0, 1e-12, 1e12])), min_size=1, max_size=9)


def tensor(values) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def exact_share_rank(values: list[float], q: float) -> int:
    """The definition, in fractions."""
    ordered = sorted(map(Fraction, values), reverse=True)
    return next(k for k in range(len(values) + 1) if sum(ordered[:k]) >= Fraction(q) * sum(ordered))


def ball_rank(values: list, kind: str):
    """Participation, intrinsic and entropy rank of enclosed eigenvalues, not all zero."""
    total = sum(values, flint().arb(0))
    if kind == "participation":
        return total * total / sum((v * v for v in values), flint().arb(0))
    if kind == "intrinsic":
        return total / max(values, key=lambda v: float(v.mid()))
    shares = [v / total for v in values if v != 0]
    return sum((-p * p.log() for p in shares), flint().arb(0)).exp()


def assert_contains(rank, exact):
    """`exact` is a ball far narrower than the interval's last digit, which may lie on its end."""
    outside = bool(exact < ball(rank.low)) or bool(exact > ball(rank.high))
    assert not outside, f"{rank.low} ... {rank.high} does not contain {exact}"
    assert rank.low <= rank.value <= rank.high


@given(VALUES, SHARES)
@example([1.0, 1.0, 1.0, 1.0], 0.5)
@example([0.0], 1.0)
@example([0.1] * 10, 0.9)
@example([0.1] * 9 + [0.30000000000000004], 0.25)
def test_share_rank_of_exact_values_is_decided(values, q):
    rank = effective_rank(tensor(values), q=q)
    assert rank.value == rank.low == rank.high == exact_share_rank(values, q)
    assert rank.status.certified


@given(VALUES.filter(any), st.sampled_from(KINDS[1:]))
@example([1.0] * 4, "entropy")
@example([1e12, 1e-12], "participation")
@example([5e-324], "intrinsic")
def test_real_ranks_of_exact_values_are_enclosed(values, kind):
    rank = effective_rank(tensor(values), kind)
    assert rank.status.certified
    with working_precision(400):
        assert_contains(rank, ball_rank([ball(v) for v in values], kind))


@given(VALUES.filter(any), st.floats(1e-12, 0.5), st.integers(0, 2**20), SHARES)
def test_intervals_contain_every_spectrum_within_the_errors(values, relative, seed, q):
    centre, error = tensor(values), relative * max(values)
    generator = torch.Generator(device="cpu").manual_seed(seed)
    shift = torch.rand(len(values), generator=generator, dtype=torch.float64) * 2 - 1
    other = (centre + shift * error * (1 - relative)).clamp(min=0.0)
    inside = [v for v, c in zip(other.tolist(), values, strict=True) if abs(Fraction(v) - Fraction(c)) <= error]
    assert len(inside) == len(values)
    rank = effective_rank(centre, q=q, value_error=error)
    assert rank.low <= exact_share_rank(inside, q) <= rank.high
    assert (rank.value is None) == (rank.low < rank.high)
    for kind in KINDS[1:] if any(inside) else ():
        bounded = effective_rank(centre, kind, value_error=torch.full_like(centre, error))
        with working_precision(400):
            assert_contains(bounded, ball_rank([ball(v) for v in inside], kind))


@given(feature_specs(most=6), SHARES)
@example(FeatureSpec(n=6, features=3), 1.0)
@example(FeatureSpec(n=4, features=4, spectrum="flat"), 0.5)
def test_ranks_of_features_contain_the_exact_rank(spec, q):
    features = spec.tensor
    spectrum = spectrum_of(features)
    rank = effective_rank(features, q=q)
    if not features.any():
        assert rank.value == 0
        assert all(effective_rank(features, kind).value == 0 for kind in KINDS)
        return
    radius = float(spectrum.value_error.min()) * 2.0**-60
    exact = gram_eigenvalues(features, radius=radius)
    share = ball(q)
    with working_precision(600):
        total = sum(exact, flint().arb(0))
        heads = [sum(exact[:k], flint().arb(0)) for k in range(len(exact) + 1)]
        assert not heads[int(rank.high)] < share * total, "too few at the upper end"
        assert rank.low == 0 or not heads[int(rank.low) - 1] > share * total, "fewer would do than the lower end"
        for kind in ("participation", "intrinsic"):
            assert_contains(effective_rank(features, kind), ball_rank(exact, kind))


@pytest.mark.parametrize("dtype", DTYPES)
def test_features_operators_modes_and_spectra_agree(dtype):
    features = normal(20, 8, 3).to(DTYPES[dtype])
    operator = GramOperator(features, bias=True)
    for kind in KINDS:
        ranks = [
            effective_rank(features, kind, bias=True),
            effective_rank(operator, kind),
            effective_rank(eigenmodes(operator, 2), kind),
            effective_rank(spectrum_of(operator), kind),
        ]
        assert all(rank == ranks[0] for rank in ranks)
        assert ranks[0].status.certified


@given(VALUES, SHARES, st.integers(1, 4))
def test_kronecker_kernels_count_every_copy(values, q, outputs):
    ordered = sorted(values, reverse=True)
    error = torch.zeros(len(values), dtype=torch.float64)
    kernel = Spectrum(tensor(ordered), error, len(values), sum(values), sum(values), multiplicity=outputs)
    copies = [v for v in values for _ in range(outputs)]
    assert effective_rank(kernel, q=q).value == exact_share_rank(copies, q)
    for kind in KINDS[1:]:
        single, repeated = effective_rank(tensor(values), kind), effective_rank(kernel, kind)
        assert repeated.low <= outputs * single.high
        assert outputs * single.low <= repeated.high
        assert repeated.status.certified


@given(VALUES.filter(any), SHARES, st.integers(1, 5))
def test_the_kronecker_rule(values, q, outputs):
    """k* = C k_G, and the share rank counted vector by vector lies in (C (k_G - 1), C k_G]."""
    factor = effective_rank(tensor(values), q=q)
    assert vulnerable_rank(tensor(values), outputs, q).value == outputs * factor.value
    by_vector = exact_share_rank([v for v in values for _ in range(outputs)], q)
    assert outputs * (factor.value - 1) < by_vector <= outputs * factor.value


def test_the_kronecker_rule_on_features():
    features = normal(30, 24, 0)
    factor = effective_rank(features)
    by_vector = effective_rank(KroneckerGram(GramOperator(features), 10))
    assert vulnerable_rank(features, 10).value == 10 * factor.value
    assert 10 * (factor.value - 1) < by_vector.value <= 10 * factor.value


def test_the_rank_itself_is_an_interval_when_noise_may_be_rank():
    features = FeatureSpec(n=12, features=8, spectrum="low_rank", seed=1).tensor
    rank = effective_rank(features, q=1.0)
    assert rank.value is None
    assert rank.low == 4
    assert rank.high == 8
    assert rank.status.code == "above_tolerance"
    assert "between 4 and 8" in str(rank)
    assert effective_rank(features, q=0.999).value == 4
    assert vulnerable_rank(features, 3, 1.0).low == 12


def test_equality_at_the_share_is_decided_only_for_exact_values():
    values = tensor([3.0, 3.0, 1.0, 1.0])
    assert effective_rank(values, q=0.75).value == 2
    rank = effective_rank(values, q=0.75, value_error=1e-12)
    assert (rank.value, rank.low, rank.high) == (None, 2, 3)


def test_the_order_of_eigenvalues_decides_what_their_errors_do_not():
    """The first half of any spectrum holds at least half of it."""
    assert effective_rank(tensor([1.0] * 4), q=0.5, value_error=1e-12).value == 2


def test_a_rank_moved_by_one_is_noticed():
    """The oracle of this file is not satisfied by a neighbour of the right rank."""
    values = [3.0, 2.0, 1.0]
    right = exact_share_rank(values, 0.9)
    for wrong in (right - 1, right + 1):
        assert effective_rank(tensor(values), q=0.9).value != counted(wrong, wrong, "share", 0.9).value


def test_an_entropy_bound_that_is_too_narrow_is_noticed():
    values = [3.0, 2.0, 1.0]
    rank = effective_rank(tensor(values), "entropy")
    moved = dataclasses.replace(rank, low=rank.high, value=rank.high, high=2 * rank.high)
    with working_precision(400), pytest.raises(AssertionError, match="does not contain"):
        assert_contains(moved, ball_rank([ball(v) for v in values], "entropy"))


def test_entropies_of_eigenvalues_that_are_hardly_known_are_bounded_by_their_number():
    far_apart = effective_rank(tensor([1e-300, 1e60]), "entropy", value_error=tensor([0.0, 2e60]))
    assert far_apart.low <= 1.0 <= far_apart.high <= 2.0
    many = effective_rank(torch.ones(3000, dtype=torch.float64), "entropy", value_error=0.9999)
    assert many.low <= 3000.0 == many.high


def test_real_ranks_are_tight():
    values = tensor([3.0, 2.0, 1.0, 1e-3])
    for kind in KINDS[1:]:
        rank = effective_rank(values, kind)
        assert rank.high - rank.low <= 100 * torch.finfo(torch.float64).eps * rank.high
    assert effective_rank(tensor([1.0] * 5), "participation").low == 5.0
    assert effective_rank(tensor([1.0] * 5), "intrinsic").high == 5.0


@pytest.mark.parametrize("state", hostile_states())
def test_ambient_state_changes_no_rank(state):
    features, values = normal(9, 5, 2), tensor([4.0, 2.0, 1.0])
    expected = [[effective_rank(x, kind) for kind in KINDS] for x in (features, values)]
    with hostile_states()[state]():
        found = [[effective_rank(x, kind) for kind in KINDS] for x in (features, values)]
    for before, after in zip(expected[0], found[0], strict=True):
        assert after.low <= before.high
        assert before.low <= after.high
    assert expected[1] == found[1]


FEATURES = normal(6, 4, 0)


@pytest.mark.parametrize(
    ("error", "words", "call"),
    [
        (ArgumentError, "kind: expected one of 'share'", lambda: effective_rank(FEATURES, "rank")),
        (ArgumentError, "q: expected a finite number > 0", lambda: effective_rank(FEATURES, q=0)),
        (ArgumentError, "q: expected a share", lambda: effective_rank(FEATURES, q=1.5)),
        (ArgumentError, "q", lambda: effective_rank(FEATURES, q=float("nan"))),
        (ArgumentError, "values: expected eigenvalues >= 0, got -1", lambda: effective_rank(tensor([1.0, -1.0]))),
        (ArgumentError, "value_error: expected bounds", lambda: effective_rank(tensor([1.0]), value_error=-1.0)),
        (ArgumentError, "value_error: expected None", lambda: effective_rank(FEATURES, value_error=1.0)),
        (ShapeError, "value_error", lambda: effective_rank(tensor([1.0]), value_error=tensor([1.0, 1.0]))),
        (
            DtypeError,
            "value_error.*dense",
            lambda: effective_rank(tensor([1.0]), value_error=tensor([1.0]).to_sparse()),
        ),
        (ShapeError, "at least one", lambda: effective_rank(tensor([]))),
        (NonFiniteError, "NaN", lambda: effective_rank(tensor([float("nan")]))),
        (DtypeError, "torch.Tensor", lambda: effective_rank([1.0, 2.0])),
        (ArgumentError, "outputs", lambda: vulnerable_rank(FEATURES, 0)),
        (ArgumentError, r"\.gram", lambda: vulnerable_rank(KroneckerGram(GramOperator(FEATURES), 2), 2)),
    ],
)
def test_bad_input_is_named(error, words, call):
    with pytest.raises(error, match=words):
        call()


def test_negative_rounding_noise_within_its_error_is_zero():
    assert effective_rank(tensor([1.0, -1e-17]), q=0.9, value_error=1e-16).value == 1
