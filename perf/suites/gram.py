"""Suite `gram`: symmetric Gram matrices `x x^T` in three types, and cross Gram matrices `x y^T` in float32."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from perf import pairs
from perf.harness import Case, Specification
from perf.judges import BLOCK, Entries, Judge, places
from perf.precisions import ROUNDOFF
from perf.suites import gram_contenders
from perf.suites.gram_contenders import Problem
from perf.suites.primitives import DTYPES, PATIENCE, drawn

BASELINE = "torch.mm, float32"
MEMORY = False  # inputs and result are all that any of them holds
SAMPLED = 1000
# (n, F): one where launching is most of the work, one in between, one that fills the machine.
SHAPES = {
    ("full", "cpu"): ((512, 768), (2048, 768), (4096, 1024)),
    ("full", "cuda"): ((1024, 768), (8192, 2048), (16384, 4096)),
    ("small", "cpu"): ((40, 20),),
    ("small", "cuda"): ((300, 64),),
}


@dataclass(frozen=True)
class Setting:
    """One case."""

    rows: int
    features: int
    dtype: str
    symmetric: bool

    @property
    def name(self) -> str:
        kind = f"symmetric {self.rows}" if self.symmetric else f"cross {self.rows} x {self.rows}"
        return f"{kind} x {self.features}, {self.dtype}"


def settings(size: str, kind: str) -> list[Setting]:
    shapes = SHAPES[size, kind]
    symmetric = [Setting(*shape, dtype, True) for dtype in DTYPES for shape in shapes]
    return [*symmetric, *(Setting(*shape, "float32", False) for shape in shapes)]


def specifications(size: str, device: torch.device) -> list[Specification]:
    """The suite's cases, not yet built."""
    return [
        Specification(s.name, _parameters(s), partial(build, s, device, size == "full"), PATIENCE)
        for s in settings(size, device.type)
    ]


def _parameters(setting: Setting) -> dict[str, Any]:
    return {
        "rows": setting.rows, "features": setting.features, "dtype": setting.dtype, "symmetric": setting.symmetric,
        "multiplications": float(setting.rows) ** 2 * setting.features,
    }  # fmt: skip


def make(setting: Setting, device: torch.device) -> Problem:
    shape, dtype = (setting.rows, setting.features), DTYPES[setting.dtype]
    x = drawn(shape, dtype, device, seed=1, mean=0.5)
    return Problem(x, None if setting.symmetric else drawn(shape, dtype, device, seed=2, mean=0.5))


def build(setting: Setting, device: torch.device, compiling: bool) -> Case:
    """Inputs, contenders and judge of one setting."""
    problem = make(setting, device)
    found, skipped = gram_contenders.contenders(problem, device.type, compiling)
    return Case(found, skipped, judge(problem))


def judge(problem: Problem) -> Judge:
    x, y = problem.x, problem.other
    features = x.shape[1]
    rows, columns = places(x.shape[0], y.shape[0], SAMPLED, x.device)
    left, right = x[rows].double(), y[columns].double()
    sample = Entries(rows, columns, pairs.dots(left, right), (left * right).abs().sum(1))
    # K V takes a block of columns, x (y^T V) a block of y's rows and then the features.
    slack = 4.0 * (2 * BLOCK + features) * ROUNDOFF["float64"]
    return Judge(sample, _norms(x), _norms(y), partial(_expected, x, y), slack, symmetric=problem.y is None)


def _expected(x: torch.Tensor, y: torch.Tensor, signs: torch.Tensor) -> torch.Tensor:
    inner = torch.zeros(x.shape[1], signs.shape[1], dtype=torch.float64, device=x.device)
    for rows in pairs.blocks(y):
        inner += y[rows].double().T @ signs[rows]
    return torch.cat([x[rows].double() @ inner for rows in pairs.blocks(x)])


def _norms(x: torch.Tensor) -> torch.Tensor:
    """Rounded up, the slack covers it: the norms of the rows in float64."""
    return torch.cat([torch.linalg.vector_norm(x[rows].double(), dim=1) for rows in pairs.blocks(x)])
