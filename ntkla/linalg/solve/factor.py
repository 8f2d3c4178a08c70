"""Approximate solvers of the regularised normal equations: each turns a residual into a correction.

Nothing here is trusted: a factor decides how many corrections are needed, never what is true.  In order of cost and
strength: Cholesky of the normal matrix in float32, in float64, and the triangular factor of the stacked features
`[Phi; sqrt(p) I]`, whose condition number is only the square root of the normal matrix's.  The dual factor works on
the n x n Gram matrix through `A^-1 v = (v - Phi^T (G + p I)^-1 Phi v) / p`.  With sample weights all of them see the
rows times the rounded roots of the weights.

The columns are scaled by exact powers of two, so that the factor does not depend on the scale of a feature.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import torch

from ntkla.linalg import host
from ntkla.linalg.arithmetic.slicing import power_of_two
from ntkla.linalg.solve.formed import formed_gram_matrix, formed_normal_matrix
from ntkla.linalg.solve.normal_problem import NormalProblem
from ntkla.linalg.solve.weights import SampleWeights


class Factor(Protocol):
    """What the refinement needs of a factor."""

    name: str
    precision: torch.dtype  # what it is rounded in, for a prediction of its contraction

    def start(self, problem: NormalProblem) -> torch.Tensor:
        """A first solution [K, C]."""
        ...

    def solve(self, rho: torch.Tensor) -> torch.Tensor:
        """About A^-1 rho, [K, C]."""
        ...


def penalty_of(problem: NormalProblem) -> torch.Tensor:
    """The diagonal penalty rounded to float64, [K]."""
    zero = torch.zeros(problem.design.columns, dtype=torch.float64, device=problem.design.device)
    return sum(problem.diagonals, start=zero)


class _Primal:
    """A factor R^T R of the scaled normal matrix."""

    name: str
    precision = torch.float64
    triangle: torch.Tensor
    upper: bool
    scale: torch.Tensor

    def start(self, problem: NormalProblem) -> torch.Tensor:
        right = problem.design.rmatmul(problem.targets, None if problem.weights is None else problem.weights.values)
        if problem.shift is not None:
            right += problem.shift.high
        return self.solve(right)

    def solve(self, rho: torch.Tensor) -> torch.Tensor:
        scaled = rho * self.scale[:, None]
        # Columns near 1 keep a float32 factor away from the ends of its range.
        size = power_of_two(-torch.frexp(scaled.abs().amax(0).clamp(min=2.0**-1000)).exponent)
        narrow = (scaled * size).to(self.triangle.dtype)
        solution = torch.cholesky_solve(narrow, self.triangle, upper=self.upper)
        return solution.to(torch.float64) / size * self.scale[:, None]


class CholeskyFactor(_Primal):
    """Cholesky factor of the normal matrix, formed and factored in `dtype`."""

    def __init__(self, triangle: torch.Tensor, scale: torch.Tensor, kernel: str | None = None) -> None:
        self.triangle, self.scale, self.upper, self.precision = triangle, scale, False, triangle.dtype
        self.name = _named(f"cholesky:{str(triangle.dtype).removeprefix('torch.')}", kernel)

    @classmethod
    def build(cls, problem: NormalProblem, dtype: torch.dtype) -> CholeskyFactor | None:
        """None when the matrix is not positive definite, or not finite, in this precision."""
        matrix, kernel = formed_normal_matrix(problem.design, problem.weights, dtype)
        diagonal = matrix.diagonal().to(torch.float64) + penalty_of(problem)
        definite = (torch.isfinite(diagonal) & (diagonal > 0)).all()
        if host.reads_are_free(diagonal.device) and not bool(definite):
            return None
        scale = _even_scale(diagonal)
        narrow = scale.to(dtype)
        matrix *= narrow[:, None]
        matrix *= narrow
        matrix.diagonal().copy_((diagonal * scale * scale).to(dtype))
        triangle, info = torch.linalg.cholesky_ex(matrix)
        return cls(triangle, scale, kernel) if host.numbers(definite, info) == [1.0, 0.0] else None


class QRFactor(_Primal):
    """Triangular factor of `[Phi; sqrt(p) I]` by Householder transformations, block by block, in float64."""

    name = "qr:float64"
    upper = True

    def __init__(self, triangle: torch.Tensor, scale: torch.Tensor) -> None:
        self.triangle, self.scale = triangle, scale

    @classmethod
    def build(cls, problem: NormalProblem) -> QRFactor | None:
        """None when a diagonal entry vanishes: the features are rank deficient and nothing is penalised."""
        design, penalty = problem.design, penalty_of(problem)
        squares = torch.zeros(design.columns, dtype=torch.float64, device=design.device)
        for block in _weighted_blocks(problem):
            squares += (block * block).sum(0)
        scale = _even_scale((squares + penalty).clamp(min=2.0**-1000))
        triangle = torch.diag(penalty.sqrt() * scale)
        for block in _weighted_blocks(problem):
            triangle = torch.linalg.qr(torch.cat([triangle, block * scale]), mode="r").R
        return cls(triangle, scale) if bool((triangle.diagonal() != 0).all()) else None


class DualFactor:
    """Cholesky factor of the (centred, when the bias is free) Gram matrix plus the penalty.

    With weights D it is that of `D^1/2 Phi`, where centring takes the weighted means off Phi.
    """

    precision = torch.float64

    def __init__(
        self, problem: NormalProblem, penalty: float, free_bias: bool, triangle: torch.Tensor, kernel: str | None
    ) -> None:
        self.name = _named("cholesky:float64", kernel)
        self.design, self.weights = problem.design, problem.weights
        self.penalty, self.free_bias, self.triangle = penalty, free_bias, triangle

    @classmethod
    def build(cls, problem: NormalProblem, free_bias: bool) -> DualFactor | None:
        """None when the matrix is not positive definite in float64.  Needs one penalty for all (penalised) columns."""
        design, weights, penalty = problem.design, problem.weights, float(penalty_of(problem)[0])
        gram, kernel = formed_gram_matrix(design)
        if free_bias:
            means = _mean(gram, weights)
            gram -= means[:, None]
            gram -= means
            gram += means.mean() if weights is None else weights.mean(means)
        if weights is not None:
            gram *= weights.roots[:, None]
            gram *= weights.roots
        gram.diagonal().add_(penalty)
        triangle, info = torch.linalg.cholesky_ex(gram)
        return cls(problem, penalty, free_bias, triangle, kernel) if int(info) == 0 else None

    def start(self, problem: NormalProblem) -> torch.Tensor:
        """`Phi^T (G + p I)^-1 Y`, plus the solution for the shift."""
        x = self._columns(torch.cholesky_solve(self._rows(problem.targets), self.triangle))
        if self.free_bias:
            x[-1] = _mean(problem.targets - self.design.matmul(_without_bias(x)), self.weights)
        return x if problem.shift is None else x + self.solve(problem.shift.high)

    def solve(self, rho: torch.Tensor) -> torch.Tensor:
        """About A^-1 rho by the identity above."""
        if not self.free_bias:
            inner = torch.cholesky_solve(self._rows(self.design.matmul(rho)), self.triangle)
            return (rho - self._columns(inner)) / self.penalty
        # e_w = (S_c + p I)^-1 (rho_w - m rho_b), e_b = rho_b / n - m^T e_w, with m^T e = mean(Phi e).
        n = self.design.rows
        ones = torch.ones((n, 1), dtype=torch.float64, device=rho.device)
        total, counted = (n, None) if self.weights is None else (self.weights.total, self.weights.values)
        mean = self.design.rmatmul(ones, counted) / total
        right = _without_bias(rho - mean * rho[-1])
        inner = torch.cholesky_solve(self._rows(self.design.matmul(right)), self.triangle)
        x = _without_bias((right - self._columns(inner)) / self.penalty)
        x[-1] = rho[-1] / total - (mean * x).sum(0)
        return x

    def _rows(self, outputs: torch.Tensor) -> torch.Tensor:
        """Outputs [n, C] as the factor sees them: centred, and times the roots of the weights."""
        centred = outputs - _mean(outputs, self.weights) if self.free_bias else outputs
        return centred if self.weights is None else centred * self.weights.roots[:, None]

    def _columns(self, inner: torch.Tensor) -> torch.Tensor:
        """The transpose of `_rows`, and back to the columns of Phi."""
        if self.weights is None:
            return self.design.rmatmul(inner - inner.mean(0) if self.free_bias else inner)
        scaled = inner * self.weights.roots[:, None]
        if self.free_bias:
            scaled -= self.weights.values[:, None] * (scaled.sum(0) / self.weights.total)
        return self.design.rmatmul(scaled)


def _named(name: str, kernel: str | None) -> str:
    return name if kernel is None else f"{name} of {kernel}"


def _mean(outputs: torch.Tensor, weights: SampleWeights | None) -> torch.Tensor:
    """The (weighted) mean over the samples, [C]."""
    return outputs.mean(0) if weights is None else weights.mean(outputs)


def _weighted_blocks(problem: NormalProblem) -> Iterator[torch.Tensor]:
    """Row blocks of the features, times the rounded roots of the weights."""
    for rows, block in problem.design.blocks():
        yield block if problem.weights is None else block * problem.weights.roots[rows, None]


def _without_bias(x: torch.Tensor) -> torch.Tensor:
    """x with its last row, the bias's, set to zero."""
    out = x.clone()
    out[-1] = 0.0
    return out


def _even_scale(diagonal: torch.Tensor) -> torch.Tensor:
    """Powers of two d with d^2 diagonal between 1/2 and 2."""
    half = torch.div(torch.frexp(diagonal).exponent, 2, rounding_mode="floor")
    return power_of_two(-half)
