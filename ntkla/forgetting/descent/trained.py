"""The head update of training that stops early, with its certificate.

`X = -h_T(A) g_0`, `A = Phi^T Phi + P`, `g_0 = Phi^T R + decays W_A^T`, P the diagonal of penalties and decays; with
samples' weights D it is `A = Phi^T D Phi + P`, `g_0 = Phi^T D R + decays W_A^T`.
Computed are `A Q = Q L + E` (`linalg.eigen.diagonalization`), coordinates z with `g_0 = Q z + r`, and `-Q h_T(L) z`.
The error has three parts.

1. *The eigenvectors.*  `x_t = -Q h_t(L) z` is exactly what t steps of the same training make of the matrix
   `B = Q L Q^-1` and the gradient `Q z`.  The run with A differs from it by d_t, which obeys the optimiser's recurrence
   with the extra force `(A - B) x_t = E h_t(L) z`, that is (discrete variation of constants)
   `d_T = -lr sum_t U_{T-t}(A) E y_t`, `y_t = h_t(L) z` (for Nesterov `(1 + m) y_t - m y_{t-1}`).  Hence

       ||d_T|| <= push || |E| |peak z| ||,

   with `push >= lr sum_k ||U_k(A)||` and `peak >= sup_t` of the force's filter, both from `gains.py`.  For plain
   descent with lr a <= 1 this says `||d|| <= min(lr T, 1/a_min) ||E|| ||X||`: relative to the update, and never more
   than twice the familiar `min(lr^2 T^2 / 2, 1/a_min^2) ||E|| ||g_0||`.  No orthogonality of Q is needed, only that of
   A's own eigenvectors, which are never computed.  Gradient flow is the same with integrals.
2. *The gradient.*  What is left of g_0, r and its own rounding, reaches X through `||h_T(A)|| <= gains.filter`.
   z is kept as a sum of two parts: the correction leaves `(||I - Q Q^T|| + rounding) ||r_0||`.
3. *The last product.*  Entry by entry `|Q| (gamma |y| + |error of h| |z|)`.

Only symmetric positive semidefinite A and a stable learning rate are assumed, and the second is certified.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch

from ntkla.forgetting.descent.gains import Gains
from ntkla.forgetting.descent.matrix_update import applied
from ntkla.forgetting.descent.training import GradientDescent, Training
from ntkla.linalg import checks
from ntkla.linalg.arithmetic.accurate import PANEL, Bounded, accurate_adjoint, accurate_normal_matrix
from ntkla.linalg.arithmetic.doubled import two_product
from ntkla.linalg.design import Design
from ntkla.linalg.eigen.diagonalization import certified, diagonalize
from ntkla.linalg.precision import (
    DEFAULT_TOLERANCE,
    NEGLIGIBLE,
    SHORT_CHAIN,
    U64,
    norm_lower,
    norm_upper,
    rounded_up,
)
from ntkla.linalg.solve.inexact_rows import Inexactness
from ntkla.linalg.solve.normal import BoundedMatrix, normal_matrix
from ntkla.linalg.solve.normal_solver import SolveDiagnostics
from ntkla.linalg.solve.weights import SampleWeights
from ntkla.linalg.status import UNCERTIFIED, Status


@dataclass(frozen=True)
class TrainedUpdate:
    """What training did to the head.

    Attributes:
        update: float64 [K, C], the change of the stacked head (bias last).
        error_bound: float64 [C], 2-norm bound of each column's error.
        gains: how the run amplifies errors of its inputs; `gains.root` bounds `||h_T(A) Phi^T D^1/2||`.
        escalations: what had to be done again more accurately.
        largest_eigenvalue: certified upper bound for A, which the learning rate was checked against.
        memory_estimate: bytes.
        largest_root: upper bound of the largest entry of D^1/2.
    """

    update: torch.Tensor
    error_bound: torch.Tensor
    gains: Gains
    escalations: tuple[str, ...]
    largest_eigenvalue: float
    memory_estimate: int
    largest_root: float = 1.0

    def with_residual_error(self, error: torch.Tensor) -> TrainedUpdate:
        """The same for a residual whose columns may be off by `error` [C], 2-norms: `||h_T(A) Phi^T D||` times that."""
        added = self.gains.root * self.largest_root * error
        return replace(self, error_bound=rounded_up(self.error_bound + added))

    def status(self, relative_bound: float, tolerance: float) -> Status:
        """Certified, above the tolerance, or without a bound, each with its numbers and the remedy."""
        if math.isinf(relative_bound):
            return Status(UNCERTIFIED, "the update vanishes to within its rounding, so no relative bound can be given.")
        return Status.of_bound(
            relative_bound,
            tolerance,
            "rounding grows with lr * steps until the ridge stops it. Use a larger ridge, fewer steps, or a larger tol "
            "if this bound suffices.",
        )

    def diagnostics(self, relative_bound: float, tolerance: float) -> SolveDiagnostics:
        """How the update was reached."""
        return SolveDiagnostics(
            factor="eigh:float64",
            escalations=self.escalations,
            corrections=0,
            residual_levels=None,
            relative_bound=relative_bound,
            tolerance=tolerance,
            memory_estimate=self.memory_estimate,
        )


def trained_update(
    design: Design,
    residual_new: torch.Tensor,
    start: torch.Tensor | None,
    penalties: torch.Tensor,
    decays: torch.Tensor,
    training: Training,
    tolerance: float = DEFAULT_TOLERANCE,
    weights: SampleWeights | None = None,
    inexactness: Inexactness | None = None,
) -> TrainedUpdate:
    """The exact effect of full-batch training from the old head, up to the bound that comes with it.

    Args:
        design: Phi of the new task, n x K.
        residual_new: R, prediction minus target at the old head, float64 [n, C].
        start: the old head W_A^T with its bias row, float64 [K, C]; needed when a decay is not zero.
        penalties: ridge of each column, float64 [K], >= 0.
        decays: weight decay of each column, float64 [K], >= 0.
        training: the optimiser and how far it runs.
        tolerance: when the relative error is not proved to be a quarter of this, A is formed again beyond float64.
        weights: of the samples in the loss, or None for 1 each.
        inexactness: of rows of the design that stand for others (those of a penalty), and of the residual.

    Raises:
        TrainingDivergesError: the learning rate is not certainly stable; holds the largest one that is.
        MemoryEstimateError, ScaleError

    Cost: `n K^2` operations for A, about 20 K^3 for its decomposition and certificate, `6 n K C` for g_0 and `16 K^2 C`
    for the rest; `6 n K^2 + 6 K^3` more when A is formed again.  No step is ever taken.
    """
    needed = memory_estimate(design, residual_new.shape[1], weighted=weights is not None)
    checks.memory("the spectral forecast of finite training", needed, design.device)
    floor = float((penalties + decays).min()) / SHORT_CHAIN
    inexact = 0.0 if inexactness is None else inexactness.matrix_error
    modes = diagonalize(_hessian(normal_matrix(design, weights), penalties, decays, inexact), floor)
    if isinstance(training, GradientDescent):
        training.require_stable(modes.largest, "the summed loss" + ("" if inexactness is None else " with its penalty"))
    shift = () if start is None else two_product(decays[:, None], start)
    gradient = accurate_adjoint(design, residual_new, [*shift], weights)  # g_0, rounded once
    if inexactness is not None:
        gradient = Bounded(gradient.value, rounded_up(gradient.error + inexactness.gradient_error))
    update, bound, amplification = applied(modes, gradient, training)
    escalations: tuple[str, ...] = ()
    if float(norm_upper(bound)) > max(tolerance / 4 * norm_lower(update), NEGLIGIBLE):
        sharper = _hessian(accurate_normal_matrix(design, weights), penalties, decays, inexact)
        modes = certified(sharper, modes.values, modes.vectors, modes.defect, floor)
        update, bound, amplification = applied(modes, gradient, training)
        escalations = ("the normal matrix was formed again beyond float64",)
    root = 1.0 if weights is None else weights.largest_root
    found = TrainedUpdate(update, bound, amplification, escalations, modes.largest, needed, root)
    if inexactness is None or inexactness.others_error is None:
        return found
    return replace(found, largest_root=inexactness.others_root).with_residual_error(inexactness.others_error)


def memory_estimate(design: Design, outputs: int, weighted: bool = False) -> int:
    """Bytes at the peak, beside the inputs.

    Eight squares (A, Q, R, the slices of A, what `eigh` works in), a panel of columns with its slices and products, a
    block of rows with the same, and the arrays of the update's size.  Weights add what is kept of each sample, and
    scaled blocks.
    """
    k, c, m = design.columns, outputs, min(design.block_rows, design.rows)
    weights = 6 * design.rows + m * (2 * k + 8 * max(c, min(k, PANEL))) if weighted else 0
    return 8 * (8 * k * k + 14 * k * min(k, PANEL) + m * (4 * k + 8 * c) + 16 * k * c + weights)


def _hessian(normal: BoundedMatrix, penalties: torch.Tensor, decays: torch.Tensor, inexact: float) -> BoundedMatrix:
    """A (in the place of Phi^T Phi) and its error: what inexact rows add, and two roundings of each diagonal entry."""
    matrix, error = normal
    diagonal = matrix.diagonal()
    diagonal.add_(penalties).add_(decays)
    return BoundedMatrix(matrix, (error + inexact + 3 * U64 * float(diagonal.max())) * SHORT_CHAIN)
