"""`drift_split` against exact energies in planted eigenbases, its enclosures sound and narrow, and its table."""

from __future__ import annotations

import dataclasses
import doctest
import json
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import ntkla
from ntkla import ArgumentError, DeviceError, DtypeError, GramOperator, KroneckerGram, NonFiniteError, ShapeError
from ntkla.forgetting.spectrum import drift_split as module
from ntkla.forgetting.spectrum.drift_split import drift_split
from ntkla.forgetting.spectrum.drift_split_result import Enclosure
from ntkla.linalg.precision import U64, gamma
from ntkla.testing import ambient_state, hadamard_basis, hostile_states, planted_energies, planted_features
from ntkla.testing.balls import ball, flint, working_precision
from ntkla.testing.spectra import normal

N, C = 8, 3
DISTINCT = [8.0, 7.0, 6.0, 5.0, 4.0, 3.0, 2.0, 1.0]
FEATURES = planted_features(N, N, DISTINCT)
BEFORE, AFTER = normal(N, C, 0), normal(N, C, 1)
MODES = ntkla.eigenmodes(FEATURES, 5)


def exact(before, after, k):
    """The exact inside, outside, total, share and ratio, as balls."""
    energies = planted_energies(after, -before)
    inside, outside = (sum(part, flint().arb(0)) for part in (energies[:k], energies[k:]))
    total = inside + outside
    return {
        "inside": inside.sqrt(),
        "outside": outside.sqrt(),
        "total": total.sqrt(),
        "share": inside / total,
        "ratio": (inside / outside).sqrt(),
    }


def encloses(enclosure: Enclosure, number) -> bool:
    return bool(ball(enclosure.low) <= number) and bool(number <= ball(enclosure.high))


@given(
    k=st.integers(1, 7),
    outputs=st.integers(1, 4),
    seed=st.integers(0, 99),
    scale=st.sampled_from((2.0**-200, 2.0**-30, 1.0, 2.0**200)),
    old=st.sampled_from((torch.float64, torch.float32, torch.bfloat16)),
    new=st.sampled_from((torch.float64, torch.float32, torch.bfloat16)),
    close=st.booleans(),
)
def test_every_enclosure_holds_the_exact_number(k, outputs, seed, scale, old, new, close):
    scale = scale if old == new == torch.float64 else 1.0
    before = (normal(N, outputs, seed) * scale).to(old)
    after = (before.double() * (1 + 2.0**-20) if close else normal(N, outputs, seed + 1) * scale).to(new)
    found = drift_split(before, after, ntkla.eigenmodes(FEATURES, 8), k=k)
    with working_precision(2000):
        numbers = exact(before.double(), after.double(), k)
        for name, number in numbers.items():
            enclosure = getattr(found, name)
            assert enclosure.low <= enclosure.value <= enclosure.high
            # Where nothing is outside, or moved at all, the exact quotient is 0 / 0 or infinite, and no ball.
            assert encloses(enclosure, number) or not number.is_finite(), (name, enclosure, number)


def test_enclosures_are_as_narrow_as_the_modes_allow():
    """Of a whole of size D, the angle of the subspace and the rounding of 2 n products move a part by no more."""
    for k in range(1, 6):
        found = drift_split(BEFORE, AFTER, MODES, k=k)
        allowed = 4.0 * float(MODES.angle_bound[k - 1]) + 64.0 * MODES.orthogonality + gamma(100 * N)
        for part in (found.inside, found.outside):
            assert part.high - part.low <= 2.0 * allowed * found.total.high
        assert found.status.certified


@pytest.mark.parametrize("name", ["inside", "outside", "total", "share", "ratio"])
def test_planted_errors_fall_outside(name):
    found = drift_split(BEFORE, AFTER, MODES, k=3)
    with working_precision(200):
        number = exact(BEFORE, AFTER, 3)[name]
        assert not encloses(getattr(found, name), number * (1 + ball(2.0**-25)))
        assert not encloses(getattr(drift_split(BEFORE, AFTER, MODES, k=2), name), number) or name == "total"


@pytest.mark.parametrize("new", [2.0**-60, 1e-3, 1.0 + 2.0**-52, 1e200 / 3])
def test_what_float64_cannot_hold_of_a_difference_counts_as_its_error(new):
    old, after = torch.full((1, 1), 1.0 / 3.0, dtype=torch.float64), torch.full((1, 1), new, dtype=torch.float64)
    value, error = module._difference(old, after, "after", None)
    with working_precision(2000):
        assert ball(float(error)) == abs(ball(new) - ball(1.0 / 3.0) - ball(float(value)))
    assert float(error) > 0.0


def test_every_kind_of_kernel_splits_as_decompose_does():
    softmax = ntkla.SoftmaxGram(GramOperator(FEATURES), BEFORE.softmax(1))
    layer = ntkla.LayerNTK([(FEATURES, normal(N, C * 4, 6).reshape(N, C, 4))], order="sample")
    for operator, k in ((KroneckerGram(GramOperator(FEATURES), C), 2 * C), (softmax, 4), (layer, 4)):
        modes = ntkla.eigenmodes(operator, k)
        found, parts = drift_split(BEFORE, AFTER, modes), ntkla.decompose(AFTER - BEFORE, modes)
        whole = math.sqrt(parts.total)
        assert found.k == k
        assert abs(found.inside.value - math.sqrt(float(parts.energy.sum()))) <= gamma(200) * whole
        assert abs(found.outside.value - math.sqrt(parts.tail)) <= gamma(200) * whole
        assert found.status.certified == parts.status.certified


def test_modes_of_the_factor_and_of_the_kronecker_kernel_agree():
    factor = drift_split(BEFORE, AFTER, MODES, k=2)
    whole = drift_split(BEFORE, AFTER, ntkla.eigenmodes(KroneckerGram(GramOperator(FEATURES), C), 2 * C))
    assert abs(factor.inside.value - whole.inside.value) <= gamma(100) * factor.total.value


def test_a_cut_through_equal_eigenvalues_says_that_it_knows_little():
    modes = ntkla.eigenmodes(planted_features(N, N, [4.0, 4.0, 3.0, 2.0]), 4)
    cut, whole = (drift_split(BEFORE, AFTER, modes, k=k) for k in (1, 2))
    assert not cut.status.certified
    assert "another k" in str(cut)
    assert whole.status.certified
    with working_precision(200):
        energies = planted_energies(AFTER, -BEFORE)
        # Any unit vector of the two-dimensional eigenspace may be the first mode.
        assert encloses(cut.inside, energies[0].sqrt())
        assert encloses(cut.inside, energies[1].sqrt())
    assert str(cut.inside).startswith("[")


@pytest.mark.parametrize("inside", [True, False])
def test_a_drift_on_one_side_only(inside):
    vector = hadamard_basis(N)[:, 0 if inside else 6]
    found = drift_split(torch.zeros(N, 1), vector[:, None].float(), MODES, k=5)
    assert (found.inside.value > found.outside.value) == inside
    assert found.ratio.high > 1 / U64**0.5 if inside else found.ratio.high < U64**0.5
    assert not any(math.isnan(x) for part in (found.share, found.ratio) for x in dataclasses.astuple(part))


def test_nothing_moved_is_zero_throughout():
    found = drift_split(BEFORE, BEFORE, MODES)
    for name in ("inside", "outside", "total", "share", "ratio"):
        assert dataclasses.astuple(getattr(found, name)) == (0.0, 0.0, 0.0)
    assert found.status.certified


@pytest.mark.parametrize("size", [1e-6, math.inf])
def test_errors_of_the_outputs_widen_the_enclosures(size):
    error = torch.full((N, C), size, dtype=torch.float64)
    known, less = drift_split(BEFORE, AFTER, MODES), drift_split(BEFORE, AFTER, MODES, error_bound=error)
    norm = size * math.sqrt(N * C)
    assert less.inside.low <= known.inside.low
    assert less.inside.high >= known.inside.low + norm
    assert not less.status.certified
    assert drift_split(BEFORE, AFTER, MODES, error_bound=error, tol=1.0).status.certified == math.isfinite(size)
    # The worst that such an error can do: everything along the first mode.
    if math.isfinite(size):
        with working_precision(200):
            moved = AFTER + size * hadamard_basis(N)[:, :1]
            assert encloses(less.inside, exact(BEFORE, moved, 5)["inside"])


def test_a_table_of_methods_is_sorted_and_converts():
    outputs = {"b": BEFORE + 2.0, "a": AFTER.float(), "nothing": BEFORE}
    table = drift_split(BEFORE, outputs, MODES, k=2)
    assert list(table) == sorted(outputs, key=lambda name: table[name].inside.value)
    assert next(iter(table)) == "nothing"
    assert len(table) == 3
    assert all(line.split()[0] in outputs for line in str(table).splitlines()[2:])
    again = json.loads(json.dumps(table.to_dict()))
    assert again["splits"]["a"]["inside"]["value"] == float(table["a"].inside)
    assert list(again["splits"]) == list(table)
    single = drift_split(BEFORE, outputs["a"], MODES, k=2)
    assert single.to_dict() == table["a"].to_dict()
    assert "inside of the first 2 modes" in str(single)


@pytest.mark.parametrize("name", list(hostile_states()))
def test_ambient_state_changes_no_answer_and_is_left_as_it_was(name):
    with hostile_states()[name]():
        before = ambient_state()
        found = drift_split(BEFORE, AFTER, MODES, k=3)
        assert ambient_state() == before
    assert found.status.certified
    with working_precision(200):
        for part in ("inside", "outside", "share"):
            assert encloses(getattr(found, part), exact(BEFORE, AFTER, 3)[part])


def test_the_docstring():
    assert doctest.testmod(module).attempted > 0
    assert doctest.testmod(module).failed == 0


@pytest.mark.parametrize(
    ("error", "words", "call"),
    [
        (DtypeError, "eigenmodes", lambda: drift_split(BEFORE, AFTER, FEATURES)),
        (ShapeError, "before: expected 8 rows", lambda: drift_split(BEFORE[1:], AFTER[1:], MODES)),
        (ShapeError, r"after: expected \(8, 3\)", lambda: drift_split(BEFORE, AFTER[:, :2], MODES)),
        (ShapeError, r"after\['x'\]: expected", lambda: drift_split(BEFORE, {"x": AFTER[1:]}, MODES)),
        (NonFiniteError, r"after\['x'\]", lambda: drift_split(BEFORE, {"x": AFTER * math.nan}, MODES)),
        (ArgumentError, "empty mapping", lambda: drift_split(BEFORE, {}, MODES)),
        (ArgumentError, "k: expected an integer >= 1", lambda: drift_split(BEFORE, AFTER, MODES, k=0)),
        (ArgumentError, "<= 5", lambda: drift_split(BEFORE, AFTER, MODES, k=6)),
        (ArgumentError, "tol", lambda: drift_split(BEFORE, AFTER, MODES, tol=-1.0)),
        (ArgumentError, "bounds >= 0", lambda: drift_split(BEFORE, AFTER, MODES, error_bound=-AFTER.abs())),
        (DtypeError, "torch.Tensor", lambda: drift_split(BEFORE, AFTER.tolist(), MODES)),
        (DeviceError, "meta", lambda: drift_split(BEFORE, AFTER.to("meta"), MODES)),
    ],
)
def test_bad_input_is_named(error, words, call):
    with pytest.raises(error, match=words):
        call()
