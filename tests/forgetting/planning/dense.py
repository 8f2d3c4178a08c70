"""A plan by hand: every point solved or trained on its own, densely in float64, straight from the definition."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

import torch

import ntkla
from ntkla.forgetting.planning.points import PlanPoint
from ntkla.linalg.design import widened
from ntkla.linalg.precision import gamma


def design(features: torch.Tensor, bias: bool) -> torch.Tensor:
    """Phi in float64, with its column of ones."""
    x = widened(features)
    return torch.cat([x, torch.ones_like(x[:, :1])], dim=1) if bias else x


def outputs_of(task: ntkla.Task, head: ntkla.LinearHead) -> torch.Tensor:
    return torch.arange(head.outputs, device="cpu") if task.outputs is None else task.outputs


@dataclass(frozen=True, eq=False)
class Dense:
    """The arguments of a plan, to be solved by hand."""

    olds: Mapping[str, ntkla.Task]
    new: ntkla.Task
    head: ntkla.LinearHead
    penalize_bias: bool = True
    probes: Mapping[str, torch.Tensor] | None = None

    @property
    def bias(self) -> bool:
        return self.head.bias is not None

    @cache  # noqa: B019 the reference lives as long as its test
    def penalty(self, name: str, modes: int) -> torch.Tensor:
        """`2 / (C k) Phi^T U U^T Phi` of one old task, from an SVD of its probes."""
        features = (self.probes or {}).get(name, self.olds[name].features)
        _, sizes, rows = torch.linalg.svd(design(features, self.bias), full_matrices=False)
        # An eigenvalue that is nothing but rounding has a root that is the root of it.
        rounding = math.sqrt(gamma(features.numel()))
        kept = int((sizes[:modes] > sizes[0] * rounding).sum()) if sizes.numel() else 0
        if kept == 0:
            return torch.zeros((rows.shape[1], rows.shape[1]), dtype=torch.float64, device="cpu")
        z = sizes[:kept, None] * rows[:kept]
        return 2.0 / (outputs_of(self.olds[name], self.head).shape[0] * kept) * z.T @ z

    def update(self, point: PlanPoint) -> torch.Tensor:
        """dW^T of all outputs of the head, [K, C], by a solve or by a loop of gradient steps."""
        x, used = design(self.new.features, self.bias), outputs_of(self.new, self.head)
        start = self.head.stacked()
        counts = torch.ones(x.shape[0], dtype=torch.float64, device="cpu")
        counts = counts if self.new.weights is None else self.new.weights
        ridge = torch.full((x.shape[1],), point.ridge, dtype=torch.float64, device="cpu")
        if self.bias and not self.penalize_bias:
            ridge[-1] = 0.0
        change = torch.zeros_like(start)
        gradient = x.T @ (counts[:, None] * (x @ start[:, used] - widened(self.new.targets)))
        free = x.T @ (counts[:, None] * x) + torch.diag(ridge)
        held = {name: set(outputs_of(old, self.head).tolist()) for name, old in self.olds.items() if point.weight > 0}
        together: dict[tuple[str, ...], list[int]] = {}
        for column, output in enumerate(used.tolist()):
            together.setdefault(tuple(name for name in held if output in held[name]), []).append(column)
        for names, columns in together.items():
            normal = free + sum(point.weight * self.penalty(name, point.modes) for name in names)
            change[:, used[columns]] = trained(normal, gradient[:, columns], point.training)
        return change

    def joint(self, ridge: float) -> torch.Tensor:
        """W^T of the joint optimum, [K, C]."""
        tasks = [*self.olds.values(), self.new]
        found = torch.zeros_like(self.head.stacked())
        for output in range(self.head.outputs):
            normal, right = torch.diag(torch.full_like(found[:, 0], ridge)), torch.zeros_like(found[:, 0])
            if self.bias and not self.penalize_bias:
                normal[-1, -1] = 0.0
            for task in tasks:
                used = outputs_of(task, self.head).tolist()
                if output in used:
                    x = design(task.features, self.bias)
                    counted = x if task.weights is None else x * task.weights[:, None]
                    normal = normal + counted.T @ x
                    right = right + counted.T @ widened(task.targets)[:, used.index(output)]
            found[:, output] = torch.linalg.lstsq(normal, right[:, None], driver="gelsd").solution[:, 0]
        return found


def trained(normal: torch.Tensor, gradient: torch.Tensor, training: object) -> torch.Tensor:
    """The change of some columns: the optimum, or every step of the optimiser as torch takes it."""
    if training is None:
        return -torch.linalg.solve(normal, gradient)
    if isinstance(training, ntkla.GradientFlow):
        values, q = torch.linalg.eigh(normal)
        return -q @ ((-torch.expm1(-training.time * values) / values)[:, None] * (q.T @ gradient))
    assert isinstance(training, ntkla.GradientDescent)
    change = torch.nn.Parameter(torch.zeros_like(gradient))
    optimizer = torch.optim.SGD([change], training.lr, momentum=training.momentum, nesterov=training.nesterov)
    for _ in range(training.steps):
        change.grad = normal @ change.detach() + gradient
        optimizer.step()
    return change.detach()


@dataclass(frozen=True, eq=False)
class Facts:
    """What a head does to one task: outputs [n, C] and what is read off them."""

    before: torch.Tensor
    after: torch.Tensor
    task: ntkla.Task
    used: torch.Tensor

    @classmethod
    def of(cls, dense: Dense, task: ntkla.Task, change: torch.Tensor, whole: bool = False) -> Facts:
        """After a change of the head, or for `whole` a head of its own."""
        x, used = design(task.features, dense.bias), outputs_of(task, dense.head)
        before = x @ dense.head.stacked()[:, used]
        after = x @ change[:, used]
        return cls(before, after if whole else before + after, task, used)

    @property
    def drift(self) -> float:
        return float(torch.linalg.vector_norm(self.after - self.before))

    @property
    def loss(self) -> float:
        return float((self.after - widened(self.task.targets)).square().sum()) / (2 * self.after.shape[0])

    @property
    def accuracy(self) -> float:
        return float((self.used[self.after.argmax(dim=1)] == self.task.labels).double().mean())

    @property
    def flips(self) -> int:
        return int((self.after.argmax(dim=1) != self.before.argmax(dim=1)).sum())
