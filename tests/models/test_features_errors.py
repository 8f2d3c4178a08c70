"""Every mistake that can be made with features has a named error that says what to do."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

import ntkla
from ntkla.models import features

ROWS = torch.ones(4, 3)
LABELS = torch.zeros(4, dtype=torch.int64)
PLAIN = nn.Identity()


class Stream(IterableDataset):
    def __iter__(self):
        return iter(ROWS)


class Twice(nn.Module):
    """Runs one layer twice and another one never; a third hides in a list."""

    def __init__(self) -> None:
        super().__init__()
        self.block = nn.ModuleDict({"twice": nn.Linear(3, 3), "never": nn.Linear(3, 3)})

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.block["twice"](self.block["twice"](x))


class Varying(nn.Module):
    def forward(self, x: torch.Tensor) -> object:
        return x[:, 0]


@pytest.mark.parametrize(
    ("loader", "error", "says"),
    [
        (ROWS, "ArgumentError", r"got one array.*x\.split\(256\)"),
        (ROWS.numpy(), "ArgumentError", "got one array"),
        (TensorDataset(ROWS), "ArgumentError", r"got a dataset \(TensorDataset\).*DataLoader\(dataset, batch_size"),
        (Stream(), "ArgumentError", r"got a dataset \(Stream\)"),
        ({"x": ROWS}, "ArgumentError", "got dict"),
        ("files", "ArgumentError", "got str"),
        (None, "ArgumentError", "got NoneType"),
        ([], "ArgumentError", "expected at least one batch, got none"),
        (DataLoader(TensorDataset(ROWS), batch_size=8, drop_last=True), "ArgumentError", "drop_last"),
        ([()], "ArgumentError", r"batch 0 \(the first is 0\): .*an empty tuple"),
        ([ROWS, ["text"]], "ArgumentError", r"batch 1 .*no tensor among its inputs \(str\)"),
        ([{"text": ["a"]}], "ArgumentError", "no tensor among its inputs"),
        ([(ROWS, LABELS), ROWS], "ArgumentError", "batch 1 .*has none, and those before had some"),
        ([ROWS, (ROWS, LABELS)], "ArgumentError", "batch 1 .*has labels, and those before had none"),
        ([(ROWS, [0, 1, 2, 3])], "DtypeError", "labels: expected a tensor of integers, got list"),
        ([(ROWS, ROWS)], "DtypeError", "got torch.float32.*leave targets of any other kind out"),
        ([(ROWS, LABELS[:, None])], "ShapeError", "labels: expected one a sample"),
        ([(ROWS, LABELS[:3])], "ShapeError", "expected one row a sample, 3, got features"),
        ([ROWS, ROWS[:, :2]], "ShapeError", "batch 1 .*expected 3 features as in the batches before, got 2"),
        ([ROWS, ROWS[:0]], "ShapeError", "batch 1 .*at least one sample"),
        ([ROWS[:, :0]], "ShapeError", "at least one sample and one feature"),
        ([ROWS[0]], "ShapeError", "at least two dimensions"),
        ([ROWS, ROWS / 0], "NonFiniteError", "batch 1 .*in 4 of 4 rows, the first is row 0"),
        ([ROWS, ROWS.to(torch.float64) * 1e300], "NonFiniteError", "dtype=torch.float32"),
        ([ROWS.to(torch.int64)], "DtypeError", "real floating-point numbers, got torch.int64"),
        ([ROWS.to(torch.complex64)], "DtypeError", "real floating-point"),
        ([ROWS.to_sparse()], "DtypeError", "dense"),
        ([ROWS, ROWS.to("meta")], "DeviceError", "batch 1 .*lies on the meta device"),
        ([(ROWS, LABELS.to("meta"))], "DeviceError", "batch 0 .*labels: lies on the meta device"),
    ],
)
def test_loaders(loader, error, says):
    with pytest.raises(getattr(ntkla, error), match=says):
        features(PLAIN, loader)


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"pooling": "max"}, "ArgumentError", "pooling: expected one of 'auto'"),
        ({"pooling": None}, "ArgumentError", "pooling: expected one of"),
        ({"dtype": torch.int8}, "DtypeError", "dtype: expected float64"),
        ({"dtype": "float32"}, "DtypeError", "dtype: expected float64"),
        ({"precision": "int8"}, "ArgumentError", "precision: expected one of"),
        ({"device": "nowhere"}, "DeviceError", "device: expected one that is here"),
        ({"device": 1.5}, "DeviceError", "device: expected one that is here"),
        ({"output_device": "cuda:99"}, "DeviceError", "device: expected one that is here"),
        ({"device": "meta"}, "DeviceError", "device: lies on the meta device and has no values"),
        ({"output_device": "meta"}, "DeviceError", "device: lies on the meta device and has no values"),
        ({"layer": "block.twise"}, "ArgumentError", "got 'block.twise'. Near ones: block.twice"),
        ({"layer": ""}, "ArgumentError", "dotted name"),
        ({"layer": 3}, "ArgumentError", "dotted name"),
        ({"layer": "block.twice"}, "ArgumentError", "it ran 2 times"),
        ({"layer": "block.never"}, "ArgumentError", "it ran 0 times"),
    ],
)
def test_options(options, error, says):
    module = Twice()
    with pytest.raises(getattr(ntkla, error), match=says):
        features(module, [ROWS], **options)
    assert not any(part._forward_hooks for part in module.modules())


@pytest.mark.parametrize(
    ("module", "error", "says"),
    [
        (lambda x: x, "ArgumentError", "expected a torch.nn.Module, got function"),
        (nn.LazyLinear(2), "ArgumentError", "weight has no shape yet"),
        (nn.Linear(3, 2, device="meta"), "DeviceError", "weight lies on the meta device"),
        (nn.LSTM(3, 2, batch_first=True), "ArgumentError", r"got tuple \(0: Tensor, 1: tuple\).*pooling=lambda"),
        (Varying(), "ShapeError", "expected at least two dimensions"),
    ],
)
def test_modules(module, error, says):
    with pytest.raises(getattr(ntkla, error), match=says):
        features(module, [ROWS])


@pytest.mark.parametrize(
    ("pooling", "shape", "mask", "error", "says"),
    [
        ("first", (2, 3, 4, 4), None, "ShapeError", "expects tokens"),
        ("mean", (2, 3, 4), (2, 5), "ShapeError", r"tokens of shape \(2, 3\), and attention_mask has shape \(2, 5\)"),
        ("mean", (2, 3, 4), (2, 3), "ArgumentError", "it leaves none in 2 of 2"),
        (lambda x: x.sum(), (2, 3), None, "ShapeError", r"after pooling: expected shape \[n, F\]"),
        (lambda x: "rows", (2, 3), None, "DtypeError", "after pooling: expected a tensor, got str"),
    ],
)
def test_poolings(pooling, shape, mask, error, says):
    class Masked(nn.Module):
        def forward(self, x: torch.Tensor, attention_mask: torch.Tensor | None) -> torch.Tensor:
            return x

    masked = None if mask is None else torch.zeros(mask)
    with pytest.raises(getattr(ntkla, error), match=says):
        features(Masked(), [{"x": torch.ones(shape), "attention_mask": masked}], pooling=pooling)


def test_sequences_that_come_first_are_not_taken_for_samples():
    with pytest.raises(ntkla.ShapeError, match="expected one row a sample, 4"):
        features(nn.Identity(), [(torch.ones(7, 4, 3), LABELS)])


def test_float32_asked_of_a_module_that_is_not():
    with pytest.raises(ntkla.ArgumentError, match=r"got torch\.float64.*backbone\.float\(\)"):
        features(nn.Linear(3, 2, dtype=torch.float64), [ROWS.to(torch.float64)], precision="float32")


def test_a_result_beyond_the_memory_is_refused_before_it_is_tried():
    class Told(list):
        dataset = range(2**40)

    with pytest.raises(ntkla.MemoryEstimateError, match="keeping 1099511627776 x 3 features needs"):
        features(PLAIN, Told([ROWS]))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's, of scripting
def test_a_layer_of_a_scripted_module():
    with pytest.raises(ntkla.ArgumentError, match="'0' is scripted"):
        features(torch.jit.script(nn.Sequential(nn.Linear(3, 2))), [ROWS], layer="0")


@pytest.mark.gpu
def test_a_module_in_several_places_is_not_moved():
    module = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 2, device="cuda"))
    with pytest.raises(ntkla.DeviceError, match="cpu, cuda:0 and cannot be moved as one"):
        features(module, [ROWS], device="cpu")
