"""Newton's method for softmax regression, steered in the fast precision and stopped by a proof.

Each step solves `H V = -G` to a forcing term by conjugate gradients (Dembo, Eisenstat and Steihaug, "Inexact Newton
methods", 1982: with terms that fall like the root of the gradient, convergence is superlinear) and goes along V as far
as the slope says.  A preconditioner is made again whenever the products with the Hessian since the last one have cost
as much as it does: at most twice what is best in hindsight.

The gradient that steers is a plain one until the goal is near.  From there on it is the certified one, at the level of
accuracy that the goal asks for, and the products with the Hessian take float64 once float32 stops contracting.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from ntkla.linalg.entropy.certificate import HIGHEST_LEVEL, Certificate, certify
from ntkla.linalg.entropy.conjugate import newton_step
from ntkla.linalg.entropy.hessian import HessianProduct
from ntkla.linalg.entropy.line_search import search
from ntkla.linalg.entropy.objective import EntropyProblem
from ntkla.linalg.entropy.preconditioner import KroneckerPreconditioner, preconditioner_cost
from ntkla.linalg.precision import U64, gamma, norm_upper

MOST_STEPS = 200
# Products with the Hessian in one step: what is missing then is left to the next one, with a fresh preconditioner.
_MOST_PRODUCTS = 400
# Forcing terms: at most this at first, at most the second near the optimum, and at least what a precision can give.
_LOOSEST = 0.5
_ENOUGH = 0.1
_LEAST = {torch.float32: 1e-3, torch.float64: 1e-6}
# A step that leaves more of the gradient than this, near the optimum, has met the limits of its precision.
_CONTRACTION = 0.5
# Shares of the goal: for rounding, and for the gradient at which it is worth measuring.
_ROUNDING_SHARE, _GRADIENT_SHARE = 0.5, 0.4


@dataclass(frozen=True)
class _Point:
    """An update x, the outputs there, their softmax, and the gradient with its norm."""

    x: torch.Tensor
    z: torch.Tensor
    probabilities: torch.Tensor
    residual: torch.Tensor
    gradient: torch.Tensor
    norm: float


class EntropyMinimum:
    """The certified minimiser of an `EntropyProblem`, improved on request.

    Attributes:
        steps, products, preconditioners: Newton steps, products with the Hessian, and preconditioners made so far.
        level: of the last certificate.
        stopped: why `reach` gave up, or an empty string.
    """

    def __init__(
        self, problem: EntropyProblem, start: torch.Tensor, progress: Callable[[int, float], None] | None = None
    ) -> None:
        self.problem, self.progress = problem, progress
        self.steps = self.products = self.preconditioners = self.level = 0
        self.stopped = ""
        self._hessian = HessianProduct(problem)
        self.narrow_at_first = self._hessian.dtype == torch.float32
        self._inverse: KroneckerPreconditioner | None = None
        self._spent: float = 0
        self._first = 0.0
        self._certificate: Certificate | None = None
        self._curvature = problem.least_penalty
        z = problem.outputs_of(start)
        self._point = self._at(start, z, torch.softmax(z, 1))
        if bool(start.any()):
            # How near a warm start is shows beside the head that it was moved from: forcing terms go by that.
            origin = torch.zeros_like(start)
            there = problem.outputs_of(origin) if problem.base is None else problem.base.value
            self._first = self._at(origin, there, torch.softmax(there, 1)).norm

    @property
    def x(self) -> torch.Tensor:
        """The current update [K, C]."""
        return self._point.x

    @property
    def precision(self) -> str:
        """What products with the Hessian are made in: "float32" or "float64"."""
        return str(self._hessian.dtype).removeprefix("torch.")

    @property
    def certificate(self) -> Certificate:
        """What is proved about `x`."""
        assert self._certificate is not None, "reach() comes first"
        return self._certificate

    def reach(self, goal: Callable[[torch.Tensor], float]) -> bool:
        """Improves `x` until its error is at most `goal(x)`; False when rounding or the steps allowed forbid it."""
        self.stopped = ""
        while True:
            wanted = goal(self.x)
            if self._certificate is None and self._close(wanted):
                self._certificate = self._measured()
            found = self._certificate
            if found is not None:
                if found.error <= wanted:
                    return True
                if not found.from_rounding <= _ROUNDING_SHARE * wanted and self.level < HIGHEST_LEVEL:
                    self.level += 1
                    self._certificate = self._measured()
                    continue
                if found.from_rounding >= _ROUNDING_SHARE * found.error and math.isfinite(found.error):
                    self.stopped = "the rounding of the outputs and of the gradient"
            if self.steps >= MOST_STEPS:
                self.stopped = f"the limit of {MOST_STEPS} Newton steps"
            if self.stopped:
                self._certificate = found or self._measured()
                return self._certificate.error <= wanted
            self._advance(wanted)

    def _close(self, wanted: float) -> bool:
        """Whether a plain gradient is small enough, or too near its own rounding, to be of use."""
        point, problem = self._point, self.problem
        sizes = gamma(problem.design.summands + 2) * norm_upper(point.residual, dim=1) + U64 * problem.counts[:, 0]
        noise = 4.0 * float(problem.row_norms @ sizes)
        return point.norm <= max(_GRADIENT_SHARE * wanted * self._curvature, noise)

    def _measured(self) -> Certificate:
        """Certifies x, and goes on from the gradient that was found."""
        x = self._point.x
        found = certify(self.problem, x, self.level)
        soft = found.residual
        self._point = _Point(x, found.outputs, soft.probabilities, soft.value, found.gradient, _size(found.gradient))
        self._curvature = found.curvature if found.curvature > 0.0 else self._curvature
        return found

    def _advance(self, wanted: float) -> None:
        """One Newton step; near the optimum it is measured, and taken back where rounding has spoilt it."""
        point, before = self._point, self._certificate
        if point.norm == 0.0:
            self.stopped = "a gradient of zero"
            return
        self._first = max(self._first, point.norm)
        # No more of the gradient needs to go than the goal asks for.
        enough = 0.5 * _GRADIENT_SHARE * wanted * self._curvature / point.norm
        forcing = max(min(_LOOSEST, math.sqrt(point.norm / self._first)), min(_ENOUGH, enough))
        step = self._newton(max(_LEAST[self._hessian.dtype], forcing))
        moved = self.problem.design.matmul(step)
        landing = search(self.problem, point.x, point.z, point.residual, step, moved)
        x = point.x + landing.length * step
        if not (bool(torch.isfinite(x).all()) and bool(torch.isfinite(moved).all())):
            self.stopped = "the range of float64: a Newton step overflows"
            return
        if before is None:
            self._point = self._at(x, point.z.add_(moved, alpha=landing.length), landing.probabilities)
        else:
            self._point = replace(point, x=x)
            found = self._measured()
            if not self._point.norm <= _CONTRACTION * point.norm and not self._widen():
                self.stopped = "the limits of float64: steps no longer make the gradient smaller"
            if found.error <= before.error:
                self._certificate = found
            else:
                self._point = point
        if self.progress is not None:
            self.progress(self.steps, self._point.norm / self._first)

    def _newton(self, forcing: float) -> torch.Tensor:
        """The Newton step of the current point, solved to a forcing term."""
        point, problem, hessian = self._point, self.problem, self._hessian
        if self._spent >= preconditioner_cost(problem):
            self._inverse = KroneckerPreconditioner.made(problem, point.probabilities, hessian.dtype)
            self.preconditioners, self._spent = self.preconditioners + (self._inverse is not None), 0
        hessian.at(point.probabilities)
        scaled = (point.gradient / point.norm).to(hessian.dtype)
        most = min(_MOST_PRODUCTS, 2 * scaled.numel() + 8)
        found = newton_step(hessian, self._inverse, scaled, forcing, most)
        self._spent += found.products
        self.products += found.products
        self.steps += 1
        step = found.value.to(torch.float64) * point.norm
        if not found.reached:
            self._widen()
        if problem.free_bias:
            step[-1] -= step[-1].mean()  # one constant on all biases changes nothing
        return step

    def _widen(self) -> bool:
        """Takes products with the Hessian in float64, with a preconditioner of that type; False when they are."""
        if not self._hessian.widen():
            return False
        if self._inverse is not None:
            self._inverse, self._spent = None, math.inf  # the next step makes it again
        return True

    def _at(self, x: torch.Tensor, z: torch.Tensor, probabilities: torch.Tensor) -> _Point:
        residual = self.problem.residual(probabilities)
        gradient = self.problem.gradient(residual, x)
        return _Point(x, z, probabilities, residual, gradient, _size(gradient))


def _size(gradient: torch.Tensor) -> float:
    """Its norm, and exactly 0 for zeros, which the upper bound of a norm is not."""
    return float(norm_upper(gradient)) if bool(gradient.any()) else 0.0
