"""Tasks and heads: what they accept, keep and predict."""

from __future__ import annotations

import pytest
import torch

from ntkla.forgetting.heads import LinearHead
from ntkla.forgetting.tasks import Task
from ntkla.linalg.errors import (
    ArgumentError,
    DeviceError,
    DtypeError,
    LabelError,
    MemoryEstimateError,
    NonFiniteError,
    ScaleError,
    ShapeError,
)
from ntkla.testing import FeatureSpec, compare, dyadic, hostile_states
from ntkla.testing.balls import Exact, ball_matrix, design_matrix
from ntkla.testing.spectra import normal

X = normal(5, 3, 1)


def test_one_hot_targets() -> None:
    task = Task.from_labels(X.to(torch.float32), torch.tensor([0, 2, 1, 2, 0]), 4)
    assert task.targets.dtype == torch.float64
    assert task.targets.tolist() == [[1, 0, 0, 0], [0, 0, 1, 0], [0, 1, 0, 0], [0, 0, 1, 0], [1, 0, 0, 0]]
    assert task.labels.tolist() == [0, 2, 1, 2, 0]
    assert str(task) == "Task: 5 samples, 3 features, 4 outputs, with labels"


@pytest.mark.parametrize("labels", [[0, 1, 2, 3, 4], [-1, 0, 0, 0, 0]])
def test_labels_outside_the_classes(labels: list[int]) -> None:
    with pytest.raises(LabelError, match="from 0 to 3"):
        Task.from_labels(X, torch.tensor(labels), 4)
    with pytest.raises(LabelError):
        Task(X, torch.zeros((5, 4), dtype=torch.float64), torch.tensor(labels))


@pytest.mark.parametrize(
    ("features", "labels", "classes", "error"),
    [
        (X, torch.zeros(4, dtype=torch.int64), 2, ShapeError),
        (X, torch.zeros((5, 1), dtype=torch.int64), 2, ShapeError),
        (X, torch.zeros(5), 2, DtypeError),
        (X, [0, 0, 0, 0, 0], 2, DtypeError),
        (X, torch.zeros(5, dtype=torch.int64), 0, ArgumentError),
        (X, torch.zeros(5, dtype=torch.int64), 10**400, ArgumentError),
        (X, torch.zeros(5, dtype=torch.int64), 2**60, MemoryEstimateError),
        (X, torch.zeros(5, dtype=torch.int64).to_sparse(), 2, DtypeError),
        (X, torch.zeros(5, dtype=torch.int64, device="meta"), 2, DeviceError),
        (X, torch.zeros(5, dtype=torch.int64), 2.5, ArgumentError),
        (X.tolist(), torch.zeros(5, dtype=torch.int64), 2, DtypeError),
        (X[:0], torch.zeros(0, dtype=torch.int64), 2, ShapeError),
        (X / 0, torch.zeros(5, dtype=torch.int64), 2, NonFiniteError),
    ],
)
def test_from_labels_refuses(features: object, labels: object, classes: object, error: type[Exception]) -> None:
    with pytest.raises(error):
        Task.from_labels(features, labels, classes)


def test_task_refuses_targets_of_other_rows() -> None:
    with pytest.raises(ShapeError, match="5 rows"):
        Task(X, X[:4])


def test_inputs_are_detached() -> None:
    task = Task(X.clone().requires_grad_(), X)
    assert not task.features.requires_grad
    head = LinearHead(X.clone().requires_grad_(), X[:, 0].clone().requires_grad_())
    assert not head(X).requires_grad


@pytest.mark.parametrize(
    ("weight", "bias", "error"),
    [
        (X, X, ShapeError),
        (X, X[:4, 0], ShapeError),
        (X, 0.5, ShapeError),
        (X[0], None, ShapeError),
        (X * float("inf"), None, NonFiniteError),
        (X, X[:, 0] * float("nan"), NonFiniteError),
        (X * 2.0**300, None, ScaleError),
        (None, None, DtypeError),
    ],
)
def test_head_refuses(weight: object, bias: object, error: type[Exception]) -> None:
    with pytest.raises(error):
        LinearHead(weight, bias)


def test_head_refuses_other_features() -> None:
    head = LinearHead(X)
    with pytest.raises(ShapeError, match="3 columns"):
        head(X.T)
    with pytest.raises(ShapeError):
        head.predict(X.T)


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16"])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("scale", [1.0, 1e12, 1e-12])
def test_predictions_within_their_bound(dtype: str, bias: bool, scale: float) -> None:
    features = FeatureSpec(6, 9, dtype=dtype, layout="strided", scale=scale).tensor
    weight, offset = normal(4, 9, 3).to(torch.float32), normal(1, 4, 4)[0]
    head = LinearHead(weight, offset if bias else None)
    outputs, bound = head.predict(features)
    assert outputs.dtype == torch.float64
    assert torch.equal(outputs, head(features))

    def compute():
        columns = [
            [*row, b] if bias else row for row, b in zip(ball_matrix(weight).tolist(), offset.tolist(), strict=True)
        ]
        return design_matrix(features, bias) * type(ball_matrix(weight))(columns).transpose()

    assert compare(outputs, bound, Exact(compute)).sound
    assert not compare(outputs + 2 * bound, bound, Exact(compute)).sound


def test_predictions_within_their_bound_where_flushed_arithmetic_drops_the_parameters() -> None:
    features, weight = torch.full((3, 2), 1e50, dtype=torch.float64), torch.full((1, 2), 1e-310, dtype=torch.float64)
    with hostile_states()["flush denormal"]():
        outputs, bound = LinearHead(weight).predict(features)
    assert compare(outputs, bound, Exact(lambda: ball_matrix(features) * ball_matrix(weight.T))).sound


def test_stacked_is_exact() -> None:
    weight, bias = X.to(torch.bfloat16), X[:, 0].to(torch.float32)
    stacked = LinearHead(weight, bias).stacked()
    assert dyadic(stacked) == dyadic(torch.cat([weight.to(torch.float64).T, bias.to(torch.float64)[None]]))


def test_a_transposed_weight_is_named_and_not_the_bias() -> None:
    with pytest.raises(ShapeError, match=r"C = 3, one row for each entry of the bias.*transposed: pass weight\.T"):
        LinearHead(X, X[0])
    layer = torch.nn.Linear(3, 5)
    assert LinearHead(layer.weight, layer.bias).outputs == 5
