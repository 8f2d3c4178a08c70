"""Suite `ridge`: the certified ridge solution beside the Cholesky solves that prove nothing.

Features as in suite `forecast` (decaying spectrum, a mean), ridge 1e-1 and 1e-6 of the mean eigenvalue of the normal
matrix.  The judge is independent of ntkla: two outputs in double-double (`perf.reference`), all outputs beside float64.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch

from perf import reference
from perf.harness import Case, Contender, Specification, Verdict
from perf.suites import forecast_ours, ridge_contenders
from perf.suites.forecast_problem import make
from perf.suites.ridge_contenders import Problem

BASELINE = ridge_contenders.CHOLESKY
MEMORY = False  # the features and one factor are most of it
# An answer with fewer than three right digits answers nothing, whatever its conditioning explains.
WORST_USEFUL = 2.0**-10
RIDGES = (1e-1, 1e-6)
# (n, F, C): the primal route, the dual one, and on a GPU the size whose factor alone takes 1.5e12 operations.
SHAPES = {
    ("full", "cpu"): ((20_000, 768, 100), (8192, 2048, 10), (1024, 8192, 10)),
    ("full", "cuda"): ((65_536, 4096, 100), (4096, 16_384, 10), (16_384, 16_384, 10)),
    ("small", "cpu"): ((120, 40, 3), (30, 80, 3)),
    ("small", "cuda"): ((300, 64, 3), (64, 300, 3)),
}


@dataclass(frozen=True)
class Setting:
    """One case."""

    rows: int
    features: int
    outputs: int
    dtype: str
    ridge: float

    @property
    def name(self) -> str:
        return f"{self.rows} x {self.features} x {self.outputs}, {self.dtype}, ridge {self.ridge:g}"


def specifications(size: str, device: torch.device) -> list[Specification]:
    """The suite's cases, not yet built."""
    found = [
        Setting(*shape, dtype, ridge)
        for shape in SHAPES[size, device.type]
        for dtype in ("float32", "float64")
        for ridge in RIDGES
    ]
    return [Specification(s.name, asdict(s), partial(build, s, device)) for s in found]


def build(setting: Setting, device: torch.device) -> Case:
    """Inputs, contenders and judge of one setting."""
    drawn = make(1, setting.rows, setting.features, setting.outputs, setting.dtype, setting.ridge)
    x, y = (torch.from_numpy(a).to(device) for a in (drawn.new, drawn.residual))
    problem = Problem(x, y, drawn.ridge)
    found, skipped = ridge_contenders.contenders(problem)
    return Case(found, skipped, Judge(problem))


class Judge:
    """Compares a solution [F, C] with the references; calling it gives the verdict."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.sampled = sorted({0, problem.y.shape[1] - 1})
        self.exact = reference.solutions(problem.x, problem.y[:, self.sampled], problem.ridge)
        self.rough = ridge_contenders.cholesky(problem, torch.float64)
        n, f = problem.x.shape
        trace = sum(float((block.double() ** 2).sum()) for block in problem.x.split(2**12))
        self.conditioning = (n + f) * (1.0 + trace / problem.ridge)

    def allowed(self, digits: float) -> float:
        """Relative error that rounding explains: n + F roundings times an upper bound of the condition number."""
        return min(WORST_USEFUL, digits * self.conditioning)

    def __call__(self, contender: Contender, answer: Any) -> Verdict:
        found = answer.solution if contender.ours else answer.double()
        if found.shape != self.rough.shape or not bool(torch.isfinite(found).all()):
            return Verdict(False, math.nan, reason=f"shape {tuple(found.shape)}, or not finite")
        difference = torch.stack(
            [((found[:, c] - e.value.high) - e.value.low).abs() for c, e in zip(self.sampled, self.exact, strict=True)],
            1,
        )
        size = torch.linalg.vector_norm(torch.stack([e.value.high for e in self.exact], 1))
        error = float(torch.linalg.vector_norm(difference) / size)
        apart = float(torch.linalg.vector_norm(found - self.rough) / torch.linalg.vector_norm(self.rough))
        slack = self.allowed(2.0**-53)
        if not contender.ours:
            limit = self.allowed(contender.digits)
            right = error <= limit and apart <= limit + slack
            reason = "" if right else f"off by {max(error, apart):.1e}, rounding explains {limit:.1e}"
            return Verdict(right, error, reason=reason)
        own = difference.new_tensor([e.error for e in self.exact])
        bound = float(torch.linalg.vector_norm(answer.error_bound) / torch.linalg.vector_norm(self.rough))
        inside = bool((difference <= answer.error_bound[:, self.sampled] + own).all())
        right = inside and apart <= bound + slack and answer.status.certified
        reason = "" if right else f"off by {max(error, apart):.1e}, its own bound {bound:.1e}; {answer.status}"
        return Verdict(right, error, bound, reason, forecast_ours.facts(answer))
