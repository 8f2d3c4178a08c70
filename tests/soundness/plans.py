"""Plans of small problems in words, and their judge: the exact answer of every point, in ball arithmetic."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from hypothesis import strategies as st

import ntkla
from ntkla.forgetting.planning.protected import protected
from ntkla.linalg.design import DesignMatrix
from ntkla.linalg.precision import gamma
from ntkla.testing import (
    Comparison,
    Exact,
    PenaltyTerm,
    Problem,
    compare,
    drift_of,
    gradient_descent,
    gradient_flow,
    head_update,
    mean_eigenvalue,
    problems,
    with_bias,
)
from ntkla.testing.balls import ball_matrix, euclidean_norm, flint


@dataclass(frozen=True)
class Planned:
    """A grid on one problem.

    Attributes:
        problem: the old task, the new one, and the residual, which is that of a head of zeros.
        modes: k.
        strength: the largest eigenvalue of what the penalty adds, in mean eigenvalues of the new task.
        kind, share, steps: of the training that stops early; share of the stable range.
        tol: of the plan; a tight one is only tried for beyond float64.
    """

    problem: Problem
    modes: int = 2
    strength: float = 1.0
    kind: str = "plain"
    share: float = 0.5
    steps: int = 10
    tol: float | None = None

    @cached_property
    def rows(self) -> torch.Tensor:
        """Z of the old task's modes, as the plan has them."""
        p = self.problem
        return protected(DesignMatrix(p.features_old, p.bias), p.outputs, self.modes).rows

    @cached_property
    def weight(self) -> float:
        """Of the penalty, a power of two times C k, so that every reference knows it exactly."""
        if not self.rows.numel():
            return 1.0
        p, largest = self.problem, float(self.rows.square().sum(dim=1).max()) or 1.0
        wanted = self.strength * mean_eigenvalue(p.features_new, p.bias, p.weights) / largest
        power = 2.0 ** max(-300, min(300, round(torch.tensor(wanted, dtype=torch.float64).log2().item())))
        return power * p.outputs * self.rows.shape[0] / 2

    @cached_property
    def training(self) -> ntkla.GradientDescent | ntkla.GradientFlow:
        """Stable for both protections."""
        p = self.problem
        design = with_bias(p.features_new) if p.bias else p.features_new.to(torch.float64)
        if p.weights is not None:
            design = design * p.weights.to(torch.float64).sqrt()[:, None]
        added = 2 * self.strength * mean_eigenvalue(p.features_new, p.bias, p.weights) * self.modes
        largest = float(torch.linalg.matrix_norm(design, 2)) ** 2 + p.ridge + added
        largest = largest * (1 + gamma(1000 * design.numel())) or 1.0
        if self.kind == "flow":
            return ntkla.GradientFlow(self.share * self.steps / largest)
        momentum = 0.0 if self.kind == "plain" else 0.9
        unit = ntkla.GradientDescent(1.0, self.steps, momentum, self.kind == "nesterov")
        return ntkla.GradientDescent(self.share * unit.stability_limit / largest, self.steps, momentum, unit.nesterov)

    @cached_property
    def tasks(self) -> tuple[ntkla.Task, ntkla.Task]:
        """Old and new; the old one's labels are arbitrary."""
        p = self.problem
        labels = torch.arange(p.old.n, device="cpu") % p.outputs
        new = ntkla.Task(p.features_new, -p.residual_new, weights=p.weights)
        return ntkla.Task.from_labels(p.features_old, labels, p.outputs), new

    def made(self) -> ntkla.Plan:
        """The library's answer."""
        p, (old, new) = self.problem, self.tasks
        nothing = torch.zeros((p.outputs, p.new.features), dtype=torch.float64, device="cpu")
        head = ntkla.LinearHead(nothing, nothing[:, 0] if p.bias else None)
        return ntkla.plan(
            old,
            new,
            head,
            ridges=[p.ridge],
            weights=[0.0, self.weight],
            modes=[self.modes],
            steps=[None, self.training],
            penalize_bias=p.penalize_bias,
            tol=self.tol,
        )

    def exact(self, point: ntkla.PlanPoint) -> Exact:
        """dW^T of one point."""
        p = self.problem
        design = with_bias(p.features_new) if p.bias else p.features_new.to(torch.float64)
        penalties = [point.ridge] * design.shape[1]
        if p.bias and not p.penalize_bias:
            penalties[-1] = 0.0
        terms = []
        if point.weight > 0 and self.rows.numel():
            count = self.rows.shape[0]
            basis = torch.eye(count, dtype=torch.float64, device="cpu")
            terms = [PenaltyTerm(basis, self.rows, None, point.weight, p.outputs * count, tuple(range(p.outputs)))]
        if point.training is None:
            if penalties[-1] == penalties[0]:
                return head_update(design, p.residual_new, ridge=p.ridge, weights=p.weights, protected=terms)
            free = {"bias": True, "penalize_bias": False, "weights": p.weights}
            return head_update(p.features_new, p.residual_new, ridge=p.ridge, **free)  # no terms: see planned_problems
        given = {"penalties": penalties, "weights": p.weights, "protected": terms}
        t = point.training
        if isinstance(t, ntkla.GradientFlow):
            return gradient_flow(design, p.residual_new, time=t.time, **given)
        run = {"lr": t.lr, "steps": t.steps, "momentum": t.momentum, "nesterov": t.nesterov}
        return gradient_descent(design, p.residual_new, **run, **given)

    def judged(self, point: ntkla.PlanPoint, scale: float = 1.0, moved: float = 0.0) -> list[Comparison]:
        """Drift and loss of both tasks; `scale` shrinks the bounds and `moved` shifts the values, to plant errors."""
        update, found = self.exact(point), []
        for task, outcome in zip(self.tasks, (point.old["old"], point.new), strict=True):
            if not outcome.drift_error < float("inf"):
                continue
            values = torch.tensor([[outcome.drift, outcome.loss]], dtype=torch.float64, device="cpu") * (1.0 + moved)
            errors = torch.tensor([[outcome.drift_error, outcome.loss_error]], dtype=torch.float64, device="cpu")
            found.append(compare(values, errors * scale, self._sizes(task, update), "drift and loss"))
        return found

    def _sizes(self, task: ntkla.Task, update: Exact) -> Exact:
        drift = drift_of(task.features, update, bias=self.problem.bias)

        def compute() -> Any:
            moved = drift.compute()
            left = moved - ball_matrix(task.targets)
            squares = sum((x * x for x in left.entries()), flint().arb(0))
            return flint().arb_mat([[euclidean_norm(moved.entries()), squares / (2 * task.features.shape[0])]])

        return Exact(compute)

    def accuracy_holds(self, point: ntkla.PlanPoint) -> bool:
        """Whether the exact outputs of the old task agree with what is said about its accuracy and its flips."""
        task = self.tasks[0]
        drift = drift_of(task.features, self.exact(point), bias=self.problem.bias).at(600)
        if drift is None:
            return True
        rows, labels, n = drift.tolist(), task.labels.tolist(), task.features.shape[0]
        certain = sum(all(row[y] > x for j, x in enumerate(row) if j != y) for row, y in zip(rows, labels, strict=True))
        possible = sum(not any(x > row[y] for x in row) for row, y in zip(rows, labels, strict=True))
        accuracy = point.old["old"].accuracy
        return round(accuracy.low * n) <= possible and round(accuracy.high * n) >= certain


@st.composite
def planned_problems(draw: st.DrawFn, most: int = 5) -> Planned:
    """Problems of every kind, with grids of four points; a free bias without a penalty."""
    problem = draw(problems(most=most))
    modes = draw(st.integers(1, most)) if problem.penalize_bias or not problem.bias else 0
    return Planned(
        problem,
        modes,
        draw(st.sampled_from([1.0, 1e-4, 1e4])),
        draw(st.sampled_from(["plain", "momentum", "nesterov", "flow"])),
        draw(st.sampled_from([0.5, 0.05, 0.9])),
        draw(st.sampled_from([1, 2, 7, 100])),
        draw(st.sampled_from([None, 1e-15])),
    )
