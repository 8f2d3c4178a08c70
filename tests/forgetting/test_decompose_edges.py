"""`decompose` at the ends: no drift, drifts that may be none, extreme scales, bad input."""

from __future__ import annotations

import json

import pytest
import torch

from ntkla import ArgumentError, DtypeError, NonFiniteError, ShapeError
from ntkla.forgetting.spectrum.decompose import decompose
from ntkla.linalg.eigenmodes import eigenmodes
from ntkla.linalg.kronecker import KroneckerGram
from ntkla.linalg.operators import GramOperator
from ntkla.testing import planted_features
from ntkla.testing.spectra import normal

N = 8
FEATURES = planted_features(N, N, [8.0, 7.0, 6.0, 5.0, 4.0, 3.0, 2.0, 1.0])


def test_a_zero_drift_has_no_energy_and_rank_zero():
    result = decompose(torch.zeros(N, 2), eigenmodes(FEATURES, 3))
    assert result.total == result.total_error == result.tail == result.tail_error == 0.0
    assert not result.energy.any()
    assert not result.energy_error.any()
    assert not result.cumulative.any()
    assert result.rank(0.9).value == result.rank(0.9, "energy").value == 0
    assert result.status.certified


def test_a_drift_that_may_be_zero_may_have_rank_zero():
    drift = normal(N, 1, 0)
    for bound in (drift.abs(), torch.full_like(drift, torch.inf)):
        result = decompose(drift, eigenmodes(FEATURES, N), error_bound=bound)
        assert result.rank(0.9).low == result.rank(0.9, "energy").low == 0
        assert not result.status.certified
        for value in (result.cumulative_low, result.cumulative_high, result.energy_error):
            assert not value.isnan().any()


@pytest.mark.parametrize("scale", [2.0**-300, 2.0**-40, 2.0**40, 2.0**240])
def test_shares_do_not_depend_on_the_scale(scale):
    drift, modes = normal(N, 2, 5), eigenmodes(FEATURES, 6)
    plain, scaled = decompose(drift, modes), decompose(drift * scale, modes)
    assert torch.equal(plain.cumulative_low, scaled.cumulative_low)
    assert torch.equal(plain.cumulative_high, scaled.cumulative_high)
    assert torch.equal(plain.fraction, scaled.fraction)
    assert torch.equal(plain.energy * scale * scale, scaled.energy)
    assert plain.rank(0.9, "energy").value == scaled.rank(0.9, "energy").value


def test_the_result_reads_and_converts():
    result = decompose(normal(N, 2, 5).to(torch.bfloat16), eigenmodes(FEATURES, 6))
    assert "6 of 8 modes hold" in str(result)
    assert len(str(result)) < 400
    json.dumps(result.to_dict())


DRIFT = normal(N, 2, 0)
MODES = eigenmodes(FEATURES, 3)
KRONECKER = eigenmodes(KroneckerGram(GramOperator(FEATURES), 3), 3)


@pytest.mark.parametrize(
    ("error", "words", "call"),
    [
        (ShapeError, "drift: expected 8 rows, got 7", lambda: decompose(DRIFT[:7], MODES)),
        (ShapeError, "drift: expected 3 columns, got 2", lambda: decompose(DRIFT, KRONECKER)),
        (ShapeError, "two dimensions", lambda: decompose(DRIFT[:, 0], MODES)),
        (NonFiniteError, "drift", lambda: decompose(DRIFT / 0.0, MODES)),
        (DtypeError, "torch.Tensor", lambda: decompose(DRIFT.numpy(), MODES)),
        (ShapeError, "error_bound", lambda: decompose(DRIFT, MODES, error_bound=DRIFT[:1].abs())),
        (NonFiniteError, "NaN", lambda: decompose(DRIFT, MODES, error_bound=DRIFT * torch.nan)),
        (ArgumentError, "negative", lambda: decompose(DRIFT, MODES, error_bound=-DRIFT.abs())),
        (DtypeError, "error_bound", lambda: decompose(DRIFT, MODES, error_bound=1e-9)),
        (DtypeError, "error_bound.*dense", lambda: decompose(DRIFT, MODES, error_bound=DRIFT.abs().to_sparse())),
        (DtypeError, "result of eigenmodes", lambda: decompose(DRIFT, MODES.vectors)),
        (ArgumentError, "tol", lambda: decompose(DRIFT, MODES, tol=-1.0)),
        (ArgumentError, "q: expected a share", lambda: decompose(DRIFT, MODES).rank(2.0)),
        (ArgumentError, "order: expected one of", lambda: decompose(DRIFT, MODES).rank(0.5, "size")),
    ],
)
def test_bad_input_is_named(error, words, call):
    with pytest.raises(error, match=words):
        call()
