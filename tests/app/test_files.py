"""Tasks and heads in a user's own files: each array finds its role, and a message names the file."""

from __future__ import annotations

import os

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st

from ntkla.app.failures import DataError
from ntkla.app.files.reading import ROLES, read_head, read_task
from ntkla.linalg.errors import ArgumentError, DtypeError, LabelError, NonFiniteError, ShapeError
from tests.app.user_files import BIAS, HEAD, WEIGHTS, C, F, N, T, X, Y, as_old_task, as_task, refused, save

pytestmark = pytest.mark.usefixtures("user_files")


@given(st.permutations(["y.npy", "t.npy", "w.npy"]), st.integers(0, 3))
def test_arrays_after_the_features_are_told_apart(names, count):
    found = {"y.npy": ("labels", Y), "t.npy": ("targets", T), "w.npy": ("weights", WEIGHTS)}
    chosen = names[:count]
    if chosen == ["w.npy"]:
        return  # weights alone mean nothing: below
    task = read_task(",".join(["x.npy", *chosen]))
    assert set(task.paths) == {"features"} | {found[name][0] for name in chosen}
    for name in chosen:
        role, array = found[name]
        assert np.array_equal(getattr(task, role).numpy(), array)
        assert task.paths[role].name == name


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_a_task_in_safetensors(dtype):
    features = torch.from_numpy(X).to(dtype)
    save("task.safetensors", features=features, labels=Y, targets=T, weights=WEIGHTS, outputs=[3, 0, 1, 2])
    found = read_task("task.safetensors")
    assert torch.equal(found.features, features)
    task = found.task(C, need_targets=True)
    assert torch.equal(task.targets, torch.from_numpy(T))
    assert torch.equal(task.labels, torch.from_numpy(Y))
    assert torch.equal(task.weights, torch.from_numpy(WEIGHTS))
    assert task.outputs.tolist() == [3, 0, 1, 2]


def test_labels_become_rows_of_the_outputs():
    task = read_task("x.npy,y.npy").task(C, need_targets=True)
    assert torch.equal(task.targets.argmax(dim=1), torch.from_numpy(Y))
    odd = np.where(Y % 2 == 1, Y, 1)
    np.save("odd.npy", odd.astype("u1"))
    task = read_task("x.npy,odd.npy").task(C, outputs=[3, 1], need_targets=True)
    assert torch.equal(task.outputs[task.targets.argmax(dim=1)], torch.from_numpy(odd))


def test_an_old_task_needs_no_labels():
    old = read_task("x.npy").task(C, need_targets=False)
    assert old.targets is None
    assert old.labels is None
    message = refused(ArgumentError, "needs labels or targets", "x.npy", as_task)
    assert "FEATURES.npy,LABELS.npy" in message


@pytest.mark.parametrize("prefix", ["", "fc.", "model.head."])
@pytest.mark.parametrize("with_bias", [True, False])
def test_a_head_as_torch_saves_it(prefix, with_bias):
    layer = torch.nn.Linear(F, C, bias=with_bias)
    safetensors.torch.save_file({prefix + name: x for name, x in layer.state_dict().items()}, "head.safetensors")
    head = read_head("head.safetensors")
    assert torch.equal(head.weight, layer.weight)
    assert (head.bias is None) == (not with_bias)
    assert not with_bias or torch.equal(head.bias, layer.bias)


def test_a_head_in_npy():
    assert read_head("head.npy").bias is None
    head = read_head("head.npy,bias.npy")
    assert np.array_equal(head.weight.numpy(), HEAD)
    assert np.array_equal(head.bias.numpy(), BIAS)


def test_several_layers_are_named_and_not_chosen_from():
    model = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.Linear(F, C))
    safetensors.torch.save_file(model.state_dict(), "model.safetensors")
    message = refused(DataError, "one layer", "model.safetensors", read_head)
    assert "'0.weight'" in message
    assert "'1.weight'" in message
    assert "save_file(layer.state_dict(), 'head.safetensors')" in message
    for strangers in ({"fc.weight": HEAD, "bias": BIAS}, {"weight": HEAD, "scale": BIAS}, {"bias": BIAS}):
        save("odd.safetensors", **strangers)
        refused(DataError, "one layer", "odd.safetensors", read_head)


def test_names_that_are_not_expected():
    save("task.safetensors", features=X, lables=Y)
    message = refused(DataError, "got .*'lables'", "task.safetensors")
    assert all(f"'{role}'" in message for role in ROLES)
    save("none.safetensors", labels=Y)
    refused(DataError, "'features'", "none.safetensors")


def test_a_head_and_a_task_in_each_other_s_place():
    save("head.safetensors", weight=HEAD, bias=BIAS)
    assert refused(DataError, "'features'", "head.safetensors").endswith("OLD NEW HEAD.")
    save("task.safetensors", features=X, labels=Y)
    assert refused(DataError, "one layer", "task.safetensors", read_head).endswith("OLD NEW HEAD.")


def test_names_with_commas_and_tildes(monkeypatch, user_files):
    os.rename("x.npy", "a,b.npy")
    assert read_task("a,b.npy").name == "a,b"
    monkeypatch.setenv("HOME", str(user_files))
    assert np.array_equal(read_task("~/t.npy,~/y.npy").labels.numpy(), Y)


@pytest.mark.parametrize("argument", ["", ",", "x.npy,", "x.npy,,y.npy"])
def test_a_name_is_missing(argument):
    refused(DataError, "expected the name of a file", argument)


def test_messages_of_the_library_name_the_file():
    np.save("nan.npy", np.where(X > 1, np.nan, X))
    np.save("far.npy", Y + C)
    np.save("below.npy", Y - 1)
    np.save("short.npy", Y[:-1])
    np.save("wide.npy", X)
    refused(NonFiniteError, "^nan.npy: features", "nan.npy,y.npy", as_task)
    for reader in (as_task, as_old_task):
        message = refused(LabelError, f"^far.npy: labels {C} to {2 * C - 1}, and the head", "x.npy,far.npy", reader)
        assert f"has the outputs 0 to {C - 1}. New classes need rows" in message
        assert f'numpy.save("weight.npy", numpy.vstack([w, numpy.zeros(({C}, {F}))])), the bias likewise' in message
    refused(LabelError, "^below.npy: labels -1 to .*Leave out samples without a class", "x.npy,below.npy", as_task)
    refused(ShapeError, "^short.npy: labels", "x.npy,short.npy", as_task)
    refused(ShapeError, "^wide.npy: targets", "x.npy,wide.npy", as_task)
    refused(NonFiniteError, "^nan.npy: weight", "nan.npy", read_head)
    refused(DataError, "3 files", "head.npy,bias.npy,bias.npy", read_head)


def test_a_head_whose_parts_are_of_two_layers():
    np.save("turned.npy", HEAD.T)
    message = refused(ShapeError, "^turned.npy,bias.npy: ", "turned.npy,bias.npy", read_head)
    assert f"the weight is [{F}, {C}], {F} outputs, and the bias has {C} entries" in message
    assert message.endswith(f"The weight looks transposed: save weight.T, [{C}, {F}].")
    message = refused(ShapeError, "^head.npy,w.npy: ", "head.npy,w.npy", read_head)
    assert message.endswith(f"the bias has {N} entries. Name the weight and the bias of one layer.")
    save("head.safetensors", weight=HEAD.T.copy(), bias=BIAS)
    assert "transposed" in refused(ShapeError, "^head.safetensors: ", "head.safetensors", read_head)


def test_labels_in_the_place_of_features():
    message = refused(DtypeError, r"^y\.npy: these are integers \[n\], labels, in the place of features", "y.npy")
    assert message.endswith("Join them to their features with a comma and no blank: FEATURES.npy,y.npy.")
    assert refused(DtypeError, r"^y\.npy: ", "y.npy,x.npy").endswith("Name the features first: x.npy,y.npy.")


@pytest.mark.parametrize("outputs", [[C], [-1], [0] * (C + 1)])
def test_outputs_that_the_head_does_not_have(outputs):
    save("task.safetensors", features=X, outputs=outputs)
    refused(
        ArgumentError,
        "^task.safetensors: outputs",
        "task.safetensors",
        as_old_task,
    )
    with pytest.raises(ArgumentError, match=r"^x\.npy: outputs"):
        read_task("x.npy").task(C, outputs=outputs, need_targets=False)


def test_outputs_named_twice():
    save("task.safetensors", features=X, outputs=[0, 1])
    with pytest.raises(ArgumentError, match="once more"):
        read_task("task.safetensors").task(C, outputs=[0, 1], need_targets=False)
