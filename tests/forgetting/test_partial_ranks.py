"""Effective ranks of spectra that are known in part: intervals that hold every spectrum which the bounds allow."""

from __future__ import annotations

import dataclasses
import math
from fractions import Fraction

import numpy as np
import pytest
import scipy.sparse
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ntkla import ArgumentError
from ntkla.forgetting.spectrum.ranks import KINDS, effective_rank, vulnerable_rank
from ntkla.linalg.eigen.modes import Spectrum
from ntkla.linalg.eigenmodes import eigenmodes
from ntkla.linalg.kronecker import KroneckerGram
from ntkla.linalg.operators import FunctionOperator, GramOperator
from ntkla.linalg.softmax import SoftmaxGram
from ntkla.testing.balls import ball, flint, working_precision
from ntkla.testing.spectra import normal, orthonormal_columns

SHARES = st.sampled_from([0.9, 0.5, 0.99, 1.0, 0.1, 1e-9])
VALUES = st.lists(st.one_of(st.floats(0, 8), st.sampled_from([0.0, 1.0, 1e-12, 1e12])), min_size=2, max_size=9)
LOOSE = st.sampled_from([0.0, 1e-12, 0.01, 1.0, math.inf])
REAL = KINDS[1:]


def tensor(values) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def known_in_part(values, listed, *, error=0.0, loose=0.0, trace_error=0.0, ceiling=None, copies=1) -> Spectrum:
    """What could be known of a spectrum, in shares of the largest value; values are off by nearly `error`."""
    ordered = sorted(values, reverse=True)
    total, largest, rest = sum(map(Fraction, ordered)), ordered[0], ordered[listed] if listed < len(ordered) else 0.0
    # Two more units in the last place: sums of fractions end between floats.
    room = float(total) * 2.0**-50
    above = None if ceiling is None else tensor(ordered[:listed]) + ceiling * largest
    moved = torch.tensor([(-1) ** j for j in range(listed)], dtype=torch.float64) * (0.99 * error * largest)
    return Spectrum(
        values=(tensor(ordered[:listed]) + moved).clamp(min=0.0),
        value_error=torch.full((listed,), error * largest, dtype=torch.float64),
        size=len(ordered),
        trace=float(total),
        trace_error=math.inf if math.isinf(trace_error) else room + trace_error * largest,
        multiplicity=copies,
        rest=math.inf if math.isinf(loose) else rest + loose * largest,
        ceiling=above,
    )


def share_rank(values, q) -> int:
    ordered = sorted(map(Fraction, values), reverse=True)
    return next(k for k in range(len(values) + 1) if sum(ordered[:k]) >= Fraction(q) * sum(ordered))


def real_rank(values, kind):
    """A ball around the rank of exact values, not all zero."""
    balls, zero = [ball(v) for v in values], flint().arb(0)
    total = sum(balls, zero)
    if kind == "participation":
        return total * total / sum((v * v for v in balls), zero)
    if kind == "intrinsic":
        return total / ball(max(values))
    return sum((-(v / total) * (v / total).log() for v in balls if v != 0), zero).exp()


def assert_holds(spectrum, values, q):
    """Every rank of these values lies in the interval."""
    copies = [v for v in values for _ in range(spectrum.multiplicity)]
    found = effective_rank(spectrum, q=q)
    assert found.low <= share_rank(copies, q) <= found.high, f"{found} does not hold {share_rank(copies, q)}"
    assert isinstance(found.low, int)
    assert isinstance(found.high, int)
    for kind in REAL if any(values) else ():
        rank = effective_rank(spectrum, kind)
        with working_precision(400):
            exact = real_rank(copies, kind)
            assert not exact < ball(rank.low), f"{rank} does not hold {exact}"
            assert not exact > ball(rank.high), f"{rank} does not hold {exact}"
        assert rank.low <= rank.value <= rank.high


@settings(max_examples=settings.default.max_examples // 2)
@given(VALUES, st.integers(1, 8), LOOSE, LOOSE, st.sampled_from([0.0, 1e-9, 0.3]), SHARES, st.integers(1, 3))
@example([1.0, 1.0], 1, 0.0, 0.0, 0.0, 0.5, 1)
@example([0.0, 0.0], 1, math.inf, math.inf, 0.0, 1.0, 1)
@example([1e12, 1e-12], 1, 1.0, math.inf, 0.3, 1.0, 3)
@example([8.0, 4.0, 2.0, 1.0, 0.5], 2, 0.01, 0.0, 0.0, 0.9, 1)
def test_intervals_hold_the_spectrum_that_the_bounds_were_made_of(values, listed, loose, trace, error, q, copies):
    listed = min(listed, len(values))
    assert_holds(known_in_part(values, listed, error=error, loose=loose, trace_error=trace, copies=copies), values, q)


@settings(max_examples=settings.default.max_examples // 2)
@given(VALUES, st.integers(1, 8), LOOSE, LOOSE, LOOSE, SHARES)
def test_intervals_hold_where_larger_eigenvalues_may_have_been_missed(values, listed, loose, trace, ceiling, q):
    """The lower bounds are those of too small values, as when Lanczos missed some."""
    ordered, listed = sorted(values, reverse=True), min(listed, len(values) - 1)
    spectrum = known_in_part(values, listed, loose=loose, trace_error=trace, ceiling=ceiling)
    missed = dataclasses.replace(spectrum, values=tensor(ordered[1 : listed + 1]))
    assert_holds(missed, values, q)


@settings(max_examples=settings.default.max_examples // 2)
@given(VALUES.filter(any), st.integers(1, 8), st.floats(0, 1), SHARES)
def test_intervals_hold_every_tail_that_fits(values, listed, evenly, q):
    """Between the most even tail and the most concentrated one, with the same trace and below the same cap."""
    ordered, listed = sorted(values, reverse=True), min(listed, len(values) - 1)
    spectrum = known_in_part(values, listed, loose=0.5)
    tail, others = sum(ordered[listed:]), len(ordered) - listed
    one = [evenly * tail / others] * others
    left = tail - sum(one)
    for i in range(others):
        more = min(left, min(spectrum.rest, ordered[listed - 1]) - one[i])
        one[i], left = one[i] + more, left - more
    assert_holds(spectrum, ordered[:listed] + [max(0.0, v) for v in one], q)


def test_both_ends_are_reached():
    """Six known eigenvalues, and ten others that are one large and nine small, or all the same."""
    head = [64.0, 32.0, 16.0, 8.0, 8.0, 8.0]
    spectrum = known_in_part([*head, 8.0, *[8.0 / 9] * 9], 6)
    concentrated, even = [*head, 8.0, 8.0, *[0.0] * 8], [*head, *[1.6] * 10]
    for q in (0.9, 0.96, 0.99, 0.5):
        found = effective_rank(spectrum, q=q)
        assert (found.low, found.high) == (share_rank(concentrated, q), share_rank(even, q))
    for kind in REAL:
        found = effective_rank(spectrum, kind)
        close = 2.0**-40
        for end, values in ((found.low, concentrated), (found.high, even)):
            exact = float(real_rank(values, kind).mid())
            assert abs(end - exact) <= close * exact
        assert found.status.certified == (kind == "intrinsic")


def test_a_share_that_the_leading_modes_hold_is_decided_whatever_the_others_are():
    values = [2.0**-j for j in range(40)]
    for q in (0.5, 0.9, 0.99):
        found = effective_rank(known_in_part(values, 12, loose=math.inf), q=q)
        assert found.value == share_rank(values, q)
        assert found.status.certified
    beyond = effective_rank(known_in_part(values, 12, loose=math.inf), q=1 - 2.0**-20)
    assert beyond.value is None
    assert beyond.low == 13
    assert beyond.high <= 40


@pytest.mark.parametrize("copies", [1, 100])
def test_two_hundred_thousand_equal_eigenvalues_are_decided_by_ten(copies):
    size = 200_000
    spectrum = dataclasses.replace(known_in_part([1.0] * 11, 10), size=size, trace=float(size), multiplicity=copies)
    # Nine tenths of it: 0.9 as a float is more than that.
    found = effective_rank(spectrum, q=0.9)
    assert found.low <= math.ceil(Fraction(0.9) * size * copies) <= found.high
    assert found.high - found.low <= 1
    for kind in REAL:
        rank = effective_rank(spectrum, kind)
        assert rank.status.certified
        assert rank.low <= size * copies <= rank.high


def test_without_a_trace_only_the_listed_values_speak():
    values = [8.0, 4.0, 2.0, 1.0]
    nothing = known_in_part(values, 2, loose=math.inf, trace_error=math.inf, ceiling=math.inf)
    rank = effective_rank(nothing, q=0.5)
    assert (rank.low, rank.high, rank.value) == (1, 2, None)
    assert (effective_rank(nothing, q=1.0).low, effective_rank(nothing, q=1.0).high) == (2, 4)
    assert (effective_rank(nothing, "entropy").low, effective_rank(nothing, "entropy").high) == (1.0, 4.0)
    # A bound of the others is one of the trace.
    bounded = known_in_part(values, 2, loose=0.0, trace_error=math.inf)
    assert effective_rank(bounded, q=0.5).value == 1
    assert effective_rank(bounded, "intrinsic").high == 2.0


@given(VALUES.filter(any), st.integers(1, 8), LOOSE, SHARES, st.integers(2, 5))
def test_the_kronecker_rule_in_part(values, listed, loose, q, outputs):
    """k* = C k_G; by vectors the rank lies in (C (k_G - 1), C k_G]; the other kinds scale by C exactly."""
    factor = known_in_part(values, min(listed, len(values)), loose=loose)
    kernel = dataclasses.replace(factor, multiplicity=outputs)
    single, repeated = effective_rank(factor, q=q), effective_rank(kernel, q=q)
    assert outputs * (single.low - 1) < repeated.low <= outputs * single.low
    assert outputs * (single.high - 1) < repeated.high <= outputs * single.high
    whole = vulnerable_rank(factor, outputs, q)
    assert (whole.low, whole.high) == (outputs * single.low, outputs * single.high)
    for kind in REAL:
        one, other = effective_rank(factor, kind), effective_rank(kernel, kind)
        unit = 2 * torch.finfo(torch.float64).eps
        for a, b in ((one.low, other.low), (one.high, other.high), (one.value, other.value)):
            assert abs(outputs * a - b) <= unit * b


@pytest.mark.parametrize("smaller", [{"rest": 0.9}, {"trace": 0.8}, {"trace_error": 0.0, "trace": 1.1}])
def test_a_bound_that_is_too_small_is_noticed(smaller):
    values, caught = [8.0, 4.0, 2.0, 1.0, 1.0, 1.0], 0
    for listed in range(1, 6):
        honest = known_in_part(values, listed)
        wrong = {name: getattr(honest, name) * by for name, by in smaller.items()}
        try:
            for q in (0.5, 0.9, 0.99):
                assert_holds(dataclasses.replace(honest, **wrong), values, q)
        except (AssertionError, ArgumentError):
            caught += 1
    assert caught > 0


def test_a_trace_that_no_such_spectrum_has_is_refused():
    with pytest.raises(ArgumentError, match="trace: expected one that agrees"):
        effective_rank(Spectrum(tensor([2.0, 1.0]), tensor([0.0, 0.0]), 4, 1.0, 0.0, rest=1.0))


SIZE = 60
SPECTRA = {
    "decaying": [0.7**j for j in range(SIZE)],
    "ten copies": [4.0] * 10 + [2.0] * 10 + [0.5] * (SIZE - 20),
    "flat": [1.0] * SIZE,
    "rank 3": [3.0, 2.0, 1.0],
    "one outlier": [1e6] + [1.0 / (1 + j) for j in range(SIZE - 1)],
}


def features(name: str) -> torch.Tensor:
    values = tensor(SPECTRA[name])
    left = orthonormal_columns(70, len(values), 1)
    return (left * values.sqrt()) @ orthonormal_columns(SIZE, len(values), 2).T


@pytest.mark.parametrize("prove", ["trace", "inertia", None])
@pytest.mark.parametrize("name", SPECTRA)
def test_both_routes_agree(name, prove):
    """The full route knows every eigenvalue: its interval is the truth to a few units, and Lanczos' holds it."""
    x = features(name)
    gram = GramOperator(x)
    part = eigenmodes(KroneckerGram(gram, 3), 36, route="lanczos", block_size=3, prove=prove)
    for kind in KINDS:
        for full, found in (
            (effective_rank(gram, kind), effective_rank(part.factor, kind)),
            (effective_rank(KroneckerGram(gram, 3), kind), effective_rank(part, kind)),
        ):
            assert found.low <= full.high
            assert full.low <= found.high
            if full.status.certified and kind == "share":
                assert found.low <= full.value <= found.high
            if found.status.certified and full.status.certified:
                assert abs(found.value - full.value) <= (found.high - found.low) + (full.high - full.low)
    if name == "decaying" and prove is not None:
        assert effective_rank(part).status.certified
        assert effective_rank(part, "intrinsic").status.certified


@pytest.mark.parametrize("shape", [(200, 40), (40, 200)])
def test_the_smaller_side_bounds_the_rank(shape):
    """Features of 40 columns have no more than 40 positive eigenvalues, whichever route knows them."""
    modes = eigenmodes(normal(*shape, 0), 3, route="lanczos", block_size=2)
    assert effective_rank(modes, q=1.0).high == 40
    assert effective_rank(modes, "entropy").high <= 40.0
    assert effective_rank(modes).low <= effective_rank(eigenmodes(normal(*shape, 0), 3, route="full")).value
    assert effective_rank(modes).high <= math.ceil(Fraction(0.9) * 40)


def diagonal(values: torch.Tensor, **options) -> FunctionOperator:
    size = len(values)
    return FunctionOperator(lambda v: values[:, None] * v, (size, size), torch.float64, "cpu", psd=True, **options)


def test_any_operator_has_ranks():
    probabilities = torch.softmax(normal(8, 3, 1), 1)
    gram = GramOperator(normal(8, 5, 0))
    softmax = SoftmaxGram(gram, probabilities)
    exact = torch.linalg.eigvalsh(softmax.to_dense()).clamp(min=0.0)
    for kind in KINDS:
        rank, reference = effective_rank(softmax, kind), effective_rank(exact, kind)
        assert abs(rank.value - reference.value) <= torch.finfo(torch.float32).eps * reference.value
        assert rank.status.certified
    values = [3.0, 2.0, 1.0, 0.5]
    for operator in (diagonal(tensor(values)), scipy.sparse.diags_array(np.array(values)).tocsr()):
        rank = effective_rank(operator)
        assert rank.value == share_rank(values, 0.9)
        assert rank.status.code == "conditional"
        assert str(rank) == "share rank at 0.9: 3"
    stated = diagonal(tensor(values), matmul_error=2.0**-50)
    assert effective_rank(stated).status.certified
    assert effective_rank(KroneckerGram(stated, 2)).value == share_rank(values * 2, 0.9)
    assert vulnerable_rank(stated, 4).value == 12


def test_an_operator_without_a_trace_leaves_the_rank_open():
    modes = eigenmodes(diagonal(0.5 ** torch.arange(300, dtype=torch.float64)), 3, block_size=2)
    rank = effective_rank(modes)
    assert (rank.low, rank.high) == (1, math.ceil(Fraction(0.9) * 300))
    assert rank.status.code == "above_tolerance"
    assert effective_rank(modes, "participation").high == 300.0


def test_a_large_operator_is_not_decomposed_unasked():
    with pytest.raises(ArgumentError, match=r"at most 2048 rows.*eigenmodes\(operator, k\)"):
        effective_rank(diagonal(torch.ones(2049, dtype=torch.float64)))
