"""Several old tasks under one training, and heads of which each task uses some outputs only."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ntkla.forgetting.descent.training import GradientDescent
from ntkla.forgetting.forecast import forecast
from ntkla.forgetting.heads import LinearHead
from ntkla.forgetting.learning import Learning
from ntkla.forgetting.shared_head import drifts_of_tasks
from ntkla.forgetting.tasks import Task
from ntkla.linalg.errors import ArgumentError, DeviceError, DtypeError, LabelError, NonFiniteError, ShapeError
from ntkla.linalg.precision import gamma
from ntkla.testing.spectra import normal

OUTPUTS, FEATURES = 5, 7
HEAD = LinearHead(normal(OUTPUTS, FEATURES, 1), normal(1, OUTPUTS, 2)[0])


def task(seed: int, outputs: list[int] | None, samples: int = 12, head: int = OUTPUTS) -> Task:
    among = torch.tensor(outputs if outputs is not None else range(head))
    labels = among[torch.arange(samples) % len(among)]
    return Task.from_labels(normal(samples, FEATURES, seed), labels, head, outputs=outputs)


subsets = st.none() | st.permutations(range(OUTPUTS)).flatmap(
    lambda order: st.integers(1, OUTPUTS).map(lambda n: list(order[:n]))
)


@given(old=subsets, new=subsets, early=st.booleans())
def test_only_shared_outputs_drift_and_as_a_head_of_their_own_would(old, new, early):
    training = GradientDescent(1e-3, 20, 0.5) if early else None
    settings = {"ridge": 0.1, "weight_decay": 0.05, "training": training}
    report = forecast(task(3, old), task(4, new), HEAD, **settings)
    names = list(range(OUTPUTS)) if old is None else old
    assert report.outputs.tolist() == names
    trained = list(range(OUTPUTS)) if new is None else new
    # The same training of a head that has the trained outputs only: no labels there, the numbers are other ones.
    alone = forecast(
        Task(task(3, None).features),
        Task(task(4, new).features, task(4, new).targets),
        HEAD.select(torch.tensor(trained)),
        **settings,
    )
    for column, name in enumerate(names):
        if name not in trained:
            assert not report.drift[:, column].any()
            assert not report.error_bound[:, column].any()
            assert not report.forgetting.head_update[name].any()
        else:
            there = trained.index(name)
            difference = (report.drift[:, column] - alone.drift[:, there]).abs()
            assert bool((difference <= report.error_bound[:, column] + alone.error_bound[:, there]).all())
    assert report.forgetting.head_update.shape == (OUTPUTS, FEATURES)
    moved = LinearHead(HEAD.weight + report.forgetting.head_update, HEAD.bias + report.forgetting.bias_update)
    after = moved.select(report.outputs)(task(3, old).features)
    slack = gamma(20) * (1 + after.abs())
    assert bool(((after - report.after.value).abs() <= report.after.error_bound + slack).all())


def test_accuracy_counts_the_tasks_own_outputs_only():
    old = task(3, [4, 1])
    report = forecast(old, task(4, None), HEAD, ridge=0.1)
    for outputs, accuracy in ((report.before, report.accuracy_before), (report.after, report.accuracy_forecast)):
        named = report.outputs[outputs.value.argmax(1)]
        assert float(accuracy) == float((named == old.labels).double().mean())


@pytest.mark.parametrize("training", [None, GradientDescent(1e-3, 20, 0.5)])
def test_a_weight_of_three_is_a_sample_seen_three_times(training):
    new, old = task(4, [2, 0, 3]), task(3, None)
    counts = torch.arange(12) % 4
    weighted = Task(new.features, new.targets, outputs=new.outputs, weights=counts.to(torch.float32))
    rows = torch.arange(12).repeat_interleave(counts)
    repeated = Task(new.features[rows], new.targets[rows], outputs=new.outputs)
    one, other = (forecast(old, task, HEAD, ridge=0.1, training=training) for task in (weighted, repeated))
    assert bool(((one.drift - other.drift).abs() <= one.error_bound + other.error_bound).all())
    assert one.status.certified
    assert bool((one.drift != forecast(old, new, HEAD, ridge=0.1, training=training).drift)[:, [0, 2, 3]].all())


def test_several_tasks_are_forecast_as_each_alone():
    olds = {"first": task(3, None), "second": task(5, [0, 2], samples=30), "third": task(6, [1])}
    new = task(4, [2, 0, 3])
    together = forecast(olds, new, HEAD, ridge=1e-3)
    assert list(together) == list(olds)
    assert len(together) == len(olds)
    assert together.status.certified
    for name, old in olds.items():
        alone = forecast(old, new, HEAD, ridge=1e-3)
        one = together[name]
        assert bool(((one.drift - alone.drift).abs() <= one.error_bound + alone.error_bound).all())
        assert one.k_G.value == alone.k_G.value
        assert torch.equal(one.forgetting.head_update, together["first"].forgetting.head_update)
    text = str(together)
    assert all(f"{name}: ForgettingReport" in text for name in olds)
    again = forecast(olds, new, HEAD, ridge=1e-3, modes={"second": together["second"].modes})
    assert again["second"].modes is together["second"].modes
    assert list(forecast(list(olds.values()), new, HEAD, ridge=1.0)) == ["old 1", "old 2", "old 3"]


def test_a_status_of_one_task_is_the_status_of_all():
    olds = {"seen": task(3, None), "apart": task(5, [4])}
    new = task(4, [0, 1])
    twin = new.features.clone()
    twin[:, 1] = twin[:, 0]
    reports = forecast(olds, Task(twin, new.targets, outputs=new.outputs), HEAD, ridge=0.0)
    assert reports["apart"].status.certified
    assert "drift is 0" in reports["apart"].status.message
    assert reports.status.code == reports["seen"].status.code == "rank_deficient"


def test_the_drift_of_every_task_meets_the_tolerance_not_only_of_the_first():
    """The second task is orthogonal to nearly all of the update: its drift is small, and its bound must be smaller."""
    new = task(4, None, samples=40)
    update = forecast(task(3, None), new, HEAD, ridge=1e-4).forgetting.head_update
    away = torch.linalg.svd(update).Vh[-1:].expand(6, -1) + 1e-5 * normal(6, FEATURES, 9)
    learning = Learning.checked(ridge=1e-4)
    found = drifts_of_tasks([task(3, None), Task(away)], new, HEAD, learning)
    assert [one.status.code for one in found] == ["certified", "certified"]


def test_two_heads_trained_in_torch():
    """Two linear layers on one backbone, the optimiser moves the second: the first stays, the second as forecast."""
    new = task(4, [3, 4])
    training = GradientDescent(1e-2, 30, 0.9)
    reports = forecast({"own": task(3, [0, 1, 2]), "same": task(5, [4, 3])}, new, HEAD, ridge=0.0, training=training)
    assert not reports["own"].drift.any()
    layer = torch.nn.Linear(FEATURES, 2, dtype=torch.float64)
    with torch.no_grad():
        layer.weight.copy_(HEAD.weight[[3, 4]])
        layer.bias.copy_(HEAD.bias[[3, 4]])
    optimizer = torch.optim.SGD(layer.parameters(), lr=training.lr, momentum=training.momentum)
    before = layer(task(5, None).features).detach()
    for _ in range(training.steps):
        optimizer.zero_grad()
        ((layer(new.features) - new.targets).square().sum() / 2).backward()
        optimizer.step()
    fact = (layer(task(5, None).features).detach() - before)[:, [1, 0]]
    slack = gamma(100 * training.steps) * (1 + fact.abs().max())
    assert bool(((fact - reports["same"].drift).abs() <= reports["same"].error_bound + slack).all())


def test_select_takes_the_samples_of_some_classes():
    whole = task(3, [4, 1, 0])
    part = whole.select([1, 0])
    assert sorted(set(part.labels.tolist())) == [0, 1]
    assert torch.equal(part.features, whole.features[whole.labels != 4])
    assert torch.equal(part.targets, whole.targets[whole.labels != 4])
    assert part.outputs.tolist() == [4, 1, 0]
    with pytest.raises(LabelError, match=r"\[3\]"):
        whole.select([3])
    with pytest.raises(ArgumentError, match="labels"):
        Task(whole.features).select([0])


X = normal(4, FEATURES, 1)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"outputs": torch.tensor([0, 0])}, ArgumentError, "distinct"),
        ({"outputs": torch.tensor([-1])}, ArgumentError, ">= 0"),
        ({"outputs": torch.tensor([True, False])}, DtypeError, "nonzero"),
        ({"outputs": torch.tensor([], dtype=torch.int64)}, ShapeError, "an entry or more"),
        ({"outputs": "12"}, ArgumentError, "numbers of outputs"),
        ({"outputs": [0.5]}, ArgumentError, "integer"),
        ({"outputs": torch.tensor([0], device="meta")}, DeviceError, "meta"),
        ({"outputs": [1, 2], "targets": X[:, :3]}, ShapeError, "2 columns"),
        ({"outputs": [1, 2], "labels": torch.tensor([1, 2, 3, 3])}, LabelError, r"\[3\] are not among"),
        ({"weights": torch.ones(3)}, ShapeError, "one weight a sample"),
        ({"weights": [1.0] * 4}, ShapeError, "one weight a sample"),
        ({"weights": -torch.ones(4)}, ArgumentError, ">= 0"),
        ({"weights": torch.ones(4) / 0}, NonFiniteError, "weights"),
    ],
)
def test_task_refuses(arguments, error, message):
    with pytest.raises(error, match=message):
        Task(X, **arguments)


@pytest.mark.parametrize(
    ("old", "new", "settings", "message"),
    [
        ({}, task(4, None), {}, "one or more"),
        ([3], task(4, None), {}, "int"),
        ({1: task(3, None)}, task(4, None), {}, "names of tasks as strings"),
        (task(3, None), Task(X), {}, "targets to train on"),
        (task(3, [7], head=9), task(4, None), {}, "old.outputs: the head has the outputs 0 to 4"),
        (task(3, None), task(4, [5], head=6), {}, "new.outputs"),
        ([task(3, None)], task(4, None), {"modes": {"new": None}}, "names among"),
        ([task(3, None)], task(4, None), {"modes": {"new": None, 1: None}}, "names among"),
        ([task(3, None)], task(4, None), {"modes": 3}, "a mapping"),
    ],
)
def test_forecast_refuses(old, new, settings, message):
    with pytest.raises(ArgumentError, match=message):
        forecast(old, new, HEAD, ridge=1.0, **settings)


def test_an_old_task_may_be_called_new():
    with pytest.raises(ShapeError, match=r"new.features: expected 7 columns"):
        forecast({"new": Task(X[:, :3])}, task(4, None), HEAD, ridge=1.0)
    with pytest.raises(DtypeError):
        forecast({"new": Task(X.float())}, task(4, None), HEAD, ridge=1.0)
    assert len(forecast({"new": Task(X)}, task(4, None), HEAD, ridge=1.0)) == 1


def test_labels_beyond_the_head():
    with pytest.raises(LabelError, match="from 0 to 4"):
        forecast(Task(X, labels=torch.tensor([0, 1, 2, 5])), task(4, None), HEAD, ridge=1.0)
