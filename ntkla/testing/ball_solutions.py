"""Exact references for the ridge solution and for the drift of old predictions (DESIGN: paper 2606.18024, Prop. 1).

All of them solve normal equations, in ball arithmetic, with the inputs as stored:
`dW^T = -(Phi_B^T Phi_B + ridge I + weight_decay I)^-1 (Phi_B^T R_B + weight_decay W_A^T)`, `dF_A = Phi_A dW^T`.
Weights D of the samples make it `Phi_B^T D Phi_B` and `Phi_B^T D R_B`; what penalties add says `ball_penalty.py`.  The
diagonal entry of an unpenalised bias is 0 instead of ridge + weight decay.  A ridge of zero gives the minimum-norm
solution by exact rational arithmetic: the rank is decided, not estimated.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from ntkla.testing.ball_penalty import PenaltyTerm, by_output
from ntkla.testing.balls import (
    Exact,
    ball,
    ball_matrix,
    design_integers,
    design_matrix,
    diagonal,
    flint,
    stack,
    times_weights,
)
from ntkla.testing.exact import dyadic


def penalties(terms: list[float], columns: int, bias: bool, penalize_bias: bool) -> list[Any]:
    """The sum of `terms` for every column, as balls, with 0 for an unpenalised bias in the last place."""
    values = [sum((ball(term) for term in terms), flint().arb(0))] * columns
    if bias and not penalize_bias:
        values[-1] = flint().arb(0)
    return values


def ridge_solution(
    features: torch.Tensor,
    targets: torch.Tensor,
    *,
    ridge: float,
    bias: bool = False,
    penalize_bias: bool = True,
    weights: torch.Tensor | None = None,
) -> Exact:
    """argmin ||D^1/2 (Phi X - T)||^2 / 2 + ridge/2 ||X||^2, exactly: [F, C], with the bias as one more row.

    Args:
        features: Phi, [n, F].
        targets: T, [n, C].
        ridge: >= 0; 0 gives the minimum-norm solution (the bias counted in the norm).
        bias, penalize_bias: as in `ntkla.ridge_solve`.
        weights: the diagonal of D, [n]; None for the identity.
    """
    if ridge == 0:
        return minimum_norm_solution(features, targets, bias=bias, weights=weights)

    def compute() -> Any:
        phi = design_matrix(features, bias)
        penalty = penalties([ridge], phi.ncols(), bias, penalize_bias)
        right = phi.transpose() * times_weights(ball_matrix(targets), weights)
        return regularised_solve(phi, penalty, right, weights)

    return Exact(compute)


def regularised_solve(phi: Any, penalty: list[Any], right: Any, weights: torch.Tensor | None = None) -> Any:
    """(Phi^T D Phi + diag(penalty))^-1 right, [K, C], at the working precision.

    Many more columns than rows with one penalty p take `(v - Phi^T (D Phi Phi^T + p I)^-1 D Phi v) / p` instead.
    """
    weighted = times_weights(phi, weights)
    p = penalty[0]
    if phi.ncols() > 2 * phi.nrows() and p > 0 and all(other == p for other in penalty):
        gram = weighted * phi.transpose() + diagonal([p] * phi.nrows())
        return (right - phi.transpose() * gram.solve(weighted * right, algorithm="lu")) * (1 / p)
    return (phi.transpose() * weighted + diagonal(penalty)).solve(right, algorithm="lu")


def ridge_solution_dual(features: torch.Tensor, targets: torch.Tensor, *, ridge: float, bias: bool = False) -> Exact:
    """The same for ridge > 0 and a penalised bias by X = Phi^T (Phi Phi^T + ridge I)^-1 T: cheaper for n < F."""

    def compute() -> Any:
        phi = design_matrix(features, bias)
        gram = phi * phi.transpose() + diagonal([ball(ridge)] * phi.nrows())
        return phi.transpose() * gram.solve(ball_matrix(targets), algorithm="lu")

    return Exact(compute)


def exact_rank(features: torch.Tensor, bias: bool = False) -> int:
    """The rank of Phi (with its column of ones) as stored, by exact integer elimination."""
    return int(design_integers(features, bias)[0].rank())


def minimum_norm_solution(
    features: torch.Tensor, targets: torch.Tensor, *, bias: bool = False, weights: torch.Tensor | None = None
) -> Exact:
    """Phi^+ T, exactly: [F (+ 1), C]; with weights the least-norm minimiser of the weighted loss.

    With the reduced row echelon form R (r non-zero rows) and the pivot columns P of Phi, Phi = P R, both of full rank,
    hence `Phi^+ = R^T (R R^T)^-1 (P^T P)^-1 P^T`, in rational arithmetic; `P^T D` for P^T with weights.
    """
    module = flint()
    if weights is not None:
        counted = [i for i, (m, _) in enumerate(dyadic(weights)) if m]
        features, targets, weights = features[counted], targets[counted], weights[counted]
    matrix, shift = design_integers(features, bias)
    echelon, denominator, rank = matrix.rref()
    columns = matrix.ncols()
    if rank == 0:
        return Exact(lambda: module.arb_mat(columns, targets.shape[1]))
    rows = module.fmpq_mat(module.fmpz_mat(echelon.tolist()[:rank])) / denominator
    pivots = [next(j for j in range(columns) if echelon[i, j] != 0) for i in range(rank)]
    chosen = module.fmpq_mat(module.fmpz_mat([[row[j] for j in pivots] for row in matrix.tolist()]))
    adjoint = chosen.transpose() if weights is None else chosen.transpose() * _rational_diagonal(weights)
    left = (adjoint * chosen).solve(adjoint)
    inverse = rows.transpose() * (rows * rows.transpose()).solve(left)

    def compute() -> Any:
        entries = [module.arb(entry) for entry in inverse.entries()]
        pseudo = module.arb_mat(columns, matrix.nrows(), entries)
        return pseudo * ball_matrix(targets) * module.arb((1, -shift))

    return Exact(compute)


def _rational_diagonal(weights: torch.Tensor) -> Any:
    module, size = flint(), weights.shape[0]
    matrix = module.fmpq_mat(size, size)
    for i, (m, e) in enumerate(dyadic(weights)):
        matrix[i, i] = module.fmpq(m << max(e, 0), 1 << max(-e, 0))
    return matrix


def head_update(
    features_new: torch.Tensor,
    residual_new: torch.Tensor,
    *,
    ridge: float,
    bias: bool = False,
    penalize_bias: bool = True,
    weight_decay: float = 0.0,
    head_weight: torch.Tensor | None = None,
    head_bias: torch.Tensor | None = None,
    weights: torch.Tensor | None = None,
    protected: Sequence[PenaltyTerm] = (),
) -> Exact:
    """dW^T, exactly: [F, C], with the bias as one more row.

    Args:
        features_new: Phi_B, [n_B, F].
        residual_new: R_B = prediction - target, [n_B, C].
        ridge, bias, penalize_bias, weight_decay: as in `ntkla.predict_forgetting`.
        head_weight: W_A, [C, F]; needed with weight decay, and with a penalty that has a reference.
        head_bias: [C]; zero when None.
        weights: of the new samples, [n_B]; None for 1 each.
        protected: penalties; without a ridge the matrix that they leave has to be regular.
    """
    if ridge == 0 and weight_decay == 0 and not protected:
        solution = minimum_norm_solution(features_new, residual_new, bias=bias, weights=weights)
        return Exact(lambda: -solution.compute())

    def compute() -> Any:
        phi = design_matrix(features_new, bias)
        gradient = phi.transpose() * times_weights(ball_matrix(residual_new), weights)
        if head_weight is not None and weight_decay > 0:
            decay = penalties([weight_decay], phi.ncols(), bias, penalize_bias)
            gradient = gradient + diagonal(decay) * start_matrix(head_weight, head_bias, bias)
        total = penalties([ridge, weight_decay], phi.ncols(), bias, penalize_bias)
        if not protected:
            return -regularised_solve(phi, total, gradient, weights)
        normal = phi.transpose() * times_weights(phi, weights) + diagonal(total)
        start = None if head_weight is None else start_matrix(head_weight, head_bias, bias)
        return -by_output(lambda a, g: a.solve(g, algorithm="lu"), normal, gradient, protected, start, bias)

    return Exact(compute)


def start_matrix(head_weight: torch.Tensor, head_bias: torch.Tensor | None, bias: bool) -> Any:
    """W_A^T with the bias as one more row: an `arb_mat` [F (+ 1), C] of radius zero."""
    weight = ball_matrix(head_weight.T)
    if not bias:
        return weight
    row = flint().arb_mat(1, weight.ncols()) if head_bias is None else ball_matrix(head_bias).transpose()
    return stack(weight, row)


def drift_of(features_old: torch.Tensor, update: Exact, *, bias: bool = False) -> Exact:
    """dF_A = Phi_A dW^T, exactly: [n_A, C], for an update [F (+ 1), C]."""
    return Exact(lambda: design_matrix(features_old, bias) * update.compute())


def drift_dual(
    features_old: torch.Tensor,
    features_new: torch.Tensor,
    residual_new: torch.Tensor,
    *,
    ridge: float,
    bias: bool = False,
) -> Exact:
    """dF_A = -G_AB (G_BB + ridge I)^-1 R_B, exactly: [n_A, C], for ridge > 0 and no weight decay."""

    def compute() -> Any:
        old, new = design_matrix(features_old, bias), design_matrix(features_new, bias)
        gram = new * new.transpose() + diagonal([ball(ridge)] * new.nrows())
        return -(old * new.transpose()) * gram.solve(ball_matrix(residual_new), algorithm="lu")

    return Exact(compute)
