"""Everyone who computes a Gram matrix in suite `gram`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from scipy.linalg import blas

import ntkla
from ntkla.linalg.backends.primitive import gram_roundings
from ntkla.linalg.planes import Planes
from ntkla.linalg.precision import U64, UNIT_ROUNDOFF, gamma
from perf.harness import Contender, Skip, Work
from perf.judges import Triangle
from perf.precisions import TYPE, allowing, asked_for, explained
from perf.suites import cublas
from perf.suites.primitives import RESULT, compiled, in_numpy, ours

ONE_TRIANGLE = "one triangle; the other half is not written"


@dataclass(frozen=True, eq=False)
class Problem:
    """The features x [n, F], and y [m, F] for a cross Gram matrix or None."""

    x: torch.Tensor
    y: torch.Tensor | None

    @property
    def other(self) -> torch.Tensor:
        return self.x if self.y is None else self.y

    def work(self, arithmetic: str) -> Work:
        """Multiplications and additions, a symmetric matrix's counted once; inputs read and the result written once."""
        (n, features), m = self.x.shape, self.other.shape[0]
        entries = n * (n + 1) / 2 if self.y is None else n * m
        size = self.x.nbytes + (0 if self.y is None else self.y.nbytes)
        return Work(2.0 * entries * features, size + n * m * (8.0 if arithmetic == "float64" else 4.0), arithmetic)

    def explained(self, arithmetic: str, results: int = 0) -> float:
        sums = self.x.shape[1] + 1
        return explained(self.x.dtype, arithmetic, inputs=2, sums=sums, results=results)


def contenders(problem: Problem, kind: str, compiling: bool) -> tuple[list[Contender], dict[str, str]]:
    """The contenders on a kind of device ("cpu" or "cuda"), and the reasons of those that are left out."""
    features, dtype = problem.x.shape[1], problem.x.dtype

    def digits(precision: str) -> float:
        if precision == "exact":
            return U64  # of the entry itself, which is no larger than its magnitude
        return gamma(gram_roundings(features, dtype, precision), UNIT_ROUNDOFF[RESULT[precision]])

    def call(precision: str) -> torch.Tensor:
        return ntkla.gram(problem.x, problem.y, precision=precision)

    found, skipped = ours("gram", call, problem.x, kind, problem.work, digits)
    found += [_planes_kept(problem, split) for split in found if split.name == "ntkla triton, split"]
    found += [_mm(problem, arithmetic) for arithmetic in asked_for(kind) if _sensible(dtype, arithmetic)]
    found += _symmetric_on_cuda(problem) if kind == "cuda" else _on_cpu(problem)
    if compiling:
        arithmetic = "float64" if dtype == torch.float64 else "float32"
        eager = partial(_eager, TYPE[arithmetic])
        found.append(
            compiled(eager, (problem.x, problem.other), problem.work(arithmetic), problem.explained(arithmetic))
        )
    return found, skipped


def _planes_kept(problem: Problem, split: Contender) -> Contender:
    """The mode "split" for features that are multiplied more than once: their planes lie ready."""
    x, y = Planes(problem.x), None if problem.y is None else Planes(problem.y)

    def call() -> torch.Tensor:
        with ntkla.backend("triton"):
            return ntkla.gram(x, y)

    return replace(split, name=f"{split.name}, planes kept", call=call, note="planes made before")


def _sensible(dtype: torch.dtype, arithmetic: str) -> bool:
    """Nobody throws float64's digits away in 16 bits."""
    return dtype != torch.float64 or arithmetic in ("float64", "float32")


def _eager(dtype: torch.dtype, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return x.to(dtype) @ y.to(dtype).T


def _mm(problem: Problem, arithmetic: str) -> Contender:
    def call() -> torch.Tensor:
        with allowing(arithmetic):
            left = problem.x.to(TYPE[arithmetic])
            right = left if problem.y is None else problem.y.to(TYPE[arithmetic])
            return torch.mm(left, right.T)

    return Contender(
        f"torch.mm, {arithmetic}",
        call,
        problem.work(arithmetic),
        digits=problem.explained(arithmetic, results=int(arithmetic == "bfloat16")),
        note="converted inside" if problem.x.dtype != TYPE[arithmetic] else "",
    )


def _on_cpu(problem: Problem) -> list[Contender]:
    arithmetic = "float64" if problem.x.dtype == torch.float64 else "float32"
    work, digits = problem.work(arithmetic), problem.explained(arithmetic)

    def product() -> torch.Tensor:
        left = in_numpy(problem.x)
        # numpy takes the symmetric routine when it is given a matrix and its own transpose.
        return torch.from_numpy(left @ (left if problem.y is None else in_numpy(problem.y)).T)

    if problem.y is not None:
        return [Contender(f"numpy, {arithmetic}", product, work, digits=digits)]
    name = "dsyrk" if arithmetic == "float64" else "ssyrk"
    routine: Callable[..., np.ndarray] = getattr(blas, name)

    def triangle() -> Triangle:
        # The transpose lies in memory the way Fortran wants it, so nothing is copied.
        return Triangle(torch.from_numpy(routine(1.0, in_numpy(problem.x).T, trans=1, lower=1)))

    return [
        Contender(f"numpy, {arithmetic}", product, work, digits=digits, note="syrk, then mirrored"),
        Contender(f"scipy {name}", triangle, work, digits=digits, note=ONE_TRIANGLE),
    ]


def _symmetric_on_cuda(problem: Problem) -> list[Contender]:
    found = []
    if problem.x.dtype == torch.bfloat16:
        call = partial(torch.mm, problem.x, problem.other.T, out_dtype=torch.float32)
        work, digits = problem.work("bfloat16"), problem.explained("bfloat16")
        found.append(Contender("torch.mm, bfloat16, float32 result", call, work, digits=digits))
    if problem.y is not None:
        return found
    name = "D" if problem.x.dtype == torch.float64 else "S"
    arithmetic = "float64" if name == "D" else "float32"
    work, digits = problem.work(arithmetic), problem.explained(arithmetic)
    syrks = {f"cublas{name}syrk": cublas.syrk, "cupy.cublas.syrk": _cupy_syrk}
    return [
        *found,
        *(
            Contender(which, partial(_widened, call, problem.x), work, digits=digits, note=ONE_TRIANGLE)
            for which, call in syrks.items()
        ),
    ]


def _widened(call: Callable[[torch.Tensor], Triangle], x: torch.Tensor) -> Triangle:
    return call(x.float() if x.dtype == torch.bfloat16 else x)


def _cupy_syrk(x: torch.Tensor) -> Triangle:
    try:
        import cupy
        import cupy.cublas
    except ImportError as error:
        raise Skip(f"cupy is not installed ({error})") from error
    return Triangle(torch.from_dlpack(cupy.cublas.syrk("N", cupy.from_dlpack(x), lower=True)))
