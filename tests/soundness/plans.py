"""Plans of small problems in words, and the exact answer of every point, in ball arithmetic.

The new task's loss is given to the references as the penalties of `PenaltyTerm`, one a sample, so that the residual of
a head of any size is exact there, and nowhere rounded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from hypothesis import strategies as st

import ntkla
from ntkla.forgetting.planning.leading_modes import leading_modes
from ntkla.linalg.design import DesignMatrix
from ntkla.linalg.precision import gamma
from ntkla.testing import (
    Exact,
    PenaltyTerm,
    Problem,
    gradient_descent,
    gradient_flow,
    mean_eigenvalue,
    problems,
    with_bias,
)
from ntkla.testing.ball_penalty import by_output
from ntkla.testing.balls import ball, ball_matrix, diagonal, flint
from ntkla.testing.spectra import normal


def design(features: torch.Tensor, bias: bool) -> torch.Tensor:
    """Phi, float64."""
    return with_bias(features) if bias else features.to(torch.float64)


def _loss(task: ntkla.Task, bias: bool) -> list[PenaltyTerm]:
    """A task's loss, a term `w/2 ||phi W^T - y||^2` a sample."""
    phi, one = design(task.features, bias), torch.ones((1, 1), dtype=torch.float64, device="cpu")
    weights = [1.0] * phi.shape[0] if task.weights is None else task.weights.tolist()
    every = tuple(range(task.targets.shape[1]))
    return [
        PenaltyTerm(one, phi[i : i + 1], task.targets[i : i + 1], weight, 2, every) for i, weight in enumerate(weights)
    ]


def _optimum(penalties: Sequence[float], terms: Sequence[PenaltyTerm], start: torch.Tensor) -> Exact:
    """The change of a head [K, C] to where a ridge towards it, and the terms, have their least."""

    def compute() -> Any:
        ridge = diagonal([ball(penalty) for penalty in penalties])
        nothing = flint().arb_mat(*start.shape)
        return -by_output(
            lambda a, g: a.solve(g, algorithm="lu"), ridge, nothing, terms, ball_matrix(start), bias=False
        )

    return Exact(compute)


@dataclass(frozen=True)
class Planned:
    """A grid on one problem.

    Attributes:
        problem: the old task, the new one, and minus its targets, the residual of a head of zeros.
        modes: k.
        strength: the largest eigenvalue of what the penalty adds, in mean eigenvalues of the new task.
        kind, share, steps: of the training that stops early; share of the stable range.
        tol: of the plan; a tight one is only tried for beyond float64.
        head_scale: of the entries of the head before.
    """

    problem: Problem
    modes: int = 2
    strength: float = 1.0
    kind: str = "plain"
    share: float = 0.5
    steps: int = 10
    tol: float | None = None
    head_scale: float = 0.0

    @cached_property
    def rows(self) -> torch.Tensor:
        """Z of the old task's modes, as the plan has them."""
        p = self.problem
        return leading_modes(DesignMatrix(p.features_old, p.bias), p.outputs, self.modes).rows

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
        phi = design(p.features_new, p.bias)
        if p.weights is not None:
            phi = phi * p.weights.to(torch.float64).sqrt()[:, None]
        added = 2 * self.strength * mean_eigenvalue(p.features_new, p.bias, p.weights) * self.modes
        largest = float(torch.linalg.matrix_norm(phi, 2)) ** 2 + p.ridge + added
        largest = largest * (1 + gamma(1000 * phi.numel())) or 1.0
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

    @cached_property
    def start(self) -> torch.Tensor:
        """W_A^T, [K, C]."""
        p = self.problem
        return normal(p.new.features + p.bias, p.outputs, p.seed + 3) * self.head_scale

    def made(self) -> ntkla.Plan:
        """The library's answer."""
        p, (old, new) = self.problem, self.tasks
        head = ntkla.LinearHead(self.start[: p.new.features].T, self.start[-1] if p.bias else None)
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

    @property
    def penalties(self) -> list[float]:
        """The ridge on each column."""
        p = self.problem
        columns = p.new.features + p.bias
        return [p.ridge] * (columns - 1) + [p.ridge if p.penalize_bias or not p.bias else 0.0]

    def exact(self, point: ntkla.PlanPoint) -> Exact:
        """dW^T of one point."""
        p, terms = self.problem, _loss(self.tasks[1], self.problem.bias)
        if point.weight > 0 and self.rows.numel():
            count = self.rows.shape[0]
            basis = torch.eye(count, dtype=torch.float64, device="cpu")
            every = tuple(range(p.outputs))
            terms.append(PenaltyTerm(basis, self.rows, None, point.weight, p.outputs * count, every))
        if point.training is None:
            return _optimum(self.penalties, terms, self.start)
        nothing = torch.zeros_like(self.start[:, :1].T), torch.zeros_like(self.start[:1])
        given = {"penalties": self.penalties, "protected": terms, "start": self.start}
        t = point.training
        if isinstance(t, ntkla.GradientFlow):
            return gradient_flow(*nothing, time=t.time, **given)
        run = {"lr": t.lr, "steps": t.steps, "momentum": t.momentum, "nesterov": t.nesterov}
        return gradient_descent(*nothing, **run, **given)

    @cached_property
    def joint(self) -> Exact:
        """W^T of the joint optimum."""
        both = [term for task in self.tasks for term in _loss(task, self.problem.bias)]
        return _optimum(self.penalties, both, torch.zeros_like(self.start))


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
        draw(st.sampled_from([0.0, 1.0, 1e8])),
    )
