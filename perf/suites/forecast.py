"""Suite `forecast`: the drift of old predictions after a new task, at the two shapes that decide the route.

The judge is independent of ntkla: a double-double solution of two outputs (`perf.reference`), and for all outputs the
float64 expert, within what its rounding can be.  Ours must lie within its own bound, entry by entry; any other
contender within the forward error that the rounding of its precision explains.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch

from ntkla.linalg.precision import gamma
from perf import reference
from perf.harness import Case, Contender, Specification, Verdict
from perf.suites import forecast_experts, forecast_ours, forecast_peers
from perf.suites.forecast_problem import Problem, make

BASELINE = "numpy + scipy, float64"
MEMORY = True
# An answer with fewer than three right digits answers nothing, whatever its conditioning explains.
WORST_USEFUL = 2.0**-10
# In mean eigenvalues of the normal matrix: a float64 residual suffices for the first, the second needs the extended.
RIDGES = (1e-1, 1e-6)


@dataclass(frozen=True)
class Setting:
    """One case: (n_old, n_new, F, C), dtype, ridge, and the peers that are asked for."""

    sizes: tuple[int, int, int, int]
    dtype: str
    ridge: float
    peers: tuple[str, ...] = (forecast_peers.ROOT,)

    @property
    def name(self) -> str:
        return f"{' x '.join(map(str, self.sizes))}, {self.dtype}, ridge {self.ridge:g}"


def settings(size: str) -> list[Setting]:
    """The cases of a size: the two shapes, then each kernel-forming route at the largest size that it can hold."""
    shapes = {
        "full": [(20_000, 20_000, 768, 100), (2_000, 2_000, 4_096, 1_000)],
        "small": [(300, 250, 40, 6), (50, 60, 96, 6)],
    }
    found = [
        Setting(shape, dtype, ridge) for shape in shapes[size] for dtype in ("float64", "float32") for ridge in RIDGES
    ]
    if size == "small":
        return [*found, Setting((20, 20, 16, 4), "float64", RIDGES[0], forecast_peers.NAMES)]
    for _, _, features, outputs in shapes["full"]:
        for peer in (forecast_peers.DENSE, forecast_peers.JACOBIAN):
            n = forecast_peers.largest(peer, features, outputs)
            if n > 0:
                found.append(Setting((n, n, features, outputs), "float64", RIDGES[0], (peer,)))
    n = forecast_peers.CURVATURE_SAMPLES
    peers = (forecast_peers.ROOT, forecast_peers.GRAM, forecast_peers.CURVATURE)
    return [*found, Setting((n, n, 768, 100), "float64", RIDGES[0], peers)]


def specifications(size: str, device: torch.device) -> list[Specification]:
    """The suite's cases, not yet built."""
    return [Specification(s.name, _parameters(s), partial(build, s, device)) for s in settings(size)]


def _parameters(setting: Setting) -> dict[str, Any]:
    n_old, n_new, features, outputs = setting.sizes
    return {
        "n_old": n_old, "n_new": n_new, "features": features, "outputs": outputs,
        "dtype": setting.dtype, "ridge": setting.ridge,
    }  # fmt: skip


def build(setting: Setting, device: torch.device) -> Case:
    """Inputs, contenders and judge of one setting."""
    problem = make(*setting.sizes, setting.dtype, setting.ridge)
    found = [*forecast_ours.contenders(problem, device), *forecast_experts.contenders(problem, device)]
    skipped = {}
    for name in forecast_peers.NAMES:
        refusal = forecast_peers.refusal(name, *setting.sizes)
        if refusal is not None:
            skipped[name] = refusal
        elif name in setting.peers:
            found.append(forecast_peers.contender(name, problem, device))
        else:
            skipped[name] = "timed in another case"
    return Case(found, skipped, Judge(problem))


class Judge:
    """Compares a drift with the references; calling it gives the verdict."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.sampled = sorted({0, problem.outputs - 1})

    @cached_property
    def exact(self) -> reference.Reference:
        """The sampled outputs in double-double."""
        p = self.problem
        return reference.drift(p.old, p.new, p.residual[:, self.sampled], p.ridge)

    @cached_property
    def rough(self) -> np.ndarray:
        """All outputs by the float64 expert."""
        return forecast_experts.numpy_forecast(self.problem, "float64")

    def allowed(self, digits: float) -> float:
        """Relative error that rounding explains: gamma_(n + F) times an upper bound of the condition number."""
        n, f = self.problem.new.shape
        trace = float(np.einsum("ij,ij->", self.problem.new, self.problem.new, dtype=np.float64))
        return min(WORST_USEFUL, gamma(n + f, digits) * (1.0 + trace / self.problem.ridge))

    def __call__(self, contender: Contender, answer: Any) -> Verdict:
        drift = forecast_experts.as_numpy(answer.drift if contender.ours else answer)
        expected = (self.problem.old.shape[0], self.problem.outputs)
        if drift.shape != expected or not np.isfinite(drift).all():
            return Verdict(False, float("nan"), reason=f"shape {drift.shape} for {expected}, or not finite")
        exact = self.exact
        difference = np.abs((drift[:, self.sampled] - exact.drift.high) - exact.drift.low)
        error = float(np.linalg.norm(difference) / np.linalg.norm(exact.drift.high))
        apart = float(np.linalg.norm(drift - self.rough) / np.linalg.norm(self.rough))
        slack = self.allowed(forecast_experts.UNIT_ROUNDOFF["float64"])
        if not contender.ours:
            limit = self.allowed(contender.digits)
            right = error <= limit and apart <= limit + slack
            return Verdict(
                right, error, reason="" if right else f"off by {max(error, apart):.1e}, rounding explains {limit:.1e}"
            )
        bounds = forecast_experts.as_numpy(answer.error_bound)
        bound = float(np.linalg.norm(bounds) / np.linalg.norm(self.rough))
        right = bool((difference <= bounds[:, self.sampled] + exact.error).all()) and apart <= bound + slack
        reason = "" if right else f"off by {max(error, apart):.1e}, outside its own bound {bound:.1e}"
        return Verdict(right, error, bound, reason, forecast_ours.facts(answer))
