"""How far a computed head update can be from the exact optimum: strong convexity, with every rounding counted.

Let F(X, d) be the gradient of the objective (`objective.py`) with the outputs changed by d.  At the optimum
`F(X*, 0) = 0`; what is computed at X is `F(X, d) + e`, where d is what the rounding of the outputs amounts to and e all
other rounding.  With v = X - X*, a_i = phi_i v, and `S' = the mean of diag(p) - p p^T between the two` (positive
semidefinite, in every row),

    <v, F(X, d)> = sum_i c_i (<a_i, S' a_i> + <a_i, S' d_i>) + <v, p v>  >=  ||v||^2 ridge - 1/4 sum_i c_i <d_i, S' d_i>

by completing the square.  So for G, the gradient as computed, and delta^2 >= sum_i c_i <d_i, S' d_i>,

    ||v||_F  <=  (||G||_F + ||e||_F) / ridge  +  delta / (2 sqrt(ridge)).

Rounding of the outputs enters with the root of the ridge only; features that are small beside it let less through, at
most `(1/2 sum_i c_i ||phi_i||^2)^1/2 delta / ridge` (as below).  `<d, S d>` is a variance: at most `||d||^2 / 2`, and
at most the square of the largest |d_j|.

A free bias has no ridge.  Along a segment of length r the Hessian falls by at most `exp(-k r)`, `k = sqrt(2) max
||phi_i||`, because outputs that move within a range rho change every probability, and so every variance, by a factor
of at least exp(-rho) (Bach, "Self-concordant analysis for logistic regression", 2010).  With m its least eigenvalue at
X on updates whose bias sums to zero (the loss does not change when one constant is added to all biases, so the optimum
is taken there) and g the exact gradient, `||g|| r >= m r^2 (1 - exp(-k r)) / (k r)`, hence

    r <= -log(1 - k ||g|| / m) / k   when k ||g|| < m,   ||g|| <= ||G|| + ||e|| + (1/2 sum_i c_i ||phi_i||^2)^1/2 delta.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch

from ntkla.linalg.arithmetic.accurate import Bounded, accurate_adjoint, accurate_outputs
from ntkla.linalg.arithmetic.doubled import two_product
from ntkla.linalg.arithmetic.products import pieced_gamma
from ntkla.linalg.entropy.free_bias import free_curvature
from ntkla.linalg.entropy.objective import EntropyProblem, size_of_terms
from ntkla.linalg.entropy.probabilities import SoftResidual, counted_size, soft_residual
from ntkla.linalg.precision import SHORT_CHAIN, TINY64, U64, gamma, norm_upper, rounded_up

# 0: both products in plain float64; 1: the gradient beyond it; 2: the outputs as well.
HIGHEST_LEVEL = 2


class Certificate(NamedTuple):
    """What is proved about a computed update.

    Attributes:
        error: upper bound of ||X - X*||_F; infinite where none can be given.
        from_rounding: the part of it that a smaller gradient would not take away.
        gradient: G as computed, [K, C].
        gradient_norm: upper bound of the exact gradient's norm, the rounding of the outputs left out.
        curvature: what the gradient is divided by.
        outputs: z as computed, [n, C].
        residual: T and its error.
    """

    error: float
    from_rounding: float
    gradient: torch.Tensor
    gradient_norm: float
    curvature: float
    outputs: torch.Tensor
    residual: SoftResidual


def certify(problem: EntropyProblem, x: torch.Tensor, level: int) -> Certificate:
    """Measures the update x, float64 [K, C], taken as exact.

    Cost: 4 n K C operations; 8 n K C at level 1, 12 n K C at level 2.
    """
    outputs, delta = _outputs(problem, x, level)
    soft = soft_residual(problem, outputs)
    # With one output nothing varies.
    delta = 0.0 if problem.outputs == 1 else (delta + counted_size(problem, soft.moved)) * SHORT_CHAIN
    gradient = _gradient(problem, soft, x, level)
    gradient, pulled = _with_quadratics(problem, gradient, x, level)
    rounding = float(norm_upper(gradient.error)) + _mass(problem.row_norms, soft.error) + problem.gradient_error
    rounding *= SHORT_CHAIN
    measured = float(norm_upper(gradient.value))
    if problem.free_bias:
        error, left, curvature = _free(problem, x, soft, measured, rounding, delta)
    else:
        curvature = problem.least_penalty
        tilt = min(0.5 * math.sqrt(curvature), math.sqrt(0.5) * problem.spread) * delta
        # A large curvature may take the quotient below the range.
        left = (rounding + tilt + 0.5 * math.sqrt(curvature) * pulled) / curvature * SHORT_CHAIN + TINY64
        error = (measured / curvature + left) * SHORT_CHAIN
    error = error if math.isfinite(error) else math.inf
    size = (measured + rounding) * SHORT_CHAIN
    return Certificate(error, left, gradient.value, size, curvature, outputs, soft)


def _mass(norms: torch.Tensor, errors: torch.Tensor) -> float:
    """Upper bound of the sum of products of non-negative numbers."""
    return (float(norms @ errors) + TINY64 * norms.shape[0]) * (1.0 + gamma(2 * norms.shape[0] + 4))


def _outputs(problem: EntropyProblem, x: torch.Tensor, level: int) -> tuple[torch.Tensor, float]:
    """z at x, and the bound of delta for its rounding."""
    design, half = problem.design, math.sqrt(0.5)
    largest = float(problem.count_roots.max())
    base = problem.base
    if level == HIGHEST_LEVEL:
        zero = torch.zeros_like(problem.targets) if base is None else -base.value
        value, errors = accurate_outputs(design, x, zero)
        delta = half * largest * float(norm_upper(errors))
    else:
        value = problem.outputs_of(x)
        size = float(norm_upper(x))
        delta = half * pieced_gamma(design.columns) * size * problem.spread
        lost = math.sqrt(design.rows * problem.outputs) * TINY64 * 2 * design.columns
        delta += largest * (lost + 2.0 * design.flushed_mass() * size)
        if base is not None:
            delta += U64 * largest * float(norm_upper(value))
    if base is not None:
        delta += half * largest * float(norm_upper(base.error))
    return value, delta * SHORT_CHAIN


def _gradient(problem: EntropyProblem, soft: SoftResidual, x: torch.Tensor, level: int) -> Bounded:
    """G for the T that was computed, and the 2-norm bound of each column's rounding."""
    if level == 0:
        design = problem.design
        value = design.rmatmul(soft.value).add_(problem.penalty * x)
        value = value if problem.shift is None else value.add_(problem.shift.high)
        rows = norm_upper(soft.value, dim=1)
        product = gamma(design.summands + 2) * _mass(problem.row_norms, rows)
        terms = size_of_terms(problem, x) + float(norm_upper(value))
        dropped = design.flushed_mass() * float(norm_upper(rows)) + 4 * design.rows * x.numel() * TINY64
        error = product + gamma(len(problem.diagonals) + 4) * terms + dropped
        return Bounded(value, torch.tensor([error * SHORT_CHAIN], dtype=torch.float64, device=x.device))
    pulled = [] if problem.shift is None else [*problem.shift]
    for diagonal in problem.diagonals:
        pulled += two_product(diagonal[:, None], x)
    exact = accurate_adjoint(problem.design, soft.value, pulled)
    return Bounded(exact.value, exact.error + 16 * TINY64 * x.numel())


def _with_quadratics(problem: EntropyProblem, found: Bounded, x: torch.Tensor, level: int) -> tuple[Bounded, float]:
    """The gradient with those of further terms added, and what these add to delta."""
    value, error, pulled = found.value, norm_upper(found.error), 0.0
    for term in problem.quadratics:
        own, delta = term.measured(x, sharp=level > 0)
        value.index_add_(1, term.outputs, own.value)
        error = error + norm_upper(own.error) + 2.0 * U64 * norm_upper(value)
        pulled += delta
    return Bounded(value, rounded_up(error).reshape(1)), pulled * SHORT_CHAIN


def _free(
    problem: EntropyProblem, x: torch.Tensor, soft: SoftResidual, measured: float, rounding: float, delta: float
) -> tuple[float, float, float]:
    """(error, its part from rounding, curvature) for a free bias."""
    tilt = (rounding + math.sqrt(0.5) * problem.spread * delta) * SHORT_CHAIN
    # The distance of the biases' sum from zero is a distance from the optimum that is meant.
    offset = float(x[-1].sum().abs()) + gamma(x.shape[1]) * float(x[-1].abs().sum())
    offset = (offset / math.sqrt(x.shape[1]) + TINY64) * SHORT_CHAIN
    curvature = free_curvature(problem, soft, delta)
    reach = math.sqrt(2.0) * float(problem.row_norms.max()) * SHORT_CHAIN

    def distance(norm: float) -> float:
        used = reach * norm / curvature * SHORT_CHAIN if curvature > 0.0 else math.inf
        # -log(1 - t) <= t / (1 - t): no logarithm to bound.
        return norm / curvature / (1.0 - used) * SHORT_CHAIN if used < 0.5 else math.inf

    error = (distance((measured + tilt) * SHORT_CHAIN) + offset) * SHORT_CHAIN
    return error, distance(tilt) + offset, curvature
