"""The objective of softmax regression, in the head's update X [K, C] (bias last), and its parts.

    f(X) = sum_i w_i (s_i logsumexp(z_i) - <y_i, z_i>) + 1/2 sum_k p_k ||x_k||^2 + <shift, X>,   z_i = z0_i + phi_i X,

and the quadratic terms of penalties (`quadratic.py`), with targets y_i >= 0 of total s_i, sample weights w_i, outputs
z0 of the head that X starts from, and a penalty p of each row of X (ridge + weight decay; 0 for a free bias).  The
shift is what weight decay pulls with, decay times the old head.  With P the softmax of z and c_i = w_i s_i,

    gradient   G = Phi^T T + p X + shift,   T = diag(c) P - diag(w) Y,
    Hessian    H[V] = Phi^T (c_i S_i (Phi V)_i)_i + p V,   S_i = diag(p_i) - p_i p_i^T.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property

import torch

from ntkla.linalg.arithmetic.accurate import Bounded
from ntkla.linalg.arithmetic.doubled import Doubled
from ntkla.linalg.arithmetic.products import pairwise_sums
from ntkla.linalg.design import DesignMatrix
from ntkla.linalg.entropy.quadratic import Quadratic
from ntkla.linalg.precision import SHORT_CHAIN, norm_upper


@dataclass(frozen=True)
class EntropyProblem:
    """What is minimised.

    Attributes:
        design: Phi, n x K.
        targets: y, float64 [n, C], >= 0.
        base: z0 [n, C] and the 2-norm bound of each column's error; None for zero.
        diagonals: float64 [K] each, >= 0; their exact sum is the penalty p.
        shift: Doubled [K, C], or None for zero.
        weights: w, float64 [n], >= 0, or None for 1 each.
        free_bias: whether the last entry of the penalty is 0 because it belongs to a bias.
        gradient_error: upper bound of what an error of the targets adds to the gradient, in norm.
        quadratics: further terms, of penalties.
    """

    design: DesignMatrix
    targets: torch.Tensor
    base: Bounded | None
    diagonals: tuple[torch.Tensor, ...]
    shift: Doubled | None = None
    weights: torch.Tensor | None = None
    free_bias: bool = False
    gradient_error: float = 0.0
    quadratics: tuple[Quadratic, ...] = ()

    def with_base(self, base: Bounded) -> EntropyProblem:
        """The same for a head with these outputs before training."""
        return replace(self, base=base)

    @property
    def outputs(self) -> int:
        """C."""
        return self.targets.shape[1]

    @cached_property
    def counts(self) -> torch.Tensor:
        """c = w s, float64 [n, 1], off by `1 + pairwise_depth(C)` roundings of itself."""
        totals = pairwise_sums(self.targets)[:, None]
        return totals if self.weights is None else totals * self.weights[:, None]

    @cached_property
    def weighted_targets(self) -> torch.Tensor:
        """w y, rounded once; y itself without weights."""
        return self.targets if self.weights is None else self.targets * self.weights[:, None]

    @cached_property
    def row_norms(self) -> torch.Tensor:
        """Upper bounds of the norms of the rows of Phi, [n]."""
        return self.design.row_norms()

    @cached_property
    def count_roots(self) -> torch.Tensor:
        """Upper bounds of the roots of c, [n]."""
        return self.counts[:, 0].sqrt() * SHORT_CHAIN

    @cached_property
    def spread(self) -> float:
        """Upper bound of `(sum_i c_i ||phi_i||^2)^1/2`."""
        return float(norm_upper(self.count_roots * self.row_norms))

    @cached_property
    def penalty(self) -> torch.Tensor:
        """p rounded, [K, 1]."""
        return sum(self.diagonals, start=torch.zeros_like(self.diagonals[0]))[:, None]

    @cached_property
    def least_penalty(self) -> float:
        """Lower bound of the penalty of the rows of X that are penalised."""
        penalised = self.penalty[:-1] if self.free_bias else self.penalty
        return float(penalised.min()) / SHORT_CHAIN

    def outputs_of(self, x: torch.Tensor) -> torch.Tensor:
        """z at float64 x [K, C], in float64.  Cost: 2 n K C operations."""
        z = self.design.matmul(x)
        return z if self.base is None else z.add_(self.base.value)

    def residual(self, probabilities: torch.Tensor) -> torch.Tensor:
        """T in float64, [n, C], for the softmax of some outputs."""
        return (probabilities * self.counts).sub_(self.weighted_targets)

    def linear_terms(self, x: torch.Tensor) -> torch.Tensor:
        """The gradient of all but the loss in float64, [K, C]: `p x + shift`, and that of further terms."""
        pulled = self.penalty * x
        pulled = pulled if self.shift is None else pulled + self.shift.high
        for term in self.quadratics:
            term.add_gradient(pulled, x)
        return pulled

    def add_quadratics(self, out: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        """`out`, [K, C], with the Hessian of further terms times v added, in the type of v."""
        for term in self.quadratics:
            term.add_product(out, v)
        return out

    def gradient(self, residual: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """G in float64 for the residual at x.  Cost: 2 n K C operations."""
        return self.design.rmatmul(residual).add_(self.linear_terms(x))

    @cached_property
    def one_hot(self) -> bool:
        """Whether every counted row has all of its target in one class: only such data can be separated."""
        return bool(((self.targets != 0).sum(1) <= 1).all())

    def memory_estimate(self) -> int:
        """Bytes at the peak of a solve, beside the inputs.

        Twelve arrays of the outputs' size (outputs, steps, probabilities, residuals, and what elementwise functions
        put between them), twenty of the update's size, five squares each of K and of C, blocks of rows with slices, and
        for further terms their rows, with slices.
        """
        n, k, c, m = self.design.rows, self.design.columns, self.outputs, self.design.block_rows
        rows = min(m, n) * (5 * k + 24 * c)
        more = sum(one.rows.rows.high.shape[0] * (6 * k + 12 * c) for one in self.quadratics)
        return 8 * (12 * n * c + 20 * k * c + 5 * (k * k + c * c) + rows + 8 * n + more)


def size_of_terms(problem: EntropyProblem, x: torch.Tensor) -> float:
    """Upper bound of `||p x||_F + ||shift||_F`."""
    shift = 0.0 if problem.shift is None else float(norm_upper(problem.shift.high))
    return math.fsum([float(norm_upper(problem.penalty * x)), shift]) * SHORT_CHAIN
