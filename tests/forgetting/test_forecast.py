"""The forecast from tasks and a head: its bounds include the rounding of the residual that it forms itself."""

from __future__ import annotations

import json
import math

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

import ntkla
from ntkla.forgetting.descent.training import GradientDescent, GradientFlow
from ntkla.forgetting.forecast import forecast
from ntkla.forgetting.heads import LinearHead
from ntkla.forgetting.reports.predictions import Flips, Predictions
from ntkla.forgetting.shared_head import new_residual
from ntkla.forgetting.tasks import Task
from ntkla.linalg.errors import ArgumentError, DtypeError, NotCertifiedError, RidgeError, ShapeError, UndecidedError
from ntkla.linalg.precision import DEFAULT_TOLERANCE, U64, gamma
from ntkla.testing import (
    Exact,
    FeatureSpec,
    Problem,
    ambient_state,
    compare,
    feature_specs,
    hostile_states,
    problems,
)
from ntkla.testing.balls import ball, ball_matrix, design_matrix, diagonal, flint
from ntkla.testing.spectra import normal

CLASSES = 4
MEANS = normal(CLASSES, 6, 11)


def labelled(n: int, classes: tuple[int, ...], seed: int, dtype: torch.dtype = torch.float64) -> Task:
    labels = torch.tensor(classes)[torch.arange(n) % len(classes)]
    features = (3 * MEANS[labels] + normal(n, 6, seed)).to(dtype)
    return Task.from_labels(features, labels, CLASSES)


OLD, NEW = labelled(30, (0, 1), 1), labelled(25, (2, 3), 2)


def trained_head(task: Task) -> LinearHead:
    solution = ntkla.ridge_solve(task.features, task.targets, ridge=1.0, bias=True)
    return LinearHead(solution.solution.T, solution.bias)


HEAD = trained_head(OLD)


def exact_drift(problem: Problem, head: LinearHead, targets: torch.Tensor, training: GradientDescent | None) -> Exact:
    """The drift with the residual formed in ball arithmetic; training by its own steps."""

    def compute():
        phi, start = design_matrix(problem.features_new, problem.bias), ball_matrix(head.stacked())
        columns = phi.ncols()
        masks = [0 if problem.bias and not problem.penalize_bias and i == columns - 1 else 1 for i in range(columns)]
        decays = diagonal([ball(problem.weight_decay) * m for m in masks])
        hessian = phi.transpose() * phi + diagonal([ball(problem.ridge) * m for m in masks]) + decays
        gradient = phi.transpose() * (phi * start - ball_matrix(targets)) + decays * start
        if training is None:
            change = hessian.solve(-gradient)
        else:
            change, velocity = gradient * 0, gradient * 0
            for _ in range(training.steps):
                velocity = velocity * ball(training.momentum) + (hessian * change + gradient)
                change = change - velocity * ball(training.lr)
        return design_matrix(problem.features_old, problem.bias) * change

    return Exact(compute)


def as_tasks(problem: Problem) -> tuple[Task, Task, LinearHead]:
    f, c = problem.new.features, problem.outputs
    bias = normal(1, c, problem.seed + 8)[0] if problem.bias else None
    head = LinearHead(normal(c, f, problem.seed + 7) * problem.head_scale, bias)
    return (
        Task(problem.features_old, normal(problem.old.n, c, 3)),
        Task(problem.features_new, problem.residual_new),
        head,
    )


@given(problems(most=6), st.booleans())
@example(
    Problem(FeatureSpec(2, 3, dtype="float32"), FeatureSpec(4, 3, dtype="float32"), bias=True, penalize_bias=False),
    False,
)
@example(Problem(FeatureSpec(2, 3), FeatureSpec(4, 3), residual_kind="zero", weight_decay_relative=1e-3), True)
def test_drift_within_its_bound(problem: Problem, early: bool) -> None:
    old, new, head = as_tasks(problem)
    training = None
    if early:
        size = (
            float(torch.linalg.vector_norm(new.features.to(torch.float64))) ** 2 + problem.bias * new.features.shape[0]
        )
        training = GradientDescent(1 / (2 * (size + problem.ridge + problem.weight_decay)), 7, 0.5)
    report = forecast(
        old,
        new,
        head,
        ridge=problem.ridge,
        penalize_bias=problem.penalize_bias,
        weight_decay=problem.weight_decay,
        training=training,
    )
    judged = compare(report.drift, report.error_bound, exact_drift(problem, head, new.targets, training), "drift")
    assert judged.sound, judged


def test_a_residual_that_cancels_keeps_its_digits() -> None:
    """Targets that the head nearly meets: formed in float64, the residual would be mostly rounding."""
    problem = Problem(FeatureSpec(3, 40), FeatureSpec(60, 40, scale=10.0, seed=3), outputs=2, ridge_relative=1e-3)
    head = LinearHead(normal(2, 40, 9) * 100)
    targets = head(problem.features_new) + 1e-8 * normal(60, 2, 10)
    report = forecast(
        Task(problem.features_old, targets[:3]), Task(problem.features_new, targets), head, ridge=problem.ridge
    )
    assert report.status.certified
    assert report.forgetting.relative_bound <= DEFAULT_TOLERANCE
    exact = exact_drift(problem, head, targets, None)
    assert compare(report.drift, report.error_bound, exact).sound
    in_float64 = head(problem.features_new) - targets
    plain = ntkla.predict_forgetting(problem.features_old, problem.features_new, in_float64, ridge=problem.ridge)
    assert not compare(plain.drift, plain.error_bound, exact).sound


def test_residual_rounding_is_counted() -> None:
    problem = Problem(FeatureSpec(3, 8), FeatureSpec(9, 8), outputs=2)
    _, new, head = as_tasks(problem)
    value, error = new_residual(new, head)

    def compute():
        return design_matrix(new.features) * ball_matrix(head.stacked()) - ball_matrix(new.targets)

    columns = error[None].expand_as(value)
    assert compare(value, columns, Exact(compute)).sound
    assert bool((error <= 4 * U64 * torch.linalg.vector_norm(value, dim=0)).all())
    assert flint() is not None


@pytest.mark.parametrize("training", [None, GradientDescent(1e-4, 50, 0.9), GradientFlow(0.01)])
def test_accuracies_and_flips_are_what_the_predictions_say(training: object) -> None:
    report = forecast(OLD, NEW, HEAD, ridge=1.0, training=training)
    before = HEAD(OLD.features)
    after = before + report.drift
    share = (before.argmax(1) == OLD.labels).double().mean()
    assert float(report.accuracy_before) == float(share)
    assert float(report.accuracy_forecast) == float((after.argmax(1) == OLD.labels).double().mean())
    changed = before.argmax(1) != after.argmax(1)
    assert torch.equal(report.flips.certain, changed)
    assert torch.equal(report.flips.impossible, ~changed)
    assert int(report.flips.count) == int(changed.sum())
    assert report.status.certified
    assert report.k_star.value == CLASSES * report.k_G.value
    assert report.r_50.value <= report.r_90.value


def test_training_really_does_it() -> None:
    """The whole loop once: torch trains the head with a bias, the old predictions move as forecast."""
    training = GradientDescent(1e-4, 50, 0.9)
    report = forecast(OLD, NEW, HEAD, ridge=0.0, training=training)
    layer = torch.nn.Linear(6, CLASSES, dtype=torch.float64)
    with torch.no_grad():
        layer.weight.copy_(HEAD.weight)
        layer.bias.copy_(HEAD.bias)
    optimizer = torch.optim.SGD(layer.parameters(), lr=training.lr, momentum=training.momentum)
    for _ in range(training.steps):
        optimizer.zero_grad()
        ((layer(NEW.features) - NEW.targets).square().sum() / 2).backward()
        optimizer.step()
    fact = layer(OLD.features).detach() - HEAD(OLD.features)
    slack = gamma(100 * training.steps) * (1 + fact.abs().max())
    assert bool(((fact - report.drift).abs() <= report.error_bound + slack).all())


def test_what_the_bounds_leave_open() -> None:
    value = torch.tensor([[1.0, 0.0], [0.5, 0.5], [0.0, 1.0]], dtype=torch.float64)
    labels = torch.tensor([0, 0, 0])
    exact = Predictions(value, torch.zeros_like(value))
    accuracy = exact.accuracy(labels)
    assert (accuracy.low, accuracy.high) == (1 / 3, 2 / 3)
    assert accuracy.value is None
    assert str(accuracy) == "[0.333333, 0.666667]"
    with pytest.raises(UndecidedError):
        float(accuracy)
    loose = Predictions(value, torch.full_like(value, 0.5))
    assert loose.possible_classes().all()
    tight = Predictions(value, torch.full_like(value, 0.499))
    assert tight.possible_classes().tolist() == [[True, False], [True, True], [False, True]]
    flips = Flips.between(exact, Predictions(value.flip(1), torch.zeros_like(value)))
    assert flips.certain.tolist() == [True, False, True]
    assert flips.undecided.tolist() == [False, True, False]
    assert (flips.count.low, flips.count.high) == (2, 3)


def test_an_infinite_bound_decides_nothing() -> None:
    """A rank-deficient new task without a ridge: the drift has no bound, and nothing is claimed."""
    twin = NEW.features.clone()
    twin[:, 1] = twin[:, 0]
    report = forecast(OLD, Task(twin, NEW.targets), HEAD, ridge=0.0)
    assert report.status.code == "rank_deficient"
    assert bool(torch.isinf(report.error_bound).all())
    assert (report.accuracy_forecast.low, report.accuracy_forecast.high) == (0.0, 1.0)
    assert bool(report.flips.undecided.all())
    assert not bool(torch.isnan(report.after.error_bound).any())


def test_a_tie_is_not_a_class() -> None:
    report = forecast(OLD, NEW, LinearHead(torch.zeros((CLASSES, 6), dtype=torch.float64)), ridge=1.0)
    assert (report.accuracy_before.low, report.accuracy_before.high) == (0.0, 1.0)


def test_classes_and_samples_are_told_one_by_one() -> None:
    report = forecast(OLD, NEW, HEAD, ridge=1.0, top=4)
    assert [c.label for c in report.classes] == [0, 1]
    assert sum(c.samples for c in report.classes) == len(OLD.labels)
    assert sum(int(c.flips) for c in report.classes) == int(report.flips.count)
    farthest = report.drift.norm(dim=1).argsort(descending=True)[:4]
    assert [s.index for s in report.samples] == farthest.tolist()
    assert [s.label for s in report.samples] == OLD.labels[farthest].tolist()
    for sample in report.samples:
        start, stop = sample.modes
        assert 0 <= start < stop <= report.modes.values.shape[0]
        assert 0.0 < sample.share_low <= sample.share_high
    assert len(forecast(OLD, NEW, HEAD, ridge=1.0, top=0).samples) == 0
    assert len(forecast(OLD, NEW, HEAD, ridge=1.0, top=10**6).samples) == len(OLD.labels)


def test_without_labels() -> None:
    report = forecast(Task(OLD.features, OLD.targets), NEW, HEAD, ridge=1.0)
    assert report.classes is None
    assert report.accuracy_before is None
    assert report.accuracy_forecast is None
    assert "accuracy" not in str(report)


def test_modes_can_be_reused() -> None:
    first = forecast(OLD, NEW, HEAD, ridge=1.0)
    second = forecast(OLD, NEW, HEAD, ridge=1.0, modes=first.modes)
    assert second.modes is first.modes
    assert torch.equal(first.drift, second.drift)
    assert torch.equal(first.decomposition.energy, second.decomposition.energy)


@pytest.mark.parametrize("samples", [4, 30])
def test_modes_of_other_features_are_refused(samples: int) -> None:
    """Of the same lengths and the same trace, as rows of norm 1 have; and of the same samples in another order."""
    one, other = (torch.nn.functional.normalize(normal(samples, 6, seed)) for seed in (1, 2))
    modes = ntkla.feature_modes(one, bias=True)
    refused = [other, one * (1.0 + DEFAULT_TOLERANCE)] + ([one.flip(0)] if modes.side == "samples" else [])
    assert forecast(Task(one), NEW, HEAD, ridge=1.0, modes=modes).modes is modes
    for features in refused:
        with pytest.raises(ArgumentError, match="of other features than the old task's"):
            forecast(Task(features), NEW, HEAD, ridge=1.0, modes=modes)


@example(FeatureSpec(6, 4, scale=1e-150), False)
@example(FeatureSpec(4, 6, scale=1e70), True)
@example(FeatureSpec(300, 90, condition=1e12), True)
@given(feature_specs(), st.booleans())
def test_modes_of_the_same_features_are_taken(spec: FeatureSpec, bias: bool) -> None:
    features = spec.tensor
    head = LinearHead(torch.ones(2, spec.features), torch.ones(2) if bias else None)
    new = Task(features, torch.ones(spec.n, 2))
    modes = ntkla.feature_modes(features, bias=bias)
    assert forecast(Task(features), new, head, ridge=1.0, modes=modes).modes is modes


def test_one_of_everything() -> None:
    x = torch.full((1, 1), 2.0, dtype=torch.float64)
    report = forecast(Task.from_labels(x, torch.tensor([0]), 1), Task(x, x), LinearHead(x), ridge=1.0)
    # A = 4 + 1, g = 2 (4 - 2): the weight moves by -4/5, the prediction by -8/5.
    assert math.isclose(float(report.drift), -1.6, rel_tol=DEFAULT_TOLERANCE)
    assert float(report.accuracy_forecast) == 1.0


def test_text_and_dictionary() -> None:
    for training in (None, GradientDescent(1e-4, 100000, 0.9, True), GradientFlow(1e-3)):
        report = forecast(OLD, NEW, HEAD, ridge=1.0, weight_decay=0.5, training=training)
        text = str(report)
        assert "tensor" not in text
        assert max(len(line) for line in text.splitlines()) <= 100
        assert "accuracy" in text
        plain = json.loads(json.dumps(report.to_dict()))
        assert plain["status"]["code"] == report.status.code
        assert plain["accuracy_before"]["low"] == report.accuracy_before.low
    assert "samples change" in str(report.flips)
    assert "outputs" in str(report.before)


@pytest.mark.parametrize(
    ("old", "new", "head", "setting", "error"),
    [
        (OLD.features, NEW, HEAD, {}, ArgumentError),
        (OLD, None, HEAD, {}, ArgumentError),
        (OLD, NEW, HEAD.weight, {}, ArgumentError),
        (OLD, NEW, LinearHead(MEANS[:, :5]), {}, ShapeError),
        (OLD, Task(NEW.features, NEW.targets[:, :2]), HEAD, {}, ShapeError),
        (OLD, labelled(5, (2, 3), 4, torch.float32), HEAD, {}, DtypeError),
        (OLD, NEW, HEAD, {"ridge": -1.0}, RidgeError),
        (OLD, NEW, HEAD, {"weight_decay": float("nan")}, RidgeError),
        (OLD, NEW, HEAD, {"training": 3}, ArgumentError),
        (OLD, NEW, HEAD, {"q": 1.5}, ArgumentError),
        (OLD, NEW, HEAD, {"top": -1}, ArgumentError),
        (OLD, NEW, HEAD, {"modes": 3}, ArgumentError),
        (OLD, NEW, HEAD, {"modes": ntkla.feature_modes(OLD.features)}, ShapeError),
        (OLD, NEW, HEAD, {"tol": 0.0}, ArgumentError),
    ],
)
def test_bad_input_is_named(old: object, new: object, head: object, setting: dict, error: type[Exception]) -> None:
    with pytest.raises(error):
        forecast(old, new, head, **{"ridge": 1.0, **setting})


@pytest.mark.parametrize("state", sorted(hostile_states()))
def test_ambient_state_changes_nothing_but_bits(state: str) -> None:
    """Each forecast holds under each hostile state, and differs from the ordinary one by no more than both bounds."""
    settings = {"ridge": 1.0, "training": GradientDescent(1e-4, 50, 0.9)}
    ordinary, before = forecast(OLD, NEW, HEAD, **settings), ambient_state()
    with hostile_states()[state]():
        hostile = forecast(OLD, NEW, HEAD, **settings)
    assert ambient_state() == before
    assert bool(((hostile.drift - ordinary.drift).abs() <= hostile.error_bound + ordinary.error_bound).all())
    assert float(hostile.accuracy_forecast) == float(ordinary.accuracy_forecast)
    assert hostile.r_90.value == ordinary.r_90.value


@pytest.mark.parametrize("training", [None, GradientFlow(1.0)])
def test_a_strict_forecast_raises_where_the_bound_misses_the_tolerance(training):
    assert forecast(OLD, NEW, HEAD, ridge=1.0, training=training, strict=True).status.certified
    with pytest.raises(NotCertifiedError, match="above_tolerance"):
        forecast(OLD, NEW, HEAD, ridge=1.0, training=training, tol=1e-300, strict=True)


def test_labels_and_names_that_are_none_are_named():
    predictions = ntkla.Predictions(torch.eye(3, dtype=torch.float64), torch.zeros((3, 3), dtype=torch.float64))
    assert float(predictions.accuracy(torch.arange(3))) == 1.0
    for labels, error in (
        ("x", ntkla.DtypeError),
        (torch.arange(2), ntkla.ShapeError),
        (torch.arange(1, 4), ntkla.LabelError),
    ):
        with pytest.raises(error, match="labels"):
            predictions.accuracy(labels)
    task = ntkla.Task(torch.ones((2, 1)), torch.ones((2, 1)))
    with pytest.raises(ntkla.ArgumentError, match="names of tasks as strings"):
        ntkla.forecast({1: task}, task, ntkla.LinearHead(torch.ones((1, 1))), ridge=1.0)
