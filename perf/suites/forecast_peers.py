"""The forecast through other people's libraries and through the routes that form the kernel: each as it is documented.

Each is a function of the problem; one that is not installed or would not fit says so, and its row stays.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from scipy.linalg import cho_factor, cho_solve

from perf.harness import Contender, Skip, Work
from perf.suites.forecast_experts import work
from perf.suites.forecast_problem import Problem

MEMORY_LIMIT = 4e9  # bytes that a route may hold; the largest size within it is the one that is timed
CURVATURE_SAMPLES, CURVATURE_WORK = 2000, 2000 * 768 * 100
# The library's own CG settings (tolerance 1, an absolute eps of 1e-10) cannot reach an answer that the judge accepts.
CG_SETTINGS = {"tolerance": 1e-12, "eps": 1e-30, "stop_updating_after": 1e-14, "max_iter": 2000}

DENSE, JACOBIAN = "dense K = I_C (x) G", "torch.func jacrev NTK"
ROOT, GRAM, CURVATURE = "linear_operator, low-rank root", "linear_operator, Gram, defaults", "curvlinops, GGN + CG"
NAMES = (DENSE, JACOBIAN, ROOT, GRAM, CURVATURE)


def bytes_needed(name: str, n_old: int, n_new: int, features: int, outputs: int) -> float:
    """What a route has to hold in float64 whatever it does: K_BB and K_AB, both Jacobians, or the Gram matrix twice."""
    counts = {
        DENSE: (n_old + n_new) * n_new * outputs**2,
        JACOBIAN: (n_old + n_new) * features * outputs**2,
        GRAM: 2 * n_new * n_new,
    }
    return 8.0 * counts.get(name, 0)


def largest(name: str, features: int, outputs: int) -> int:
    """The largest n = n_old = n_new within the limit; 0 if even one sample is too much."""
    n = 0
    while bytes_needed(name, n + 1, n + 1, features, outputs) <= MEMORY_LIMIT:
        n += 1
    return n


def contender(name: str, problem: Problem, device: torch.device) -> Contender:
    """The peer of this name on this problem."""
    routes: dict[str, tuple[Callable[..., Any], Work]] = {
        DENSE: (_dense, _dense_work(problem)),
        JACOBIAN: (_jacobian, _jacobian_work(problem)),
        ROOT: (_low_rank_root, work(problem)),
        GRAM: (_gram, work(problem)),
        CURVATURE: (_curvature, work(problem)),
    }
    call, counted = routes[name]
    tensors = tuple(torch.from_numpy(a).to(device, torch.float64) for a in (problem.old, problem.new, problem.residual))
    on_cpu = name == DENSE and device.type != "cpu"
    digits = CG_SETTINGS["tolerance"] if name == CURVATURE else 2.0**-53
    note = "on the CPU" if on_cpu else ""
    return Contender(name, partial(call, problem, *tensors), counted, digits=digits, note=note)


def refusal(name: str, n_old: int, n_new: int, features: int, outputs: int) -> str | None:
    """Why this peer is not run at this size; None if it is."""
    needed = bytes_needed(name, n_old, n_new, features, outputs)
    if needed > MEMORY_LIMIT:
        fits = largest(name, features, outputs) if name in (DENSE, JACOBIAN) else 0
        return f"needs {needed / 1e9:,.0f} GB" + (f"; timed at n = {fits}" if fits else "")
    if name == CURVATURE and n_new * features * outputs > CURVATURE_WORK:
        return f"takes minutes; timed at n = {CURVATURE_SAMPLES}"
    return None


def _dense(problem: Problem, *_: torch.Tensor) -> np.ndarray:
    """The paper's formula as it stands: class-major vectors and K = I_C (x) G."""
    old, new, residual = (a.astype(np.float64, copy=False) for a in (problem.old, problem.new, problem.residual))
    identity = np.eye(problem.outputs)
    kernel = np.kron(identity, new @ new.T)
    kernel.flat[:: kernel.shape[0] + 1] += problem.ridge
    factor = cho_factor(kernel.T, lower=True, overwrite_a=True, check_finite=False)
    solution = cho_solve(factor, residual.T.ravel(), check_finite=False)
    drift = -np.kron(identity, old @ new.T) @ solution
    return drift.reshape(problem.outputs, -1).T


def _dense_work(problem: Problem) -> Work:
    n_old, n_new, c = problem.old.shape[0], problem.new.shape[0], problem.outputs
    return Work(
        (n_new * c) ** 3 / 3.0 + 2.0 * n_old * n_new * c * c, bytes_needed(DENSE, n_old, n_new, problem.new.shape[1], c)
    )


def _jacobian(problem: Problem, old: torch.Tensor, new: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
    """The NTK of PyTorch's own tutorial: per-sample Jacobians by `vmap(jacrev)`, contracted over the parameters."""
    head = torch.nn.Linear(problem.new.shape[1], problem.outputs, bias=False, dtype=torch.float64, device=new.device)
    parameters = {name: p.detach() for name, p in head.named_parameters()}

    def outputs(weights: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(head, weights, (x,))

    def jacobian(x: torch.Tensor) -> torch.Tensor:
        return torch.func.vmap(torch.func.jacrev(outputs), (None, 0))(parameters, x)["weight"].flatten(2)

    by_new = jacobian(new).flatten(0, 1)
    kernel = by_new @ by_new.T
    kernel.diagonal().add_(problem.ridge)
    solution = torch.cholesky_solve(residual.reshape(-1, 1), torch.linalg.cholesky(kernel))
    kernel = jacobian(old).flatten(0, 1) @ by_new.T
    return -(kernel @ solution).reshape(old.shape[0], problem.outputs)


def _jacobian_work(problem: Problem) -> Work:
    n_old, (n_new, f), c = problem.old.shape[0], problem.new.shape, problem.outputs
    contraction = 2.0 * (n_old + n_new) * n_new * c * c * f * c
    return Work(contraction + (n_new * c) ** 3 / 3.0, bytes_needed(JACOBIAN, n_old, n_new, f, c))


def _low_rank_root(problem: Problem, old: torch.Tensor, new: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
    operators = _linear_operator()
    solution = operators.LowRankRootLinearOperator(new).add_diagonal(_ridge(problem, new)).solve(residual)
    return -(old @ (new.T @ solution))


def _gram(problem: Problem, old: torch.Tensor, new: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
    operators = _linear_operator()
    solution = operators.DenseLinearOperator(new @ new.T).add_diagonal(_ridge(problem, new)).solve(residual)
    return -(old @ (new.T @ solution))


def _ridge(problem: Problem, like: torch.Tensor) -> torch.Tensor:
    return torch.tensor(problem.ridge, dtype=torch.float64, device=like.device)


def _linear_operator() -> Any:
    try:
        import linear_operator.operators as operators
    except ImportError as missing:
        raise Skip(f"not installed: pip install linear-operator ({missing})") from missing
    return operators


def _curvature(problem: Problem, old: torch.Tensor, new: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
    """`update = -(GGN + 2 ridge)^-1 gradient` of the summed squared loss, whose GGN is twice the normal matrix."""
    try:
        from curvlinops import CGInverseLinearOperator, GGNLinearOperator
        from curvlinops.examples import IdentityLinearOperator
    except ImportError as missing:
        raise Skip(f"not installed: pip install curvlinops-for-pytorch ({missing})") from missing
    head = torch.nn.Linear(problem.new.shape[1], problem.outputs, bias=False, dtype=torch.float64, device=new.device)
    torch.nn.init.zeros_(head.weight)
    loss = torch.nn.MSELoss(reduction="sum")
    parameters = list(head.parameters())
    ggn = GGNLinearOperator(head, loss, parameters, [(new, -residual)], check_deterministic=False)
    (gradient,) = torch.autograd.grad(loss(head(new), -residual), parameters)
    identity = IdentityLinearOperator([head.weight.shape], new.device, torch.float64)
    inverse = CGInverseLinearOperator(ggn + 2.0 * problem.ridge * identity, **CG_SETTINGS)
    (update,) = inverse @ [gradient.detach()]
    return (-(old @ update.T)).detach()
