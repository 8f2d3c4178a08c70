"""Everyone who computes a normal-matrix product in suite `normal_matmul`."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch

import ntkla
from ntkla.linalg.backends.primitive import normal_roundings
from ntkla.linalg.precision import UNIT_ROUNDOFF, gamma
from perf.harness import Contender, Skip, Work
from perf.precisions import TYPE, allowing, asked_for, explained
from perf.suites.primitives import RESULT, compiled, in_numpy, ours

FORMED = "normal matrix formed"
MOST_FORMED = {"cpu": 1e11, "cuda": 1e13}  # operations that forming it may take


@dataclass(frozen=True, eq=False)
class Problem:
    """x [n, F], w [F, m] and the weights d [n]."""

    x: torch.Tensor
    w: torch.Tensor
    d: torch.Tensor

    @property
    def own(self) -> str:
        """The arithmetic of somebody who thinks no further."""
        return "float64" if self.x.dtype == torch.float64 else "float32"

    def work(self, arithmetic: str) -> Work:
        """Two products, x read once."""
        (n, features), m = self.x.shape, self.w.shape[1]
        size = self.x.nbytes + self.w.nbytes + self.d.nbytes + features * m * TYPE[arithmetic].itemsize
        return Work(4.0 * n * features * m, float(size), arithmetic)

    def explained(self, arithmetic: str) -> float:
        n, features = self.x.shape
        sums = n + features + 4
        # The inner product is stored, multiplied by the weight and stored, and may be cut to tf32.
        return explained(self.x.dtype, arithmetic, inputs=4, sums=sums, between=2, results=1)


def contenders(problem: Problem, kind: str, compiling: bool) -> tuple[list[Contender], dict[str, str]]:
    """The contenders on a kind of device ("cpu" or "cuda"), and the reasons of those that are left out."""
    x, (n, features) = problem.x, problem.x.shape

    def digits(precision: str) -> float:
        return gamma(normal_roundings(n, features), UNIT_ROUNDOFF[RESULT[precision]])

    def call(precision: str) -> torch.Tensor:
        return ntkla.normal_matmul(x, problem.w, weights=problem.d, precision=precision)

    found, skipped = ours("normal_matmul", call, x, kind, problem.work, digits)
    sensible = [a for a in asked_for(kind) if x.dtype != torch.float64 or a in ("float64", "float32")]
    found += [_two_products(problem, arithmetic) for arithmetic in sensible]
    least, allowed = problem.work(problem.own), problem.explained(problem.own)
    library = _numpy_products if kind == "cpu" else _cupy_products
    name = "numpy" if kind == "cpu" else "cupy"
    found.append(Contender(f"{name}, two products, {problem.own}", partial(library, problem), least, digits=allowed))
    operations = 2.0 * n * features**2
    if operations <= MOST_FORMED[kind]:
        found.append(Contender(FORMED, partial(_formed, problem), least, digits=allowed))
    else:
        skipped[FORMED] = f"takes {operations:.1g} operations"
    if compiling:
        arguments = (TYPE[problem.own], x, problem.w, problem.d)
        found.append(compiled(_products, arguments, least, allowed))
    return found, skipped


def _products(dtype: torch.dtype, x: torch.Tensor, w: torch.Tensor, d: torch.Tensor) -> torch.Tensor:
    """The obvious code; one column goes through matrix-vector products."""
    x, w, d = x.to(dtype), w.to(dtype), d.to(dtype)
    if w.shape[1] == 1:
        return (x.T @ (d * (x @ w[:, 0])))[:, None]
    return x.T @ (d[:, None] * (x @ w))


def _two_products(problem: Problem, arithmetic: str) -> Contender:
    def call() -> torch.Tensor:
        with allowing(arithmetic):
            return _products(TYPE[arithmetic], problem.x, problem.w, problem.d)

    return Contender(
        f"torch, two products, {arithmetic}",
        call,
        problem.work(arithmetic),
        digits=problem.explained(arithmetic),
        note="converted inside" if problem.x.dtype != TYPE[arithmetic] else "",
    )


def _numpy_products(problem: Problem) -> torch.Tensor:
    x, w, d = (in_numpy(part) for part in (problem.x, problem.w, problem.d))
    if w.shape[1] == 1:
        return torch.from_numpy(x.T @ (d * (x @ w[:, 0])))[:, None]
    return torch.from_numpy(x.T @ (d[:, None] * (x @ w)))


def _cupy_products(problem: Problem) -> torch.Tensor:
    try:
        import cupy
    except ImportError as error:
        raise Skip(f"cupy is not installed ({error})") from error
    x, w, d = (cupy.from_dlpack(part.to(TYPE[problem.own])) for part in (problem.x, problem.w, problem.d))
    return torch.from_dlpack(x.T @ (d[:, None] * (x @ w)))


def _formed(problem: Problem) -> torch.Tensor:
    x, w, d = (part.to(TYPE[problem.own]) for part in (problem.x, problem.w, problem.d))
    return ((d[:, None] * x).T @ x) @ w
