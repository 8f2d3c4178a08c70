"""Row spaces and principal angles against ball arithmetic and known angles: every error bound, in every case."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from hypothesis import assume, example, given
from hypothesis import strategies as st

from ntkla.linalg.design import DesignMatrix
from ntkla.linalg.eigen.alignment import alignment
from ntkla.linalg.eigen.feature_modes import feature_modes
from ntkla.linalg.eigen.row_space import RowSpace, certified_rank, leading_sines, principal_angles
from ntkla.linalg.precision import DEFAULT_TOLERANCE, U64
from ntkla.testing import FeatureSpec, ball_overlap, compare, feature_specs, hadamard_basis, planted_features
from ntkla.testing.spectra import normal, orthonormal_columns


def space_of(features, k=None, bias=False):
    modes = feature_modes(features, bias=bias)
    rank = certified_rank(modes)
    return RowSpace.of(DesignMatrix(features, bias), modes, rank if k is None else min(k, rank))


def column(x):
    return x.reshape(-1, 1)


def judge_cosines(a, b, k_a, k_b, bias):
    """The verdict on the cosines whose errors claim anything; None where none does."""
    one, two = space_of(a, k_a, bias), space_of(b, k_b, bias)
    found = principal_angles(one, two)
    assert found.cosines.shape == found.error.shape == (min(one.basis.shape[1], two.basis.shape[1]),)
    assert found.overlap.shape == (one.basis.shape[1], two.basis.shape[1])
    assert not bool(torch.isnan(torch.cat([found.cosines, found.error])).any())
    if max(one.sine, two.sine) == 1.0 or not found.cosines.numel():
        assert bool((found.error >= torch.maximum(found.cosines, 1 - found.cosines)).all())
        return None
    exact = ball_overlap.principal_cosines(a, one.basis.shape[1], b, two.basis.shape[1], bias=bias)
    return compare(column(found.cosines), column(found.error), exact, "cosines")


PAIRS = st.integers(1, 6).flatmap(
    lambda width: st.tuples(*(feature_specs(features=width, most=6, extreme=True) for _ in range(2)))
)


def tensors(specs):
    """The features of both, of whatever types."""
    found = [spec.tensor for spec in specs]
    assume(all(bool(x.isfinite().all()) for x in found))  # the largest scales overflow the narrow types
    return found


COUNTS = st.sampled_from([None, 1, 2, 3])


@given(PAIRS, COUNTS, COUNTS, st.booleans())
@example((FeatureSpec(5, 3), FeatureSpec(4, 3, seed=1)), None, None, False)
@example((FeatureSpec(2, 5), FeatureSpec(3, 5, seed=1)), None, None, True)
@example((FeatureSpec(2, 5, condition=1e12), FeatureSpec(3, 5, condition=1e12, seed=1)), None, 2, False)
@example((FeatureSpec(5, 3, "low_rank"), FeatureSpec(2, 3, "zero")), None, 1, False)
@example((FeatureSpec(3, 5, "flat"), FeatureSpec(3, 5, "flat", seed=2)), 2, None, False)
def test_every_cosine_is_within_its_error(specs, k_a, k_b, bias):
    a, b = tensors(specs)
    verdict = judge_cosines(a, b, k_a, k_b, bias)
    assert verdict is None or verdict.sound, verdict


@given(PAIRS, st.booleans())
@example((FeatureSpec(5, 3, "rank_one"), FeatureSpec(4, 3, "rank_one", seed=1)), False)
@example((FeatureSpec(5, 3, scale=1e12), FeatureSpec(2, 3, "flat", seed=1, scale=1e-12)), False)
def test_the_alignment_is_within_its_error(specs, bias):
    a, b = tensors(specs)
    found = alignment(
        DesignMatrix(a, bias), feature_modes(a, bias=bias), DesignMatrix(b, bias), feature_modes(b, bias=bias)
    )
    assert 0 <= found.value <= 1
    if found.error == 1.0:  # nothing is claimed, as for features of zeros
        return
    value, error = (torch.tensor([[part]], dtype=torch.float64) for part in found)
    verdict = compare(value, error, ball_overlap.alignment(a, b, bias=bias), "alignment")
    assert verdict.sound, verdict


def ratios(errors_times=1.0):
    """The largest true error over its bound, over some draws, and whether all bounds held."""
    largest, sound = 0.0, True
    for seed in range(8):
        a, b = FeatureSpec(3, 6, condition=10.0, seed=seed).tensor, FeatureSpec(2, 6, "flat", seed=seed + 50).tensor
        found = principal_angles(space_of(a), space_of(b))
        exact = ball_overlap.principal_cosines(a, 3, b, 2)
        verdict = compare(column(found.cosines), column(found.error) * errors_times, exact, "cosines")
        largest, sound = max(largest, verdict.largest_ratio), sound and verdict.sound
    return largest, sound


def test_the_errors_are_tight_somewhere_and_a_thousandth_of_them_is_noticed():
    largest, sound = ratios()
    assert sound
    assert largest > TIGHTNESS
    assert not ratios(1e-3)[1]


# The largest true error of a cosine is at least this share of its bound in some draw.
TIGHTNESS = 1e-2


@pytest.mark.parametrize(("rows_a", "rows_b"), [(8, 8), (64, 64), (8, 64)])
def test_planted_angles(rows_a, rows_b):
    """Row spaces of known directions: two shared ones, one at an angle of 60 degrees, one at a right angle."""
    basis = orthonormal_columns(32, 7, 3)
    tilted = 0.5 * basis[:, 2] + math.sqrt(0.75) * basis[:, 4]
    a = orthonormal_columns(rows_a, 4, 1) @ basis[:, :4].T
    b = orthonormal_columns(rows_b, 4, 2) @ torch.stack([basis[:, 0], basis[:, 1], tilted, basis[:, 5]])
    found = principal_angles(space_of(a, 4), space_of(b, 4))
    rounding = 64 * math.sqrt(32) * U64  # of the planting
    known = torch.tensor([1.0, 1.0, 0.5, 0.0], dtype=torch.float64)
    assert bool(((found.cosines - known).abs() <= found.error + rounding).all())


def test_the_whole_space_is_known_exactly():
    """Samples that outnumber the features span everything: every cosine is 1, whatever the eigenvectors."""
    a, b = (space_of(normal(40, 6, seed)) for seed in (1, 2))
    assert a.sine == b.sine == 0.0
    found = principal_angles(a, b)
    assert bool((found.cosines + found.error >= 1).all())
    assert float(found.error.max()) < DEFAULT_TOLERANCE


@pytest.mark.parametrize("rows", [4, 64])
def test_a_cut_through_a_cluster_claims_nothing(rows):
    features = planted_features(max(rows, 4), 16, [3.0, 2.0, 2.0, 1.0])
    modes = feature_modes(features)
    sines = leading_sines(modes)
    assert float(sines[1]) == 1.0
    assert max(float(sines[0]), float(sines[2])) < modes.tolerance
    cut, whole = space_of(features, 2), space_of(normal(16, 16, 1))
    found = principal_angles(cut, dataclasses.replace(whole, basis=whole.basis[:, :5].contiguous()))
    assert bool((found.error >= torch.maximum(found.cosines, 1 - found.cosines)).all())


@given(feature_specs(most=6, extreme=True), st.booleans())
def test_a_row_space_is_orthonormal_and_has_no_nan(spec, bias):
    features = spec.tensor
    assume(bool(features.isfinite().all()))  # the largest scales overflow the narrow types
    space = space_of(features, bias=bias)
    assert space.basis.shape == (features.shape[1] + bias, space.basis.shape[1])
    assert not bool(torch.isnan(space.basis).any())
    assert 0.0 <= space.sine <= 1.0
    assert 0.0 <= space.rest <= space.largest
    gram = space.basis.T @ space.basis
    off = torch.linalg.matrix_norm(gram - torch.eye(len(gram), dtype=torch.float64)) if len(gram) else torch.zeros(())
    assert float(off) <= space.defect + 16 * len(gram) * U64


def test_the_eigenvectors_of_the_samples_lead_to_those_of_the_features():
    """Planted: the rows are Hadamard vectors, for fewer and for more samples than features."""
    exact = hadamard_basis(16) / 4.0
    for rows in (8, 32):
        space = space_of(planted_features(rows, 16, [5.0, 3.0, 1.0, 1.0]), 2)
        outside = torch.linalg.matrix_norm(exact[:, 2:].T @ space.basis, 2)
        assert float(outside) <= space.sine + 16 * U64
        assert space.sine < DEFAULT_TOLERANCE
