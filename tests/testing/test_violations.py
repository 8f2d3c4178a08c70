"""The oracle itself: true bounds pass, false ones are found, and nothing is decided that is not proved."""

from __future__ import annotations

import dataclasses
import math
import sys

import pytest
import torch

from ntkla.linalg.errors import ArgumentError, MissingPackageError, ShapeError
from ntkla.testing import BallPrecisionError, Exact, FeatureSpec, RidgeProblem, compare, compare_columns, ridge_solution
from ntkla.testing.balls import ball_matrix, flint, upper

PROBLEM = RidgeProblem(FeatureSpec(7, 4, condition=1e6), 3)
EXACT = ridge_solution(PROBLEM.design.tensor, PROBLEM.targets, ridge=PROBLEM.ridge)
ROUNDED = EXACT.tensor()
HALF_ULP = (torch.nextafter(ROUNDED.abs(), torch.full_like(ROUNDED, math.inf)) - ROUNDED.abs()) / 2


def test_correct_rounding_is_within_half_an_ulp_and_no_less():
    verdict = compare(ROUNDED, HALF_ULP, EXACT)
    assert verdict.sound, verdict
    assert 0.1 < verdict.largest_ratio <= 1.0
    planted = compare(ROUNDED, HALF_ULP * 1e-3, EXACT)
    assert len(planted.violations) > 6
    assert "violated" in str(planted)
    assert all(v.error > v.bound for v in planted.violations)


def test_one_moved_entry_is_found_where_it_is():
    moved = ROUNDED.clone()
    moved[2, 1] += 1e-8 * moved.abs().max()
    verdict = compare(moved, HALF_ULP * 4, EXACT)
    assert [v.index for v in verdict.violations] == [(2, 1)]
    columns = compare_columns(moved, torch.linalg.vector_norm(HALF_ULP, dim=0) * 4, EXACT)
    assert [v.index for v in columns.violations] == [(1,)]


def test_columns_are_judged_by_their_norm():
    bound = torch.linalg.vector_norm(HALF_ULP, dim=0)
    assert compare_columns(ROUNDED, bound, EXACT).sound
    assert len(compare_columns(ROUNDED, bound * 1e-3, EXACT).violations) == 3


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_a_number_violates_every_bound(value):
    computed = ROUNDED.clone()
    computed[0, 0] = value
    verdict = compare(computed, torch.full_like(ROUNDED, math.inf), EXACT)
    assert [v.index for v in verdict.violations] == [(0, 0)]
    bound = HALF_ULP.clone()
    bound[1, 1] = math.nan
    assert [v.index for v in compare(ROUNDED, bound, EXACT).violations] == [(1, 1)]
    assert not compare(ROUNDED, -HALF_ULP, EXACT).sound


def test_infinite_bounds_claim_nothing():
    verdict = compare(ROUNDED + 1, torch.full_like(ROUNDED, math.inf), EXACT)
    assert verdict.sound
    assert (verdict.finite, verdict.largest_ratio) == (0, 0.0)


def test_exact_zeros_meet_a_bound_of_zero():
    zeros = torch.zeros(2, 3, dtype=torch.float64)
    assert compare(zeros, zeros, Exact(lambda: ball_matrix(zeros))).sound


def test_what_cannot_be_decided_is_not_called_sound(monkeypatch):
    """A bound that equals the error of an irrational value: no precision decides it."""
    monkeypatch.setattr("ntkla.testing.violations.MOST_BITS", 512)
    root = Exact(lambda: flint().arb_mat([[flint().arb(2).sqrt() * flint().arb(2).sqrt() - 1]]))
    one = torch.ones(1, 1, dtype=torch.float64)
    verdict = compare(one, torch.zeros_like(one), root)
    assert (verdict.undecided, verdict.sound, verdict.violations) == (1, False, ())


def test_singular_systems_are_named_and_not_answered():
    twin = FeatureSpec(5, 3, twist="twin_columns").tensor
    normal = Exact(lambda: (ball_matrix(twin).transpose() * ball_matrix(twin)).inv())
    with pytest.raises(BallPrecisionError, match="singular"):
        normal.tensor()
    with pytest.raises(ArgumentError, match="radius"):
        EXACT.within(0.0)


def test_within_reaches_the_radius_that_was_asked_for():
    for radius in (1e-5, 1e-50, 1e-300):
        assert max(upper(entry.rad()) for entry in EXACT.within(radius).entries()) <= radius


def test_shapes_must_agree():
    with pytest.raises(ShapeError, match="bound"):
        compare(ROUNDED, HALF_ULP[:2], EXACT)
    with pytest.raises(ShapeError, match="bound"):
        compare_columns(ROUNDED, HALF_ULP, EXACT)
    with pytest.raises(ShapeError, match="reference"):
        compare(ROUNDED.T, HALF_ULP.T, EXACT)


def test_the_precision_of_the_process_is_left_alone():
    before = flint().ctx.prec
    EXACT.within(1e-200)
    assert flint().ctx.prec == before


def test_verdicts_are_frozen():
    verdict = compare(ROUNDED, HALF_ULP, EXACT)
    with pytest.raises(dataclasses.FrozenInstanceError):
        verdict.undecided = 3


def test_without_flint_the_remedy_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "flint", None)
    with pytest.raises(MissingPackageError, match="pip install python-flint"):
        compare(ROUNDED, HALF_ULP, EXACT)
