"""Approximate solvers of the regularised normal equations: each turns a residual into a correction.

Nothing here is trusted: a factor decides how many corrections are needed, never what is true.  In order of cost and
strength: Cholesky of the normal matrix in float32, in float64, and the triangular factor of the stacked features
`[Phi; sqrt(p) I]`, whose condition number is only the square root of the normal matrix's.  The dual factor works on
the n x n Gram matrix through `A^-1 v = (v - Phi^T (G + p I)^-1 Phi v) / p`.

The columns are scaled by exact powers of two, so that the factor does not depend on the scale of a feature.
"""

from __future__ import annotations

from typing import Protocol

import torch

from ntkla.linalg.design import DesignMatrix
from ntkla.linalg.normal import float32_normal_matrix, gram_matrix, normal_matrix
from ntkla.linalg.normal_problem import NormalProblem
from ntkla.linalg.slicing import power_of_two


class Factor(Protocol):
    """What the refinement needs of a factor."""

    name: str

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
    triangle: torch.Tensor
    upper: bool
    scale: torch.Tensor

    def start(self, problem: NormalProblem) -> torch.Tensor:
        right = problem.design.rmatmul(problem.targets)
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

    def __init__(self, triangle: torch.Tensor, scale: torch.Tensor) -> None:
        self.triangle, self.scale, self.upper = triangle, scale, False
        self.name = f"cholesky:{str(triangle.dtype).removeprefix('torch.')}"

    @classmethod
    def build(cls, problem: NormalProblem, dtype: torch.dtype) -> CholeskyFactor | None:
        """None when the matrix is not positive definite, or not finite, in this precision."""
        double = dtype == torch.float64
        matrix = normal_matrix(problem.design).matrix if double else float32_normal_matrix(problem.design)
        diagonal = matrix.diagonal().to(torch.float64) + penalty_of(problem)
        if not bool(torch.isfinite(diagonal).all()) or not bool((diagonal > 0).all()):
            return None
        scale = _even_scale(diagonal)
        narrow = scale.to(dtype)
        matrix *= narrow[:, None]
        matrix *= narrow
        matrix.diagonal().copy_((diagonal * scale * scale).to(dtype))
        triangle, info = torch.linalg.cholesky_ex(matrix)
        return cls(triangle, scale) if int(info) == 0 else None


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
        for _, block in design.blocks():
            squares += (block * block).sum(0)
        scale = _even_scale((squares + penalty).clamp(min=2.0**-1000))
        triangle = torch.diag(penalty.sqrt() * scale)
        for _, block in design.blocks():
            triangle = torch.linalg.qr(torch.cat([triangle, block * scale]), mode="r").R
        return cls(triangle, scale) if bool((triangle.diagonal() != 0).all()) else None


class DualFactor:
    """Cholesky factor of the (centred, when the bias is free) Gram matrix plus the penalty."""

    name = "cholesky:float64"

    def __init__(self, design: DesignMatrix, penalty: float, free_bias: bool, triangle: torch.Tensor) -> None:
        self.design, self.penalty, self.free_bias, self.triangle = design, penalty, free_bias, triangle

    @classmethod
    def build(cls, problem: NormalProblem, free_bias: bool) -> DualFactor | None:
        """None when the matrix is not positive definite in float64.  Needs one penalty for all (penalised) columns."""
        design, penalty = problem.design, float(penalty_of(problem)[0])
        gram = gram_matrix(design).matrix
        if free_bias:
            means = gram.mean(0)
            gram -= means[:, None]
            gram -= means
            gram += means.mean()
        gram.diagonal().add_(penalty)
        triangle, info = torch.linalg.cholesky_ex(gram)
        return cls(design, penalty, free_bias, triangle) if int(info) == 0 else None

    def start(self, problem: NormalProblem) -> torch.Tensor:
        """`Phi^T (G + p I)^-1 Y`, plus the solution for the shift."""
        centred = self._centred(problem.targets)
        x = self.design.rmatmul(self._centred(torch.cholesky_solve(centred, self.triangle)))
        if self.free_bias:
            x[-1] = (problem.targets - self.design.matmul(_without_bias(x))).mean(0)
        return x if problem.shift is None else x + self.solve(problem.shift.high)

    def solve(self, rho: torch.Tensor) -> torch.Tensor:
        """About A^-1 rho by the identity above."""
        if not self.free_bias:
            inner = torch.cholesky_solve(self.design.matmul(rho), self.triangle)
            return (rho - self.design.rmatmul(inner)) / self.penalty
        # e_w = (S_c + p I)^-1 (rho_w - m rho_b), e_b = rho_b / n - m^T e_w, with m^T e = mean(Phi e).
        n = self.design.rows
        ones = torch.ones((n, 1), dtype=torch.float64, device=rho.device)
        mean = self.design.rmatmul(ones) / n
        right = _without_bias(rho - mean * rho[-1])
        inner = torch.cholesky_solve(self._centred(self.design.matmul(right)), self.triangle)
        x = _without_bias((right - self.design.rmatmul(self._centred(inner))) / self.penalty)
        x[-1] = rho[-1] / n - (mean * x).sum(0)
        return x

    def _centred(self, outputs: torch.Tensor) -> torch.Tensor:
        return outputs - outputs.mean(0) if self.free_bias else outputs


def _without_bias(x: torch.Tensor) -> torch.Tensor:
    """x with its last row, the bias's, set to zero."""
    out = x.clone()
    out[-1] = 0.0
    return out


def _even_scale(diagonal: torch.Tensor) -> torch.Tensor:
    """Powers of two d with d^2 diagonal between 1/2 and 2."""
    half = torch.div(torch.frexp(diagonal).exponent, 2, rounding_mode="floor")
    return power_of_two(-half)
