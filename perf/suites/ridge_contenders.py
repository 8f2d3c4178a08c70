"""Everyone who solves the ridge problem in suite `ridge`, on the device of the features; each returns [F, C]."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch

from ntkla import ridge_solve
from perf import parts
from perf.harness import Contender, Skip, Work

CHOLESKY = "torch, Cholesky, float64"
NARROW = "torch, Cholesky, float32"
REFINED = "torch, float32 factor, float64 refinement"
SKLEARN = "sklearn Ridge, cholesky"
TOLERANCES = {"ntkla": None, "ntkla, tol=1e-6": 1e-6}
# An expert who refines stops when a correction is this small: no proof, but all that float64 residuals give.
_SETTLED, _MOST_STEPS = 1e-10, 30

_FACTOR, _REFINE = "ntkla.linalg.solve.factor", "ntkla.linalg.solve.refine"
PARTS = [
    parts.Part("checks", "ntkla.linalg.checks", "matrix"),
    parts.Part("Gram", _FACTOR, "formed_normal_matrix"),
    parts.Part("Gram", _FACTOR, "formed_gram_matrix"),
    parts.Part("factor", _FACTOR, "CholeskyFactor.build"),
    parts.Part("factor", _FACTOR, "DualFactor.build"),
    parts.Part("first solve", _FACTOR, "_Primal.start"),
    parts.Part("first solve", _FACTOR, "DualFactor.start"),
    parts.Part("refinement", _REFINE, "Refinement._round"),
    parts.Part("residual", _REFINE, "Refinement._measure"),
]


@dataclass(frozen=True, eq=False)
class Problem:
    """Features x [n, F], targets y [n, C] and the ridge, absolute."""

    x: torch.Tensor
    y: torch.Tensor
    ridge: float

    @property
    def primal(self) -> bool:
        """Whether the F x F system is the smaller one."""
        return self.x.shape[1] <= self.x.shape[0]

    def work(self, arithmetic: str) -> Work:
        """The least operations of the closed form by its cheaper route; inputs read and the solution written once."""
        (n, f), c = self.x.shape, self.y.shape[1]
        small, large = min(n, f), max(n, f)
        operations = large * small * (small + 1.0) + small**3 / 3.0 + 2.0 * small * small * c + 2.0 * n * f * c
        return Work(operations, float(self.x.nbytes + self.y.nbytes + 8 * f * c), arithmetic)


def contenders(problem: Problem) -> tuple[list[Contender], dict[str, str]]:
    """ntkla with the default tolerance and with a loose one, and the experts."""
    found = []
    for name, tol in TOLERANCES.items():
        call = partial(ridge_solve, problem.x, problem.y, ridge=problem.ridge, tol=tol)
        split = partial(parts.split, call, PARTS, problem.x.device)
        found.append(Contender(name, call, problem.work("float64"), ours=True, parts=split))
    experts: dict[str, tuple[Callable[[], torch.Tensor], str]] = {
        CHOLESKY: (partial(cholesky, problem, torch.float64), "float64"),
        SKLEARN: (partial(_sklearn, problem), "float64"),
    }
    skipped = {}
    if problem.x.dtype == torch.float32:
        experts[NARROW] = partial(cholesky, problem, torch.float32), "float32"
        experts[REFINED] = partial(_refined, problem), "float64"
    else:
        skipped = dict.fromkeys((NARROW, REFINED), "the features are float64")
    digits = {"float64": 2.0**-53, "float32": 2.0**-24}
    found += [Contender(n, call, problem.work(rate), digits=digits[rate]) for n, (call, rate) in experts.items()]
    return found, skipped


def cholesky(problem: Problem, dtype: torch.dtype) -> torch.Tensor:
    """The closed form as an expert writes it, all of it in one type."""
    return _solved(problem, _factor(problem, dtype), problem.y.to(dtype))


def _factor(problem: Problem, dtype: torch.dtype) -> torch.Tensor:
    x = problem.x.to(dtype)
    system = x.T @ x if problem.primal else x @ x.T
    system.diagonal().add_(problem.ridge)
    factor, info = torch.linalg.cholesky_ex(system)
    if int(info) != 0:
        raise Skip(f"the matrix is not positive definite in {dtype}")
    return factor


def _solved(problem: Problem, factor: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    x = problem.x.to(factor.dtype)
    if problem.primal:
        return torch.cholesky_solve(x.T @ targets, factor)
    return x.T @ torch.cholesky_solve(targets, factor)


def _refined(problem: Problem) -> torch.Tensor:
    """Mixed-precision refinement: the residual through the features in float64, corrections by a float32 factor."""
    factor, wide, y = _factor(problem, torch.float32), problem.x.double(), problem.y.double()
    solution = torch.zeros((wide.shape[1], y.shape[1]), dtype=torch.float64, device=wide.device)
    for _ in range(_MOST_STEPS):
        gradient = wide.T @ (y - wide @ solution) - problem.ridge * solution
        step = _corrected(problem, factor, gradient)
        solution += step
        if float(torch.linalg.vector_norm(step)) <= _SETTLED * float(torch.linalg.vector_norm(solution)):
            return solution
    raise Skip(f"its float32 factor does not converge in {_MOST_STEPS} corrections")


def _corrected(problem: Problem, factor: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
    """About A^-1 gradient; of the dual factor by `(g - X^T (G + p I)^-1 X g) / p`."""
    size = gradient.abs().amax(0).clamp(min=torch.finfo(torch.float64).tiny)
    narrow = (gradient / size).float()
    if problem.primal:
        return torch.cholesky_solve(narrow, factor).double() * size
    inner = torch.cholesky_solve(problem.x @ narrow, factor)
    return (narrow - problem.x.T @ inner).double() * size / problem.ridge


def _sklearn(problem: Problem) -> torch.Tensor:
    if problem.x.device.type != "cpu":
        raise Skip("sklearn works on the processor")
    try:
        from sklearn.linear_model import Ridge
    except ImportError as error:
        raise Skip(f"sklearn is not installed ({error})") from error
    model = Ridge(alpha=problem.ridge, fit_intercept=False, solver="cholesky")
    model.fit(problem.x.double().numpy(), problem.y.double().numpy())
    return torch.from_numpy(model.coef_.T.copy())
