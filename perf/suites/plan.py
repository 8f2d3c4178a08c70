"""Suite `plan`: a whole grid of ways to learn a task, beside solving or training its points one by one.

The judge takes a few points of every kind, solves or iterates them densely in numpy with modes from a singular value
decomposition, and compares drifts, losses and hits.  Ours must lie within its own bounds at all of them, and any other
contender within what its arithmetic, or its stopping, explains.
"""

from __future__ import annotations

from dataclasses import asdict
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch

from ntkla.forgetting.planning.plan import plan
from ntkla.forgetting.planning.result import Plan
from ntkla.linalg.precision import gamma
from perf import parts
from perf.harness import Case, Contender, Specification, Verdict
from perf.suites import plan_peers
from perf.suites.plan_peers import Answer
from perf.suites.plan_problem import Problem, Setting, make

BASELINE = plan_peers.EACH
MEMORY = False  # the features are most of it
PATIENCE = 1.0  # seconds for each contender: some take minutes
TOLERANCES = {"ntkla": None, "ntkla, tol=1e-10": 1e-10}
PARTS = [
    parts.Part("modes", "ntkla.forgetting.planning.run", "leading_modes"),
    parts.Part("normal matrices", "ntkla.forgetting.planning.run", "normal_matrix"),
    parts.Part("decompositions", "ntkla.forgetting.planning.engine", "decomposed"),
    parts.Part("filters", "ntkla.forgetting.planning.engine", "filters"),
    parts.Part("updates", "ntkla.forgetting.planning.engine", "updates"),
    parts.Part("predictions", "ntkla.forgetting.planning.run", "effects"),
]
_SMALL = (Setting(2, 60, 12, 4, "float64", 2, 2, (1, 3), (3, 20)),)
_STOPS = (1, 2, 5, 10, 20, 50, 100, 200, 500)
_FULL = (
    Setting(5, 2000, 768, 10, "float32", 10, 3, (5, 20, 100), _STOPS),
    Setting(5, 2000, 768, 10, "float64", 10, 3, (5, 20, 100), _STOPS),
)


def specifications(size: str, device: torch.device) -> list[Specification]:
    """The suite's cases, not yet built."""
    settings = _SMALL if size == "small" else _FULL
    return [Specification(s.name, asdict(s), partial(build, s, device), PATIENCE) for s in settings]


def build(setting: Setting, device: torch.device) -> Case:
    """Inputs, contenders and judge of one setting."""
    problem = make(setting, device)
    return Case([*ours(problem, device), *plan_peers.contenders(problem)], {}, Judge(problem))


def ours(problem: Problem, device: torch.device) -> list[Contender]:
    """`ntkla.plan` with its own tolerance and with the one of a single forecast."""
    found = []
    for name, tol in TOLERANCES.items():
        call = partial(plan, problem.olds, problem.new, problem.head, tol=tol, **problem.grid)
        by_part = partial(parts.split, call, PARTS, device)
        work = plan_peers.work(problem, problem.setting.points)
        found.append(Contender(name, call, work, ours=True, parts=by_part))
    return found


class Judge:
    """Compares some points with a dense reference; calling it gives the verdict."""

    def __init__(self, problem: Problem) -> None:
        self.problem, self.grid = problem, plan_peers.grid_of(problem)
        each = self.grid.each
        # The first, the last, the strongest protection at the weakest ridge, and one of every training in between.
        self.numbers = sorted({0, len(self.grid) - 1, len(self.grid) - each, *range(1, len(self.grid), each + 1)})
        self.known: dict[int, Answer] = {}

    @cached_property
    def modes(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """Singular values and right vectors of every old task."""
        features = [old.features.double().cpu().numpy() for old in self.problem.olds.values()]
        return [np.linalg.svd(x, full_matrices=False)[1:] for x in features]

    def reference(self, number: int) -> Answer:
        """One point by numpy."""
        if number not in self.known:
            change = torch.from_numpy(self._change(number)).to(self.problem.head.weight.device)
            self.known[number] = plan_peers.judged(self.problem, [number], [change])
        return self.known[number]

    def _change(self, number: int) -> np.ndarray:
        setting, ridge, training = self.grid.point(number)
        x = self.problem.new.features.double().cpu().numpy()
        assert self.problem.new.targets is not None
        residual = x @ self.problem.head.weight.double().cpu().numpy().T - self.problem.new.targets.cpu().numpy()
        matrix, gradient = x.T @ x + ridge * np.eye(x.shape[1]), x.T @ residual
        for sizes, rows in self.modes if setting.protects else []:
            z = sizes[: setting.modes, None] * rows[: setting.modes]
            outputs = self.problem.head.outputs
            matrix += 2 * setting.weight_on(outputs, setting.modes) / (outputs * setting.modes) * z.T @ z
        if training is None:
            found: np.ndarray = -np.linalg.solve(matrix, gradient)
            return found
        values, q = np.linalg.eigh(matrix)
        kept = (1 - training.lr * values) ** training.steps
        found = -q @ (((1 - kept) / values)[:, None] * (q.T @ gradient))
        return found

    def slack(self, digits: float) -> float:
        """What the rounding of solves, or an early stop, may do to a norm, relative to the largest."""
        n, f = self.problem.new.features.shape
        return gamma(n + f, digits) * (1.0 + self.problem.largest() / min(self.grid.ridges))

    def __call__(self, contender: Contender, answer: Any) -> Verdict:
        said = answer_of(answer) if contender.ours else answer
        numbers = [n for n in said.numbers if n in self.numbers] or said.numbers
        rows = [said.numbers.index(n) for n in numbers]
        exact = [self.reference(n) for n in numbers]
        drift, loss = torch.cat([e.drift for e in exact]), torch.cat([e.loss for e in exact])
        off_drift, off_loss = (said.drift[rows] - drift).abs(), (said.loss[rows] - loss).abs()
        error = max(float((off_drift / drift.amax()).max()), float((off_loss / loss.amax()).max()))
        missed = (said.hits[rows] - torch.cat([e.hits for e in exact])).abs()
        digits = contender.digits if contender.digits > 2.0**-53 else 2.0**-53
        allowed = self.slack(2.0**-53) + (digits if digits > 2.0**-53 else 0.0)
        if not contender.ours:
            right = error <= allowed and float(missed.max()) <= 1
            return Verdict(right, error, reason="" if right else f"off by {error:.1e}, allowed {allowed:.1e}")
        bounds = [x[numbers] for x in (answer.points.new.drift_error, answer.points.new.loss_error)]
        bound = max(float((bounds[0] / drift.amax()).max()), float((bounds[1] / loss.amax()).max()))
        right = self.within(answer, numbers, off_drift, off_loss, allowed * float(drift.amax()))
        reason = "" if right else f"off by {error:.1e}, outside its own bound {bound:.1e}"
        return Verdict(right, error, bound, reason, facts(answer))

    def within(self, found: Plan, numbers: list[int], drift: torch.Tensor, loss: torch.Tensor, slack: float) -> bool:
        """Whether a plan keeps its own bounds, and the true hits lie between the ends that it says."""
        columns = [*found.points.old.values(), found.points.new]
        stated = torch.stack([c.drift_error[numbers] for c in columns], dim=1)
        kept = bool((drift <= stated + slack).all())
        assert found.points.new.loss_error is not None
        kept = kept and bool((loss <= found.points.new.loss_error[numbers] + slack).all())
        hits = torch.cat([self.reference(n).hits for n in numbers])
        low, high = (
            torch.stack([getattr(c, end)[numbers] for c in columns], dim=1) for end in ("hits_low", "hits_high")
        )
        # The reference's own rounding may put one sample on either side.
        return kept and bool(((hits >= low - 1) & (hits <= high + 1)).all())


def answer_of(found: Plan) -> Answer:
    """What a plan says, as the peers say it."""
    columns = [*found.points.old.values(), found.points.new]
    assert found.points.new.loss is not None
    hits = torch.stack([c.hits_low for c in columns if c.hits_low is not None], dim=1)
    drift = torch.stack([c.drift for c in columns], dim=1)
    return Answer(list(range(len(found.points))), drift, found.points.new.loss, hits)


def facts(found: Plan) -> dict[str, Any]:
    """How much of the plan is proved."""
    points = found.points
    open_hits = [
        int((c.hits_high - c.hits_low).sum()) for c in (points.new, *points.old.values()) if c.hits_low is not None
    ]
    bounds = points.relative_bound[~points.diverges]
    return {
        "points": len(points),
        "certified": int((bounds <= points.tolerance).sum()),
        "largest_relative_bound": float(bounds.max()),
        "undecided_samples": sum(open_hits),
    }
