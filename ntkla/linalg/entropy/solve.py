"""Sets up the certified minimum of softmax regression, and says how it was reached."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

from ntkla.linalg import checks
from ntkla.linalg.arithmetic.accurate import Bounded, accurate_outputs
from ntkla.linalg.arithmetic.doubled import two_product
from ntkla.linalg.design import DesignMatrix
from ntkla.linalg.entropy.newton import EntropyMinimum
from ntkla.linalg.entropy.objective import EntropyProblem
from ntkla.linalg.entropy.quadratic import Quadratic
from ntkla.linalg.entropy.separation import Separation, separation_of
from ntkla.linalg.errors import ArgumentError, RidgeError
from ntkla.linalg.precision import ENTROPY_TOLERANCE, norm_lower
from ntkla.linalg.solve.normal_solver import SolveDiagnostics
from ntkla.linalg.status import UNCERTIFIED, Status


@dataclass(frozen=True)
class EntropyDiagnostics(SolveDiagnostics):
    """How an optimum under cross-entropy was reached.

    Of the fields of every solve, `factor` names the method and the precision of its products with the Hessian,
    `corrections` counts Newton steps, and `residual_levels` are those of the last gradient: outputs, and their product
    with the features; 0 is plain float64, 1 beyond it.

    Attributes:
        hessian_products: products with the Hessian, each of `4 n K C` operations.
        preconditioners: how many were made.
        gradient_norm: upper bound of the norm of the gradient at the optimum that was found, the rounding of its
            outputs left out.
        curvature: lower bound of the Hessian that the gradient is divided by: the ridge, unless a bias is free.
        accuracy: the share of the new samples, by their counts, that are classified right after training.
        least_margin: lower bound of the least lead of a right class, negative where one is wrong; None for soft
            targets.
        separable: whether it is proved that the samples can be separated: then the head grows without end as the ridge
            falls.
    """

    hessian_products: int = 0
    preconditioners: int = 0
    gradient_norm: float = math.inf
    curvature: float = 0.0
    accuracy: float = 0.0
    least_margin: float | None = None
    separable: bool = False


class EntropySolve:
    """A prepared minimum with its tolerance: `reach` drives it, the rest is what a result reports of it."""

    def __init__(self, minimum: EntropyMinimum, tolerance: float, memory: int) -> None:
        self.minimum, self.tolerance, self.memory = minimum, tolerance, memory

    @property
    def x(self) -> torch.Tensor:
        """The update, float64 [K, C]."""
        return self.minimum.x

    @property
    def error(self) -> float:
        """Upper bound of the Frobenius norm of its error."""
        return self.minimum.certificate.error

    def reach_tolerance(self) -> None:
        """Improves the update until its relative error meets the tolerance, or rounding forbids it."""
        self.minimum.reach(lambda x: self.tolerance * norm_lower(x))

    def reach(self, size: float) -> None:
        """Improves it until its error is at most this."""
        self.minimum.reach(lambda _: size)

    def diagnostics(self, relative_bound: float) -> EntropyDiagnostics:
        """What was done, for the result."""
        minimum, found = self.minimum, self.minimum.certificate
        seen = self.separation
        return EntropyDiagnostics(
            factor=f"newton-cg:{minimum.precision}",
            escalations=() if minimum.narrow_at_first == (minimum.precision == "float32") else (_WIDENED,),
            corrections=minimum.steps,
            residual_levels=(int(minimum.level > 1), int(minimum.level > 0)),
            relative_bound=relative_bound,
            tolerance=self.tolerance,
            memory_estimate=self.memory,
            hessian_products=minimum.products,
            preconditioners=minimum.preconditioners,
            gradient_norm=found.gradient_norm,
            curvature=found.curvature,
            accuracy=seen.accuracy,
            least_margin=seen.least_margin,
            separable=seen.separable,
        )

    @property
    def separation(self) -> Separation:
        """What the optimum says about the data."""
        return separation_of(self.minimum.problem, self.minimum.certificate, self.minimum.x)

    def status(self, relative_bound: float) -> Status:
        """Certified, above the tolerance, or uncertified, each with its numbers and the remedy."""
        seen = self.separation
        note = f" {seen}" if seen.separable else ""
        problem = self.minimum.problem
        if problem.free_bias and math.isinf(self.error):
            return Status(
                UNCERTIFIED,
                "the bias is not penalised, and no curvature that would hold it could be certified: a class has "
                "almost no probability left, or the ridge is too small beside the features. Use penalize_bias=True, "
                f"or a larger ridge.{note}",
            )
        why = self.minimum.stopped or "rounding"
        remedy = f"stopped by {why}. Use a larger ridge, or a larger tol if this bound suffices."
        found = Status.of_bound(relative_bound, self.tolerance, remedy)
        return Status(found.code, found.message + note)


_WIDENED = "products with the Hessian took float64: float32 no longer contracted the gradient"


def prepare_entropy(
    design: DesignMatrix,
    targets: torch.Tensor,
    *,
    ridge: float,
    decay: float = 0.0,
    head: torch.Tensor | None = None,
    base: Bounded | None = None,
    start: torch.Tensor | None = None,
    free_bias: bool = False,
    weights: torch.Tensor | None = None,
    tolerance: float = ENTROPY_TOLERANCE,
    gradient_error: float = 0.0,
    quadratics: tuple[Quadratic, ...] = (),
    progress: Callable[[int, float], None] | None = None,
) -> EntropySolve:
    """Checks memory and what has no optimum, and starts the search.

    Args:
        design: Phi, n x K (K counts the bias).
        targets: float64 [n, C], >= 0.
        ridge, decay: >= 0, one of them above 0; towards the head, and towards zero.
        head: float64 [K, C], what the ridge pulls to; None for zero.
        base: the outputs of the head where they are known already, as of `accurate_outputs`.
        start: float64 [K, C], the update from which the search begins; None for zero.
        free_bias: whether the bias column goes unpenalised.
        weights: float64 [n] of the samples, or None for 1 each.
        tolerance: wanted relative error.
        gradient_error: upper bound of what an error of the targets does to the gradient, in norm.
        quadratics: further terms, of penalties; none with a free bias.
        progress: called as `progress(steps, gradient)` after each Newton step.

    Raises:
        RidgeError: no penalty.  ArgumentError: a free bias of a class that no sample has.  MemoryEstimateError
    """
    if ridge == 0 and decay == 0:
        raise RidgeError(
            "ridge: expected a number > 0 with cross-entropy, got 0. Without one the optimum need not exist (separable "
            "data push the weights to infinity) and none can be certified. Use a small ridge."
        )
    mask = torch.ones(design.columns, dtype=torch.float64, device=design.device)
    if free_bias:
        _require_classes(targets, weights)
        mask[-1] = 0.0
    shift = None
    if decay > 0 and head is not None:
        shift = two_product(decay * mask[:, None], head)
    diagonals = tuple(mask * value for value in (ridge, decay) if value > 0)
    problem = EntropyProblem(design, targets, None, diagonals, shift, weights, free_bias, gradient_error, quadratics)
    needed = problem.memory_estimate()
    checks.memory("the optimum under cross-entropy", needed, design.device)
    if head is not None and bool(head.any()):
        known = accurate_outputs(design, head, torch.zeros_like(targets)) if base is None else base
        problem = problem.with_base(known)
    begin = torch.zeros((design.columns, targets.shape[1]), dtype=torch.float64, device=design.device)
    return EntropySolve(EntropyMinimum(problem, begin if start is None else start, progress), tolerance, needed)


def _require_classes(targets: torch.Tensor, weights: torch.Tensor | None) -> None:
    """With a free bias every class needs a sample: nothing else keeps its bias from falling without end."""
    counted = targets if weights is None else targets[weights > 0]
    absent = (counted == 0).all(0).nonzero().flatten().tolist()
    if absent and targets.shape[1] > 1:
        raise ArgumentError(
            f"penalize_bias: expected True, because no sample has class {absent[0]} (of {len(absent)} such classes): "
            "its bias would fall without end. Use penalize_bias=True, or leave that output out."
        )
