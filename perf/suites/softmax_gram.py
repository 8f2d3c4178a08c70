"""Suite `softmax_gram`: the product with the kernel of a linear head under cross-entropy, `B^T (I_C (x) x x^T) B v`.

The judge multiplies in float64 by code of its own, and knows what rounding that may have; errors are Frobenius norms.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch

import ntkla
from perf.harness import Case, Contender, Specification, Verdict, Work
from perf.precisions import ROUNDOFF, TYPE, allowing, asked_for
from perf.suites.primitives import DTYPES, PATIENCE, compiled, drawn, gigabytes, most_gigabytes, ours

BASELINE = "torch, by associativity, float32"
MEMORY = False
# (n, F, C, m): few outputs and many, and on a GPU as many as a vocabulary has.
SHAPES = {
    ("full", "cpu"): ((512, 256, 10, 1), (4096, 768, 10, 4), (1024, 768, 1000, 1)),
    ("full", "cuda"): ((2048, 768, 10, 1), (65_536, 768, 10, 8), (16_384, 2048, 1000, 2), (4096, 768, 50_000, 1)),
    ("small", "cpu"): ((40, 12, 3, 2),),
    ("small", "cuda"): ((300, 64, 7, 2),),
}


@dataclass(frozen=True)
class Setting:
    """One case."""

    rows: int
    features: int
    outputs: int
    columns: int
    dtype: str

    @property
    def name(self) -> str:
        return f"{self.rows} x {self.features}, {self.outputs} outputs, {self.columns} columns, {self.dtype}"


@dataclass(frozen=True, eq=False)
class Problem:
    """x [n, F], probabilities p [n, C], whose rows need not sum to 1, and v [n, C, m]."""

    x: torch.Tensor
    p: torch.Tensor
    v: torch.Tensor

    def work(self, arithmetic: str) -> Work:
        """Two products; everything read, and the result written, once."""
        operations = 4.0 * self.x.shape[0] * self.x.shape[1] * self.v[0].numel()
        size = self.x.nbytes + self.p.nbytes + self.v.nbytes + self.v.numel() * (8 if arithmetic == "float64" else 4)
        return Work(operations, float(size), arithmetic)


def specifications(size: str, device: torch.device) -> list[Specification]:
    """The suite's cases, not yet built."""
    found = [Setting(*shape, dtype) for dtype in DTYPES for shape in SHAPES[size, device.type]]
    return [Specification(s.name, _parameters(s), partial(build, s, device, size == "full"), PATIENCE) for s in found]


def _parameters(setting: Setting) -> dict[str, Any]:
    work = 2.0 * setting.rows * setting.features * setting.outputs * setting.columns
    return {**asdict(setting), "multiplications": work}


def make(setting: Setting, device: torch.device) -> Problem:
    dtype = DTYPES[setting.dtype]
    x = drawn((setting.rows, setting.features), dtype, device, seed=1, mean=0.5)
    p = drawn((setting.rows, setting.outputs), dtype, device, seed=2, mean=0.0).mul_(3.0).softmax(1)
    return Problem(x, p, drawn((setting.rows, setting.outputs, setting.columns), dtype, device, seed=3, mean=0.0))


def build(setting: Setting, device: torch.device, compiling: bool) -> Case:
    """Inputs, contenders and judge of one setting."""
    problem = make(setting, device)
    found, skipped = contenders(problem, device, compiling)
    return Case(found, skipped, Judge(problem))


def contenders(problem: Problem, device: torch.device, compiling: bool) -> tuple[list[Contender], dict[str, str]]:
    """The contenders on a device, and the reasons of those that are left out."""
    x, p, v = problem.x, problem.p, problem.v

    def call(precision: str) -> torch.Tensor:
        return ntkla.softmax_gram(x, p, v, precision=precision)

    def bound(precision: str) -> float:
        """Of the whole result, in the Frobenius norm: it is stated column by column."""
        return float(torch.linalg.vector_norm(ntkla.softmax_gram_error(x, p, v, precision=precision)))

    found, skipped = ours("softmax_gram", call, x, device.type, problem.work, bound)
    own = "float64" if x.dtype == torch.float64 else "float32"
    routes: dict[str, Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]] = {
        "by associativity": by_associativity,
    }
    if gigabytes(float(x.shape[0]) ** 2, TYPE[own]) <= most_gigabytes(device):
        routes["Gram formed"] = _gram_formed
    else:
        skipped["torch, Gram formed"] = f"G needs {gigabytes(float(x.shape[0]) ** 2, TYPE[own]):,.0f} GB"
    for arithmetic in asked_for(device.type):
        if arithmetic == "bfloat16" or (x.dtype == torch.float64 and arithmetic == "tf32"):
            continue
        for name, route in routes.items():
            run = partial(_in, arithmetic, route, problem)
            found.append(
                Contender(f"torch, {name}, {arithmetic}", run, problem.work(arithmetic), digits=ROUNDOFF[arithmetic])
            )
    if compiling:
        arguments = tuple(t.to(TYPE[own]) for t in (x, p, v))
        found.append(compiled(by_associativity, arguments, problem.work(own), ROUNDOFF[own]))
    return found, skipped


def _in(arithmetic: str, route: Callable[..., torch.Tensor], problem: Problem) -> torch.Tensor:
    with allowing(arithmetic):
        return route(*(t.to(TYPE[arithmetic]) for t in (problem.x, problem.p, problem.v)))


def by_associativity(x: torch.Tensor, p: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """The obvious code that never forms G."""
    return _between(p, v, lambda u: x @ (x.T @ u))


def _gram_formed(x: torch.Tensor, p: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    return _between(p, v, lambda u: (x @ x.T) @ u)


def _between(p: torch.Tensor, v: torch.Tensor, gram: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
    """`B^T gram(B v)`, with the rows of p over their sums."""
    p = (p / p.sum(1, keepdim=True))[:, :, None]
    root = p.sqrt()
    u = root * v - p * (root * v).sum(1, keepdim=True)
    w = gram(u.flatten(1)).view(u.shape)
    return root * (w - (p * w).sum(1, keepdim=True))


class Judge:
    """Compares a product [n, C, m] with float64; calling it gives the verdict."""

    def __init__(self, problem: Problem) -> None:
        x, p, v = (t.double() for t in (problem.x, problem.p, problem.v))
        self.exact = by_associativity(x, p, v)
        self.size = float(torch.linalg.vector_norm(self.exact))
        # Norms of what is multiplied: |B| <= 1, so a column is at most ||x||^2 ||v||, and each sum adds its length.
        (n, features), outputs = problem.x.shape, problem.p.shape[1]
        self.reach = float(torch.linalg.vector_norm(x) ** 2 * torch.linalg.vector_norm(v))
        self.roundings = 4.0 * (n + features + 8.0 * math.log2(outputs + 1) + 30.0)

    def __call__(self, contender: Contender, answer: Any) -> Verdict:
        if answer.shape != self.exact.shape or not bool(torch.isfinite(answer).all()):
            return Verdict(False, math.nan, reason=f"shape {tuple(answer.shape)}, or not finite")
        off = float(torch.linalg.vector_norm(answer.double() - self.exact))
        slack = self.roundings * ROUNDOFF["float64"] * self.reach
        limit = contender.digits if contender.ours else self.roundings * contender.digits * self.reach
        reason = "" if off <= limit + slack else f"off by {off / self.size:.1e}, {limit / self.size:.1e} is explained"
        return Verdict(not reason, off / self.size, limit / self.size if contender.ours else None, reason)
