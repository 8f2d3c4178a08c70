"""A module, its buffers, its place and the process around it are found again as they were, whatever happened."""

from __future__ import annotations

import random
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from ntkla.models import features
from ntkla.models.undisturbed import evaluating
from ntkla.testing.ambient import ambient_state, hostile_states
from tests.models.modules import assert_as_before, close, expected, state_of


class Keeping(nn.Linear):
    """Keeps what it computed, as modules do with tables of positions."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.kept = super().forward(x)
        return self.kept


def test_what_a_module_keeps_can_be_trained_on_later():
    module = Keeping(3, 2)
    with torch.inference_mode():
        found = features(module, [torch.ones(4, 3)]).features
    assert not module.kept.is_inference()
    assert not found.is_inference()
    (module(torch.ones(4, 3)) * module.kept).sum().backward()
    assert module.weight.grad.shape == (2, 3)
    assert found.shape == (4, 2)


@pytest.mark.parametrize("layer", [None, "body.3"])
def test_an_error_midway_leaves_everything_as_it_was(images, data, layer):
    images.stop_after = 2
    before, around = state_of(images), ambient_state()
    with pytest.raises(RuntimeError, match="midway"):
        features(images, DataLoader(data, batch_size=4, shuffle=True), layer=layer)
    assert_as_before(images, before)
    assert ambient_state() == around


def test_a_buffer_that_did_not_change_is_not_written(images, data):
    before = images.body[1].running_mean._version
    features(images, [data.tensors[0]])
    assert images.body[1].running_mean._version == before


def test_the_global_generators_are_left_alone_and_labels_follow_a_shuffle(images, data):
    class Drawing(TensorDataset):
        def __getitem__(self, index: int) -> tuple:
            random.random()
            np.random.rand()  # noqa: NPY002
            return super().__getitem__(index)

    around = ambient_state()
    plain = features(images, DataLoader(data, batch_size=10))
    loader = DataLoader(Drawing(*data.tensors), batch_size=3, shuffle=True)
    found, again = features(images, loader), features(images, loader)
    assert ambient_state() == around
    assert torch.equal(found.labels, again.labels)
    rows = torch.cdist(found.features, plain.features).argmin(1)
    assert rows.tolist() != list(range(10))
    assert sorted(rows.tolist()) == list(range(10))
    assert torch.equal(plain.labels[rows], found.labels)


def test_modes_of_the_caller_do_not_reach_in(images, data):
    plain = features(images, [data.tensors[0]]).features
    with torch.autocast("cpu", torch.bfloat16), torch.inference_mode():
        found = features(images, [data.tensors[0]]).features
        assert torch.is_autocast_enabled("cpu")
        assert torch.is_inference_mode_enabled()
    assert torch.equal(found, plain)
    half = features(images, [data.tensors[0]], precision="bfloat16").features
    assert not torch.equal(half, plain)
    assert not close(half, plain)
    assert torch.equal(features(images, [data.tensors[0]], precision="float32").features, plain)


def test_where_it_runs_and_where_the_result_lies(images, data):
    before = state_of(images)
    found = features(images, [data.tensors], device="cpu", output_device=torch.device("cpu"))
    assert (found.features.device.type, found.labels.device.type) == ("cpu", "cpu")
    assert_as_before(images, before)


class Elsewhere(nn.Linear):
    """Notes where it is moved instead of moving; the first move can fail half way."""

    def __init__(self, fails: bool) -> None:
        super().__init__(3, 2)
        self.moves: list[str] = []
        self.fails = fails

    def to(self, device: torch.device) -> None:
        self.moves.append(str(device))
        if self.fails and len(self.moves) == 1:
            raise RuntimeError("out of memory")


@pytest.mark.parametrize("fails", [False, True])
def test_a_module_goes_back_to_where_it_was(fails):
    module = Elsewhere(fails).train()
    inside = []
    failing = pytest.raises(RuntimeError, match="out of memory") if fails else nullcontext()
    with failing, evaluating(module, torch.device("meta")):
        inside.append((module.training, list(module.moves)))
    assert inside == ([] if fails else [(False, ["meta"])])
    assert module.moves == ["meta", "cpu"]
    assert module.training


@pytest.mark.gpu
def test_a_module_is_moved_and_moved_back(images, data):
    flags, hooks, tensors = state_of(images)
    around = torch.cuda.get_rng_state().tolist()
    found = features(images, DataLoader(data, batch_size=4, pin_memory=True), device="cuda")
    assert (found.features.device.type, found.labels.device.type) == ("cuda", "cuda")
    assert close(found.features.cpu(), expected(images, data.tensors[0]), terms=5000)  # TF32 in convolutions
    assert features(images, [data.tensors], device="cuda", output_device="cpu").features.device.type == "cpu"
    assert state_of(images)[:2] == (flags, hooks)
    for name, x in images.state_dict().items():
        assert x.device.type == "cpu"
        assert torch.equal(x, tensors[name][1])
    assert torch.cuda.get_rng_state().tolist() == around


def test_under_every_hostile_state_the_same_bits(images, data):
    plain = features(images, [data.tensors]).features
    for name, state in hostile_states().items():
        if name in ("default device meta", "three threads"):  # the module's own business, and its convolution's
            continue
        with state():
            around = ambient_state()
            found = features(images, [data.tensors]).features
            assert ambient_state() == around, name
        assert torch.equal(found, plain), name
