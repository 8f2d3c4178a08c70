"""Suite `normal_matmul`: `x^T (d * (x w))` for few columns of w, where reading x is most of the work."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from perf import pairs
from perf.harness import Case, Specification
from perf.judges import Entries, Judge, places
from perf.precisions import ROUNDOFF
from perf.suites import normal_contenders
from perf.suites.normal_contenders import Problem
from perf.suites.primitives import DTYPES, PATIENCE, drawn

BASELINE = "torch, two products, float32"
MEMORY = False  # x is nearly all that any of them holds
SAMPLED = 60
# (n, F, columns of w): one where launching is most of the work, one in between, and some far larger than any cache.
SHAPES = {
    ("full", "cpu"): ((1024, 768, 1), (8192, 768, 1), (8192, 768, 4), *((16384, 2048, m) for m in (1, 4, 32))),
    ("full", "cuda"): (
        (1024, 768, 1), (2**18, 768, 1), (2**18, 768, 4), *((2**20, 2048, m) for m in (1, 4, 32)), (2**19, 4096, 1),
    ),
    ("small", "cpu"): ((90, 24, 2),),
    ("small", "cuda"): ((900, 64, 2),),
}  # fmt: skip


@dataclass(frozen=True)
class Setting:
    """One case."""

    rows: int
    features: int
    columns: int
    dtype: str

    @property
    def name(self) -> str:
        return f"{self.rows} x {self.features}, {self.columns} columns, {self.dtype}"


def settings(size: str, kind: str) -> list[Setting]:
    return [Setting(*shape, dtype) for dtype in DTYPES for shape in SHAPES[size, kind]]


def specifications(size: str, device: torch.device) -> list[Specification]:
    """The suite's cases, not yet built."""
    return [
        Specification(s.name, _parameters(s), partial(build, s, device, size == "full"), PATIENCE)
        for s in settings(size, device.type)
    ]


def _parameters(setting: Setting) -> dict[str, Any]:
    return {
        "rows": setting.rows, "features": setting.features, "columns": setting.columns, "dtype": setting.dtype,
        "multiplications": 2.0 * setting.rows * setting.features * setting.columns,
    }  # fmt: skip


def make(setting: Setting, device: torch.device) -> Problem:
    dtype = DTYPES[setting.dtype]
    x = drawn((setting.rows, setting.features), dtype, device, seed=1, mean=0.5)
    w = drawn((setting.features, setting.columns), dtype, device, seed=2, mean=0.0)
    return Problem(x, w, drawn((setting.rows,), dtype, device, seed=3, mean=0.0).abs())


def build(setting: Setting, device: torch.device, compiling: bool) -> Case:
    """Inputs, contenders and judge of one setting."""
    problem = make(setting, device)
    found, skipped = normal_contenders.contenders(problem, device.type, compiling)
    return Case(found, skipped, judge(problem))


def judge(problem: Problem) -> Judge:
    """Some entries of one column exactly, all columns in float64."""
    x, w = problem.x, problem.w.double()
    column, (n, features) = w.shape[1] - 1, x.shape
    rows, _ = places(features, 1, SAMPLED, x.device)
    some = x[:, rows]
    outputs = pairs.times(pairs.product(x, pairs.exactly(w[:, column])), pairs.exactly(problem.d.double()))
    # |d| |x| |w| [n, columns]
    sizes = torch.cat([x[part].double().abs() @ w.abs() for part in pairs.blocks(x)])
    sizes *= problem.d.double().abs()[:, None]
    magnitude = sum(some[part].double().abs().T @ sizes[part, column] for part in pairs.blocks(some))
    sample = Entries(
        rows, torch.full_like(rows, column), pairs.transposed_product(some, outputs), torch.as_tensor(magnitude)
    )
    # By Cauchy and Schwarz an entry's magnitude is at most the norm of a column of x times that of |d| |x| |w|.
    squares = sum(x[part].double().square().sum(0) for part in pairs.blocks(x))
    slack = 4.0 * (n + features) * ROUNDOFF["float64"]
    left = torch.as_tensor(squares).sqrt()
    return Judge(sample, left, torch.linalg.vector_norm(sizes, dim=0), partial(_expected, problem), slack)


def _expected(problem: Problem, signs: torch.Tensor) -> torch.Tensor:
    x, directions = problem.x, problem.w.double() @ signs
    out = torch.zeros_like(directions)
    for rows in pairs.blocks(x):
        block = x[rows].double()
        out += block.T @ (problem.d[rows, None].double() * (block @ directions))
    return out
