"""Sequences of trainings that stop early: against rational arithmetic, and against torch's own SGD."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from ntkla.forgetting.descent.gains import gains
from ntkla.forgetting.descent.training import GradientDescent, GradientFlow
from ntkla.forgetting.sequences import step
from ntkla.forgetting.sequences.carried import Carried
from ntkla.forgetting.sequences.sequence import TaskSequence
from ntkla.linalg.errors import ArgumentError, TrainingDivergesError
from ntkla.linalg.precision import U64, norm_upper
from ntkla.testing.spectra import normal
from tests.forgetting.sequences.curricula import learned, some_head, task, zero_head
from tests.forgetting.sequences.rational import parts_of_errors, trained_heads
from tests.forgetting.sequences.test_sequence_penalty import RIDGE, Trainer, gradient_rounding

TASKS = [task(0), task(1, weighted=True), task(2)]
TRAININGS = [
    GradientDescent(2.0**-8, 5),
    GradientDescent(2.0**-9, 4, momentum=0.5),
    GradientDescent(2.0**-9, 4, momentum=0.5, nesterov=True),
]
SETTINGS = [
    {"weight": 20.0, "modes": 3},
    {"weight": 20.0, "modes": 3, "penalize_bias": False, "weight_decay": 0.25},
    {"modes": 0},
]


def columns_hold(state: Carried, truth) -> bool:
    head = state.current
    x = head.head.stacked()
    weights, last = parts_of_errors(x, torch.zeros_like(x), truth, bias=True)
    claims = head.error_bound.tolist() + head.bias_error_bound.tolist()
    return all(error <= claim for claim, error in zip(claims, weights + last, strict=True))


@pytest.mark.parametrize("training", TRAININGS)
@pytest.mark.parametrize("settings", SETTINGS)
def test_every_head_is_within_its_bound(training, settings):
    _, states, rows = learned(TASKS, head=some_head(), training=training, ridge=0.5, **settings)
    known = {key: value for key, value in settings.items() if key in ("weight_decay", "penalize_bias")}
    exact = trained_heads(states[0].start, TASKS, rows, training, ridge=0.5, **known)
    for state, truth in zip(states, exact, strict=True):
        assert columns_hold(state, truth)
        assert state.current.status.certified


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("training", TRAININGS)
def test_errors_of_earlier_heads_are_handed_on(monkeypatch, training, settings):
    """An error far above any rounding in the first head: every later bound has to cover what it becomes."""
    plain, calls = step.matrix_update, []

    def spoilt(*arguments):
        found = plain(*arguments)
        calls.append(None)
        moved = normal(*found.update.shape, 5) * (len(calls) == 1)
        return found._replace(update=found.update + moved, error_bound=found.error_bound + norm_upper(moved, dim=0))

    monkeypatch.setattr(step, "matrix_update", spoilt)
    _, states, rows = learned(TASKS, training=training, ridge=0.5, **settings)
    known = {key: value for key, value in settings.items() if key in ("weight_decay", "penalize_bias")}
    exact = trained_heads(states[0].start, TASKS, rows, training, ridge=0.5, **known)
    assert all(columns_hold(state, truth) for state, truth in zip(states, exact, strict=True))
    assert states[-1].current.relative_bound > U64**0.5


def test_a_head_moved_by_its_bound_is_seen():
    """The planted error: the bound of one head does not cover another one."""
    _, states, rows = learned(TASKS, head=some_head(), training=TRAININGS[0], ridge=0.5, **SETTINGS[0])
    truth = trained_heads(states[0].start, TASKS, rows, TRAININGS[0], ridge=0.5)[-1]
    x, errors = states[-1].state.head, states[-1].errors
    moved = replace(states[-1].state, head=x._replace(high=x.high + float(errors[0].max())))
    assert not columns_hold(replace(states[-1], state=moved), truth)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_torch_trains_to_the_same_heads(momentum):
    """Three tasks by `torch.optim.SGD` from where torch itself stood, with `SpectralPenalty` on all earlier ones."""
    training = GradientDescent(0.001, 60, momentum)
    settings = {"modes": 3, "weight": 20.0, "weight_decay": 0.1}
    trainer = Trainer(some_head(), **settings)
    sequence = TaskSequence(some_head(), ridge=RIDGE, training=training, **settings)
    errors = handed_on = 0.0
    for one in TASKS:
        trainer.descend(one, one.features, training)
        rounding = gradient_rounding(trainer, one)
        told = sequence.learn(one)
        high = 1.9 / training.lr
        known = gains(training, RIDGE, high)
        # Each gradient is off by its rounding; what was off before is kept, and what anchors pull to is off as well.
        kept = 1.0 if momentum == 0.0 else (1 + momentum) / (1 - momentum)
        driven = known.root * math.hypot(math.sqrt(RIDGE) * errors, handed_on)
        errors = kept * errors + driven + known.push * rounding
        handed_on = math.hypot(handed_on, errors * float(norm_upper(trainer.rows)))
        distance = float(torch.linalg.matrix_norm(trainer.stacked - sequence.head.stacked()))
        size = float(norm_upper(sequence.head.stacked()))
        assert distance <= errors + told.relative_bound * size
        assert errors <= U64**0.25 * size


def test_gradient_flow_is_the_limit_of_small_steps():
    flow, *_ = learned(TASKS, training=GradientFlow(0.05), **SETTINGS[0])
    distances = []
    for steps in (100, 200, 400):
        descent, *_ = learned(TASKS, training=GradientDescent(0.05 / steps, steps), **SETTINGS[0])
        distances.append(float(torch.linalg.matrix_norm(descent.head.weight - flow.head.weight)))
    assert distances[0] > 1.5 * distances[1] > 1.5**2 * distances[2]


def test_long_training_is_the_optimum():
    tasks = TASKS[:2]
    optimum, *_ = learned(tasks, ridge=10.0, **SETTINGS[0])
    trained, *_ = learned(tasks, ridge=10.0, training=GradientFlow(10.0), **SETTINGS[0])
    distance = torch.linalg.matrix_norm(trained.head.weight - optimum.head.weight)
    bound = norm_upper(trained.current.error_bound) + norm_upper(optimum.current.error_bound)
    assert float(distance) <= float(bound) + math.exp(-90.0)


def test_a_learning_rate_that_diverges_is_refused():
    """And the sequence is as it was: the penalty's own eigenvalues count."""
    one = TaskSequence(zero_head(), ridge=0.1, modes=3, weight=1e6, training=GradientDescent(1e-3, 5))
    one.learn(TASKS[0])
    before = one.state_dict()
    with pytest.raises(TrainingDivergesError) as caught:
        one.learn(TASKS[1])
    assert 0 < caught.value.largest_stable_lr < 1e-3
    assert all(torch.equal(x, before[name]) for name, x in one.state_dict().items())
    with pytest.raises(ArgumentError, match="training"):
        TaskSequence(zero_head(), ridge=0.1, training="sgd")


@pytest.mark.parametrize("training", [*TRAININGS, GradientFlow(0.1)])
def test_the_training_is_saved_with_the_sequence(training):
    one, *_ = learned(TASKS[:2], training=training, **SETTINGS[0])
    other = TaskSequence.from_state_dict(one.state_dict())
    one.learn(TASKS[2])
    other.learn(TASKS[2])
    assert torch.equal(one.head.weight, other.head.weight)
    assert one.tasks == other.tasks
    assert str(training) in str(other)
