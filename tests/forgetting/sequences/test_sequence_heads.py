"""The heads of a sequence against rational arithmetic: bounds of a step, and of all that is handed on."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from ntkla.forgetting.sequences import step
from ntkla.forgetting.sequences.carried import Carried
from ntkla.forgetting.sequences.preparing import prepared
from ntkla.forgetting.sequences.sequence import TaskSequence
from ntkla.forgetting.sequences.sequence_head import SequenceHead
from ntkla.linalg.arithmetic.doubled import Doubled
from ntkla.linalg.precision import U64
from ntkla.linalg.solve.dense import solve_dense
from ntkla.testing import hostile_states
from ntkla.testing.spectra import normal
from tests.forgetting.sequences.curricula import F, learned, some_head, task, zero_head
from tests.forgetting.sequences.rational import exact_heads, parts_of_errors, sums_of

SETTINGS = [
    {"weight": 20.0, "modes": 3},
    {"weight": 500.0, "modes": 40, "penalize_bias": False},
    {"weight": 1.0, "modes": 2, "weight_decay": 0.3},
    {"weight": 5.0, "modes": 4, "weight_decay": 0.3, "penalize_bias": False, "ridge": 1e-6},
    {"modes": 0, "ridge": 1e-9},
]
PROBES = {
    "all": lambda tasks: None,
    "rows": lambda tasks: [torch.arange(0, 20, 2) for _ in tasks],
    "others": lambda tasks: [normal(7, F, 40 + i).to(torch.float32) for i, _ in enumerate(tasks)],
}
TASKS = [task(0), task(1, weighted=True), task(2), task(0, seed=3)]


def exact(states: list[Carried], rows: list[torch.Tensor], tasks=None, **settings):
    known = {key: value for key, value in settings.items() if key in ("weight_decay", "penalize_bias")}
    bias = states[0].bias
    return exact_heads(
        states[0].start, TASKS if tasks is None else tasks, rows, ridge=states[0].settings.ridge, bias=bias, **known
    )


def judged(head: SequenceHead, truth) -> list[tuple[float, float]]:
    """Claims beside truths: of each output's weights, and of its bias."""
    x = head.head.stacked()
    weights, last = parts_of_errors(x, torch.zeros_like(x), truth, bias=head.head.bias is not None)
    claims = head.error_bound.tolist() + ([] if head.bias_error_bound is None else head.bias_error_bound.tolist())
    return list(zip(claims, weights + last, strict=True))


@pytest.mark.parametrize(
    ("settings", "probes", "bias"),
    [*((one, probes, True) for one in SETTINGS for probes in PROBES), (SETTINGS[0], "all", False)],
)
def test_every_head_is_within_its_bound(settings, probes, bias):
    _, states, rows = learned(TASKS, probes=PROBES[probes](TASKS), head=some_head(bias), **settings)
    for state, truth in zip(states, exact(states, rows, **settings), strict=True):
        assert all(error <= claim for claim, error in judged(state.current, truth))
        assert state.current.status.certified
        # Tight: the head is the exact one rounded once, and the bound is that rounding.  Probes that are no samples of
        # their task are bounded through the ridge alone, and by more with every task.
        assert probes == "others" or state.current.relative_bound <= 4 * U64


@pytest.mark.parametrize("settings", SETTINGS[:4])
def test_after_a_merge_every_head_is_within_its_bound(settings):
    """Two tasks here, two there, and two learned with all four protected: against rational arithmetic."""
    mine, states, own = learned(TASKS[:2], head=some_head(), **settings)
    other = TaskSequence(some_head(), **{"ridge": 0.1, **settings})
    theirs = []
    for number, one in enumerate(TASKS[2:]):
        theirs.append(prepared("x", one, None, other._carried.settings, other.head).anchor.rows)
        other.learn(one, f"other {number}")
    known = {key: value for key, value in settings.items() if key in ("weight_decay", "penalize_bias")}
    known["ridge"] = states[0].settings.ridge
    start = states[0].start
    heads, aside = exact_heads(start, TASKS[:2], own, **known), exact_heads(start, TASKS[2:], theirs, **known)
    guard, target = sums_of(own + theirs, heads + aside)
    merged, truth = mine.merge(other), heads[-1]
    for number, one in enumerate([task(1, seed=5), task(2, seed=6)]):
        rows = prepared("x", one, None, merged._carried.settings, merged.head).anchor.rows
        merged.learn(one, f"then {number}")
        (truth,) = exact_heads(truth, [one], [rows], guard=(guard, target), **known)
        assert all(error <= claim for claim, error in judged(merged.current, truth))
        assert merged.current.status.certified
        more = sums_of([rows], [truth])
        guard, target = guard + more[0], target + more[1]


@pytest.mark.parametrize("name", hostile_states())
def test_no_state_of_the_process_breaks_a_bound(name):
    tasks, settings = TASKS[:3], SETTINGS[3]
    with hostile_states()[name]():
        _, states, rows = learned(tasks, head=some_head(), **settings)
        joint = states[-1].joint(None)
    plain = learned(tasks, head=some_head(), **settings)[1][-1]
    assert plain.state.seen.equals(states[-1].state.seen)
    for state, truth in zip(states, exact(states, rows, tasks, **settings), strict=True):
        assert all(error <= claim for claim, error in judged(state.current, truth))
    assert joint.status.certified


def test_a_bound_scaled_down_is_seen():
    """The planted error: what is claimed to be better than a rounding."""
    _, states, rows = learned(TASKS, head=some_head(), **SETTINGS[0])
    truth = exact(states, rows)[-1]
    head = states[-1].current
    lying = replace(head, error_bound=head.error_bound * 1e-3)
    assert any(error > claim for claim, error in judged(lying, truth))


def spoil(monkeypatch, at: int, size: float) -> None:
    """Solves step number `at` badly, by an error of this size, and says so in the bound of its energy."""
    calls = []

    def solve(matrix, right, floor):
        found = solve_dense(matrix, right, floor)
        calls.append(None)
        if len(calls) - 1 != at:
            return found
        moved = size * normal(*found.x.high.shape, 5)
        energy = (moved * (matrix.value.high @ moved)).sum(0).sqrt() * (1 + 2.0**-40)
        return replace(found, x=Doubled(found.x.high + moved, found.x.low), energy=found.energy + energy)

    monkeypatch.setattr(step, "solve_dense", solve)


@pytest.mark.parametrize("at", [0, 2])
@pytest.mark.parametrize("settings", SETTINGS[:4])
@pytest.mark.parametrize("probes", PROBES)
def test_errors_of_earlier_heads_are_handed_on(monkeypatch, at, settings, probes):
    """An error far above any rounding in one head: every later bound has to cover what it becomes."""
    spoil(monkeypatch, at, 1.0)
    _, states, rows = learned(TASKS, probes=PROBES[probes](TASKS), **settings)
    for state, truth in zip(states, exact(states, rows, **settings), strict=True):
        assert all(error <= claim for claim, error in judged(state.current, truth))


def test_what_is_handed_on_is_not_far_above_the_truth(monkeypatch):
    """One direction, which the ridge alone holds and no task sees: its error stays, and so does the bound."""
    spoil(monkeypatch, 0, 1.0)
    flat = [replace(one, features=one.features * torch.tensor([1.0, 0, 0, 0, 0, 0])) for one in TASKS]
    _, states, _ = learned(flat, head=zero_head(False), modes=0)
    truth = exact_heads(states[0].start, flat, [torch.zeros((0, F))] * len(flat), ridge=0.1, bias=False)[-1]
    claims = judged(states[-1].current, truth)
    assert any(claim <= 20 * error for claim, error in claims)


def test_bounds_that_forget_earlier_errors_are_seen(monkeypatch):
    """The planted error: a step that takes the heads before it for exact."""
    spoil(monkeypatch, 0, 1.0)
    plain = step.solve_step

    def forgetful(state, moments, pull):
        none = torch.zeros_like(state.inherited)
        return plain(replace(state, inherited=none, handed_on=none), moments, pull)

    monkeypatch.setattr("ntkla.forgetting.sequences.carried.solve_step", forgetful)
    _, states, rows = learned(TASKS, **SETTINGS[0])
    assert any(error > claim for claim, error in judged(states[1].current, exact(states, rows)[1]))


def test_bounds_stay_finite_and_small_over_many_tasks():
    """Sixty tasks: thirty digits last, and the bound at the end is still that of one rounding."""
    tasks = [task(number, 8, seed=number) for number in range(60)]
    sequence, states, _ = learned(tasks, weight=2.0, modes=4)
    bounds = [state.tasks[-1].relative_bound for state in states]
    assert max(bounds) <= 4 * U64
    assert sequence.current.status.certified


def test_what_a_step_adds_is_told_apart_from_what_it_inherits(monkeypatch):
    spoil(monkeypatch, 0, 1e-6)
    sequence, *_ = learned(TASKS[:2], **SETTINGS[0])
    first, second = sequence.tasks
    assert first.step_bound > sequence._carried.settings.tolerance
    assert second.step_bound <= 4 * U64
    assert second.relative_bound > sequence._carried.settings.tolerance
    assert second.status.code == "above_tolerance"
