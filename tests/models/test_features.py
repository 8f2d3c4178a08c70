"""Features of any module: the right numbers, in the order of the loader."""

from __future__ import annotations

import dataclasses
import doctest

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

import ntkla
from ntkla.linalg.precision import UNIT_ROUNDOFF
from ntkla.models import extraction, features
from tests.models.modules import Returns, assert_as_before, close, expected, state_of


def test_a_data_loader_with_labels(images, data):
    before = state_of(images)
    seen = []
    found = features(images, DataLoader(data, batch_size=4), progress=lambda done, total: seen.append((done, total)))
    assert close(found.features, expected(images, data.tensors[0]))
    assert found.features.dtype == torch.float32
    assert torch.equal(found.labels, data.tensors[1])
    assert seen == [(4, 10), (8, 10), (10, 10)]
    assert not found.features.requires_grad
    assert_as_before(images, before)
    ntkla.Task.from_labels(found.features, found.labels, classes=4)
    assert str(found) == "Features: 10 samples, 3 features, float32 on cpu, with 4 labels from 0 to 3"


def test_every_form_of_batch_gives_the_same(images, data):
    inputs, labels = data.tensors
    wanted = features(images, DataLoader(data, batch_size=5)).features
    halves = list(zip(inputs.split(5), labels.split(5), strict=True))
    forms = [
        inputs.split(5),
        [(x,) for x, _ in halves],
        [[x, y, "file names"] for x, y in halves],
        [((x,), y.to(torch.uint8)) for x, y in halves],
        [{"x": x, "label": y} for x, y in halves],
        [({"x": x}, y) for x, y in halves],
        ({"x": x, "labels": y} for x, y in halves),
    ]
    for number, form in enumerate(forms):
        found = features(images, form)
        assert torch.equal(found.features, wanted), number
        assert (found.labels is None) == (number < 2)
        assert found.labels is None or torch.equal(found.labels, labels)


def test_a_layer_is_taken_before_what_follows_overwrites_it(images, data):
    before = state_of(images)
    found = features(images, [data.tensors[0]], layer="body.1")
    assert close(found.features, expected(images, data.tensors[0], "norm"))
    assert (found.features < 0).any()  # not yet through the in-place ReLU
    assert_as_before(images, before)


def test_a_layer_with_one_row_a_sample_is_copied_before_it_is_overwritten():
    module = nn.Sequential(nn.Identity(), nn.ReLU(inplace=True))
    x = torch.tensor([[-1.0, 2.0]])
    assert features(module, [x.clone()], layer="0").features.tolist() == x.tolist()


def test_a_layer_goes_by_any_of_its_names():
    module = nn.Module()
    module.first = module.second = nn.Linear(3, 2)
    module.forward = lambda x: module.first(x)
    x = torch.ones(4, 3)
    assert torch.equal(features(module, [x], layer="second").features, features(module, [x], layer="first").features)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_rounded_once_to_the_dtype(dtype):
    x = torch.randn((7, 9, 5), generator=torch.Generator().manual_seed(0)).to(torch.bfloat16)
    found = features(nn.Identity(), x.split(3), dtype=dtype).features
    assert torch.equal(found, x.to(torch.float64).mean(1).to(dtype))


def test_tokens_are_pooled_without_what_the_mask_hides(tokens):
    ids = torch.tensor([[1, 2, 3, 0], [0, 0, 4, 5], [6, 7, 8, 9]])
    mask = torch.tensor([[1, 1, 1, 0], [0, 0, 1, 1], [1, 1, 1, 1]])
    batch = {"input_ids": ids, "attention_mask": mask, "labels": torch.tensor([2, 0, 1])}
    table = tokens.table.weight.detach().to(torch.float64)
    chosen = [ids[row][mask[row] == 1] for row in range(3)]
    wanted = {
        "auto": torch.stack([table[chosen[row]].sum(0) / len(chosen[row]) for row in range(3)]),
        "first": table[[1, 4, 6]],
        "last": table[[3, 5, 9]],
        "flatten": table[ids].flatten(1),
    }
    wanted["mean"] = wanted["auto"]
    for pooling, rows in wanted.items():
        found = features(tokens, [batch], pooling=pooling, dtype=torch.float64)
        slack = 8 * UNIT_ROUNDOFF[torch.float64] * float(table.abs().max())
        assert float((found.features - rows).abs().max()) <= slack, pooling
    assert found.labels.tolist() == [2, 0, 1]
    del batch["attention_mask"]
    assert torch.equal(features(tokens, [batch], pooling="last", dtype=torch.float64).features, table[ids[:, -1]])
    assert torch.equal(features(tokens, [batch], pooling="first", dtype=torch.float64).features, table[ids[:, 0]])
    taken = features(tokens, [batch], pooling=lambda output: output["pooler_output"], dtype=torch.float64)
    assert torch.equal(taken.features, table[ids[:, 0]])


def test_what_the_mask_hides_may_be_infinite(tokens):
    tokens.table.weight.data[0] = torch.inf
    batch = {"input_ids": torch.tensor([[1, 0]]), "attention_mask": torch.tensor([[1, 0]])}
    assert torch.equal(features(tokens, [batch]).features[0], tokens.table.weight[1])


@dataclasses.dataclass
class Output:
    logits: torch.Tensor
    loss: None = None


@pytest.mark.parametrize("wrap", [lambda x: x, lambda x: (x,), lambda x: [x, None], lambda x: {"out": x}, Output])
def test_an_output_that_holds_one_tensor(wrap):
    x = torch.arange(6.0).reshape(3, 2)
    assert torch.equal(features(Returns(wrap(x)), [torch.zeros(3, 1)]).features, x)


@pytest.mark.parametrize(
    ("shape", "pooling", "wanted"),
    [
        ((2, 3, 4, 5), "auto", lambda x: x.mean((2, 3))),
        ((2, 3, 4, 5), "mean", lambda x: x.mean((2, 3))),
        ((2, 3, 4, 5, 2), "auto", lambda x: x.mean((2, 3, 4))),
        ((2, 3, 4, 5), "flatten", lambda x: x.reshape(2, 60)),
        ((2, 3), "mean", lambda x: x),
        ((2, 3), "last", lambda x: x),
    ],
)
def test_poolings_of_positions(shape, pooling, wanted):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    found = features(nn.Identity(), [x], pooling=pooling, dtype=torch.float64).features
    slack = 100 * UNIT_ROUNDOFF[torch.float64]
    assert found.shape == wanted(x).shape
    assert float((found - wanted(x)).abs().max()) <= slack


def test_the_result_is_a_copy():
    x = torch.ones(2, 3)
    found = features(nn.Identity(), [x])
    x.zero_()
    assert float(found.features.min()) == 1.0


@pytest.mark.parametrize("told", ["right", "more", "fewer", "nothing"])
def test_memory_is_allocated_once_where_the_loader_tells_the_count(data, told):
    class Told(list):
        dataset = {"right": range(10), "more": range(12), "fewer": range(7), "nothing": None}[told]

    seen = []
    rows = torch.arange(20.0).reshape(10, 2)
    found = features(nn.Identity(), Told(rows.split(4)), progress=lambda done, total: seen.append(total)).features
    assert torch.equal(found, rows)
    storage = found.untyped_storage().nbytes() // found.element_size() // 2
    assert storage == (12 if told == "more" else 10)
    assert seen == {"right": [10] * 3, "more": [12] * 3, "fewer": [7, None, None], "nothing": [None] * 3}[told]


def test_a_loader_that_drops_its_last_batch_tells_so(images, data):
    seen = []
    loader = DataLoader(data, batch_size=4, drop_last=True)
    assert len(features(images, loader, progress=lambda done, total: seen.append(total)).features) == 8
    assert seen == [8, 8]
    by_batches = DataLoader([data[:5], data[5:]], batch_size=None)
    assert len(features(images, by_batches, progress=lambda done, total: seen.append(total)).features) == 10
    assert seen[2:] == [None, None]


def test_the_example_in_the_docstring():
    assert doctest.testmod(extraction).attempted > 0
    assert doctest.testmod(extraction).failed == 0
