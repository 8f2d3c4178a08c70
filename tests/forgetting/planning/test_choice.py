"""The front and the recommendation against brute force over all pairs of points, ties and open decisions included."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import ntkla
from ntkla.forgetting.planning.choice import Choice, unit_of
from ntkla.forgetting.planning.columns import Scores, TaskColumns
from ntkla.forgetting.planning.result import CLOSEST, SATISFIED
from ntkla.linalg.decisions import Decision
from ntkla.linalg.precision import SHORT_CHAIN
from tests.forgetting.planning.problems import problem, stable_lr

SAMPLES = 4
POINT = st.tuples(*[st.integers(0, SAMPLES)] * 3, *[st.integers(0, 1)] * 3, st.integers(0, 3), st.booleans())


def columns(hits: list[int], open_: list[int], losses: list[int]) -> TaskColumns:
    low = torch.tensor(hits, dtype=torch.int64, device="cpu")
    high = (low + torch.tensor(open_, dtype=torch.int64, device="cpu")).clamp(max=SAMPLES)
    loss = torch.tensor(losses, dtype=torch.float64, device="cpu")
    none = torch.zeros_like(loss)
    return TaskColumns(SAMPLES, 2, loss, none, loss, none, low, high, none.long(), none.long())


def choice_of(points: list[tuple[object, ...]], on: str) -> Choice:
    first, second, new, open_first, open_second, open_new, losses, diverges = (
        list(x) for x in zip(*points, strict=True)
    )
    olds = {"a": columns(first, open_first, losses), "b": columns(second, open_second, losses)}
    before = {name: Scores(0.0, 0.0, Decision(0.75, 0.75)) for name in olds}
    return Choice.among(olds, before, columns(new, open_new, losses), torch.tensor(diverges, device="cpu"), on)


@given(st.lists(POINT, min_size=1, max_size=9), st.sampled_from(["worst", "mean"]))
def test_the_front_is_what_no_other_point_beats(points: list[tuple[object, ...]], on: str) -> None:
    choice = choice_of(points, on)
    combine = max if on == "worst" else lambda lost: sum(lost) / len(lost)
    sides = []
    for first, second, new, *_, loss, diverges in points:
        lost = combine([(3 - hits) / SAMPLES for hits in (first, second)])
        sides.append((float("inf") if diverges else lost, new / SAMPLES, loss))
    assert [
        (f, g, w)
        for f, g, w in zip(*map(torch.Tensor.tolist, (choice.forgotten, choice.gained, choice.loss)), strict=True)
    ] == sides
    front = choice.front()
    stable = [n for n in range(len(sides)) if sides[n][0] < float("inf")]

    def beaten(n: int) -> bool:
        lost, gained, _ = sides[n]
        return any(sides[m][0] <= lost and sides[m][1] >= gained and sides[m][:2] != (lost, gained) for m in stable)

    assert {sides[n][:2] for n in front} == {sides[n][:2] for n in stable if not beaten(n)}
    assert len({sides[n][:2] for n in front}) == len(front)
    for n in front:
        assert sides[n][2] == min(sides[m][2] for m in stable if sides[m][:2] == sides[n][:2])
    assert all(sides[n][0] < sides[m][0] for n, m in itertools.pairwise(front))


def test_the_recommendation_is_the_best_that_keeps_to_it() -> None:
    dense = problem()
    test = dense.new
    found = ntkla.plan(
        dense.olds, dense.new, dense.head, ridges=[0.1, 10.0, 1000.0], strengths=[0, 0.1, 1], modes=[1, 3, 8],
        steps=[None, 5], lr=stable_lr(dense, 0.1), new_test=test,
    )  # fmt: skip
    for allowed, on in itertools.product([0.0, 0.02, 0.1, 0.5, 1.0], ["worst", "mean"]):
        said = found.recommend(allowed, on)
        kept = []
        for point in found.points:
            lost = [found.before.old[name].accuracy.high - one.accuracy.low for name, one in point.old.items()]
            forgotten = max(lost) if on == "worst" else sum(lost) / len(lost)
            if forgotten <= allowed * SHORT_CHAIN:
                kept.append((point.new_test.accuracy.low, -point.new_test.loss))
        assert said.satisfied == bool(kept)
        if kept:
            assert (said.point.new_test.accuracy.low, -said.point.new_test.loss) >= max(kept)[:1]
            assert said.point.new_test.accuracy.low == max(kept)[0]
            assert said.forgotten <= allowed
            assert said.point.number in {point.number for point in found.front(on)}


def test_a_share_of_the_samples_that_is_met_exactly_counts() -> None:
    """Two of 200 samples are one percent, whatever 0.97 less 0.96 is in floating point."""
    for hits in range(2, 201):
        low = torch.tensor([hits - 2], dtype=torch.int64, device="cpu")
        none = torch.zeros(1, dtype=torch.float64, device="cpu")
        old = TaskColumns(200, 2, none, none, none, none, low, low, low, low)
        before = {"a": Scores(0.0, 0.0, Decision(hits / 200, hits / 200))}
        choice = Choice.among({"a": old}, before, old, torch.zeros(1, dtype=torch.bool, device="cpu"))
        assert float(choice.forgotten) == 0.01


def test_when_nothing_keeps_to_it_the_closest_is_told() -> None:
    dense = problem()
    found = ntkla.plan(dense.olds, dense.new, dense.head, ridges=[1e-3, 1e-2])
    said = found.recommend(0.0)
    assert said.status.code == CLOSEST
    assert said.forgotten == float(found.forgotten().min()) > 0
    assert "no point of the grid" in str(said)
    assert found.recommend(1.0).status.code == SATISFIED
    assert "recommended" in str(found)


def test_the_unit_is_what_all_old_tasks_have() -> None:
    dense = problem()
    first, second = dense.olds.values()
    arguments = {"new_task": dense.new, "head": dense.head, "ridges": [0.1, 10.0], "strengths": [1.0], "modes": [3]}
    units = []
    for old in (first, ntkla.Task(first.features, first.targets), ntkla.Task(first.features)):
        found = ntkla.plan({"a": old, "b": second}, **arguments)
        units.append(unit_of(found.points.old))
        said = found.recommend(1e6)
        assert said.satisfied
        assert said.unit == units[-1]
        point = said.point
        if said.unit == "loss":
            grown = [one.loss - found.before.old[name].loss for name, one in point.old.items()]
            assert said.forgotten >= max(grown)
        if said.unit == "drift":
            assert said.forgotten >= max(one.drift_rms for one in point.old.values())
        assert str(said)
        assert str(found)
    assert units == ["accuracy", "loss", "drift"]


def test_wrong_wishes_are_named() -> None:
    dense = problem()
    found = ntkla.plan(dense.olds, dense.new, dense.head, ridges=[1.0])
    with pytest.raises(ntkla.ArgumentError, match="max_forgetting: expected a number >= 0"):
        found.recommend(-0.1)
    with pytest.raises(ntkla.ArgumentError, match="on: expected one of"):
        found.recommend(0.1, on="best")
    with pytest.raises(ntkla.ArgumentError, match="on: expected one of"):
        found.front(on="all")
