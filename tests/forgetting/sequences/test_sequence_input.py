"""What a sequence refuses, each by name, with the sequence left as it was."""

from __future__ import annotations

import math

import pytest
import torch

from ntkla.forgetting.heads import LinearHead
from ntkla.forgetting.sequences.moments import TaskMoments
from ntkla.forgetting.sequences.sequence import TaskSequence
from ntkla.forgetting.tasks import Task
from ntkla.linalg import checks
from ntkla.linalg.errors import (
    ArgumentError,
    DeviceError,
    DtypeError,
    LabelError,
    MemoryEstimateError,
    NonFiniteError,
    RidgeError,
    ScaleError,
    ShapeError,
)
from tests.forgetting.sequences.curricula import CLASSES, F, learned, task, zero_head

PROTECTED = {"weight": 3.0, "modes": 2}
NARROW = Task.from_labels(torch.ones((4, F - 1)), torch.arange(4), CLASSES)
BEYOND = Task.from_labels(torch.ones((4, F)), torch.tensor([0, 1, CLASSES, 1]), CLASSES + 1)


@pytest.mark.parametrize(
    ("settings", "kind"),
    [
        ({"ridge": 0.0}, RidgeError),
        ({"ridge": -1.0}, RidgeError),
        ({"ridge": math.nan}, RidgeError),
        ({"ridge": "1"}, RidgeError),
        ({"weight": -1.0}, ArgumentError),
        ({"weight": math.inf}, ArgumentError),
        ({"weight": 1e-300}, ArgumentError),
        ({"weight": 1e300}, ArgumentError),
        ({"strength": -1.0}, ArgumentError),
        ({"strength": "1"}, ArgumentError),
        ({"strength": 1.0, "weight": 1.0}, ArgumentError),
        ({"modes": -1}, ArgumentError),
        ({"modes": 1.5}, ArgumentError),
        ({"modes": True}, ArgumentError),
        ({"weight_decay": -1.0}, RidgeError),
        ({"penalize_bias": 1}, ArgumentError),
        ({"tol": 0.0}, ArgumentError),
    ],
)
def test_settings_out_of_range(settings, kind):
    with pytest.raises(kind, match=next(iter(settings))):
        TaskSequence(zero_head(), **{"ridge": 1.0, **settings})


def test_a_head_that_is_none():
    with pytest.raises(ArgumentError, match="LinearHead"):
        TaskSequence(torch.zeros(2, 3), ridge=1.0)


ROWS = torch.arange(3)


@pytest.mark.parametrize(
    ("arguments", "kind", "words"),
    [
        (("task",), ArgumentError, "ntkla.Task"),
        ((NARROW,), ShapeError, "columns"),
        ((BEYOND,), LabelError, "labels"),
        ((Task(task(0).features),), ArgumentError, "with targets"),
        ((Task(task(0).features, torch.ones((20, 2))),), ShapeError, "columns"),
        ((Task.from_labels(task(0).features, task(0).labels, CLASSES, outputs=[0, 1]),), ArgumentError, "all outputs"),
        ((task(0), "first"), ArgumentError, "learned already"),
        ((task(0), ""), ArgumentError, "name"),
        ((task(0), 3), ArgumentError, "name"),
        ((task(0), "x", "rows"), DtypeError, "probes"),
        ((task(0), "x", torch.tensor([0, 20])), ArgumentError, "0 to 19"),
        ((task(0), "x", torch.tensor([-1])), ArgumentError, "0 to 19"),
        ((task(0), "x", torch.tensor([[1]])), ArgumentError, "one dimension"),
        ((task(0), "x", torch.tensor([1, 1])), ArgumentError, "twice"),
        ((task(0), "x", ROWS[:0]), ArgumentError, "one row or more"),
        ((task(0), "x", torch.tensor([True])), DtypeError, "probes"),
        ((task(0), "x", ROWS.to_sparse()), DtypeError, "probes"),
        ((task(0), "x", ROWS.to("meta")), DeviceError, "probes"),
        ((task(0), "x", torch.ones((3, F + 1))), ShapeError, "columns"),
        ((task(0), "x", torch.full((3, F), math.nan)), NonFiniteError, "probes"),
        ((TaskMoments.of(task(0), bias=True), "x"), ArgumentError, "Pass probes=features"),
        ((TaskMoments.of(task(0), bias=True), "x", ROWS), ArgumentError, "no samples"),
        ((TaskMoments.of(task(0), bias=False), "x", task(0).features), ShapeError, "without bias"),
        ((TaskMoments.of(NARROW, bias=True), "x", task(0).features), ShapeError, "features"),
    ],
)
def test_tasks_that_do_not_fit(arguments, kind, words):
    one = TaskSequence(zero_head(), ridge=1.0, **PROTECTED)
    one.learn(task(0), "first")
    before = one.state_dict()
    with pytest.raises(kind, match=words):
        one.learn(*arguments)
    assert all(torch.equal(x, before[name]) for name, x in one.state_dict().items())


def test_keeping_what_has_no_samples():
    one = TaskSequence(zero_head(), ridge=1.0)
    with pytest.raises(ArgumentError, match="keep"):
        one.learn(TaskMoments.of(task(0), bias=True), keep=True)
    with pytest.raises(ArgumentError, match="keep"):
        one.learn(task(0), keep=1)
    assert one.tasks == ()


@pytest.mark.parametrize(
    ("tasks", "options", "words"),
    [
        ({}, {}, "tasks"),
        ([], {}, "tasks"),
        ("ab", {}, "tasks"),
        ({"a": 1}, {}, "tasks"),
        ({1: task(0)}, {}, "tasks"),
        ({"first": task(0)}, {}, "learned already"),
        ({"a": task(0)}, {"probes": {"b": ROWS}}, "probes"),
        ({"a": task(0)}, {"probes": {2: ROWS}}, "probes"),
        ({"a": task(0)}, {"probes": 3}, "probes"),
        ({"a": task(0)}, {"probes": ROWS}, "probes"),
        ({"a": task(0)}, {"tests": {"a": 1}}, "tests"),
        ({"a": task(0)}, {"tests": [task(0)]}, "tests"),
        ({"a": task(0)}, {"tests": {1: task(0)}}, "tests"),
    ],
)
def test_curricula_that_make_no_sense(tasks, options, words):
    one = TaskSequence(zero_head(), ridge=1.0)
    one.learn(task(0), "first")
    with pytest.raises(ArgumentError, match=words):
        one.forecast(tasks, **options)


@pytest.mark.parametrize(
    "orders",
    [
        [],
        [("a",)],
        [("a", "a")],
        [("a", "b", "c")],
        [("a", "z")],
        [3],
        3,
        "ab",
        ["ab"],
        [("a", 1)],
        [(["a"], "b")],
        [{"a", "b"}],
    ],
)
def test_orders_that_leave_out_or_repeat_a_task(orders):
    with pytest.raises(ArgumentError, match="orders"):
        TaskSequence(zero_head(), ridge=1.0).forecast_orders({"a": task(0), "b": task(1)}, orders)


def test_progress_that_cannot_be_told_is_refused_before_any_work(monkeypatch):
    one, both = TaskSequence(zero_head(), ridge=1.0), {"a": task(0), "b": task(1)}
    monkeypatch.setattr(TaskMoments, "of", None)
    with pytest.raises(DtypeError, match="progress"):
        one.forecast_orders(both, progress=3)
    with pytest.raises(DtypeError, match="progress"):
        one.forecast_modes(both, [1], progress=3)


def test_joint_of_nothing_and_with_no_ridge():
    one = TaskSequence(zero_head(), ridge=1.0)
    with pytest.raises(ArgumentError, match="learn"):
        one.joint()
    one.learn(task(0))
    with pytest.raises(RidgeError):
        one.joint(ridge=0.0)


def test_sequences_that_do_not_merge():
    first, *_ = learned([task(0)])
    with pytest.raises(ArgumentError, match="both have learned"):
        first.merge(learned([task(1)])[0])
    with pytest.raises(ArgumentError, match="same head and settings"):
        first.merge(learned([task(1)], ridge=2.0)[0])
    with pytest.raises(ArgumentError, match="same head and settings"):
        first.merge(TaskSequence(zero_head(bias=False), ridge=0.1))
    six, five = (
        TaskSequence(head, ridge=0.1) for head in (zero_head(False), LinearHead(torch.zeros(6, 5), torch.zeros(6)))
    )
    with pytest.raises(ArgumentError, match="same head and settings"):
        six.merge(five)
    with pytest.raises(ArgumentError, match="TaskSequence"):
        first.merge(TaskMoments.of(task(0), bias=True))


def test_memory_is_told_before_it_is_needed(monkeypatch):
    one = TaskSequence(zero_head(), ridge=1.0)
    monkeypatch.setattr(checks, "available_memory", lambda device: 1000)
    with pytest.raises(MemoryEstimateError):
        one.learn(task(0))
    with pytest.raises(MemoryEstimateError):
        TaskSequence(LinearHead(torch.zeros((3, 50))), ridge=1.0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_tasks_of_any_floating_type_follow_each_other(dtype):
    one, *_ = learned([task(0), task(1, dtype=dtype)], **PROTECTED)
    assert one.current.status.certified


def test_gradients_do_not_flow():
    features = task(0).features.clone().requires_grad_()
    one, *_ = learned([Task(features, task(0).targets)], **PROTECTED)
    assert not one.head.weight.requires_grad


def test_heads_beyond_the_range_are_named():
    tiny = Task(task(0).features.to(torch.float64) * 2.0**-400, task(0).targets)
    one = TaskSequence(zero_head(False), ridge=2.0**-900)
    with pytest.raises(ScaleError, match="power of two"):
        one.learn(tiny)
    assert one.tasks == ()
