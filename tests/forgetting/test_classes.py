"""Each class by itself: counts against exact arithmetic, and a drift whose bound holds."""

from __future__ import annotations

import dataclasses
import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ntkla.forgetting.reports.classes import ClassForgetting, per_class
from ntkla.linalg.decisions import Decision
from ntkla.linalg.precision import TINY64, gamma
from ntkla.testing.spectra import normal
from tests.forgetting.rational import Known, known, labels_for, within

NAMES = torch.tensor([7, 2, 11])


@st.composite
def moved(draw: st.DrawFn) -> tuple[Known, Known, Known, torch.Tensor]:
    """Predictions before and after, a drift, and labels."""
    n = draw(st.integers(1, 7))
    return draw(known(n, 3)), draw(known(n, 3)), draw(known(n, 3)), draw(labels_for(n, 3))


def classes_of(before: Known, after: Known, drift: Known, labels: torch.Tensor) -> tuple[ClassForgetting, ...]:
    return per_class(before.predictions(), after.predictions(), labels, NAMES, drift.value, drift.bound)


def decided(certain: int, possible: int, samples: int = 1) -> Decision:
    return Decision(certain / samples, possible / samples)


def judge(found: ClassForgetting, before: Known, after: Known, drift: Known, labels: torch.Tensor) -> None:
    """One class: what is decided is what the bounds decide in exact arithmetic, and the truth is inside."""
    rows = [i for i, label in enumerate(labels.tolist()) if NAMES[label] == found.label]
    label = NAMES.tolist().index(found.label)
    assert found.samples == len(rows)
    for state, accuracy in ((before, found.accuracy_before), (after, found.accuracy_after)):
        possible, really = state.possible(), state.classes()
        hits = [label in possible[i] for i in rows]
        sure = [possible[i] == {label} for i in rows]
        assert accuracy == decided(sum(sure), sum(hits), len(rows))
        assert sum(really[i] == {label} for i in rows) / len(rows) <= accuracy.high
        assert sum(label in really[i] for i in rows) / len(rows) >= accuracy.low
    first, second = before.possible(), after.possible()
    certain = sum(not first[i] & second[i] for i in rows)
    stay = sum(first[i] == second[i] and len(first[i]) == 1 for i in rows)
    assert found.flips == decided(certain, len(rows) - stay)
    unique = [i for i in rows if len(before.classes()[i]) == len(after.classes()[i]) == 1]
    changed = sum(before.classes()[i] != after.classes()[i] for i in unique)
    assert changed <= found.flips.high
    assert changed + len(rows) - len(unique) >= found.flips.low
    mean = sum((drift.squares()[i] for i in rows), Fraction(0)) / (3 * len(rows))
    assert within(found.drift_rms, found.drift_error, mean)


@given(moved())
def test_every_count_is_what_exact_arithmetic_says(problem) -> None:
    found = classes_of(*problem)
    labels = problem[3].tolist()
    assert [c.label for c in found] == [NAMES[j].item() for j in sorted(set(labels))]
    for one in found:
        judge(one, *problem)


def test_the_judge_sees_what_is_planted() -> None:
    value = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.5]], dtype=torch.float64)
    bound = torch.full_like(value, 0.25)
    truth = [[Fraction(v) for v in row] for row in value.tolist()]
    before, after = Known(value, bound, truth), Known(value.flip(1), bound, [row[::-1] for row in truth])
    drift = Known(value, torch.zeros_like(value), truth)
    problem = before, after, drift, torch.tensor([0, 0])
    (found,) = classes_of(*problem)
    judge(found, *problem)
    wrong = [
        {"samples": 3},
        {"accuracy_before": Decision(1.0, 1.0)},
        {"accuracy_after": Decision(0.5, 0.5)},
        {"flips": Decision(2, 2)},
        {"drift_rms": found.drift_rms * (1 + 1e-8)},
    ]
    for change in wrong:
        with pytest.raises(AssertionError):
            judge(dataclasses.replace(found, **change), *problem)


def test_a_tie_and_an_infinite_bound_decide_nothing() -> None:
    value = torch.tensor([[0.5, 0.5, 0.0]], dtype=torch.float64)
    tie = Known(value, torch.zeros_like(value), [])
    open_ = Known(value, torch.full_like(value, math.inf), [])
    (found,) = classes_of(tie, open_, open_, torch.tensor([1]))
    assert found.accuracy_before == found.accuracy_after == found.flips == Decision(0, 1)
    assert found.drift_error == math.inf
    assert abs(found.drift_rms - math.sqrt(1 / 6)) <= gamma(100)
    assert str(found) == "class 2: 1 samples, accuracy [0, 1] -> [0, 1], [0, 1] flips, drift 0.4082"


@pytest.mark.parametrize("scale", [1e-300, 1e-160, 1.0, 1e70])
def test_the_drift_of_a_class_keeps_its_digits_at_every_scale(scale: float) -> None:
    drift = normal(40, 3, 5) * scale
    labels = torch.arange(40) % 2
    zero = torch.zeros_like(drift)
    state = Known(normal(40, 3, 6), zero, []).predictions()
    for found, part in zip(per_class(state, state, labels, NAMES, drift, zero), (drift[::2], drift[1::2]), strict=True):
        assert within(found.drift_rms, found.drift_error, sum(Fraction(v) ** 2 for v in part.flatten().tolist()) / 60)
        assert found.drift_error <= gamma(8 * 60) * found.drift_rms + 60 * TINY64


def test_classes_add_up_to_the_task() -> None:
    before, after = (Known(normal(30, 3, seed), torch.zeros(30, 3, dtype=torch.float64), []) for seed in (1, 2))
    labels = torch.arange(30) % 3
    zero = torch.zeros((30, 3), dtype=torch.float64)
    found = classes_of(before, after, Known(after.value - before.value, zero, []), labels)
    assert sum(round(float(c.accuracy_after) * c.samples) for c in found) == int(
        (after.value.argmax(1) == labels).sum()
    )
    assert sum(int(c.flips) for c in found) == int((before.value.argmax(1) != after.value.argmax(1)).sum())
    assert {c.label for c in found} == {7, 2, 11}
    assert found[0].to_dict()["flips"]["low"] == found[0].flips.low
