"""`cross_entropy_targets` is `torch.nn.CrossEntropyLoss` in all of its combinations; what makes no sense is refused."""

from __future__ import annotations

import itertools

import pytest
import torch

from ntkla import ArgumentError, DeviceError, DtypeError, LabelError, MemoryEstimateError, NonFiniteError, ShapeError
from ntkla import cross_entropy_targets as targets_of
from ntkla.linalg.precision import gamma

SAMPLES, CLASSES = 30, 5


def drawn(seed=0):
    generator = torch.Generator().manual_seed(seed)
    outputs = 5.0 * torch.randn(SAMPLES, CLASSES, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, CLASSES, (SAMPLES,), generator=generator)
    return outputs, labels, torch.rand(CLASSES, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize(
    ("smoothing", "weighted", "reduction"),
    list(itertools.product((0.0, 0.1, 1.0), (False, True), ("sum", "mean", "none"))),
)
def test_the_loss_is_that_of_torch(smoothing, weighted, reduction):
    outputs, labels, class_weights = drawn()
    class_weights = class_weights if weighted else None
    y = targets_of(labels, CLASSES, label_smoothing=smoothing, class_weights=class_weights)
    rows = -(y * torch.log_softmax(outputs, 1)).sum(1)
    divisor = float(SAMPLES) if class_weights is None else float(class_weights[labels].sum())
    ours = {"none": rows, "sum": rows.sum(), "mean": rows.sum() / divisor}[reduction]
    theirs = torch.nn.CrossEntropyLoss(class_weights, label_smoothing=smoothing, reduction=reduction)(outputs, labels)
    # Both add C terms a sample and n samples, of logarithms that are within a few roundings of the largest output.
    size = float((y * (1.0 + outputs.abs().amax(1, keepdim=True) - outputs + outputs.abs())).sum())
    assert float((ours - theirs).abs().max()) <= gamma(4 * (SAMPLES + CLASSES) + 40) * size


def test_the_gradient_is_that_of_torch():
    outputs, labels, class_weights = drawn(1)
    outputs.requires_grad_()
    torch.nn.CrossEntropyLoss(class_weights, label_smoothing=0.2, reduction="sum")(outputs, labels).backward()
    y = targets_of(labels, CLASSES, label_smoothing=0.2, class_weights=class_weights)
    ours = y.sum(1, keepdim=True) * torch.softmax(outputs.detach(), 1) - y
    assert bool(((outputs.grad - ours).abs() <= gamma(8 * CLASSES + 40)).all())


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64])
def test_integers_of_any_type_are_labels(dtype):
    assert torch.equal(
        targets_of(torch.tensor([2, 0], dtype=dtype), 3), torch.tensor([[0.0, 0, 1], [1, 0, 0]]).double()
    )


LABELS = torch.tensor([0, 1])


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"labels": torch.tensor([0, 3])}, LabelError),
        ({"labels": torch.tensor([-1, 0])}, LabelError),
        ({"labels": torch.tensor([0.0, 1.0])}, DtypeError),
        ({"labels": [0, 1]}, DtypeError),
        ({"labels": torch.tensor([[0, 1]])}, ShapeError),
        ({"labels": torch.tensor(1)}, ShapeError),
        ({"labels": torch.zeros(0, dtype=torch.int64)}, ShapeError),
        ({"labels": LABELS.to("meta")}, DeviceError),
        ({"classes": 0}, ArgumentError),
        ({"classes": 2**60, "label_smoothing": 0.1}, MemoryEstimateError),
        ({"label_smoothing": 1.5}, ArgumentError),
        ({"label_smoothing": -0.1}, ArgumentError),
        ({"label_smoothing": float("nan")}, ArgumentError),
        ({"class_weights": [1, 1, 1]}, ShapeError),
        ({"class_weights": torch.ones(2)}, ShapeError),
        ({"class_weights": torch.ones(3).int()}, DtypeError),
        ({"class_weights": torch.zeros(3)}, ArgumentError),
        ({"class_weights": torch.tensor([1.0, -1.0, 1.0])}, ArgumentError),
        ({"class_weights": torch.tensor([1.0, float("inf"), 1.0])}, NonFiniteError),
    ],
)
def test_bad_input_is_named(arguments, error):
    with pytest.raises(error):
        targets_of(**({"labels": LABELS, "classes": 3} | arguments))
