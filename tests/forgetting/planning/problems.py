"""Small problems for plans: Gaussian classes, a head that was fitted to the old ones."""

from __future__ import annotations

import torch

import ntkla
from ntkla.linalg.design import widened
from tests.forgetting.planning.dense import Dense, design


def classes_of(labels: list[int], n: int, features: int, seed: int, dtype: torch.dtype) -> tuple[torch.Tensor, ...]:
    """Samples of some classes: their features and labels."""
    generator = torch.Generator("cpu").manual_seed(seed)
    options = {"dtype": torch.float64, "device": "cpu", "generator": generator}
    means = torch.Generator("cpu").manual_seed(99)
    centres = torch.randn((16, features), dtype=torch.float64, device="cpu", generator=means)
    drawn = torch.tensor(labels, device="cpu")[torch.randint(len(labels), (n,), device="cpu", generator=generator)]
    spread = torch.logspace(0, -1, features, dtype=torch.float64, device="cpu")
    return (0.6 * centres[drawn] + torch.randn((n, features), **options) * spread).to(dtype), drawn


def problem(
    *,
    features: int = 12,
    n: int = 60,
    bias: bool = True,
    heads: str = "shared",
    dtype: torch.dtype = torch.float64,
    weighted: bool = False,
    penalize_bias: bool = True,
) -> Dense:
    """Two old tasks and a new one, of two classes each; `heads` is "shared", "own" or "overlapping"."""
    used = {"shared": [None] * 3, "own": [[0, 1], [2, 3], [4, 5]], "overlapping": [[0, 1, 4], [2, 3], [4, 5, 2]]}[heads]
    tasks = []
    for number, outputs in enumerate(used):
        x, labels = classes_of([2 * number, 2 * number + 1], n - 7 * number, features, number, dtype)
        weights = torch.linspace(0.5, 2.0, x.shape[0], dtype=torch.float64, device="cpu") if weighted else None
        tasks.append(ntkla.Task.from_labels(x, labels, 6, outputs=outputs, weights=weights))
    olds = {"first": tasks[0], "second": tasks[1]}
    normal, right = None, None
    for task in olds.values():
        x = design(task.features, bias)
        columns = list(range(6)) if task.outputs is None else task.outputs.tolist()
        targets = torch.zeros((x.shape[0], 6), dtype=torch.float64, device="cpu")
        targets[:, columns] = widened(task.targets)
        normal = x.T @ x if normal is None else normal + x.T @ x
        right = x.T @ targets if right is None else right + x.T @ targets
    fitted = torch.linalg.solve(normal + torch.eye(normal.shape[0], dtype=torch.float64, device="cpu"), right).to(dtype)
    head = ntkla.LinearHead(fitted[:features].T, fitted[features] if bias else None)
    return Dense(olds, tasks[2], head, penalize_bias)


def stable_lr(dense: Dense, share: float = 0.5) -> float:
    """A learning rate at some share of the stable range without protection and ridge."""
    x = design(dense.new.features, dense.bias)
    if dense.new.weights is not None:
        x = x * dense.new.weights[:, None].sqrt()
    return share * 2.0 / float(torch.linalg.matrix_norm(x, 2)) ** 2
