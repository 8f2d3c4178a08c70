"""Every point of small plans against a dense float64 solve or the optimiser's own steps, and what cannot be planned."""

from __future__ import annotations

import json

import pytest
import torch

import ntkla
from ntkla.forgetting.planning.plan import plan
from ntkla.forgetting.planning.points import DIVERGES, PlanPoint
from ntkla.linalg.decisions import Decision
from ntkla.linalg.precision import PLAN_TOLERANCE, gamma
from ntkla.testing import ambient_state, hostile_states
from tests.forgetting.planning.dense import Dense, Facts, design
from tests.forgetting.planning.problems import classes_of, problem, stable_lr

RIDGES = (0.1, 3.0)
# What the reference itself loses: its products, and a solve whose condition is at most so large.
_OPERATIONS, _CONDITION = 10_000, 1e5
SLACK = gamma(_OPERATIONS) * _CONDITION


def close(value: float, error: float, expected: float, scale: float) -> bool:
    return abs(value - expected) <= error + SLACK * scale


def check_point(point: PlanPoint, dense: Dense, test: ntkla.Task | None = None) -> None:
    change = dense.update(point)
    outcomes = [(point.new, dense.new), *((point.old[name], task) for name, task in dense.olds.items())]
    if test is not None:
        assert point.new_test is not None
        outcomes.append((point.new_test, test))
    for outcome, task in outcomes:
        facts = Facts.of(dense, task, change)
        scale = float(torch.linalg.vector_norm(facts.before)) + facts.drift
        assert close(outcome.drift, outcome.drift_error, facts.drift, scale), point
        assert close(outcome.loss, outcome.loss_error, facts.loss, scale**2), point
        assert facts.accuracy in outcome.accuracy, point
        assert facts.flips in outcome.flips, point
        mean = outcome.drift / facts.after.numel() ** 0.5
        assert abs(outcome.drift_rms - mean) <= gamma(8) * mean


def grid_of(dense: Dense) -> dict[str, object]:
    lr = stable_lr(dense, 0.05)
    trainings = (
        None,
        7,
        200,
        ntkla.GradientDescent(lr, 50, momentum=0.9),
        ntkla.GradientDescent(lr, 51, momentum=0.5, nesterov=True),
        ntkla.GradientFlow(30 * lr),
    )
    return {"ridges": RIDGES, "weights": (0.0, 0.5, 4.0), "modes": (1, 4), "steps": trainings, "lr": lr}


@pytest.mark.parametrize(
    "setting",
    [
        {},
        {"bias": False},
        {"heads": "overlapping"},
        {"heads": "own", "weighted": True},
        {"penalize_bias": False},
        {"penalize_bias": False, "heads": "overlapping"},
        {"dtype": torch.float32, "weighted": True},
        {"features": 90},
    ],
)
def test_every_point_is_what_training_makes(setting: dict[str, object]) -> None:
    dense = problem(**setting)
    found = plan(dense.olds, dense.new, dense.head, penalize_bias=dense.penalize_bias, **grid_of(dense))
    assert len(found.points) == 2 * 5 * 6
    for point in found.points:
        assert point.status.certified, point
        assert point.relative_bound <= PLAN_TOLERANCE
        check_point(point, dense)


def test_probes_of_their_own_and_test_samples() -> None:
    dense = problem()
    probes = {"first": dense.olds["first"].features[:9], "second": classes_of([2, 3], 40, 12, 7, torch.float64)[0]}
    dense = Dense(dense.olds, dense.new, dense.head, probes=probes)
    test = ntkla.Task.from_labels(*classes_of([4, 5], 30, 12, 11, torch.float64), 6)
    found = plan(
        dense.olds, dense.new, dense.head, ridges=RIDGES, weights=(2.0,), modes=(5,), probes=probes, new_test=test
    )
    for point in found.points:
        assert point.modes_kept == {"first": 5, "second": 5}
        check_point(point, dense, test)


def test_probes_may_be_rows_of_the_task() -> None:
    dense = problem()
    rows, asked = torch.tensor([3, 0, 11, 7], dtype=torch.int32, device="cpu"), {"weights": (2.0,), "modes": (3,)}
    named = plan(dense.olds, dense.new, dense.head, ridges=RIDGES, probes={"first": rows}, **asked)
    given = {"first": dense.olds["first"].features[rows.long()]}
    features = plan(dense.olds, dense.new, dense.head, ridges=RIDGES, probes=given, **asked)
    for one, other in zip(named.points, features.points, strict=True):
        assert (one.old, one.modes_kept) == (other.old, other.modes_kept)
        check_point(one, Dense(dense.olds, dense.new, dense.head, probes=given))


def test_old_tasks_judged_by_other_samples() -> None:
    dense = problem()
    test = ntkla.Task.from_labels(*classes_of([0, 1], 30, 12, 12, torch.float64), 6)
    found = plan(
        dense.olds, dense.new, dense.head, ridges=RIDGES, strengths=[0, 1], modes=[5], old_tests={"first": test}
    )
    for point in found.points:
        assert point.weight in (0.0, 6 * 5 / 2)
        facts = Facts.of(dense, test, dense.update(point))
        outcome = point.old["first"]
        assert close(outcome.drift, outcome.drift_error, facts.drift, facts.drift)
        assert facts.accuracy in outcome.accuracy
    assert found.points.old["first"].samples == 30


def test_the_decisions_are_decided() -> None:
    """On an ordinary problem no accuracy and no count of flips is left open."""
    dense = problem()
    for point in plan(dense.olds, dense.new, dense.head, **grid_of(dense)).points:
        for outcome in (point.new, *point.old.values()):
            assert outcome.accuracy.decided
            assert outcome.flips.decided


def test_before_and_the_joint_optimum() -> None:
    for setting in ({}, {"weighted": True, "heads": "overlapping"}, {"penalize_bias": False}):
        dense = problem(**setting)
        found = plan(dense.olds, dense.new, dense.head, ridges=RIDGES, penalize_bias=dense.penalize_bias)
        still = torch.zeros_like(dense.head.stacked())
        for name, task in {**dense.olds, "new": dense.new}.items():
            standing = found.before.old.get(name, found.before.new)
            facts = Facts.of(dense, task, still)
            assert close(standing.loss, standing.loss_error, facts.loss, 1.0)
            assert facts.accuracy in standing.accuracy
            assert standing.accuracy.decided or name == "new"  # outputs that are all zeros tie
            for one in found.joint:
                facts = Facts.of(dense, task, dense.joint(one.ridge), whole=True)
                scores = one.old.get(name, one.new)
                assert close(scores.loss, scores.loss_error, facts.loss, 1.0), (setting, name)
                assert facts.accuracy in scores.accuracy
        assert [one.ridge for one in found.joint] == sorted(RIDGES)


def test_all_modes_of_all_old_samples_are_the_joint_optimum() -> None:
    """The identity of issue 6: W_A the ridge optimum of A, weight C k / 2, every mode, ridge counted once."""
    dense, ridge = problem(), 2.0
    old = dense.olds["first"]
    x = design(old.features, True)
    fitted = torch.linalg.solve(
        x.T @ x + ridge * torch.eye(x.shape[1], dtype=torch.float64, device="cpu"), x.T @ old.targets
    )
    head = ntkla.LinearHead(fitted[:-1].T, fitted[-1])
    rank = x.shape[1]
    found = plan(old, dense.new, head, ridges=[ridge], weights=[6 * rank / 2], modes=[rank])
    point, joint = found.points[0], found.joint[0]
    assert point.modes_kept == {"old": rank}
    for one, other in ((point.new, joint.new), (point.old["old"], joint.old["old"])):
        assert close(one.loss, one.loss_error + other.loss_error, other.loss, 1.0)
        assert one.accuracy == other.accuracy


def test_points_with_the_same_meaning_are_there_once() -> None:
    dense = problem()
    found = plan(
        dense.olds, dense.new, dense.head, ridges=(1.0, 1), weights=(0, 0.0, 1.0), modes=(0, 2, 2), steps=(None, None)
    )
    assert [(p.weight, p.modes) for p in found.points] == [(0.0, 0), (1.0, 2)]
    assert found.points.weight.tolist() == [0.0, 1.0]
    assert found.points.modes.tolist() == [0, 2]
    assert found.points.ridge.tolist() == [1.0, 1.0]


def test_modes_beyond_the_rank_are_clamped_and_told() -> None:
    dense = problem(bias=False)
    thin = {"first": dense.olds["first"].features[:3].repeat(2, 1)}
    found = plan(dense.olds, dense.new, dense.head, ridges=[1.0], weights=[1.0], modes=[2, 500], probes=thin)
    assert [dict(p.modes_kept) for p in found.points] == [{"first": 2, "second": 2}, {"first": 3, "second": 12}]


def test_probes_of_zeros_protect_nothing() -> None:
    dense = problem(bias=False)
    nothing = {name: torch.zeros_like(task.features) for name, task in dense.olds.items()}
    found = plan(dense.olds, dense.new, dense.head, ridges=[1.0], weights=[0.0, 5.0], modes=[3], probes=nothing)
    free, held = found.points
    assert dict(held.modes_kept) == {"first": 0, "second": 0}
    assert held.new == free.new


def test_the_same_task_twice() -> None:
    dense = problem()
    first = dense.olds["first"]
    found = plan([first, first], dense.new, dense.head, ridges=[1.0], weights=[3.0], modes=[4])
    point = found.points[0]
    assert point.old["old 1"] == point.old["old 2"]
    check_point(point, Dense({"old 1": first, "old 2": first}, dense.new, dense.head))


def test_a_head_of_its_own_forgets_nothing() -> None:
    dense = problem(heads="own")
    found = plan(dense.olds, dense.new, dense.head, ridges=[1.0], weights=[0.0, 1.0], modes=[3])
    for point in found.points:
        assert dict(point.modes_kept) == {"first": 0, "second": 0}
        for name, outcome in point.old.items():
            assert (outcome.drift, outcome.drift_error, outcome.flips) == (0.0, 0.0, Decision(0, 0))
            assert outcome.accuracy == found.before.old[name].accuracy


def test_a_rate_that_diverges_at_some_points_only() -> None:
    dense = problem()
    lr = stable_lr(dense, 0.9)
    found = plan(
        dense.olds, dense.new, dense.head, ridges=[0.1], weights=[0.0, 1e6], modes=[2], steps=[None, 20], lr=lr
    )
    statuses = [point.status.code for point in found.points]
    assert statuses == ["certified", "certified", "certified", DIVERGES]
    last = found.points[-1]
    assert 0 < last.largest_stable_lr < lr
    assert last.new.loss == last.new.drift == float("inf")
    assert not last.new.accuracy.decided
    assert found.points.diverges.tolist() == [False, False, False, True]
    assert last.number not in [point.number for point in found.pareto]
    again = plan(
        dense.olds, dense.new, dense.head, ridges=[0.1], weights=[1e6], modes=[2], steps=[20], lr=last.largest_stable_lr
    )
    assert again.points[0].status.certified
    with pytest.raises(ntkla.TrainingDivergesError, match="every point") as caught:
        plan(dense.olds, dense.new, dense.head, ridges=[0.1], weights=[1e6], modes=[2], steps=[20], lr=lr)
    assert caught.value.largest_stable_lr == last.largest_stable_lr


def test_no_ridge() -> None:
    dense = problem(features=90)
    lr = stable_lr(dense)
    found = plan(dense.olds, dense.new, dense.head, ridges=[0.0], steps=[None, 30], lr=lr)
    optimum, stopped = found.points
    assert optimum.status.code == "rank_deficient"
    assert optimum.relative_bound == float("inf")
    assert not optimum.old["first"].accuracy.decided
    assert stopped.status.certified
    check_point(stopped, dense)
    regular = problem()
    point = plan(regular.olds, regular.new, regular.head, ridges=[0.0]).points[0]
    assert point.status.certified
    check_point(point, regular)


def test_without_labels_and_targets() -> None:
    dense = problem()
    bare = {name: ntkla.Task(task.features) for name, task in dense.olds.items()}
    found = plan(bare, ntkla.Task(dense.new.features, dense.new.targets), dense.head, ridges=RIDGES)
    assert found.joint is None
    for point in found.points:
        assert point.new.accuracy is None
        assert point.old["first"].loss is None
        facts = Facts.of(dense, dense.olds["first"], dense.update(point))
        assert facts.flips in point.old["first"].flips
    assert "neither" not in str(found)


def test_one_output_and_one_sample() -> None:
    x = torch.tensor([[1.0, 2.0]], dtype=torch.float64)
    y = torch.tensor([[3.0]], dtype=torch.float64)
    head = ntkla.LinearHead(torch.zeros((1, 2), dtype=torch.float64))
    point = plan(ntkla.Task(x, y), ntkla.Task(x, y), head, ridges=[1.0], weights=[2.0], modes=[9]).points[0]
    # S = x^T x, penalty 2 * 2 / 1 of it, so along x the update is 3 sqrt(5) / (5 + 20 + 1).
    assert abs(point.new.drift - 15 / 26) <= point.new.drift_error + gamma(8)
    assert point.old["old"].flips == Decision(0, 0)


def test_tighter_tolerances_are_reached() -> None:
    dense = problem()
    tight = plan(dense.olds, dense.new, dense.head, tol=1e-12, **grid_of(dense))
    loose = plan(dense.olds, dense.new, dense.head, **grid_of(dense))
    assert float(tight.points.relative_bound.max()) < float(loose.points.relative_bound.max())
    apart = (tight.points.new.drift - loose.points.new.drift).abs()
    assert bool((apart <= tight.points.new.drift_error + loose.points.new.drift_error).all())


@pytest.mark.parametrize("state", sorted(hostile_states()))
def test_ambient_state_changes_nothing(state: str) -> None:
    dense = problem(dtype=torch.float32)
    plain = plan(dense.olds, dense.new, dense.head, **grid_of(dense)).points
    before = ambient_state()
    with hostile_states()[state]():
        inside = ambient_state()
        found = plan(dense.olds, dense.new, dense.head, **grid_of(dense)).points
        assert ambient_state() == inside
    assert ambient_state() == before
    for one, other in ((plain.new, found.new), (plain.old["first"], found.old["first"])):
        assert torch.equal(one.hits_low, other.hits_low.clone())
        assert bool(((one.drift - other.drift.clone()).abs() <= one.drift_error + other.drift_error.clone()).all())


def test_progress_is_told() -> None:
    dense, told = problem(), []
    plan(dense.olds, dense.new, dense.head, **grid_of(dense), progress=lambda done, total: told.append((done, total)))
    assert [done for done, _ in told] == list(range(1, len(told) + 1))
    assert told[-1][0] == told[-1][1]


def test_it_reads_well_and_goes_through_json() -> None:
    dense = problem()
    found = plan(dense.olds, dense.new, dense.head, **grid_of(dense))
    assert "60 points: 2 ridges, 5 protections, 6 trainings" in str(found)
    assert "recommended" in str(found)
    assert max(len(line) for line in str(found).splitlines()) <= 160
    again = json.loads(json.dumps(found.to_dict()))
    assert len(again["points"]) == 60
    assert again["points"][3]["old"]["first"]["loss"] == found.points[3].old["first"].loss
    assert again["pareto"] == [point.number for point in found.pareto]
    assert "certified" in str(found.points[0])


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"ridges": []}, ntkla.ArgumentError, "ridges: expected at least one"),
        ({"ridges": [-1.0]}, ntkla.RidgeError, "ridges"),
        ({"ridges": None}, ntkla.RidgeError, "ridges"),
        ({"weights": [-1.0]}, ntkla.ArgumentError, "weights: expected numbers "),
        ({"weights": ()}, ntkla.ArgumentError, "weights: expected at least one"),
        ({"weights": [1.0]}, ntkla.ArgumentError, "modes: a weight above 0 protects modes"),
        ({"weights": [1.0], "modes": [-1]}, ntkla.ArgumentError, "modes: expected an integer >= 0"),
        ({"weights": [1.0], "modes": [1.5]}, ntkla.ArgumentError, "modes: expected an integer"),
        ({"steps": ()}, ntkla.ArgumentError, "steps: expected at least one"),
        ({"steps": [5]}, ntkla.ArgumentError, "lr: a number of steps needs"),
        ({"steps": [0], "lr": 0.1}, ntkla.ArgumentError, "steps: expected an integer >= 1"),
        ({"steps": ["all"]}, ntkla.ArgumentError, "training: expected"),
        ({"steps": [5], "lr": -1.0}, ntkla.ArgumentError, "lr"),
        ({"steps": [5], "lr": 0.1, "momentum": 1.0}, ntkla.ArgumentError, "momentum"),
        ({"probes": {"third": torch.zeros(2, 12)}}, ntkla.ArgumentError, "probes: expected a mapping"),
        ({"probes": {"first": torch.zeros(2, 5)}}, ntkla.ShapeError, "probes"),
        ({"probes": {"first": torch.zeros(2, 12)}}, ntkla.DtypeError, "one dtype"),
        ({"probes": {"first": torch.tensor([60])}}, ntkla.ArgumentError, "0 to 59"),
        ({"probes": {"first": torch.tensor([-1])}}, ntkla.ArgumentError, "0 to 59"),
        ({"probes": {"first": torch.tensor([[1]])}}, ntkla.ArgumentError, "one dimension"),
        ({"probes": {"first": torch.tensor([1, 1])}}, ntkla.ArgumentError, "each row once"),
        ({"probes": {"first": torch.tensor([], dtype=torch.int64)}}, ntkla.ArgumentError, "one row or more"),
        ({"probes": {"first": torch.ones(60, dtype=torch.bool)}}, ntkla.DtypeError, "probes"),
        ({"new_test": 3}, ntkla.ArgumentError, "new_test: expected an ntkla.Task"),
        ({"new_test": ntkla.Task(torch.ones(2, 12, dtype=torch.float64))}, ntkla.ArgumentError, "labels or targets"),
        ({"strengths": [-1.0], "modes": [1]}, ntkla.ArgumentError, "strengths: expected numbers "),
        ({"strengths": [1.0]}, ntkla.ArgumentError, "modes: a weight above 0"),
        ({"old_tests": {"third": None}}, ntkla.ArgumentError, "old_tests: expected a mapping"),
        ({"old_tests": {"first": None}}, ntkla.ArgumentError, "expected an ntkla.Task"),
        ({"loss": "hinge"}, ntkla.ArgumentError, "loss"),
        ({"tol": 0.0}, ntkla.ArgumentError, "tol"),
        ({"penalize_bias": 1}, ntkla.ArgumentError, "penalize_bias"),
        ({"progress": 3}, ntkla.DtypeError, "progress: expected a function of done and total"),
    ],
)
def test_wrong_arguments_are_named(change: dict[str, object], error: type[Exception], message: str) -> None:
    dense = problem()
    with pytest.raises(error, match=message):
        plan(dense.olds, dense.new, dense.head, **{"ridges": [1.0], **change})


def test_tasks_that_do_not_fit_are_named() -> None:
    dense = problem()
    with pytest.raises(ntkla.ArgumentError, match="new: expected a task with targets"):
        plan(dense.olds, ntkla.Task(dense.new.features), dense.head, ridges=[1.0])
    with pytest.raises(ntkla.ArgumentError, match="old_tasks: expected"):
        plan({}, dense.new, dense.head, ridges=[1.0])
    test = ntkla.Task.from_labels(*classes_of([4, 5], 30, 12, 11, torch.float64), 6, outputs=[4, 5])
    with pytest.raises(ntkla.ArgumentError, match="outputs of the task"):
        plan(dense.olds, dense.new, dense.head, ridges=[1.0], new_test=test)


def test_too_little_memory_is_told_beforehand(monkeypatch: pytest.MonkeyPatch) -> None:
    dense = problem()
    monkeypatch.setattr("ntkla.linalg.checks.available_memory", lambda device: 10**6)
    with pytest.raises(ntkla.MemoryEstimateError, match="the plan"):
        plan(dense.olds, dense.new, dense.head, ridges=[1.0])


def test_blocks_and_batches_of_any_size_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    dense = problem()
    whole = plan(dense.olds, dense.new, dense.head, **grid_of(dense)).points
    monkeypatch.setattr("ntkla.forgetting.planning.engine.MOST_POINTS", 5)
    monkeypatch.setattr("ntkla.forgetting.planning.counting.BLOCK_ENTRIES", 1)
    parts = plan(dense.olds, dense.new, dense.head, **grid_of(dense)).points
    for one, other in ((whole.new, parts.new), (whole.old["first"], parts.old["first"])):
        assert torch.equal(one.hits_low, other.hits_low)
        assert torch.equal(one.flips_high, other.flips_high)
        assert bool(((one.drift - other.drift).abs() <= one.drift_error + other.drift_error).all())
        assert bool(((one.loss - other.loss).abs() <= one.loss_error + other.loss_error).all())
