"""A curriculum forecast before it starts: what learning then does, in every order, in constant memory."""

from __future__ import annotations

import gc
import itertools
import weakref

import pytest
import torch

from ntkla.forgetting.reports.predictions import Predictions
from ntkla.forgetting.sequences.sequence import TaskSequence
from ntkla.forgetting.tasks import Task
from ntkla.linalg.errors import ArgumentError
from tests.forgetting.sequences.curricula import CLASSES, F, learned, task, zero_head

SETTINGS = {"weight": 30.0, "modes": 2}
TASKS = {"a": task(0), "b": task(1), "c": task(2)}
TESTS = {name: task(number, 30, seed=9) for number, name in enumerate(TASKS)}


def sequence(**settings) -> TaskSequence:
    return TaskSequence(zero_head(), ridge=0.1, **{**SETTINGS, **settings})


def test_the_forecast_is_what_learning_does():
    """Every accuracy of every task after every step, and the drift since it was learned, bit for bit."""
    told = sequence().forecast(TASKS, tests=TESTS)
    really = sequence()
    at_first: dict[str, Predictions] = {}
    for step, (name, one) in enumerate(TASKS.items(), start=1):
        really.learn(one, name)
        at_first[name] = really.current.predict(TESTS[name].features)
        for column, (other, test) in enumerate(TESTS.items()):
            now = really.current.predict(test.features)
            assert told.accuracy[step][column] == now.accuracy(test.labels)
            if other in at_first:
                drift = float((now.value - at_first[other].value).square().mean().sqrt())
                assert abs(told.drift[step][column] - drift) <= told.drift_error[step][column]
            else:
                assert told.drift[step][column] is None
    assert told.relative_bounds == tuple(one.relative_bound for one in really.tasks)
    assert told.learned_at == (1, 2, 3)
    assert told.status.certified


def test_a_forecast_leaves_the_sequence_as_it_is():
    one = sequence()
    one.learn(TASKS["a"], "a")
    before = one.state_dict()
    one.forecast({"b": TASKS["b"], "c": TASKS["c"]})
    one.forecast_orders({"b": TASKS["b"], "c": TASKS["c"]})
    after = one.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_final_accuracy_and_forgetting_are_those_of_the_table():
    told = sequence().forecast(TASKS, tests=TESTS)
    hits = sum(round(d.low * n) for d, n in zip(told.accuracy[-1], told.samples, strict=True))
    assert float(told.final_accuracy) == hits / 90
    lost = [float(told.accuracy[t + 1][t]) - float(told.accuracy[-1][t]) for t in range(2)]
    assert float(told.forgetting) == sum(lost) / 2
    assert "final accuracy" in str(told)
    assert len(str(told).splitlines()) >= 8


def test_the_penalty_cures_what_is_forgotten_without():
    without, cured = (sequence(modes=k).forecast(TASKS, tests=TESTS) for k in (0, 7))
    assert float(without.forgetting) > float(cured.forgetting)
    assert float(without.final_accuracy) < float(cured.final_accuracy)


def test_the_order_matters_to_the_sequence_and_not_to_the_joint_optimum():
    orders = sequence(modes=0).forecast_orders(TASKS, tests=TESTS)
    assert set(orders.forecasts) == set(itertools.permutations(TASKS))
    ends = {order: float(orders[order].final_accuracy) for order in orders.forecasts}
    assert len(set(ends.values())) > 1
    assert ends[orders.ranked()[0]] == max(ends.values())
    assert str(orders).startswith("OrderForecasts: 6 orders")
    joints = []
    for order in orders.forecasts:
        one = sequence(modes=0)
        for name in order:
            one.learn(TASKS[name], name)
        joints.append(one.joint().head)
    assert all(torch.equal(one.weight, joints[0].weight) for one in joints)


@pytest.mark.parametrize("order", [3, ("a",), "abc", ("a", ["b"])])
def test_an_order_that_was_not_asked_for_is_named(order):
    with pytest.raises(ArgumentError, match="orders"):
        sequence(modes=0).forecast_orders({"a": TASKS["a"], "b": TASKS["b"]})[order]


def test_an_order_is_forecast_as_it_is_alone():
    together = sequence().forecast_orders(TASKS, [("c", "a", "b")], tests=TESTS)[("c", "a", "b")]
    alone = sequence().forecast({name: TASKS[name] for name in ("c", "a", "b")}, tests=TESTS)
    columns = [alone.tasks.index(name) for name in together.tasks]
    assert together.relative_bounds == alone.relative_bounds
    for row, other in zip(together.accuracy, alone.accuracy, strict=True):
        assert row == tuple(other[c] for c in columns)


def test_many_tasks_are_told_in_a_few_orders():
    tasks = {name: task(number, 8) for number, name in enumerate("abcde")}
    orders = sequence(modes=0).forecast_orders(tasks)
    assert len(orders) == 6
    assert tuple("edcba") in orders.forecasts
    assert len(str(orders).splitlines()) == 7


def test_kept_tasks_are_told_of_and_others_are_let_go():
    one = sequence(modes=0)
    one.learn(TASKS["a"], "a", keep=True)
    features = task(1).features.clone()
    passing = Task.from_labels(features, TASKS["b"].labels, CLASSES)
    gone = weakref.ref(features)
    one.learn(passing, "b")
    del features, passing
    gc.collect()
    assert gone() is None
    size, error = one.drift("a")
    before = sequence(modes=0)
    before.learn(TASKS["a"], "a")
    moved = one.head(TASKS["a"].features) - before.head(TASKS["a"].features)
    assert abs(size - float(moved.square().mean().sqrt())) <= error
    told = one.forecast({"c": TASKS["c"]})
    assert told.tasks == ("a", "c")
    assert told.learned_at == (0, 1)
    assert told.drift[0][0] == size
    with pytest.raises(ArgumentError, match="let go"):
        one.drift("b")
    with pytest.raises(ArgumentError, match="has learned"):
        one.drift("z")
    with pytest.raises(ArgumentError, match="has learned"):
        one.drift(["a"])


@pytest.mark.parametrize("modes", [0, 3])
def test_memory_is_constant_in_the_number_of_tasks(modes):
    """Past the first tasks a limb of 44 bits may be added to each sum; nothing else grows."""
    sizes = []
    learned_so_far = sequence(modes=modes)
    for number in range(40):
        learned_so_far.learn(task(number, seed=number))
        sizes.append(learned_so_far.nbytes)
    columns = F + 1
    limb = 8 * 2 * columns * (columns + CLASSES)
    assert sizes[-1] <= sizes[1] + 2 * limb
    assert sizes[-1] <= 16 * limb
    assert len(learned_so_far.state_dict()) == len(sequence().state_dict())


def test_other_samples_of_a_task_that_was_learned_are_told_as_what_they_are():
    """Its forgetting is counted from before the curriculum; that of samples of no task is not counted."""
    one = sequence(modes=0)
    one.learn(TASKS["a"], "a")
    tests = {"a": TESTS["a"], "no task": TESTS["c"]}
    told = one.forecast({"b": TASKS["b"]}, tests=tests)
    assert dict(zip(told.tasks, told.learned_at, strict=True)) == {"b": 1, "a": 0, "no task": 1}
    column = told.tasks.index("a")
    assert float(told.forgetting) == float(told.accuracy[0][column]) - float(told.accuracy[-1][column]) > 0
    assert [row[column] for row in told.drift] == [None, None]


def test_what_was_kept_is_told_of_after_a_merge():
    """Its drift is to what its own sequence said of it, in the head of the other."""
    first, second = sequence(), sequence()
    first.learn(TASKS["a"], "a", keep=True)
    second.learn(TASKS["b"], "b", keep=True)
    said = second.head(TASKS["b"].features)
    merged = first.merge(second)
    moved = merged.head(TASKS["b"].features) - said
    size, error = merged.drift("b")
    assert abs(size - float(moved.square().mean().sqrt())) <= error
    assert merged.forecast({"c": TASKS["c"]}).tasks == ("a", "b", "c")
    with pytest.raises(ArgumentError, match="has learned"):
        first.drift("b")


def test_tasks_without_labels_have_drifts_only():
    bare = {name: Task(one.features, one.targets) for name, one in TASKS.items()}
    told = sequence().forecast(bare)
    assert told.final_accuracy is None
    assert told.forgetting is None
    assert told.drift[-1][0] > 0
    assert "-" in str(told)


def test_names_continue_where_the_sequence_stands():
    one, *_ = learned([TASKS["a"]], **SETTINGS)
    assert one.tasks[0].name == "task 1"
    told = one.forecast([TASKS["b"], TASKS["c"]])
    assert told.steps == ("task 2", "task 3")


def test_progress_of_orders_is_told():
    told: list[tuple[int, int]] = []
    sequence(modes=0).forecast_orders(TASKS, [("a", "b", "c"), ("c", "b", "a")], progress=lambda *d: told.append(d))
    assert told == [(1, 2), (2, 2)]
