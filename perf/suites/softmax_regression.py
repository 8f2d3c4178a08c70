"""Suite `softmax_regression`: the optimum of a linear head under cross-entropy, everybody to the same gradient norm.

Peers stop by the largest entry of the mean gradient, so they are asked for what makes its norm meet the target when its
largest entry is `_PEAK` times the root mean square; the judge looks at the norm itself.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
import torch

from ntkla.forgetting.softmax.softmax_regression import SoftmaxRegression, softmax_regression
from perf import parts
from perf.harness import Case, Contender, Skip, Specification, Verdict, Work
from perf.suites.softmax_problem import Problem, Setting, make

BASELINE = "sklearn newton-cg, float64"
MEMORY = False  # the features are most of it
PATIENCE = 1.0
OURS, LBFGS, NEWTON = "ntkla", "sklearn lbfgs, float64", BASELINE
NARROW = "sklearn newton-cg, float32"
_PEAK = 2.5
_FULL = (
    Setting(4000, 256, 20, "float32", 1e-3, 1e-3),
    Setting(4000, 256, 20, "float32", 1e-3, 1e-6),
    Setting(4000, 256, 20, "float32", 1e-5, 1e-3),
    Setting(20000, 768, 100, "float32", 1e-2, 1e-3),
    Setting(20000, 768, 100, "float32", 1e-3, 1e-3),
    Setting(20000, 768, 100, "float32", 1e-3, 1e-6),
)
_SMALL = (Setting(300, 20, 4, "float32", 1e-2, 1e-3), Setting(300, 20, 4, "float64", 1e-3, 1e-6))
_ENTROPY = "ntkla.linalg.entropy"
PARTS = [
    parts.Part("products with the Hessian", f"{_ENTROPY}.hessian", "HessianProduct.__call__"),
    parts.Part("preconditioner", f"{_ENTROPY}.preconditioner", "KroneckerPreconditioner.__init__"),
    parts.Part("preconditioner", f"{_ENTROPY}.preconditioner", "KroneckerPreconditioner.__call__"),
    parts.Part("line search", f"{_ENTROPY}.newton", "search"),
    parts.Part("gradient", f"{_ENTROPY}.newton", "EntropyMinimum._at"),
    parts.Part("certificate", f"{_ENTROPY}.newton", "certify"),
]


def specifications(size: str, device: torch.device) -> list[Specification]:
    """The suite's cases, not yet built."""
    settings = _SMALL if size == "small" else _FULL
    return [Specification(s.name, asdict(s), partial(build, s, device), PATIENCE) for s in settings]


def build(setting: Setting, device: torch.device) -> Case:
    """Inputs, contenders and judge of one setting."""
    problem = make(setting, device)
    optimum = _ours(problem, 1e-2).weight
    calls: dict[str, Callable[[], Any]] = {
        OURS: partial(_ours, problem, setting.target),
        LBFGS: partial(_scikit, problem, "lbfgs", np.float64, optimum),
        NEWTON: partial(_scikit, problem, "newton-cg", np.float64, optimum),
    }
    skipped = {}
    if setting.target < 1e-4:
        skipped[NARROW] = "float32 does not get there"
    else:
        calls[NARROW] = partial(_scikit, problem, "newton-cg", np.float32, optimum)
    # The least that any method does: one gradient, which checks the answer.
    work = Work(4.0 * setting.rows * setting.features * setting.classes, float(problem.x.nbytes))
    split = partial(parts.split, calls[OURS], PARTS, device)
    found = [
        Contender(name, call, work, ours=name == OURS, digits=setting.target, parts=split if name == OURS else None)
        for name, call in calls.items()
    ]
    return Case(found, skipped, Judge(problem))


@dataclass(frozen=True, eq=False)
class Judge:
    """The relative gradient at an answer; ours must be certified, and keep its own bound."""

    problem: Problem

    def __call__(self, contender: Contender, answer: Any) -> Verdict:
        """Right when the gradient is small enough."""
        ours = isinstance(answer, SoftmaxRegression)
        error = self.problem.relative_gradient(answer.weight if ours else answer)
        facts = {} if not ours else {"steps": answer.diagnostics.corrections, "status": answer.status.code}
        if ours:
            facts["products"] = answer.diagnostics.hessian_products
        reason = "" if error <= contender.digits else f"relative gradient {error:.1e}, asked for {contender.digits:.0e}"
        if ours and not answer.status.certified:
            reason = reason or str(answer.status)
        return Verdict(not reason, error, answer.relative_bound if ours else None, reason, facts)


def _ours(problem: Problem, tolerance: float) -> SoftmaxRegression:
    return softmax_regression(
        problem.x, problem.labels, ridge=problem.ridge, classes=problem.setting.classes, tol=tolerance
    )


def _scikit(problem: Problem, solver: str, dtype: type, optimum: torch.Tensor) -> torch.Tensor:
    if problem.x.device.type != "cpu":
        raise Skip("sklearn works on the processor")
    try:
        from sklearn.linear_model import LogisticRegression
    except ImportError as error:
        raise Skip(f"sklearn is not installed ({error})") from error
    # Only the size of the optimum is taken from it, to say when to stop.
    wanted = problem.setting.target * problem.ridge * float(torch.linalg.vector_norm(optimum))
    tolerance = wanted / math.sqrt(optimum.numel()) * _PEAK / problem.setting.rows
    model = LogisticRegression(C=1.0 / problem.ridge, solver=solver, fit_intercept=False, tol=tolerance, max_iter=10**5)
    features = problem.wide if dtype is np.float64 else problem.x.to(torch.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of steps that gain nothing more: the judge says what came of it
        model.fit(features.numpy(), problem.labels.numpy())
    return torch.from_numpy(model.coef_)
