"""The regularised normal equations, and their residual in plain float64 with a bound on its own rounding.

Problem: `A X = B` with `A = Phi^T D Phi + diag(p)`, `B = Phi^T D Y + shift`, and D the samples' weights (the identity
without any).  At a trial solution x (a `Doubled`)

    T = Y - Phi x                  [n, C], rounded by at most `output_error`  (2-norm per column of D^1/2 times it)
    rho = Phi^T D T - p x + shift  [K, C], rounded by at most `adjoint_error`, given the T that was computed

The two errors are kept apart because they reach the solution by different ways (see `stability.py`).  Both are
`gamma |Phi| |x|` and `gamma |Phi|^T D |T|` summed by the Cauchy-Schwarz inequality: in norms of `D^1/2 Phi` and
`D^1/2 T` that is as sharp with weights as without.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch

from ntkla.linalg.arithmetic.doubled import Doubled
from ntkla.linalg.arithmetic.products import add_matmul, pieced_gamma, pieced_matmul
from ntkla.linalg.design import Design
from ntkla.linalg.precision import SHORT_CHAIN, TINY64, U64, gamma, norm_upper, rounded_up
from ntkla.linalg.solve.weights import SampleWeights


@dataclass(frozen=True)
class NormalProblem:
    """`(Phi^T D Phi + diag(sum of diagonals)) X = Phi^T D targets + shift`.

    Attributes:
        design: Phi, n x K.
        targets: float64 [n, C].
        diagonals: float64 [K] each; their exact sum is the penalty.
        shift: Doubled [K, C], or None for zero.
        frobenius: upper bound of ||D^1/2 Phi||_F.
        weights: D, or None for the identity.
    """

    design: Design
    targets: torch.Tensor
    diagonals: tuple[torch.Tensor, ...]
    shift: Doubled | None
    frobenius: float
    weights: SampleWeights | None = None

    @cached_property
    def target_norms(self) -> torch.Tensor:
        """Upper bounds of the norms of the columns of `D^1/2 targets`, [C]."""
        if self.weights is None:
            return norm_upper(self.targets, dim=0)
        parts = (slice(i, i + self.design.block_rows) for i in range(0, self.design.rows, self.design.block_rows))
        return norm_upper(torch.stack([self.outputs_norm(rows, self.targets[rows]) for rows in parts]), dim=0)

    def outputs_norm(self, rows: slice, outputs: torch.Tensor) -> torch.Tensor:
        """Upper bounds of the norms of the columns of `D^1/2 outputs` for these rows, [C]."""
        return norm_upper(outputs if self.weights is None else self.weights.bounded(rows, outputs), dim=0)

    @cached_property
    def root_total(self) -> float:
        """Upper bound of the norm of the column `D^1/2 1`, which is what a bias sees."""
        return math.sqrt(self.design.rows) if self.weights is None else self.weights.root_total

    @cached_property
    def largest_penalty(self) -> torch.Tensor:
        """Upper bound of the largest entry of the penalty."""
        largest = (diagonal.max() for diagonal in self.diagonals)
        return sum(largest, start=self.targets.new_zeros(())) * SHORT_CHAIN

    def small_terms(self, x: Doubled) -> torch.Tensor:
        """||p x|| + ||shift|| per column, to a few roundings."""
        terms = [d[:, None] * x.high for d in self.diagonals] + ([] if self.shift is None else [self.shift.high])
        return sum((norm_upper(term, dim=0) for term in terms), start=torch.zeros_like(x.high[0]))

    def small_bias_terms(self, x: Doubled) -> torch.Tensor:
        """The same in the last row alone: zero for a bias that is free."""
        terms = [d[-1] * x.high[-1] for d in self.diagonals] + ([] if self.shift is None else [self.shift.high[-1]])
        return sum((term.abs() for term in terms), start=torch.zeros_like(x.high[0]))


@dataclass(frozen=True)
class Residual:
    """The residual at a trial solution, and what its rounding can be.

    Attributes:
        value: rho, float64 [K, C].
        outputs: T rounded to float64 [n, C], when it was asked for.
        output_error, adjoint_error: bounds per column, [C], of the two roundings named above.
        bias_error: bound of the rounding of the last row of rho, [C], when that row is a bias's; its column of ones
            may be far smaller than the features.
        output_norm: upper bound of ||D^1/2 T|| for the T that was computed, [C].
    """

    value: torch.Tensor
    outputs: torch.Tensor | None
    output_error: torch.Tensor
    adjoint_error: torch.Tensor
    bias_error: torch.Tensor
    output_norm: torch.Tensor


def plain_residual(problem: NormalProblem, x: Doubled) -> Residual:
    """rho in float64, x rounded to its high part.  Cost: 4 n K C operations, one pass over the features."""
    rho = torch.zeros_like(x.high) if problem.shift is None else problem.shift.high.clone()
    norms = []
    for rows, block in problem.design.blocks():
        t = problem.targets[rows] - pieced_matmul(block, x.high)
        norms.append(problem.outputs_norm(rows, t))
        add_matmul(rho, block.T, t if problem.weights is None else t * problem.weights.values[rows, None])
    for diagonal in problem.diagonals:
        rho.addcmul_(diagonal[:, None], x.high, value=-1.0)
    output_norm = norm_upper(torch.stack(norms), dim=0)  # not by sums of squares, which vanish below 2^-511
    output_error = plain_output_error(problem, norm_upper(x.high, dim=0))
    roundings = problem.design.summands + (problem.weights is not None)
    return Residual(rho, None, output_error, *adjoint_errors(problem, x, output_norm, roundings), output_norm)


def plain_output_error(problem: NormalProblem, x_norm: torch.Tensor) -> torch.Tensor:
    """Bound of the rounding of `T = Y - Phi x` in float64; gamma has a rounding to spare for dropping x.low."""
    rounding = pieced_gamma(problem.design.columns) * problem.frobenius * x_norm + U64 * problem.target_norms
    return rounded_up(rounding + output_underflow(problem, x_norm, products=1))


def adjoint_errors(
    problem: NormalProblem, x: Doubled, output_norm: torch.Tensor, product_roundings: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Bounds of the rounding of `Phi^T D T - p x + shift`, and of its last row: the product's and some terms more.

    Args:
        problem: without anything computed.
        x: what the penalty multiplies.
        output_norm: upper bounds of ||D^1/2 T||, [C].
        product_roundings: how many roundings a term of `Phi^T D T` meets.
    """
    roundings = gamma(product_roundings + 8)
    whole = problem.frobenius * output_norm + problem.small_terms(x)
    bias = problem.root_total * output_norm + problem.small_bias_terms(x)
    underflow = adjoint_underflow(problem, output_norm, products=1)
    return rounded_up(roundings * whole + underflow), rounded_up(roundings * bias + underflow)


def output_underflow(problem: NormalProblem, x_norm: torch.Tensor, products: int) -> torch.Tensor:
    """What T may lose: products that underflow, and subnormal numbers that flushed arithmetic drops."""
    design = problem.design
    root = 1.0 if problem.weights is None else problem.weights.largest_root
    dropped = x_norm * (design.flushed_mass() * root) + TINY64 * math.sqrt(design.columns) * problem.frobenius
    return dropped + 8 * products * design.columns * TINY64 * math.sqrt(design.rows) * root


def adjoint_underflow(problem: NormalProblem, output_norm: torch.Tensor, products: int) -> torch.Tensor:
    """What rho may lose, in the same way, and through subnormal entries of x that the penalty multiplies."""
    design, weights = problem.design, problem.weights
    if weights is None:
        dropped = output_norm * design.flushed_mass() + TINY64 * math.sqrt(design.rows) * problem.frobenius
    else:
        # The factor of Phi^T is D T: entries of it that underflow meet the features without their weights.
        dropped = output_norm * (design.flushed_mass() * weights.largest_root)
        unweighted = math.sqrt(design.rows) * weights.plain_frobenius + weights.root_total * weights.frobenius
        dropped = dropped + 17 * TINY64 * unweighted
    dropped = dropped + TINY64 * math.sqrt(design.columns) * problem.largest_penalty
    return dropped + 8 * products * design.rows * TINY64 * math.sqrt(design.columns)
