"""The demo's logic on a small sequence: every forecast holds, and a wrong one is seen."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from ntkla.app.demo import sequence
from ntkla.app.demo.comparison import OPTIMUM, SGD
from ntkla.app.demo.sequence import Plan, run_sequence, total_steps
from ntkla.forgetting.shared_head import drifts_of_tasks
from ntkla.linalg.precision import DEFAULT_TOLERANCE
from ntkla.testing import with_bias


def test_every_pair_and_both_trainings(comparisons):
    keys = [(c.old, c.new, c.training) for c in comparisons]
    assert keys == [(o, n, t) for n in (2, 3) for o in range(1, n) for t in (OPTIMUM, SGD)]


def test_forecast_and_fact_agree_within_what_was_proved(comparisons):
    for c in comparisons:
        assert c.holds
        assert c.row().holds
        assert np.isfinite(c.bound).all()
        assert c.row().accuracy_forecast == c.row().accuracy_after
        # The drift is no rounding noise: there is something to forecast.
        assert np.linalg.norm(c.fact) > 1e3 * np.linalg.norm(c.bound + c.rounding)


@pytest.mark.parametrize("index", range(3))
def test_a_forecast_that_is_wrong_in_one_entry_does_not_hold(comparisons, index):
    c = comparisons[index]
    forecast = c.forecast.copy()
    forecast[3, 1] += 3 * (c.bound + c.rounding)[3, 1]
    assert not dataclasses.replace(c, forecast=forecast).holds
    assert not dataclasses.replace(c, fact=forecast, forecast=c.forecast).holds


def test_the_largest_entries_decide_a_row(comparisons):
    row = comparisons[0].row()
    assert not dataclasses.replace(row, max_difference=1.01 * (row.bound + row.training_rounding)).holds


def test_the_head_of_sgd_goes_on(comparisons):
    by_key = {(c.old, c.new, c.training): c for c in comparisons}
    first, later = by_key[1, 2, SGD], by_key[1, 3, SGD]
    slack = 4 * np.abs(first.before).max() * np.finfo(float).eps
    assert np.abs(first.before + first.fact - later.before).max() <= slack
    assert (by_key[1, 3, OPTIMUM].before == later.before).all()


def test_energies_and_ranks(comparisons):
    for c in comparisons:
        row = c.row()
        share = np.cumsum(c.energy) / (c.forecast**2).sum()
        assert share[row.r90 - 1] >= 0.9 > (share[row.r90 - 2] if row.r90 > 1 else 0)
        assert share[row.r50 - 1] >= 0.5
        assert row.k_star == row.k_G * c.forecast.shape[1]


def test_the_overlap_bounds_the_norm_of_what_happened(comparisons, small_tasks):
    """As `task_overlap` has it: the largest singular value times the part of the update in the old row space."""
    for c in comparisons:
        old = with_bias(small_tasks[c.old - 1].test_features)
        largest = torch.linalg.matrix_norm(old, 2)
        update = torch.linalg.pinv(old) @ torch.from_numpy(c.forecast)
        near = 1 + DEFAULT_TOLERANCE
        assert float(largest * update.norm()) / near <= c.overlap_bound <= float(largest * update.norm()) * near
        assert c.row().drift_norm <= c.overlap_bound


def test_progress_is_told_as_often_as_announced(small_tasks):
    told: list[str] = []
    run_sequence(small_tasks[:2], 6, Plan(steps=2), told.append)
    assert len(told) == total_steps(2)
    assert told[-1] == "training to the sgd on 2/3"


def test_a_planted_error_in_the_library_fails_every_row(small_tasks, monkeypatch):
    def moved(*arguments, **options):
        found = drifts_of_tasks(*arguments, **options)
        return [dataclasses.replace(one, drift=one.drift + 1e-8) for one in found]

    monkeypatch.setattr(sequence, "drifts_of_tasks", moved)
    assert not any(c.holds for c in run_sequence(small_tasks[:2], 6, Plan(steps=5), lambda what: None))
