"""The sums of a task: merged, learned and judged without a bit of difference to the whole."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ntkla.forgetting.heads import LinearHead
from ntkla.forgetting.sequences.moments import TaskMoments
from ntkla.forgetting.sequences.sequence import TaskSequence
from ntkla.forgetting.tasks import Task
from ntkla.linalg.errors import ArgumentError, ShapeError
from ntkla.linalg.precision import U64
from ntkla.linalg.ridge import ridge_solve
from ntkla.testing import compare_columns, ridge_problems, ridge_solution
from ntkla.testing.specs import RidgeProblem
from tests.forgetting.sequences.curricula import CLASSES, F, learned, task, zero_head
from tests.soundness.judge import fewer


def part(whole: Task, rows: slice | torch.Tensor) -> Task:
    weights = None if whole.weights is None else whole.weights[rows]
    return Task(whole.features[rows], whole.targets[rows], weights=weights)


@fewer(4)
@given(st.permutations(range(20)), st.integers(1, 19), st.booleans())
def test_two_halves_merge_to_the_bits_of_the_whole(order, cut, weighted):
    whole, rows = task(0, weighted=weighted), torch.tensor(order)
    halves = [TaskMoments.of(part(whole, half), bias=True) for half in (rows[:cut], rows[cut:])]
    expected = TaskMoments.of(whole, bias=True)
    assert (halves[0] + halves[1]).equals(expected)
    assert halves[1].merge(halves[0]).equals(expected)


def test_moments_are_learned_as_their_task_is():
    one, other = task(0), task(1)
    by_task, *_ = learned([one, other], weight=3.0, modes=2)
    by_sums = TaskSequence(zero_head(), ridge=0.1, weight=3.0, modes=2)
    for each in (one, other):
        halves = [TaskMoments.of(part(each, rows), bias=True) for rows in (slice(0, 7), slice(7, None))]
        by_sums.learn(halves[1] + halves[0], probes=each.features)
    assert torch.equal(by_sums.head.weight, by_task.head.weight)
    assert torch.equal(by_sums.head.bias, by_task.head.bias)
    assert by_sums.moments.equals(by_task.moments)


def test_sequences_merge_to_the_joint_optimum_of_all_their_tasks():
    settings = {"weight": 3.0, "modes": 2}
    tasks = [task(number, seed=number) for number in range(4)]
    whole, *_ = learned(tasks, **settings)
    first, second = (TaskSequence(zero_head(), ridge=0.1, **settings) for _ in range(2))
    for number, one in enumerate(tasks):
        (first if number % 2 else second).learn(one, name=f"number {number}")
    merged = first.merge(second)
    assert merged.moments.equals(whole.moments)
    assert torch.equal(merged.joint().head.weight, whole.joint().head.weight)
    assert torch.equal(merged.head.weight, first.head.weight)
    assert [one.name for one in merged.tasks] == ["number 1", "number 3", "number 0", "number 2"]
    guards = merged._carried.state.guard.square, second.merge(first)._carried.state.guard.square
    assert guards[0].equals(guards[1])


def in_parts(problem: RidgeProblem, parts: int) -> TaskSequence:
    """The samples of a regression, learned as several tasks."""
    features, n = problem.design.tensor, problem.design.n
    zeros = torch.zeros((problem.outputs, features.shape[1]), dtype=torch.float64)
    head = LinearHead(zeros, zeros[:, 0]) if problem.bias else LinearHead(zeros)
    sequence = TaskSequence(head, ridge=problem.ridge, penalize_bias=problem.penalize_bias)
    for rows in torch.arange(n).split(-(-n // parts)):
        weights = None if problem.weights is None else problem.weights[rows]
        if weights is None or bool((weights > 0).any()):
            sequence.learn(Task(features[rows], problem.targets[rows], weights=weights))
    return sequence


@fewer(4)
@given(ridge_problems(weighted=True, most=6), st.integers(1, 3))
def test_the_joint_optimum_is_the_one_of_all_samples_together(problem, parts):
    """Against ball arithmetic, and against `ridge_solve` on the concatenated samples."""
    joint = in_parts(problem, parts).joint()
    x = joint.head.stacked()
    features = problem.design.features
    exact = ridge_solution(**{key: value for key, value in problem.arguments().items() if key != "route"})
    errors = (
        joint.error_bound
        if joint.bias_error_bound is None
        else torch.hypot(joint.error_bound, joint.bias_error_bound) * (1 + 4 * U64)
    )
    assert compare_columns(x, errors, exact, "joint").sound
    solved = ridge_solve(**problem.arguments())
    distance = (x[:features] - solved.solution).abs()
    assert bool((distance <= joint.error_bound + solved.error_bound).all())
    if problem.bias:
        assert bool(((x[-1] - solved.bias).abs() <= joint.bias_error_bound + solved.bias_error_bound).all())


def test_the_joint_bound_is_that_of_one_rounding():
    sequence, *_ = learned([task(0), task(1), task(2)])
    assert sequence.joint().relative_bound <= 2 * U64
    assert sequence.joint(ridge=1e-6).relative_bound <= 2 * U64


def test_a_bit_of_one_sample_is_seen():
    """The planted error: sums that lost the last bit of one feature are other sums."""
    whole = task(0)
    features = whole.features.clone()
    features[3, 2] = torch.nextafter(features[3, 2], torch.tensor(9.0))
    changed = Task(features, whole.targets)
    assert not TaskMoments.of(changed, bias=True).equals(TaskMoments.of(whole, bias=True))


def test_memory_does_not_depend_on_the_number_of_samples():
    sizes = [TaskMoments.of(task(0, samples), bias=True).nbytes() for samples in (20, 2000)]
    limb = 8 * (F + 1) * (F + 1 + CLASSES)
    assert sizes[1] <= sizes[0] + limb


@pytest.mark.parametrize(
    ("make", "kind", "words"),
    [
        (lambda: TaskMoments.of("x", bias=True), ArgumentError, "ntkla.Task"),
        (lambda: TaskMoments.of(Task(task(0).features), bias=True), ArgumentError, "with targets"),
        (lambda: TaskMoments.of(Task.from_labels(task(0).features, task(0).labels, CLASSES, outputs=[0, 1]), bias=True),
         ArgumentError, "all outputs"),
        (lambda: TaskMoments.of(task(0), bias=True) + TaskMoments.of(task(0), bias=False), ShapeError, "bias"),
        (lambda: TaskMoments.of(task(0), bias=True).merge(3), ArgumentError, "TaskMoments"),
        (lambda: TaskMoments.of(task(0), bias=True).equals(3), ArgumentError, "TaskMoments"),
        (lambda: TaskMoments.of(task(0), bias=True) + 3, TypeError, "unsupported operand"),
    ],
)  # fmt: skip
def test_what_has_no_sums_is_refused(make, kind, words):
    with pytest.raises(kind, match=words):
        make()
