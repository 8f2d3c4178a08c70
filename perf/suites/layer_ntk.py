"""Suite `layer_ntk`: the tangent kernel of one layer's samples with themselves, for heads and for sequences."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from ntkla.linalg.layers.layer_cost import LayerShape, layer_cost
from ntkla.linalg.layers.layer_error import magnitudes
from ntkla.linalg.layers.layer_factors import Factors
from perf import pairs
from perf.harness import Case, Specification
from perf.judges import BLOCK, Entries, Judge, places
from perf.precisions import ROUNDOFF
from perf.suites import layer_contenders
from perf.suites.layer_contenders import Problem
from perf.suites.primitives import DTYPES, PATIENCE, drawn

BASELINE = "torch, Gram products, float32"
MEMORY = False  # a reason names what does not fit
MOST_SAMPLED = 1000
EXACT_PRODUCTS = {"cpu": 2e7, "cuda": 4e8}  # multiplications of the exact entries
# (n, C, T, F_in, F_out).  Without positions (T = 1), then with: fewer and more than the crossover.
SHAPES = {
    ("full", "cpu"): ((16, 10, 1, 768, 768), (32, 10, 8, 256, 256), (256, 16, 1, 768, 768), (64, 4, 32, 256, 256)),
    ("full", "cuda"): (
        (16, 10, 1, 768, 768), (128, 10, 16, 768, 768), (512, 100, 1, 768, 768), (128, 4, 64, 768, 768),
    ),
    ("small", "cpu"): ((5, 2, 2, 12, 10),),
    ("small", "cuda"): ((17, 4, 2, 64, 48),),
}  # fmt: skip


@dataclass(frozen=True)
class Setting:
    """One case."""

    samples: int
    outputs: int
    positions: int
    inputs: int
    deltas: int
    dtype: str

    @property
    def name(self) -> str:
        return (
            f"n = {self.samples}, C = {self.outputs}, T = {self.positions}, {self.inputs} x {self.deltas}, {self.dtype}"
        )


def settings(size: str, kind: str) -> list[Setting]:
    return [Setting(*shape, dtype) for dtype in DTYPES for shape in SHAPES[size, kind]]


def specifications(size: str, device: torch.device) -> list[Specification]:
    """The suite's cases, not yet built."""
    return [
        Specification(s.name, _parameters(s), partial(build, s, device, size == "full"), PATIENCE)
        for s in settings(size, device.type)
    ]


def _parameters(setting: Setting) -> dict[str, Any]:
    block = setting.samples, setting.outputs, setting.positions
    cost = layer_cost(LayerShape(*block, *block, setting.inputs, setting.deltas))
    return {
        "samples": setting.samples, "outputs": setting.outputs, "positions": setting.positions,
        "inputs": setting.inputs, "deltas": setting.deltas, "dtype": setting.dtype,
        "multiplications": cost.gram if cost.route == "gram" else 0.0,
    }  # fmt: skip


def make(setting: Setting, device: torch.device) -> Problem:
    s, dtype = setting, DTYPES[setting.dtype]
    a = drawn((s.samples, s.positions, s.inputs), dtype, device, seed=1, mean=0.5)
    return Problem(a, drawn((s.samples, s.outputs, s.positions, s.deltas), dtype, device, seed=2, mean=0.0))


def build(setting: Setting, device: torch.device, compiling: bool) -> Case:
    """Inputs, contenders and judge of one setting."""
    problem = make(setting, device)
    found, skipped = layer_contenders.contenders(problem, device, compiling)
    return Case(found, skipped, judge(problem))


def judge(problem: Problem) -> Judge:
    """Judges the kernel as a matrix [n C, n C]; magnitudes are those that ntkla's bound is stated in."""
    a, d = problem.a, problem.d
    (n, outputs, positions, deltas), inputs = d.shape, a.shape[2]
    each = positions**2 * (inputs + deltas)
    count = max(4, min(MOST_SAMPLED, int(EXACT_PRODUCTS[a.device.type] / each)))
    rows, columns = places(n * outputs, n * outputs, count, a.device)
    norms = magnitudes([Factors(a, d, None, torch.float64)]).norms.flatten()
    sample = Entries(rows, columns, _exact(problem, rows, columns), norms[rows] * norms[columns])
    # K V by associativity: over the rows of a block, the positions twice, the deltas and the inputs.
    slack = 4.0 * (2 * BLOCK + 2 * positions + inputs + deltas) * ROUNDOFF["float64"]
    return Judge(sample, norms, norms, partial(_expected, problem), slack, symmetric=True)


def _exact(problem: Problem, rows: torch.Tensor, columns: torch.Tensor) -> pairs.Pair:
    """Entries of the kernel in double-double, [k]: sums over pairs of positions of products of inner products."""
    a, outputs, positions = problem.a, problem.d.shape[1], problem.d.shape[2]
    d = problem.d.flatten(0, 1)
    found = []
    for row, column in zip(rows.tolist(), columns.tolist(), strict=True):
        inner = [
            pairs.dots(_paired(x, positions, 1), _paired(y, positions, 0))
            for x, y in ((a[row // outputs], a[column // outputs]), (d[row], d[column]))
        ]
        entry = pairs.total(pairs.times(*inner))
        found.append(pairs.Pair(entry.high[None], entry.low[None]))
    return pairs.joined(found)


def _paired(x: torch.Tensor, positions: int, dim: int) -> torch.Tensor:
    """[T T, F]: each row of x [T, F] beside each of the other side, which is repeated along the other dimension."""
    wide = x.double().unsqueeze(dim)
    return wide.expand(positions, positions, x.shape[1]).reshape(positions**2, x.shape[1])


def _expected(problem: Problem, signs: torch.Tensor) -> torch.Tensor:
    """J (J^T V), block by block of the columns of V [n C, blocks]: J^T v is one matrix [F_in, F_out]."""
    a, d = problem.a.double(), problem.d.double()
    found = []
    for v in signs.T.reshape(signs.shape[1], *d.shape[:2]):
        pulled = torch.einsum("ic,ictg->itg", v, d)
        gradient = torch.einsum("itf,itg->fg", a, pulled)
        found.append(torch.einsum("itg,ictg->ic", a @ gradient, d).flatten())
    return torch.stack(found, 1)
