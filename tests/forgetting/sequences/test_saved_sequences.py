"""Sequences that stop and go on: the same bits, and a named error for everything that is not what was saved."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ntkla.forgetting.sequences import saved
from ntkla.forgetting.sequences.sequence import TaskSequence
from ntkla.linalg.errors import SavedStateError
from tests.forgetting.sequences.curricula import learned, some_head, task
from tests.soundness.judge import fewer

safetensors = pytest.importorskip("safetensors.torch", reason="files of sequences need safetensors")

SETTINGS = {"weight": 30.0, "modes": 2, "weight_decay": 0.1, "penalize_bias": False}
TASKS = [task(number, seed=number) for number in range(5)]


def after(count: int) -> TaskSequence:
    return learned(TASKS[:count], head=some_head(), **SETTINGS)[0]


def same(one: TaskSequence, other: TaskSequence) -> bool:
    first, second = one.state_dict(), other.state_dict()
    return set(first) == set(second) and all(torch.equal(first[name], second[name]) for name in first)


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "sequence.safetensors"
    after(3).save(path)
    return path


def test_a_sequence_that_was_saved_goes_on_to_the_same_bits(file):
    resumed, through = TaskSequence.load(file), after(3)
    assert same(resumed, through)
    for one in TASKS[3:]:
        told = resumed.learn(one)
        assert told == through.learn(one)
    assert same(resumed, through)
    assert torch.equal(resumed.joint().head.weight, through.joint().head.weight)
    assert resumed.tasks == through.tasks


def test_a_file_of_the_first_version_is_read():
    """It knew weights only.  The sums are those of any machine, the head is within its bound, and it goes on."""
    old, now = TaskSequence.load(Path(__file__).with_name("version_1.safetensors")), after(3)
    assert old._carried.settings == now._carried.settings
    assert [(one.name, one.samples, one.modes) for one in old.tasks] == [
        (one.name, one.samples, one.modes) for one in now.tasks
    ]
    assert old.moments.equals(now.moments)
    apart = torch.linalg.vector_norm(old.head.weight - now.head.weight, dim=1)
    assert bool((apart <= old.current.error_bound + now.current.error_bound).all())
    assert old.learn(TASKS[3]).status.certified
    assert same(TaskSequence.from_state_dict(old.state_dict()), old)


@pytest.mark.parametrize("unit", [{"strength": 0.25}, {"weight": 0.0}, {}])
def test_the_unit_of_the_penalty_is_saved(unit):
    one = TaskSequence(some_head(), ridge=0.1, modes=3, **unit)
    again = TaskSequence.from_state_dict(one.state_dict())
    assert again._carried.settings == one._carried.settings
    assert str(again) == str(one)


@pytest.mark.parametrize("count", [0, 1])
def test_a_sequence_of_few_tasks_is_saved_too(tmp_path, count):
    after(count).save(tmp_path / "x")
    assert same(TaskSequence.load(tmp_path / "x"), after(count))


def test_the_state_needs_no_file_and_shares_nothing():
    one = after(2)
    state = one.state_dict()
    other = TaskSequence.from_state_dict({name: x.clone() for name, x in state.items()})
    for x in state.values():
        x.zero_()
    assert same(one, other)
    assert same(one, after(2))


def test_writing_leaves_one_file_and_replaces_it_whole(file):
    after(4).save(file)
    assert len(TaskSequence.load(file).tasks) == 4
    assert [path.name for path in file.parent.iterdir()] == [file.name]


def test_an_infinite_bound_is_saved(tmp_path):
    one = after(1)
    state = one._carried.state
    object.__setattr__(state, "inherited", torch.full_like(state.inherited, torch.inf))
    one.learn(TASKS[1])
    one.save(tmp_path / "x")
    assert TaskSequence.load(tmp_path / "x").tasks[-1].status.code == "uncertified"


@given(st.data())
@fewer(2)
def test_any_changed_byte_is_named(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "changed.safetensors"
    after(1).save(path)
    content = bytearray(path.read_bytes())
    place = data.draw(st.integers(0, len(content) - 1))
    content[place] ^= data.draw(st.integers(1, 255))
    path.write_bytes(bytes(content))
    message, loaded = "", None
    try:
        loaded = TaskSequence.load(path)
    except SavedStateError as error:
        message = str(error)
    # A byte of the header's blanks says nothing about the sequence.
    assert str(path) in message if loaded is None else same(loaded, after(1))


@given(st.floats(0, 1, exclude_max=True))
@fewer(4)
def test_a_truncated_file_is_named(tmp_path_factory, share):
    path = tmp_path_factory.getbasetemp() / "short.safetensors"
    after(1).save(path)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(SavedStateError, match=r"short\.safetensors"):
        TaskSequence.load(path)


def rewritten(file, change, *, signed: bool) -> None:
    """Changes the file; `signed` gives it the checksum of what it then holds."""
    tensors = safetensors.load_file(file)
    about = json.loads(tensors["about"].numpy().tobytes())
    change(about, tensors)
    if signed:
        about["sha256"] = saved._digest(about, {name: x for name, x in tensors.items() if name != "about"})
    tensors["about"] = torch.from_numpy(np.frombuffer(json.dumps(about).encode(), dtype=np.uint8).copy())
    safetensors.save_file(tensors, file)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda about, x: about.update(version=saved.VERSION + 1), f"version {saved.VERSION + 1}"),
        (lambda about, x: about.pop("version"), "version None"),
        (lambda about, x: about.update(kind="something"), "something else"),
        (lambda about, x: about.pop("settings"), "does not describe"),
        (lambda about, x: about["settings"].update(ridge=-1.0), "does not describe"),
        (lambda about, x: about["settings"].update(colour=1), "does not describe"),
        (lambda about, x: about["settings"].update(penalty=3), "does not describe"),
        (lambda about, x: about["settings"]["penalty"].update(strength=1.0), "does not describe"),
        (lambda about, x: about.update(samples=1e400), "does not describe"),
        (lambda about, x: about.update(version=1), "does not describe"),
        (lambda about, x: about["tasks"][0].pop("name"), "does not describe"),
        (lambda about, x: x.pop("head.low"), "entries"),
        (lambda about, x: x.update(more=torch.zeros(2)), "entries"),
        (lambda about, x: x["head.high"].add_(1e-15), "checksum"),
        (lambda about, x: x["seen.square"].add_(1), "checksum"),
    ],
)
def test_what_is_no_sequence_of_this_version_is_named(file, change, words):
    rewritten(file, change, signed=words == "does not describe")
    with pytest.raises(SavedStateError, match=words) as caught:
        TaskSequence.load(file)
    assert str(file) in str(caught.value)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda x: x.update({"inherited": x["inherited"][:-1].clone()}),
        lambda x: x.update({"start": x["start"].to(torch.float32)}),
        lambda x: x.update({"guard.right": x["guard.right"][:, :-1].clone()}),
    ],
)
def test_a_state_of_other_shapes_is_named_even_with_its_checksum(spoil):
    state = after(2).state_dict()
    spoil(state)
    about = json.loads(state["about"].numpy().tobytes())
    about["sha256"] = saved._digest(about, {name: x for name, x in state.items() if name != "about"})
    state["about"] = torch.from_numpy(np.frombuffer(json.dumps(about).encode(), dtype=np.uint8).copy())
    with pytest.raises(SavedStateError, match="does not describe"):
        TaskSequence.from_state_dict(state)


@pytest.mark.parametrize(
    "state",
    [
        {},
        {"about": torch.zeros(3)},
        {"about": torch.zeros(3, dtype=torch.uint8)},
        {"about": torch.tensor(list(b"[" * 100_000), dtype=torch.uint8)},
        {**after(0).state_dict(), "head.low": torch.zeros((7, 6), device="meta")},
        {**after(0).state_dict(), "head.low": torch.zeros((7, 6)).to_sparse()},
        {"about": 1},
        7,
        [1],
    ],
)
def test_other_states_are_named(state):
    with pytest.raises(SavedStateError, match="something else"):
        TaskSequence.from_state_dict(state)


def test_other_files_are_named(tmp_path):
    other = tmp_path / "other.safetensors"
    safetensors.save_file({"weight": torch.zeros(2, 3)}, other)
    text = tmp_path / "text"
    text.write_text("hello")
    wrong = {other: "something else", text: "damaged", tmp_path / "none": "cannot be read", tmp_path: "cannot be read"}
    for path, words in wrong.items():
        with pytest.raises(SavedStateError, match=words) as caught:
            TaskSequence.load(path)
        assert str(path) in str(caught.value)
