"""What a plan replaces: every point solved or trained on its own.

- *each point, normal matrices*: the expert's loop.  The normal matrices and the modes are made once; a point is one
  Cholesky solve, or its steps of gradient descent on the K x K matrix, and the predictions on every task.
- *torch SGD* and *torch LBFGS*: what people do, `torch.nn.Linear`, autograd and `SpectralPenalty` modules in float64.
  One point of the grid each; training the others takes as long again for each.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch

from ntkla.forgetting.descent.training import GradientDescent, Training
from ntkla.forgetting.penalties.spectral_penalty import SpectralPenalty
from ntkla.forgetting.planning.grid import Grid, Setting
from ntkla.linalg.eigenmodes import eigenmodes
from perf.harness import Contender, Work
from perf.suites.plan_problem import Problem

EACH, SGD, LBFGS = "each point, normal matrices", "torch SGD, one point", "torch LBFGS, one point"
# What LBFGS leaves of the gradient, relative, before the judge looks: far more than rounding does.
TRAINED = 1e-5
_ITERATIONS = 500


class Answer(NamedTuple):
    """What is said of some points: their numbers, drift norms [p, tasks] (the new one last), new losses, and hits."""

    numbers: list[int]
    drift: torch.Tensor
    loss: torch.Tensor
    hits: torch.Tensor


def grid_of(problem: Problem) -> Grid:
    """The grid as the plan numbers it."""
    return Grid.checked(
        **{"weights": (0.0,), "lr": None, "momentum": 0.0, "nesterov": False, **problem.grid},
    )


def contenders(problem: Problem) -> list[Contender]:
    """The three of them."""
    grid = grid_of(problem)
    last = len(grid) - grid.each // 2
    trained = [n for n in range(last, len(grid)) if grid.point(n)[2] is not None][-1]
    solved = next(n for n in range(last, len(grid)) if grid.point(n)[2] is None)
    every = Contender(EACH, partial(each, problem, range(len(grid))), work(problem, len(grid)), digits=2.0**-53)
    one = f"1 of {len(grid)} points: "
    steps = getattr(grid.point(trained)[2], "steps", 0)
    sgd = partial(_by_autograd, problem, trained, _descend)
    lbfgs = partial(_by_autograd, problem, solved, _minimise)
    return [
        every,
        Contender(SGD, sgd, work(problem, 1), digits=2.0**-53, note=f"{one}{steps} steps"),
        Contender(LBFGS, lbfgs, work(problem, 1), digits=TRAINED, note=one + "the optimum"),
    ]


def work(problem: Problem, points: int) -> Work:
    """One solve and the predictions of every task for each point; the features are read once."""
    s = problem.setting
    solve = s.features**3 / 3 + 2.0 * s.features**2 * s.outputs
    predictions = 2.0 * (s.olds + 1) * s.n * s.features * s.outputs
    size = sum(task.features.numel() * task.features.element_size() for task in [problem.new, *problem.olds.values()])
    return Work(points * (solve + predictions), float(size))


def each(problem: Problem, numbers: range | list[int]) -> Answer:
    """Point by point, from normal matrices that are made once."""
    grid, start = grid_of(problem), problem.head.weight.double().T
    x = problem.new.features.double()
    normal = x.T @ x
    assert problem.new.targets is not None
    gradient = x.T @ (x @ start - problem.new.targets)
    modes = [torch.linalg.eigh(p.T @ p) for p in (old.features.double() for old in problem.olds.values())]
    made, held, changes = Setting(0.0, 0), normal, []
    for number in numbers:
        setting, ridge, training = grid.point(number)
        if setting != made:
            made, held = setting, normal + protection(modes, setting, problem.head.outputs)
        matrix = held.clone()
        matrix.diagonal().add_(ridge)
        changes.append(moved(matrix, gradient, training))
    return judged(problem, list(numbers), changes)


def protection(modes: list[tuple[torch.Tensor, torch.Tensor]], setting: Setting, outputs: int) -> torch.Tensor:
    """`sum_P 2 weight / (C k) V_k diag(s_k) V_k^T`."""
    found = torch.zeros_like(modes[0][1])
    if setting.protects:
        for values, vectors in modes:
            scaled = vectors[:, -setting.modes :] * values[-setting.modes :].sqrt()
            found += 2 * setting.weight_on(outputs, setting.modes) / (outputs * setting.modes) * scaled @ scaled.T
    return found


def moved(matrix: torch.Tensor, gradient: torch.Tensor, training: Training | None) -> torch.Tensor:
    """The update of the head, [K, C]."""
    if training is None:
        return -torch.cholesky_solve(gradient, torch.linalg.cholesky(matrix))
    assert isinstance(training, GradientDescent)
    change = torch.zeros_like(gradient)
    for _ in range(training.steps):
        change -= training.lr * (matrix @ change + gradient)
    return change


def judged(problem: Problem, numbers: list[int], changes: list[torch.Tensor]) -> Answer:
    """The predictions of every task at every point."""
    start, drifts, losses, hits = problem.head.weight.double().T, [], [], []
    tasks = [(t, t.features.double()) for t in (*problem.olds.values(), problem.new)]
    for change in changes:
        drift = [x @ change for _, x in tasks]
        after = [x @ start + d for (_, x), d in zip(tasks, drift, strict=True)]
        drifts.append(torch.stack([torch.linalg.vector_norm(d) for d in drift]))
        hits.append(torch.stack([(a.argmax(1) == t.labels).sum() for (t, _), a in zip(tasks, after, strict=True)]))
        assert problem.new.targets is not None
        losses.append((after[-1] - problem.new.targets).square().sum() / (2 * after[-1].shape[0]))
    return Answer(numbers, torch.stack(drifts), torch.stack(losses), torch.stack(hits))


def _by_autograd(problem: Problem, number: int, train: Callable[..., None]) -> Answer:
    """One point, trained with autograd and the penalties as modules."""
    setting, ridge, training = grid_of(problem).point(number)
    x, start = problem.new.features.double(), problem.head.weight.double()
    probes = [old.features.double() for old in problem.olds.values()]
    weight = setting.weight_on(start.shape[0], setting.modes)
    penalties = [SpectralPenalty(eigenmodes(p, setting.modes), p @ start.T, weight) for p in probes]
    layer = torch.nn.Linear(x.shape[1], start.shape[0], bias=False, dtype=torch.float64, device=x.device)
    layer.load_state_dict({"weight": start})

    def objective() -> torch.Tensor:
        loss = (layer(x) - problem.new.targets).square().sum() / 2
        loss = loss + ridge / 2 * (layer.weight - start).square().sum()
        for penalty, p in zip(penalties, probes, strict=True):
            loss = loss + penalty(layer(p))
        return loss

    train(layer, objective, training)
    return judged(problem, [number], [(layer.weight.detach() - start).T])


def _descend(layer: torch.nn.Linear, objective: Callable[[], torch.Tensor], training: GradientDescent) -> None:
    optimizer = torch.optim.SGD(layer.parameters(), training.lr)
    for _ in range(training.steps):
        optimizer.zero_grad()
        objective().backward()  # type: ignore[no-untyped-call]
        optimizer.step()


def _minimise(layer: torch.nn.Linear, objective: Callable[[], torch.Tensor], _: Training | None) -> None:
    optimizer = torch.optim.LBFGS(
        layer.parameters(), max_iter=_ITERATIONS, history_size=20, tolerance_grad=0.0, line_search_fn="strong_wolfe"
    )

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = objective()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimizer.step(closure)  # type: ignore[no-untyped-call]
