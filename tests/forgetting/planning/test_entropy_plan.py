"""A plan under cross-entropy says at every point what `forecast` says, and counts, losses and bounds are theirs."""

from __future__ import annotations

import re

import pytest
import torch

import ntkla
from ntkla.forgetting.shared_head import outputs_of
from ntkla.linalg.arithmetic.accurate import accurate_outputs
from ntkla.linalg.precision import PLAN_TOLERANCE, U64
from tests.forgetting.planning.problems import classes_of, problem

RIDGES = (0.1, 1.0, 10.0)


def planned(dense, **options):
    return ntkla.plan(dense.olds, dense.new, dense.head, **({"ridges": RIDGES, "loss": "cross_entropy"} | options))


@pytest.mark.parametrize("heads", ["shared", "overlapping"])
@pytest.mark.parametrize(("bias", "weighted", "penalize"), [(True, False, True), (False, True, True)])
def test_points_are_forecasts(heads, bias, weighted, penalize):
    dense = problem(heads=heads, bias=bias, weighted=weighted, penalize_bias=penalize)
    plan = planned(dense)
    for point in plan.points:
        assert point.status.certified, point
        report = ntkla.forecast(dense.olds, dense.new, dense.head, ridge=point.ridge, loss="cross_entropy")
        for name in dense.olds:
            one, other = point.old[name], report[name]
            gap = abs(one.drift - float(other.drift.norm()))
            assert gap <= one.drift_error + float(other.error_bound.norm())
            # Both intervals hold the truth, so they meet.
            assert one.flips.low <= other.flips.count.high
            assert other.flips.count.low <= one.flips.high
            assert one.accuracy.low <= other.accuracy_forecast.high
            assert other.accuracy_forecast.low <= one.accuracy.high


def test_losses_are_those_of_torch():
    dense = problem()
    plan = planned(dense, ridges=(1.0,))
    report = ntkla.forecast(dense.olds, dense.new, dense.head, ridge=1.0, loss="cross_entropy")
    outputs = report["first"].after.value
    theirs = float(torch.nn.functional.cross_entropy(outputs, dense.olds["first"].labels))
    known = 2.0 * float(report["first"].after.error_bound.amax(1).mean())
    outcome = plan.points[0].old["first"]
    assert abs(outcome.loss - theirs) <= outcome.loss_error + 2.0 * known
    before = float(torch.nn.functional.cross_entropy(dense.head(dense.new.features), dense.new.labels))
    assert abs(plan.before.new.loss - before) <= 2.0 * plan.before.new.loss_error
    # A row's loss moves by at most sqrt(2) of what its outputs move by, and those are known as well as the drift.
    assert 0.0 < outcome.loss_error <= 2.0 * outcome.drift_error + plan.before.old["first"].loss_error


@pytest.mark.parametrize("weight", [1.0, 100.0])
def test_penalties_are_those_of_a_forecast(weight):
    """Up to the modes: the plan's are computed another way, both to rounding."""
    modes = 4
    # A bias is a column of the plan's modes, and not of `eigenmodes(features)`: a head without one.
    without = problem(bias=False)
    plan = planned(without, ridges=(1.0,), weights=(weight,), modes=(modes,))
    penalties = {
        name: ntkla.SpectralPenalty(
            ntkla.eigenmodes(task.features, modes, tol=U64 * 2**10), without.head(task.features), weight=weight
        )
        for name, task in without.olds.items()
    }
    report = ntkla.forecast(without.olds, without.new, without.head, ridge=1.0, penalty=penalties, loss="cross_entropy")
    for name in without.olds:
        outcome, forecast = plan.points[0].old[name], report[name]
        # The modes are known to their tolerance, which is far below that of both optima.
        known = outcome.drift_error + float(forecast.error_bound.norm())
        assert abs(outcome.drift - float(forecast.drift.norm())) <= known
        assert known <= 2**4 * PLAN_TOLERANCE * outcome.drift  # the drift is some of what the update could do


def test_protection_pays():
    dense = problem()
    plan = planned(dense, ridges=(10.0,), weights=(0.0, 1e3), modes=(6,))
    free, kept = plan.points
    assert all(kept.old[name].drift < 0.5 * free.old[name].drift for name in dense.olds)
    assert plan.joint is None
    assert plan.recommend(max_forgetting=0.01).point.weight > 0


def test_a_test_set_and_progress():
    dense = problem()
    features, labels = classes_of([4, 5], 30, 12, 5, torch.float64)
    calls = []
    plan = planned(
        dense,
        weights=(0.0, 1.0),
        modes=(2,),
        new_test=ntkla.Task.from_labels(features, labels, 6),
        progress=lambda done, total: calls.append((done, total)),
    )
    assert plan.points[0].new_test.loss > 0
    assert calls[-1][0] == calls[-1][1] == len(calls)


def test_outputs_that_are_not_trained_do_not_drift():
    dense = problem(heads="own")
    plan = planned(dense, ridges=(1.0,))
    assert all(outcome.drift == 0.0 for outcome in plan.points[0].old.values())
    assert plan.points[0].new.drift > 0.0
    assert outputs_of(dense.new, dense.head).tolist() == [4, 5]


def test_a_free_bias_is_certified_without_penalties():
    dense = problem(heads="own", penalize_bias=False)
    plan = planned(dense, ridges=(1.0,), penalize_bias=False)
    assert plan.points[0].status.certified


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"ridges": (0.0, 1.0)}, ntkla.RidgeError),
        ({"steps": (10, None), "lr": 1e-3}, ntkla.UnsupportedTrainingError),
        ({"loss": "hinge"}, ntkla.ArgumentError),
        ({"weights": (1.0,), "modes": (2,), "penalize_bias": False}, ntkla.ArgumentError),
        ({"penalize_bias": False}, ntkla.ArgumentError),
    ],
)
def test_what_cannot_be_planned_is_named(options, error):
    with pytest.raises(error):
        planned(problem(), **options)


@pytest.mark.parametrize("named", ["old_tasks['second']", "old_tests['second']", "new_task", "new_test"])
def test_targets_that_are_no_probabilities_are_named_before_anything_is_computed(named):
    dense, told = problem(), []
    good = dense.olds["second"]
    wrong = ntkla.Task(good.features, -good.targets)
    olds = dense.olds | ({"second": wrong} if named.startswith("old_tasks") else {})
    tests = {"old_tests": {"second": wrong}, "new_test": wrong}.get(named.partition("[")[0])
    options = {} if tests is None else {named.partition("[")[0]: tests}
    with pytest.raises(ntkla.ArgumentError, match=re.escape(f"{named}.targets: expected probabilities")):
        ntkla.plan(
            olds, wrong if named == "new_task" else dense.new, dense.head, ridges=RIDGES, loss="cross_entropy",
            weights=[1.0], modes=[2], progress=lambda done, total: told.append(done), **options,
        )  # fmt: skip
    assert not told


def test_what_the_head_says_of_the_new_task_is_computed_once(monkeypatch):
    calls = []

    def counted(*arguments):
        calls.append(1)
        return accurate_outputs(*arguments)

    for module in ("ntkla.forgetting.planning.entropy_run", "ntkla.linalg.entropy.solve"):
        monkeypatch.setattr(f"{module}.accurate_outputs", counted)
    assert len(planned(problem(), weights=(0.0, 1.0), modes=(2,)).points) == 2 * len(RIDGES)
    assert len(calls) == 1
