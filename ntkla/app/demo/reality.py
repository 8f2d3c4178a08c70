"""What really happens: the head is trained by PyTorch, the optimum is solved directly, and both are run again exactly.

Nothing here calls ntkla's solvers or filters.  Each way of training has a twin in extended precision (`pairs`); the
difference of the two is the rounding of the training itself.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
import torch

from ntkla.app.demo.pairs import Array, Pair, SlicedMatrix, add, pair, scale

# A step of refinement with exact gradients gains about 11 digits here, and a pair holds 32.
_REFINEMENTS = 4


@dataclass(frozen=True)
class Problem:
    """A new task as both ways of training see it.

    Attributes:
        design: float64 [n, F + 1], the features and a constant 1 for the bias.
        targets: float64 [n, C].
        start: float64 [F + 1, C], the head before training, transposed; its last row is the bias.
    """

    design: Array
    targets: Array
    start: Array


@dataclass(frozen=True)
class Trained:
    """A head after training, as it came out in float64, and the seconds that it took."""

    head: Array
    seconds: float


def design_of(features: torch.Tensor) -> Array:
    """The features and a constant 1, float64 [n, F + 1]."""
    ones = torch.ones((len(features), 1), dtype=torch.float64, device="cpu")
    return np.asarray(torch.cat([features.to(torch.float64), ones], dim=1).numpy())


def train_with_sgd(problem: Problem, *, lr: float, steps: int, momentum: float) -> Trained:
    """Full-batch `torch.optim.SGD` in float64 on half the summed squared error."""
    began = time.perf_counter()
    inputs, targets = torch.from_numpy(problem.design[:, :-1]), torch.from_numpy(problem.targets)
    weight = torch.nn.Parameter(torch.from_numpy(problem.start[:-1].T.copy()))
    bias = torch.nn.Parameter(torch.from_numpy(problem.start[-1].copy()))
    optimizer = torch.optim.SGD([weight, bias], lr=lr, momentum=momentum)
    for _ in range(steps):
        optimizer.zero_grad()
        loss = (torch.nn.functional.linear(inputs, weight, bias) - targets).square().sum() / 2
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    head = np.vstack([weight.detach().numpy().T, bias.detach().numpy()])
    return Trained(head, time.perf_counter() - began)


def sgd_exactly(problem: Problem, *, lr: float, steps: int, momentum: float) -> Pair:
    """The head after the same steps in extended precision, about 60 bits.

    `buffer = momentum buffer + gradient; head = head - lr buffer`, as `torch.optim.SGD` documents it.
    """
    design = SlicedMatrix(problem.design, levels=3)
    head = pair(problem.start)
    buffer = pair(np.zeros_like(problem.start))
    for _ in range(steps):
        gradient = design.rmatmul(add(design.matmul(head), pair(-problem.targets)))
        buffer = add(scale(buffer, momentum), gradient)
        head = add(head, scale(buffer, -lr))
    return head


def solve_optimum(problem: Problem, *, ridge: float) -> Trained:
    """The head that minimises `||design W - targets||^2 / 2 + ridge / 2 ||W - start||^2`, by one QR factorisation.

    It solves the least-squares problem with the rows `sqrt(ridge) (W - start) = 0` put below the data (LAPACK's gels).
    """
    began = time.perf_counter()
    root = np.sqrt(ridge)
    stacked = np.vstack([problem.design, root * np.eye(problem.design.shape[1])])
    right = np.vstack([problem.targets, root * problem.start])
    solved = torch.linalg.lstsq(torch.from_numpy(stacked), torch.from_numpy(right), driver="gels")
    return Trained(solved.solution.numpy(), time.perf_counter() - began)


def optimum_exactly(problem: Problem, *, ridge: float, near: Array) -> Pair:
    """The optimum in extended precision, about 80 bits: from a head nearby, Newton steps with exact gradients."""
    design = SlicedMatrix(problem.design)
    hessian = problem.design.T @ problem.design + ridge * np.eye(problem.design.shape[1])
    factor = torch.linalg.cholesky(torch.from_numpy(hessian))
    head, start = pair(near), pair(problem.start)
    for _ in range(_REFINEMENTS):
        misfit = add(design.matmul(head), pair(-problem.targets))
        gradient = add(design.rmatmul(misfit), scale(add(head, -start), ridge))
        head = add(head, pair(-torch.cholesky_solve(torch.from_numpy(gradient.high), factor).numpy()))
    return head


def rounding_of(drift: Array, design: Array, exact: Pair, start: Array) -> Array:
    """How far a drift observed in float64 is, entry by entry, from the drift of the exact training, [n, C].

    It counts the rounding of every training step and of evaluating the predictions before and after.
    """
    exact_drift = SlicedMatrix(design).matmul(add(exact, pair(-start)))
    return np.abs((drift - exact_drift.high) - exact_drift.low)
