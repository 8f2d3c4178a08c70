"""How many modes a curriculum needs: what is forecast of a number of modes is what learning with them does."""

from __future__ import annotations

import math

import pytest
import torch

from ntkla.forgetting.planning.plan import plan
from ntkla.forgetting.sequences.sequence import TaskSequence
from ntkla.linalg.errors import ArgumentError, DtypeError
from ntkla.linalg.precision import U64
from tests.forgetting.sequences.curricula import CLASSES, learned, task, zero_head
from tests.forgetting.sequences.test_curriculum import TASKS, TESTS, sequence


def test_numbers_of_modes_are_forecast_as_sequences_of_their_own():
    ks, weights = (0, 2, 5), (0.0, 30.0, 7.0)
    told: list[tuple[int, int]] = []
    together = sequence().forecast_modes(
        TASKS, ks, weights=weights, tests=TESTS, progress=lambda *done: told.append(done)
    )
    for k, weight in zip(ks, weights, strict=True):
        alone = sequence(modes=k, weight=weight).forecast(TASKS, tests=TESTS)
        assert together[k].to_dict() == alone.to_dict()
    assert told == [(1, 3), (2, 3), (3, 3)]


@pytest.mark.parametrize("unit", [{}, {"strength": 0.3}, {"weight": 30.0}])
def test_learning_with_the_modes_that_were_chosen_ends_where_they_were_forecast(unit):
    """The same number from a sequence made with other modes or none, and from one that learns with these."""
    for modes in (0, 2, 40):
        told = TaskSequence(zero_head(), ridge=0.1, **unit).forecast_modes(TASKS, [1, modes], tests=TESTS)[modes]
        learns = TaskSequence(zero_head(), ridge=0.1, modes=modes, **unit)
        assert told.to_dict() == learns.forecast(TASKS, tests=TESTS).to_dict()
        for name, one in TASKS.items():
            learns.learn(one, name)
        ends = [learns.current.predict(test.features).accuracy(test.labels) for test in TESTS.values()]
        assert told.accuracy[-1] == tuple(ends)
        assert told.relative_bounds == tuple(one.relative_bound for one in learns.tasks)


def test_a_strength_counts_a_direction_as_its_own_loss_does():
    by_default = TaskSequence(zero_head(), ridge=0.1).forecast_modes(TASKS, [3], tests=TESTS)[3]
    for other in ({"weight": CLASSES * 3 / 2}, {"strength": 1.0}):
        same = TaskSequence(zero_head(), ridge=0.1, modes=3, **other).forecast(TASKS, tests=TESTS)
        assert by_default.to_dict() == same.to_dict()
    halves = sequence().forecast_modes(TASKS, [3], strength=0.5, tests=TESTS)[3]
    weight = sequence().forecast_modes(TASKS, [3], weights=[CLASSES * 3 / 4], tests=TESTS)[3]
    assert halves.to_dict() == weight.to_dict() != by_default.to_dict()


@pytest.mark.parametrize("modes", [3, 40])
def test_the_strength_is_that_of_a_plan(modes):
    """A plan of the second task, protected as the sequence protects the first: the same drift, another for half."""
    first, second = TASKS["a"], TASKS["b"]
    learns = TaskSequence(zero_head(), ridge=0.1, modes=modes, strength=0.7)
    learns.learn(first, "a", keep=True)
    told = learns.forecast({"b": second})
    points = plan({"a": first}, second, learns.head, ridges=[0.1], strengths=[0.35, 0.7], modes=[modes]).points
    apart = [abs(point.old["a"].drift_rms - told.drift[-1][0]) for point in points if point.modes]
    allowed = max(point.old["a"].drift_error for point in points) + told.drift_error[-1][0]
    assert apart[1] <= allowed < apart[0]


@pytest.mark.parametrize(("unit", "is_joint"), [({}, True), ({"weight": CLASSES * 40 / 2}, False)])
def test_a_strength_of_one_is_the_joint_optimum_however_many_modes_are_asked_for(unit, is_joint):
    """Four samples have four modes: a strength counts each as in its own loss, a weight for forty counts it tenfold."""
    tasks = [task(0, 4), task(1, 30)]
    protected, *_ = learned(tasks, modes=40, **unit)
    plain, *_ = learned(tasks)
    assert protected.tasks[0].modes == 4
    joint = protected.joint().head.stacked()
    apart, without = (float((one.head.stacked() - joint).norm()) for one in (protected, plain))
    assert (apart <= math.sqrt(U64) * without) == is_joint


def test_what_was_said_when_a_task_was_learned_is_held_to_and_not_the_joint_optimum():
    """From the third task on: the first is held to its own head, which the joint optimum of all would give up."""
    protected, plain = (learned([task(0), task(1), task(2)], modes=modes)[0] for modes in (40, 0))
    joint = protected.joint().head.stacked()
    apart, without = (float((one.head.stacked() - joint).norm()) for one in (protected, plain))
    assert math.sqrt(U64) * without < apart < without


@pytest.mark.parametrize(
    ("modes", "options", "words"),
    [
        ([], {}, "modes"),
        ([1, 1], {}, "each number once"),
        ([-1], {}, "modes"),
        (3, {}, "modes"),
        ("3", {}, "modes"),
        (torch.tensor(3), {}, "modes"),
        ([1, 2], {"weights": [1.0]}, "weights"),
        ([1, 2], {"weights": 1.0}, "weights"),
        ([1], {"weights": [None]}, "weights"),
        ([1], {"weights": [-1.0]}, "weight"),
        ([1], {"strength": [1.0]}, "strength"),
        ([1], {"strength": -1.0}, "strength"),
        ([1], {"strength": 1.0, "weights": [1.0]}, "strength and weights"),
        ([1], {"progress": 3}, "progress"),
    ],
)
def test_numbers_of_modes_that_make_no_sense(modes, options, words):
    with pytest.raises((ArgumentError, DtypeError), match=words):
        sequence().forecast_modes(TASKS, modes, **options)
