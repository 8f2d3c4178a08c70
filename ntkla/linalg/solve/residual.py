"""The residual of the regularised normal equations beyond float64, with a bound on what rounding is left in it.

Problem and notation: `normal_problem.py`.  Both products are taken at a level of `slicing.py`; weights multiply T
between them, as an unevaluated sum of two float64 numbers.

Rounding of a level-s product, with the 2-norms `a_q` of the slices and rests of the left factor and `b_q` of the rests
of the right one: the exact part contributes nothing, the ordinary products
`gamma_{K+2} (sum_p a_p b_{s+1-p} + a_rest b_0)` by the Cauchy-Schwarz inequality (K summands, plus one rounding each
for the rests kept in float64), and the doubled summation of k terms `2 k^2 u^2` of their absolute sum.
"""

from __future__ import annotations

import math

import torch

from ntkla.linalg import host
from ntkla.linalg.arithmetic.doubled import Doubled, add_into, column_sum, total, two_product, two_sum
from ntkla.linalg.arithmetic.products import pieced_gamma, pieced_matmul
from ntkla.linalg.arithmetic.slicing import (
    SIGNIFICAND,
    Slices,
    cut,
    exponents,
    length_bits,
    power_of_two,
    product_terms,
    right_factors,
    slice_bits,
)
from ntkla.linalg.precision import TINY64, U64, gamma, norm_upper, rounded_up
from ntkla.linalg.solve.normal_problem import (
    NormalProblem,
    Residual,
    adjoint_underflow,
    output_underflow,
    plain_output_error,
    plain_residual,
)

# Rows this much smaller than the largest row of their block share a coarser grid, so that no grid exponent overflows.
_ROW_RANGE = 200


def residual(problem: NormalProblem, x: Doubled, levels: tuple[int, int], *, keep_outputs: bool = False) -> Residual:
    """rho = Phi^T D (Y - Phi x) - p x + shift with the two products at the given levels of `slicing`.

    Cost: `(s + 1)(s + 2) / 2` products of 2 n K C operations for each level s.  One pass over the features.
    """
    if levels == (0, 0) and not keep_outputs:
        return plain_residual(problem, x)
    run = _Pass(problem, x, levels, keep_outputs)
    for rows, block in problem.design.blocks():
        run.add_block(rows, block, problem.targets[rows])
    return run.finish()


class _Pass:
    """One pass over the row blocks: accumulates rho and the quantities that its rounding bound needs."""

    def __init__(self, problem: NormalProblem, x: Doubled, levels: tuple[int, int], keep_outputs: bool) -> None:
        self.outputs: list[torch.Tensor] | None = [] if keep_outputs else None
        self.problem, self.x, self.levels = problem, x, levels
        design = problem.design
        k = design.columns
        self.rho = Doubled(torch.zeros_like(x.high), torch.zeros_like(x.high))
        self.additions = 0
        self.row_scales: list[torch.Tensor] = []  # 2-norm of each block's, times the roots of the weights
        self.grid_mass = torch.zeros_like(x.high[0])  # sum over blocks of m max_i r_i w_i |t_i|
        self.output_norms: list[torch.Tensor] = []
        self.sums = Doubled(torch.zeros_like(x.high[0]), torch.zeros_like(x.high[0]))  # of the rows of D T
        self.bits = slice_bits(k, design.block_rows)
        self.x_bits = SIGNIFICAND - length_bits(k) - self.bits
        self.t_bits = SIGNIFICAND - length_bits(design.block_rows) - self.bits
        self.x_slices: Slices = cut(x, exponents(x.high, 0), self.x_bits, levels[0])
        self.x_factors = right_factors(self.x_slices, levels[0])

    def add_block(self, rows: slice, block: torch.Tensor, y: torch.Tensor) -> None:
        adjoint, weights = self.levels[1], self.problem.weights
        row_exponent = torch.zeros((block.shape[0], 1), dtype=torch.int32, device=block.device)
        if max(self.levels) > 0:
            row_exponent = exponents(block, 1)
            row_exponent = torch.maximum(row_exponent, row_exponent.max() - _ROW_RANGE)
            scales = power_of_two(row_exponent)
            self.row_scales.append(norm_upper(scales if weights is None else weights.bounded(rows, scales)))
        slices = cut(block, row_exponent, self.bits, max(self.levels))
        t = self._outputs_of(block, slices, y)
        if self.outputs is not None:
            self.outputs.append(t.high)
        self.output_norms.append(self.problem.outputs_norm(rows, t.high))
        t = t if weights is None else weights.times(rows, t)
        if self.problem.design.bias:
            self.sums = _added(self.sums, column_sum(t))
        if adjoint == 0:
            self._accumulate([pieced_matmul(block.T, t.high)])
            return
        t_exponent = exponents(t.high * power_of_two(row_exponent), 0)
        self.grid_mass += block.shape[0] * power_of_two(t_exponent[0])
        t_slices = cut(t, t_exponent - row_exponent, self.t_bits, adjoint)
        left = [part.T for part in [*slices.parts[:adjoint], slices.rest[adjoint]]]
        self._accumulate(product_terms(left, right_factors(t_slices, adjoint), y.shape[1]))

    def _outputs_of(self, block: torch.Tensor, slices: Slices, y: torch.Tensor) -> Doubled:
        level = self.levels[0]
        if level == 0:
            return Doubled(y - pieced_matmul(block, self.x.high), torch.zeros_like(y))
        left = [*slices.parts[:level], slices.rest[level]]
        return total([y, *(-term for term in product_terms(left, self.x_factors, y.shape[1]))])

    def _accumulate(self, terms: list[torch.Tensor]) -> None:
        for term in terms:
            add_into(self.rho, term)
        self.additions += len(terms)

    def finish(self) -> Residual:
        if self.problem.design.bias:
            # The bias's row of Phi^T T is a plain sum: found as such, it does not share the rounding of the features.
            self.rho.high[-1], self.rho.low[-1] = self.sums
        terms: list[torch.Tensor] = []
        for diagonal in self.problem.diagonals:
            product = two_product(diagonal[:, None], self.x.high)
            terms += [-product.high, -product.low, -(diagonal[:, None] * self.x.low)]
        terms += list(self.problem.shift) if self.problem.shift is not None else []
        self._accumulate(terms)
        value = two_sum(*self.rho).high
        output_norm = norm_upper(torch.stack(self.output_norms), dim=0)
        outputs = None if self.outputs is None else torch.cat(self.outputs)
        errors = self._output_error(), self._adjoint_error(value, output_norm), self._bias_error(value, output_norm)
        return Residual(value, outputs, *errors, output_norm)

    def _output_error(self) -> torch.Tensor:
        """||D^1/2 (computed T - (Y - Phi x))|| per column."""
        design, level = self.problem.design, self.levels[0]
        k, whole = design.columns, self.problem.frobenius
        rows = math.sqrt(k) * math.hypot(*host.numbers(*self.row_scales))
        rests = [norm_upper(rest, dim=0) for rest in self.x_slices.rest]
        y_norm = self.problem.target_norms
        if level == 0:
            return plain_output_error(self.problem, rests[0])
        slice_norms = [whole + rows * 2.0 ** (-self.bits - 1)]
        slice_norms += [rows * 2.0 ** (-p * self.bits - 1) for p in range(1, level + 1)]
        ordinary = sum(slice_norms[p] * rests[level - p] for p in range(level)) + slice_norms[level] * rests[0]
        count = (level + 1) * (level + 2) // 2 + 1
        summation = 2 * count**2 * U64**2 * (y_norm + 2 * count * (whole + rows) * rests[0])
        underflow = output_underflow(self.problem, rests[0], (level + 1) ** 2)
        return rounded_up(gamma(k + 2) * ordinary + summation + underflow)

    def _adjoint_error(self, value: torch.Tensor, output_norm: torch.Tensor) -> torch.Tensor:
        """||computed rho - (Phi^T D T - p x + shift)|| per column, T the one that was computed."""
        design, level = self.problem.design, self.levels[1]
        weighing = 0 if self.problem.weights is None else 5  # u^2 of |Phi|^T D |T|, which the magnitude bounds
        magnitude = self.problem.small_terms(self.x)
        if level == 0:
            products = pieced_gamma(design.block_rows) * self.problem.frobenius * output_norm
            magnitude = magnitude + self.problem.frobenius * output_norm
        else:
            mass = math.sqrt(design.columns) * self.grid_mass
            step = 2.0 ** (-level * min(self.bits, self.t_bits) - 1)
            products = gamma(design.block_rows + 2) * (level + 1) * step * mass
            magnitude = magnitude + (level + 1) * (level + 2) * mass
        summation = (2 * (self.additions + 1) ** 2 + weighing) * U64**2 * magnitude
        underflow = adjoint_underflow(self.problem, output_norm, (level + 1) ** 2)
        return rounded_up(products + summation + U64 * norm_upper(value, dim=0) + underflow)

    def _bias_error(self, value: torch.Tensor, output_norm: torch.Tensor) -> torch.Tensor:
        """The rounding of the last row of rho: of a doubled sum, and of the terms added to it."""
        design, weights = self.problem.design, self.problem.weights
        magnitude = self.problem.root_total * output_norm + self.problem.small_bias_terms(self.x)
        count = self.additions + length_bits(design.rows) + 4 + (weights is not None)
        underflow = 8 * design.rows * TINY64  # flushed arithmetic may drop what an addition leaves
        if weights is not None:
            underflow += 16 * (design.rows + weights.root_total**2) * TINY64
        return rounded_up(2 * count**2 * U64**2 * magnitude + U64 * value[-1].abs() + underflow)


def _added(a: Doubled, b: Doubled) -> Doubled:
    high, error = two_sum(a.high, b.high)
    return Doubled(high, a.low + b.low + error)
