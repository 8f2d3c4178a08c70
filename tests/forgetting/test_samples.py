"""The samples that drift most: order, places and classes against exact arithmetic."""

from __future__ import annotations

import dataclasses
import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ntkla.forgetting.reports.samples import Home, SampleDrift, most_drifting
from ntkla.linalg.decisions import Decision
from ntkla.linalg.precision import gamma
from ntkla.testing.spectra import normal
from tests.forgetting.rational import Known, exactly, known, labels_for, within

OUTPUTS = torch.tensor([7, 2, 11])


@st.composite
def moved(draw: st.DrawFn) -> tuple[Known, Known, Known, torch.Tensor]:
    n = draw(st.integers(1, 6))
    return draw(known(n, 3)), draw(known(n, 3)), draw(known(n, 3)), draw(labels_for(n, 3))


def listed(before: Known, after: Known, drift: Known, labels: torch.Tensor | None, top: int) -> tuple[SampleDrift, ...]:
    return most_drifting(before.predictions(), after.predictions(), labels, OUTPUTS, drift.value, drift.bound, top)


def named(classes: set[int]) -> tuple[int, ...]:
    return tuple(OUTPUTS[j].item() for j in sorted(classes))


def judge(found: SampleDrift, before: Known, after: Known, drift: Known, labels: torch.Tensor) -> None:
    """One sample: its norm is within its error, its true place in the interval, its classes those that are possible."""
    i, squares = found.index, drift.squares()
    assert found.label == OUTPUTS[labels[i]].item()
    assert within(found.norm, found.norm_error, squares[i])
    assert 1 + sum(square > squares[i] for square in squares) in found.place
    first, second = before.possible()[i], after.possible()[i]
    assert (found.classes_before, found.classes_after) == (named(first), named(second))
    stays = first == second and len(first) == 1
    assert found.flip == ("certain" if not first & second else "impossible" if stays else "undecided")


@given(moved(), st.integers(0, 8))
def test_every_sample_is_what_exact_arithmetic_says(problem, top: int) -> None:
    found = listed(*problem, top)
    assert len({s.index for s in found}) == len(found) == min(top, problem[0].value.shape[0])
    for one in found:
        judge(one, *problem)
    assert [s.norm for s in found] == sorted((s.norm for s in found), reverse=True)
    if found:
        rest = set(range(problem[0].value.shape[0])) - {s.index for s in found}
        computed = [sum(v * v for v in row) for row in exactly(problem[2].value)]
        assert all(computed[i] <= computed[found[-1].index] for i in rest)


@given(st.integers(1, 9), st.integers(0, 2**20))
def test_places_are_decided_where_norms_differ_and_are_known(n: int, seed: int) -> None:
    value = normal(n, 3, seed)
    exact = Known(value, torch.zeros_like(value), exactly(value))
    found = listed(exact, exact, exact, None, n)
    norms = [s.norm for s in found]
    apart = all(a > b * (1 + gamma(200)) for a, b in itertools.pairwise(norms))
    assert not apart or [s.place for s in found] == [Decision(i, i) for i in range(1, n + 1)]
    assert {s.label for s in found} == {None}


def test_the_judge_sees_what_is_planted() -> None:
    value = torch.tensor([[1.0, 0.0, 0.0], [0.0, 3.0, 0.5]], dtype=torch.float64)
    exact = Known(value, torch.zeros_like(value), exactly(value))
    problem = exact, exact, exact, torch.tensor([0, 1])
    first, second = listed(*problem, 2)
    assert (first.index, second.index) == (1, 0)
    judge(first, *problem)
    wrong = [
        {"norm": first.norm * (1 + 1e-8)},
        {"place": Decision(2, 2)},
        {"classes_after": (7,)},
        {"flip": "certain"},
        {"label": 7},
        {"index": 0},
    ]
    for change in wrong:
        with pytest.raises(AssertionError):
            judge(dataclasses.replace(first, **change), *problem)


def test_close_norms_leave_the_order_open() -> None:
    value = torch.tensor([[2.0, 0, 0], [1.75, 0, 0], [0.25, 0, 0]], dtype=torch.float64)
    wide = Known(value, torch.full_like(value, 0.125), exactly(value))
    assert [s.place for s in listed(wide, wide, wide, None, 3)] == [Decision(1, 2), Decision(1, 2), Decision(3, 3)]
    unknown = Known(value, torch.full_like(value, math.inf), exactly(value))
    for sample in listed(unknown, unknown, unknown, None, 3):
        assert sample.place == Decision(1, 3)
        assert sample.flip == "undecided"
        assert sample.norm_error == math.inf
        assert sample.classes_before == (7, 2, 11)


def test_equal_samples_come_in_the_order_of_their_rows() -> None:
    value = torch.ones((5, 3), dtype=torch.float64)
    same = Known(value, torch.zeros_like(value), [])
    assert [s.index for s in listed(same, same, same, None, 3)] == [0, 1, 2]


def test_homes_are_asked_for_once_and_told() -> None:
    value = torch.tensor([[1.0, 0.0, 0.0], [0.0, 2.0, 0.0]], dtype=torch.float64)
    state = Known(value, torch.zeros_like(value), []).predictions()
    asked: list[list[int]] = []

    def homes(rows: torch.Tensor) -> list[Home]:
        asked.append(rows.tolist())
        return [Home((0, 1), 0.75, 1.0), Home((3, 5), 0.5, 0.625)]

    args = state, state, torch.tensor([0, 1]), OUTPUTS, value, torch.zeros_like(value), 2
    first, second = most_drifting(*args, homes=homes)
    assert asked == [[1, 0]]
    assert (first.modes, first.share_low, first.share_high) == ((0, 1), 0.75, 1.0)
    assert str(first) == "sample 1 (label 2): drift 2, class 2 -> 2, flip impossible, mode 1 holds 0.75 of it"
    assert str(second).endswith("modes 4 to 5 hold 0.5 of it")
    without, _ = most_drifting(*args)
    assert (without.modes, without.share_low, without.share_high) == (None, 0.0, 1.0)
    assert without.to_dict()["place"] == {"low": 1, "high": 1}
