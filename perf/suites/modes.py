"""Suite `modes`: the leading eigenpairs of a Gram or Kronecker kernel, judged by what they must satisfy."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
import torch

from ntkla.linalg.eigen.modes import Eigenmodes
from perf import pairs
from perf.harness import Case, Contender, Specification, Verdict
from perf.suites import modes_ours, modes_peers
from perf.suites.modes_peers import EIGH, LOBPCG, RANDOMIZED, SAME, SMALLER
from perf.suites.modes_problem import CLUSTERED, DECAYING, GEOMETRIC, STEEP, Problem, Setting, make

BASELINE = SMALLER
MEMORY = False  # the features are most of it
PATIENCE = 1.0  # seconds for each contender: some take a minute
# Orthonormal to this: far from what copies of one vector would do, far above what mapping back loses.
_ORTHONORMAL = 1e-8
_OURS, _PEERS = tuple(modes_ours.OPTIONS), (SAME, SMALLER, LOBPCG, EIGH, RANDOMIZED)
# (rows, features, type, spectrum, k, outputs)
_FULL = (
    Setting(20000, 768, "float64", DECAYING, 10),
    Setting(20000, 768, "float64", STEEP, 50),
    Setting(20000, 768, "float64", GEOMETRIC, 10),
    Setting(20000, 768, "float64", CLUSTERED, 50),
    Setting(20000, 768, "float32", CLUSTERED, 10),
    Setting(20000, 768, "float32", GEOMETRIC, 50, 10),
    Setting(50000, 4096, "float32", GEOMETRIC, 10),
    Setting(50000, 4096, "float32", CLUSTERED, 50),
)
_SMALL = (
    Setting(300, 128, "float64", GEOMETRIC, 4),
    Setting(400, 128, "float32", CLUSTERED, 5),
    Setting(300, 128, "float64", STEEP, 6, 3),
)
_LARGE = 10**8  # entries of X above which only the contenders of `_few` run


def specifications(size: str, device: torch.device) -> list[Specification]:
    """The suite's cases, not yet built."""
    settings = _SMALL if size == "small" else _FULL
    return [Specification(s.name, asdict(s), partial(build, s, device), PATIENCE) for s in settings]


def build(setting: Setting, device: torch.device) -> Case:
    """Inputs, contenders and judge of one setting."""
    problem = make(setting, device)
    ours, peers, skipped = chosen(setting)
    found = [*modes_ours.contenders(problem, ours), *modes_peers.contenders(problem, peers)]
    return Case(found, skipped, Judge(problem))


def chosen(setting: Setting) -> tuple[tuple[str, ...], tuple[str, ...], dict[str, str]]:
    """Who runs in a case, and why others do not."""
    ours, peers, skipped = _OURS, _PEERS, {}
    if setting.outputs > 1:
        ours, peers = (modes_ours.DEFAULT, modes_ours.INERTIA), (SAME,)
        skipped = dict.fromkeys((SMALLER, LOBPCG, EIGH, RANDOMIZED), "knows no outputs")
    elif setting.rows * setting.features > _LARGE:
        ours, reason = (modes_ours.DEFAULT,), "takes minutes"
        peers = (SMALLER, EIGH) if setting.k <= 10 else (SMALLER,)
        skipped = dict.fromkeys((p for p in _PEERS if p not in peers), reason)
    return ours, peers, skipped


@dataclass(frozen=True, eq=False)
class Judge:
    """Residuals and orthogonality of the vectors, and how many copies of the k largest eigenvalues are missing.

    Eigenvectors of a multiple eigenvalue cannot be compared one by one: what they must satisfy can be checked.
    k orthonormal vectors with small residuals show k eigenvalues, and none is missed when the i-th largest value
    reaches the i-th largest eigenvalue, for every i <= k.  Ours must also keep its own bounds.
    """

    problem: Problem

    def __call__(self, contender: Contender, answer: Any) -> Verdict:
        values, vectors = (part.double().to(self.problem.x.device) for part in (answer.values, answer.vectors))
        residual, defect = self.residual(values, vectors), orthonormality(vectors)
        leading = self.problem.leading
        off = values.cpu().numpy() - leading
        allowed = min(contender.digits, 1.0) * leading[0] + self.problem.slack
        missed, ghosts = int((off < -allowed).sum()), int((off > allowed).sum())
        facts: dict[str, Any] = {"missed": missed, "defect": defect, "value_error": float(np.abs(off).max())}
        bound, reason = None, ""
        if not residual <= contender.digits:
            reason = f"residual {residual:.1e}, asked for {contender.digits:.0e}"
        elif math.isfinite(contender.digits) and not defect <= _ORTHONORMAL:
            reason = f"vectors are not orthonormal: off by {defect:.1e}"
        elif missed or ghosts:
            reason = f"{missed} copies of the largest eigenvalues missed, {ghosts} invented"
        if contender.ours:
            bound, said = self.promised(answer, residual, off)
            facts |= modes_ours.facts(answer)
            reason = reason or said
        return Verdict(not reason, residual, bound, reason, facts)

    def promised(self, modes: Eigenmodes, residual: float, off: np.ndarray) -> tuple[float, str]:
        """The stated bound of the residuals, relative to the largest eigenvalue, and which bound does not hold."""
        bound = float(modes.residual_norms.max()) / float(modes.values[0])
        if not residual <= bound:
            return bound, f"residual {residual:.1e} above its own bound {bound:.1e}"
        within = np.abs(off) <= modes.value_error.cpu().numpy() + self.problem.slack
        return bound, "" if within.all() else "an eigenvalue lies outside of its enclosure"

    def residual(self, values: torch.Tensor, vectors: torch.Tensor) -> float:
        """The largest `||K u - l u|| / ||u||` beside the largest eigenvalue, in float64; NaN for what is none."""
        x, outputs, k = self.problem.x, self.problem.outputs, values.shape[0]
        columns = vectors.reshape(outputs, x.shape[0], k).transpose(0, 1).reshape(x.shape[0], -1)
        inner = torch.zeros((x.shape[1], columns.shape[1]), dtype=torch.float64, device=x.device)
        for rows in pairs.blocks(x):
            inner += x[rows].double().T @ columns[rows]
        image = torch.cat([x[rows].double() @ inner for rows in pairs.blocks(x)])
        left = image - columns * values.repeat(outputs)
        sizes = (torch.linalg.vector_norm(t.reshape(-1, outputs, k), dim=(0, 1)) for t in (left, columns))
        return float((next(sizes) / next(sizes)).max()) / float(self.problem.leading[0])


def orthonormality(vectors: torch.Tensor) -> float:
    """The largest entry of `|U^T U - I|`."""
    square = vectors.T @ vectors
    square.diagonal().sub_(1.0)
    return float(square.abs().max())
