"""Features of any module: the right numbers, in the loader's order, and a module and a process left as they were."""

from __future__ import annotations

import dataclasses
import doctest
import random
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import ntkla
from ntkla.linalg.precision import UNIT_ROUNDOFF
from ntkla.models import extraction, features
from ntkla.models.undisturbed import evaluating
from ntkla.testing.ambient import ambient_state, hostile_states


class Images(nn.Module):
    """A convolution with batch norm, an in-place step after it, dropout, and a count of its own calls."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 5, 3), nn.BatchNorm2d(5), nn.ReLU(inplace=True), nn.Dropout(0.5))
        self.head = nn.Linear(5, 3)
        self.register_buffer("calls", torch.zeros(()))
        self.stop_after = -1

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        if self.calls == self.stop_after:
            raise RuntimeError("midway")
        return self.head(self.body(x).mean((2, 3)))


class Tokens(nn.Module):
    """Vectors for tokens, as Hugging Face modules take and give them."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(11, 6)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
        return {"last_hidden_state": self.table(input_ids), "pooler_output": self.table(input_ids[:, 0])}


class Returns(nn.Module):
    """Returns what it was made with, whatever comes in."""

    def __init__(self, output: object) -> None:
        super().__init__()
        self.output = output

    def forward(self, x: torch.Tensor) -> object:
        return self.output


@pytest.fixture
def images() -> Images:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        module = Images().train()
    module.body[1].eval()  # flags that differ, as when batch norm is frozen
    return module


@pytest.fixture
def data() -> TensorDataset:
    draw = torch.Generator().manual_seed(1)
    return TensorDataset(torch.randn(10, 1, 6, 6, generator=draw), torch.arange(10) % 4)


@pytest.fixture
def tokens() -> Tokens:
    with torch.random.fork_rng():
        torch.manual_seed(4)
        return Tokens()


def state_of(module: nn.Module) -> tuple:
    flags = [part.training for part in module.modules()]
    hooks = [len(part._forward_hooks) for part in module.modules()]
    tensors = {
        name: (x, x.clone(), x._version, x.requires_grad) for name, x in module.state_dict(keep_vars=True).items()
    }
    return flags, hooks, tensors


def assert_as_before(module: nn.Module, before: tuple) -> None:
    flags, hooks, tensors = state_of(module)
    assert (flags, hooks) == before[:2]
    for name, (x, value, _, trained) in tensors.items():
        same, then, _, trained_then = before[2][name]
        assert x is same
        assert torch.equal(value, then)
        assert trained == trained_then


def expected(module: Images, inputs: torch.Tensor, of: str = "output") -> torch.Tensor:
    """The features by hand, in evaluation mode."""
    with torch.no_grad():
        conv, norm = module.body[0], module.body[1]
        x = nn.functional.batch_norm(conv(inputs), norm.running_mean, norm.running_var, norm.weight, norm.bias)
        if of == "norm":
            return x.mean((2, 3), dtype=torch.float64)
        x = x.relu().mean((2, 3))
        return module.head(x)


def close(found: torch.Tensor, wanted: torch.Tensor, terms: int = 100) -> bool:
    """Equal but for float32 rounding of sums of at most so many terms."""
    slack = terms * UNIT_ROUNDOFF[torch.float32] * float(wanted.abs().max())
    return found.shape == wanted.shape and bool(((found - wanted).abs() <= slack).all())


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


def test_a_layer_goes_by_any_of_its_names():
    module = nn.Module()
    module.first = module.second = nn.Linear(3, 2)
    module.forward = lambda x: module.first(x)
    x = torch.ones(4, 3)
    assert torch.equal(features(module, [x], layer="second").features, features(module, [x], layer="first").features)


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


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_rounded_once_to_the_dtype(dtype):
    x = torch.randn((7, 9, 5), generator=torch.Generator().manual_seed(0)).to(torch.bfloat16)
    found = features(nn.Identity(), x.split(3), dtype=dtype).features
    assert torch.equal(found, x.to(torch.float64).mean(1).to(dtype))


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


def test_the_example_in_the_docstring():
    assert doctest.testmod(extraction).attempted > 0
    assert doctest.testmod(extraction).failed == 0
