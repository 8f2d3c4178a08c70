"""The post-mortem: what two stored heads really do, beside a forecast, against ball arithmetic and real training."""

from __future__ import annotations

import dataclasses
import json
import math
from fractions import Fraction

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from ntkla.forgetting.descent.training import GradientDescent
from ntkla.forgetting.forecast import forecast
from ntkla.forgetting.heads import LinearHead
from ntkla.forgetting.reports.post_mortem import post_mortem
from ntkla.forgetting.reports.post_mortem_result import AS_FORECAST, CLOSE, DIFFERENT, PostMortem
from ntkla.forgetting.tasks import Task
from ntkla.linalg.errors import ArgumentError, ScaleError, ShapeError
from ntkla.linalg.precision import gamma
from ntkla.testing import Exact, FeatureSpec, Problem, ambient_state, compare, hostile_states, problems
from ntkla.testing.balls import ball_matrix, design_matrix
from ntkla.testing.spectra import DTYPES, normal

CLASSES = 4
MEANS = normal(CLASSES, 6, 11)
TRAINING = GradientDescent(1e-4, 50, 0.9)


def labelled(n: int, classes: tuple[int, ...], seed: int) -> Task:
    labels = torch.tensor(classes)[torch.arange(n) % len(classes)]
    return Task.from_labels(3 * MEANS[labels] + normal(n, 6, seed), labels, CLASSES)


OLD, NEW = labelled(30, (0, 1), 1), labelled(25, (2, 3), 2)
HEAD = LinearHead(normal(CLASSES, 6, 3), normal(1, CLASSES, 4)[0])
REPORT = forecast(OLD, NEW, HEAD, ridge=1.0)


def moved(head: LinearHead, by: torch.Tensor, dtype: torch.dtype = torch.float64) -> LinearHead:
    """The head with `by` [K, C] added to its parameters, stored in some type."""
    now = (head.stacked() + by).to(dtype)
    features = head.weight.shape[1]
    return LinearHead(now[:features].T, None if head.bias is None else now[features])


def optimum(report=REPORT, head: LinearHead = HEAD) -> LinearHead:
    """The head of the forecast, rounded to float64."""
    return moved(head, torch.cat([report.forgetting.head_update.T, report.forgetting.bias_update[None]]))


def trained(dtype: torch.dtype, steps: int = TRAINING.steps) -> LinearHead:
    """What torch makes of the head."""
    layer = torch.nn.Linear(6, CLASSES, dtype=dtype)
    with torch.no_grad():
        layer.weight.copy_(HEAD.weight)
        layer.bias.copy_(HEAD.bias)
    optimizer = torch.optim.SGD(layer.parameters(), lr=TRAINING.lr, momentum=TRAINING.momentum)
    for _ in range(steps):
        optimizer.zero_grad()
        ((layer(NEW.features.to(dtype)) - NEW.targets.to(dtype)).square().sum() / 2).backward()
        optimizer.step()
    return LinearHead(layer.weight, layer.bias)


def exact_fact(old: Task, head: LinearHead, after: LinearHead) -> Exact:
    def compute():
        change = ball_matrix(after.select(old.outputs).stacked()) - ball_matrix(head.select(old.outputs).stacked())
        return design_matrix(old.features, head.bias is not None) * change

    return Exact(compute)


def text_of(found: PostMortem) -> str:
    """Its text, readable, and its dictionary, without a NaN."""
    text = str(found)
    assert max(len(line) for line in text.splitlines()) <= 100
    assert "tensor" not in text
    assert "nan" not in text
    assert "NaN" not in json.dumps(found.to_dict())
    return text


@given(problems(most=6), st.sampled_from((0.0, 1e-12, 1e-3, 1.0)), st.sampled_from(tuple(DTYPES)), st.booleans())
@example(Problem(FeatureSpec(2, 3), FeatureSpec(4, 3), outputs=3, bias=True), 1e-12, "float64", True)
def test_the_fact_is_within_its_bound(problem: Problem, size: float, dtype: str, part: bool) -> None:
    features, c = problem.new.features, problem.outputs
    bias = normal(1, c, problem.seed + 8)[0] if problem.bias else None
    head = LinearHead(normal(c, features, problem.seed + 7) * problem.head_scale, bias)
    outputs = torch.arange(0, c, 2).flip(0) if part else None
    old = Task(problem.features_old, outputs=outputs)
    new = Task(problem.features_new, problem.residual_new)
    report = forecast(old, new, head, ridge=problem.ridge)
    after = moved(head, size * normal(features + problem.bias, c, problem.seed), DTYPES[dtype])
    found = post_mortem(report, old, head, after)
    exact = exact_fact(old, head, after)
    judged = compare(found.drift, found.error_bound, exact, "the fact")
    assert judged.sound, judged
    value, bound = found.after.value, found.after.error_bound
    predicted = Exact(
        lambda: design_matrix(old.features, problem.bias) * ball_matrix(after.select(old.outputs).stacked())
    )
    assert compare(value, bound, predicted).sound
    text_of(found)


def test_a_difference_of_heads_that_no_float64_holds() -> None:
    """What the difference leaves over is in the bound."""
    after = LinearHead(torch.ones_like(HEAD.weight), HEAD.bias)
    head = LinearHead(HEAD.weight * 2.0**-30, HEAD.bias)
    found = post_mortem(forecast(OLD, NEW, head, ridge=1.0), OLD, head, after)
    assert compare(found.drift, found.error_bound, exact_fact(OLD, head, after)).sound
    assert found.status.certified


def test_training_really_does_what_was_forecast() -> None:
    report = forecast(OLD, NEW, HEAD, ridge=0.0, training=TRAINING)
    found = post_mortem(report, OLD, HEAD, trained(torch.float64))
    # What rounding each step can do: some hundred roundings of numbers no larger than predictions and drift.
    slack = gamma(100 * TRAINING.steps)
    assert found.relative_difference <= slack
    assert found.difference <= slack * float(torch.linalg.vector_norm(found.after.value))
    assert float(found.accuracy_after) == float(found.accuracy_forecast) == float(report.accuracy_forecast)
    assert int(found.flips.count) == int(found.flips_forecast)
    assert abs(found.cosine - 1) <= slack
    assert found.verdict in (AS_FORECAST, CLOSE)
    assert found.top_modes == report.r_90.high
    assert "the training that was forecast" in " ".join(text_of(found).split())
    assert [c.label for c in found.classes] == [0, 1]
    assert sum(c.samples * float(c.accuracy_after) for c in found.classes) / 30 == float(found.accuracy_after)


def test_training_in_float32_is_close_and_other_training_is_different() -> None:
    report = forecast(OLD, NEW, HEAD, ridge=0.0, training=TRAINING)
    rounded = post_mortem(report, OLD, HEAD, trained(torch.float32))
    assert rounded.verdict == CLOSE
    assert rounded.beyond_bounds > 0
    assert "to half of the digits" in " ".join(text_of(rounded).split())
    other = post_mortem(report, OLD, HEAD, trained(torch.float64, TRAINING.steps // 2))
    assert other.verdict == DIFFERENT
    assert other.norm_ratio > 1
    assert "not the training" in text_of(other)


def test_the_optimum_itself_is_as_forecast() -> None:
    found = post_mortem(REPORT, OLD, HEAD, optimum())
    limit = found.head_rounding + 2 * float(torch.linalg.vector_norm(REPORT.error_bound + found.error_bound))
    assert found.difference <= limit
    assert found.verdict in (AS_FORECAST, CLOSE)


@pytest.mark.parametrize("where", [(0, 0), (3, 5)])
def test_an_error_of_1e_8_in_a_head_is_seen(where: tuple[int, int]) -> None:
    right = optimum()
    weight = right.weight.clone()
    weight[where] += 1e-8
    found = post_mortem(REPORT, OLD, HEAD, LinearHead(weight, right.bias))
    baseline = post_mortem(REPORT, OLD, HEAD, right)
    assert found.beyond_bounds >= baseline.beyond_bounds + 1
    assert found.verdict != AS_FORECAST
    apart = (REPORT.drift - found.drift).flatten().tolist()
    limits = zip(REPORT.error_bound.flatten().tolist(), found.error_bound.flatten().tolist(), strict=True)
    certain = sum(abs(Fraction(d)) > Fraction(a) + Fraction(b) for d, (a, b) in zip(apart, limits, strict=True))
    assert found.beyond_bounds == certain


def test_energies_inside_and_outside_of_the_leading_modes() -> None:
    found = post_mortem(REPORT, OLD, HEAD, moved(HEAD, 1e-2 * normal(7, CLASSES, 9)))
    design = torch.cat([OLD.features, torch.ones(30, 1, dtype=torch.float64)], dim=1)
    leading = torch.linalg.svd(design).U[:, : found.top_modes]
    cases = [
        (REPORT.drift, found.inside_forecast, found.outside_forecast, REPORT.decomposition),
        (found.drift, found.inside_fact, found.outside_fact, found.decomposition),
    ]
    for drift, inside, outside, parts in cases:
        energy = float((leading.T @ drift).square().sum())
        rest = float((drift - leading @ (leading.T @ drift)).square().sum())
        slack = float(parts.energy_error.sum()) + parts.tail_error + gamma(1000) * parts.total
        assert abs(inside - energy) <= slack
        assert abs(outside - rest) <= slack
        assert abs(inside + outside - parts.total) <= slack
    share = found.inside_forecast / (found.inside_forecast + found.outside_forecast)
    assert share >= 0.9 * (1 - gamma(100))


def test_nothing_happened_and_nothing_was_forecast() -> None:
    """The new task does not train the old one's outputs: both drifts are exactly 0."""
    old = dataclasses.replace(OLD.select([0, 1]), targets=None, outputs=torch.tensor([1, 0]))
    labels = torch.tensor([2, 3])[torch.arange(25) % 2]
    new = Task.from_labels(NEW.features, labels, CLASSES, outputs=[2, 3])
    report = forecast(old, new, HEAD, ridge=1.0)
    same = post_mortem(report, old, HEAD, HEAD)
    assert (same.cosine, same.norm_ratio, same.relative_difference, same.relative_error) == (None, None, 0.0, 0.0)
    assert same.beyond_bounds == 0
    assert same.verdict == AS_FORECAST
    assert same.outputs.tolist() == [1, 0]
    assert "cosine" not in text_of(same)
    surprise = post_mortem(report, old, HEAD, moved(HEAD, torch.ones((7, CLASSES), dtype=torch.float64)))
    assert (surprise.cosine, surprise.norm_ratio) == (None, 0.0)
    assert surprise.verdict == DIFFERENT
    assert abs(surprise.relative_difference - 1) <= gamma(1000)
    text_of(surprise)


def test_a_training_that_did_not_happen() -> None:
    found = post_mortem(REPORT, OLD, HEAD, HEAD)
    assert (found.cosine, found.norm_ratio, found.relative_difference) == (None, None, math.inf)
    assert found.verdict == DIFFERENT
    assert float(found.accuracy_after) == float(found.accuracy_before)
    assert "did not move at all" in " ".join(text_of(found).split())


def test_infinite_bounds_agree_with_everything_and_say_nothing() -> None:
    twin = NEW.features.clone()
    twin[:, 1] = twin[:, 0]
    report = forecast(OLD, Task(twin, NEW.targets), HEAD, ridge=0.0)
    assert bool(torch.isinf(report.error_bound).all())
    found = post_mortem(report, OLD, HEAD, HEAD)
    assert found.beyond_bounds == 0
    assert found.verdict == DIFFERENT
    assert found.relative_error == math.inf
    assert post_mortem(report, OLD, HEAD, optimum(report)).verdict == CLOSE
    text_of(found)


def test_without_labels_and_one_of_everything() -> None:
    x = torch.full((1, 1), 2.0, dtype=torch.float64)
    old, head = Task(x), LinearHead(x)
    found = post_mortem(forecast(old, Task(x, x), head, ridge=1.0), old, head, LinearHead(x - 1))
    assert found.accuracy_after is None
    assert found.classes is None
    assert float(found.drift) == -2.0
    assert "accuracy" not in text_of(found)


TWO = Task(OLD.features[:2], labels=OLD.labels[:2])
BEYOND = LinearHead(torch.full((CLASSES, 6), 2.0**250, dtype=torch.float64), HEAD.bias)


@pytest.mark.parametrize(
    ("arguments", "error", "said"),
    [
        ((None, OLD, HEAD, HEAD), ArgumentError, "report: expected an ntkla.ForgettingReport"),
        ((REPORT, OLD.features, HEAD, HEAD), ArgumentError, "old: expected"),
        ((REPORT, OLD, HEAD.weight, HEAD), ArgumentError, "head: expected"),
        ((REPORT, OLD, HEAD, HEAD.weight), ArgumentError, "after: expected"),
        ((REPORT, OLD, HEAD, LinearHead(MEANS[:, :5], HEAD.bias)), ShapeError, "after.weight"),
        ((REPORT, OLD, HEAD, LinearHead(MEANS[:3], HEAD.bias[:3])), ShapeError, "after.weight"),
        ((REPORT, OLD, LinearHead(MEANS[:, :5]), HEAD), ShapeError, "old.features"),
        ((REPORT, OLD, HEAD, LinearHead(MEANS)), ArgumentError, "has a bias, this one no bias"),
        ((REPORT, TWO, HEAD, HEAD), ShapeError, "forecast of 2 old samples"),
        (
            (REPORT, dataclasses.replace(OLD, targets=None, outputs=torch.tensor([0, 1])), HEAD, HEAD),
            ShapeError,
            "in 2 out",
        ),
        (
            (REPORT, dataclasses.replace(OLD, targets=None, outputs=torch.tensor([0, 1, 2, 4])), HEAD, HEAD),
            ArgumentError,
            "old.outputs",
        ),
        ((REPORT, Task(OLD.features.flip(0)), HEAD, HEAD), ArgumentError, "do not belong together"),
        ((REPORT, OLD, optimum(), HEAD), ArgumentError, "do not belong together"),
        ((REPORT, OLD, HEAD, BEYOND), ScaleError, "drift"),
    ],
)
def test_what_does_not_belong_together_is_named(arguments: tuple, error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        post_mortem(*arguments)


def test_the_tolerance_is_checked_and_reported() -> None:
    with pytest.raises(ArgumentError):
        post_mortem(REPORT, OLD, HEAD, optimum(), tol=0.0)
    assert post_mortem(REPORT, OLD, HEAD, optimum(), tol=1e-300).status.code == "above_tolerance"


@pytest.mark.parametrize("state", sorted(hostile_states()))
def test_ambient_state_changes_nothing_but_bits(state: str) -> None:
    after = optimum()
    ordinary, before = post_mortem(REPORT, OLD, HEAD, after), ambient_state()
    with hostile_states()[state]():
        hostile = post_mortem(REPORT, OLD, HEAD, after)
    assert ambient_state() == before
    assert compare(hostile.drift, hostile.error_bound, exact_fact(OLD, HEAD, after)).sound
    assert bool(((hostile.drift - ordinary.drift).abs() <= hostile.error_bound + ordinary.error_bound).all())
    assert hostile.accuracy_after == ordinary.accuracy_after
    assert {hostile.verdict, ordinary.verdict} <= {AS_FORECAST, CLOSE}
