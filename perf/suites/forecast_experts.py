"""The forecast as an expert writes it by hand, in numpy/scipy and in torch: no bound, no check, no refinement.

Primal or dual, whichever takes fewer operations; symmetric products by the symmetric kernel (numpy's `A.T @ A` calls
it), the factor in place, the drift through the update and never through the cross Gram matrix.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from scipy.linalg import cho_factor, cho_solve

from perf.harness import Contender, Work
from perf.suites.forecast_problem import Problem

PRIMAL, DUAL = "primal", "dual"
UNIT_ROUNDOFF = {"float64": 2.0**-53, "float32": 2.0**-24}


def work(problem: Problem, rate: str = "float64") -> Work:
    """The least operations of the closed form by its cheaper route, and the bytes of its inputs and its answer."""
    size = (
        problem.old.nbytes + problem.new.nbytes + problem.residual.nbytes + problem.old.shape[0] * problem.outputs * 8
    )
    return Work(min(_operations(problem).values()), float(size), rate)


def route(problem: Problem) -> str:
    """The route with fewer operations."""
    counts = _operations(problem)
    return min(counts, key=lambda name: counts[name])


def _operations(problem: Problem) -> dict[str, float]:
    n_old, (n, f), c = problem.old.shape[0], problem.new.shape, problem.outputs
    drift = 2.0 * n_old * f * c
    primal = n * f * (f + 1.0) + 2.0 * n * f * c + f**3 / 3.0 + 2.0 * f * f * c + drift
    dual = f * n * (n + 1.0) + n**3 / 3.0 + 2.0 * n * n * c + 2.0 * n * f * c + drift
    return {PRIMAL: primal, DUAL: dual}


class Stages:
    """Seconds by part: call it at the end of each."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def __call__(self, name: str) -> None:
        now = time.perf_counter()
        self.seconds[name] = self.seconds.get(name, 0.0) + now - self._last
        self._last = now


def _unmeasured(name: str) -> None:
    """For runs that nobody splits into parts."""


def numpy_forecast(problem: Problem, dtype: str, stage: Callable[[str], None] = _unmeasured) -> np.ndarray:
    """The drift, [n_old, C], computed in `dtype` with numpy and scipy."""
    new = problem.new.astype(dtype, copy=False)
    residual = problem.residual.astype(dtype, copy=False)
    stage("convert")
    primal = route(problem) == PRIMAL
    system = new.T @ new if primal else new @ new.T
    system.flat[:: system.shape[0] + 1] += problem.ridge
    stage("Gram")
    # The transpose of a symmetric row-major matrix is the same matrix in the order LAPACK can overwrite.
    factor = cho_factor(system.T, lower=True, overwrite_a=True, check_finite=False)
    stage("factor")
    right = new.T @ residual if primal else residual
    solution = cho_solve(factor, right, overwrite_b=primal, check_finite=False)
    update = solution if primal else new.T @ solution
    stage("solve")
    drift = problem.old.astype(dtype, copy=False) @ update
    np.negative(drift, out=drift)
    stage("drift")
    return drift


def torch_forecast(
    old: torch.Tensor, new: torch.Tensor, residual: torch.Tensor, ridge: float, primal: bool, dtype: torch.dtype
) -> torch.Tensor:
    """The drift, [n_old, C], computed in `dtype` with torch on the inputs' device."""
    new, residual = new.to(dtype), residual.to(dtype)
    system = new.T @ new if primal else new @ new.T
    system.diagonal().add_(ridge)
    factor = torch.linalg.cholesky(system)
    right = new.T @ residual if primal else residual
    solution = torch.cholesky_solve(right, factor)
    update = solution if primal else new.T @ solution
    return (old.to(dtype) @ update).neg_()


def contenders(problem: Problem, device: torch.device) -> list[Contender]:
    """The experts: numpy in float64 and, for float32 inputs, in float32; torch in float64."""
    found = [_numpy(problem, "float64", device)]
    if problem.new.dtype == np.float32:
        found.append(_numpy(problem, "float32", device))
    old, new, residual = (torch.from_numpy(a).to(device) for a in (problem.old, problem.new, problem.residual))
    primal = route(problem) == PRIMAL
    found.append(
        Contender(
            "torch, float64",
            lambda: torch_forecast(old, new, residual, problem.ridge, primal, torch.float64),
            work(problem),
        )
    )
    return found


def _numpy(problem: Problem, dtype: str, device: torch.device) -> Contender:
    def parts() -> dict[str, float]:
        stages = Stages()
        numpy_forecast(problem, dtype, stages)
        return stages.seconds

    return Contender(
        f"numpy + scipy, {dtype}",
        lambda: numpy_forecast(problem, dtype),
        work(problem, dtype),
        digits=UNIT_ROUNDOFF[dtype],
        parts=parts,
        note="" if device.type == "cpu" else "on the CPU",
    )


def as_numpy(answer: Any) -> np.ndarray:
    """A drift of any origin as float64 numpy."""
    if isinstance(answer, torch.Tensor):
        answer = answer.detach().cpu().numpy()
    return np.asarray(answer, dtype=np.float64)
