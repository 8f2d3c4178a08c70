"""What penalties on protected modes add to the exact references, in ball arithmetic, with all inputs as stored.

One penalty adds `weight/count ||U^T (Phi_P W^T - F_ref)||^2` to the objective: for the change `d = W^T - W_A^T` it
adds `c Z^T Z` to the normal matrix and `c Z^T U^T (Phi_P W_A^T - F_ref)` to the gradient at the old head, with
`Z = U^T Phi_P` and `c = 2 weight/count`.  An output feels only the penalties that cover it, so each has a matrix of its
own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from ntkla.testing.balls import ball, ball_matrix, design_matrix, flint

if TYPE_CHECKING:
    from ntkla.forgetting.penalties.spectral_penalty import SpectralPenalty


@dataclass(frozen=True, eq=False)
class PenaltyTerm:
    """One penalty in numbers.

    Attributes:
        basis: U, [n, k].
        features: Phi_P, [n, F].
        reference: F_ref, [n, c]; None takes what the old head says to be exactly that.
        weight, count: the penalty is `weight / count` times the squares.
        outputs: the outputs that the reference's columns are, in their order.
        last: how many of them the last mode counts for; 0 for all.
    """

    basis: torch.Tensor
    features: torch.Tensor
    reference: torch.Tensor | None
    weight: float
    count: int
    outputs: tuple[int, ...]
    last: int = 0

    @classmethod
    def of(cls, penalty: SpectralPenalty, features: torch.Tensor, *, compared: bool = True) -> PenaltyTerm:
        """Of a module; `compared`: whether its reference is compared with what an old head says."""
        reference = penalty.reference
        outputs = tuple(range(reference.shape[1])) if penalty.columns is None else tuple(penalty.columns)
        kept = reference if compared else None
        return cls(penalty.basis, features, kept, penalty.weight, penalty.count, outputs, penalty.last)

    def rows(self, output: int, bias: bool) -> tuple[Any, Any] | None:
        """(Z, U^T) as an output feels them, `arb_mat`; None where no mode is protected."""
        place = self.outputs.index(output)
        modes = self.basis.shape[1] - (self.last > 0 and place >= self.last)
        if modes == 0:
            return None
        basis = ball_matrix(self.basis[:, :modes]).transpose()
        return basis * design_matrix(self.features, bias), basis

    def residual(self, output: int, basis: Any, start: Any | None, bias: bool) -> Any:
        """U^T (Phi_P w - f_ref) for one output, [k, 1]; `start` is W_A^T with the bias's row, [K, C]."""
        if self.reference is None or start is None:
            return flint().arb_mat(basis.nrows(), 1)
        place = self.outputs.index(output)
        said = design_matrix(self.features, bias) * column(start, output)
        return basis * (said - ball_matrix(self.reference[:, place : place + 1]))


def column(matrix: Any, index: int) -> Any:
    """One column of an `arb_mat`, [K, 1]."""
    return flint().arb_mat([[row[index]] for row in matrix.tolist()])


def by_output(
    solve: Callable[[Any, Any], Any],
    normal: Any,
    gradient: Any,
    terms: Sequence[PenaltyTerm],
    start: Any | None,
    bias: bool,
) -> Any:
    """`solve(A, g)` [K, 1] for each output's own matrix and gradient, side by side: an `arb_mat` [K, C].

    Args:
        solve: of one output.
        normal, gradient: A [K, K] and g_0 [K, C] without the penalties.
        terms: the penalties.
        start: W_A^T with the bias's row, [K, C], or None.
        bias: whether the design has a column of ones.
    """
    columns = []
    for output in range(gradient.ncols()):
        matrix, right = normal, column(gradient, output)
        for term in terms:
            seen = term.rows(output, bias) if output in term.outputs else None
            if seen is not None:
                rows, basis = seen
                factor = rows.transpose() * (2 * ball(term.weight) / term.count)
                matrix = matrix + factor * rows
                right = right + factor * term.residual(output, basis, start, bias)
        columns.append([entry for (entry,) in solve(matrix, right).tolist()])
    return flint().arb_mat([list(row) for row in zip(*columns, strict=True)])
