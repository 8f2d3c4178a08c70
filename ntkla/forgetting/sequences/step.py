"""One task of a sequence: the closed form of what learning it does to the head, and how errors are handed on.

Task t minimises, from the head X_{t-1} [K, C] and with the pseudo-samples Z_i, T_i = Z_i X_i of all earlier tasks,

    1/2 ||Phi_t X - Y_t||_D^2 + ridge/2 ||X - X_{t-1}||^2 + weight_decay/2 ||X||^2 + 1/2 sum_{i<t} ||Z_i X - T_i||^2

(without ridge and decay on a bias that is free), so `A_t X_t = G_t` with

    A_t = Phi_t^T D Phi_t + sum Z_i^T Z_i + ridge + weight_decay,   G_t = Phi_t^T D Y_t + sum Z_i^T T_i + ridge X_{t-1}.

All sums are exact (`exact_normal.py`); the solution is found and kept to about 30 digits (`dense.py`).

Errors.  Let X_t* be the heads of exact arithmetic from the first task on, e_t = X_t - X_t*, rho_t the residual of X_t
in the equations above, as computed with what was handed on, and T_i = Z_i X_i + d_i.  Then

    A_t e_t = ridge e_{t-1} + sum_{i<t} Z_i^T (Z_i e_i + d_i) - rho_t.

The right side but for rho_t is M^T v with M = [sqrt(ridge) I; Z_1; ...; Z_{t-1}] and v = [sqrt(ridge) e_{t-1};
Z_i e_i + d_i], and M^T M <= A_t, so ||A_t^-1/2 M^T|| <= 1: in the energy norm h_t = ||A_t^1/2 e_t||, column by column,

    h_t <= sqrt(h_{t-1}^2 + sum_{i<t} (||Z_i e_i|| + ||d_i||)^2) + ||A_t^-1/2 rho_t||,

because `sqrt(ridge) ||e_{t-1}|| <= h_{t-1}`.  With `||Z_i e_i|| <= h_i` (weight c <= 1, probes among the samples) the
bound grows by sqrt(2) a task at most, whatever the conditioning; the thirty digits leave room for a hundred tasks.

Training that stops early moves the head by `-h(A_t) g`, `g = A_t X_{t-1} - G_t` (the ridge pulls to where it begins).
With p(a) = 1 - a h(a) and M, v as above

    e_t = p(A_t) e_{t-1} + h(A_t) M^T v + (what rounding adds),   ||h(A_t) M^T|| <= ||h(A_t) A_t^1/2||,

bounded in the 2-norm: `||e_t|| <= kept ||e_{t-1}|| + root ||v|| + own`.  A is rounded to float64 here, and reach is by
the norm of Z, so these bounds are larger, and grow faster with the number of tasks.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch

from ntkla.forgetting.descent.matrix_update import matrix_update
from ntkla.forgetting.descent.training import Training
from ntkla.forgetting.sequences.anchor import Anchor
from ntkla.forgetting.sequences.moments import TaskMoments
from ntkla.linalg import checks
from ntkla.linalg.arithmetic.accurate import Bounded
from ntkla.linalg.arithmetic.doubled import Doubled, add
from ntkla.linalg.arithmetic.enclosure import Enclosed, exactly, multiply, plus
from ntkla.linalg.precision import SHORT_CHAIN, U64, norm_upper, rounded_up
from ntkla.linalg.solve.dense import Floor, dense_residual, solve_dense
from ntkla.linalg.solve.exact_normal import ExactNormal
from ntkla.linalg.solve.normal import BoundedMatrix


@dataclass(frozen=True)
class Pull:
    """What draws the head back at every task: the settings of a sequence that enter its equations."""

    ridge: float
    weight_decay: float
    free_bias: bool

    def equations(self, normal: ExactNormal, centre: Doubled) -> tuple[Enclosed, Enclosed, Floor]:
        """A, G and what keeps A from singular, for exact sums and the head that the ridge pulls to."""
        matrix, right = normal.square.rounded(), normal.right.rounded()
        mask = torch.ones_like(centre.high[:, :1])
        if self.free_bias:
            mask[-1] = 0.0
        diagonal = Enclosed(Doubled(*(x.diagonal()[:, None] for x in matrix.value)), matrix.radius.diagonal()[:, None])
        for strength in (self.ridge, self.weight_decay):
            diagonal = plus(diagonal, exactly(strength * mask))
        for whole, part in zip((*matrix.value, matrix.radius), (*diagonal.value, diagonal.radius), strict=True):
            whole.diagonal().copy_(part[:, 0])
        start = Enclosed(centre, torch.zeros_like(centre.high))
        right = plus(right, multiply(exactly((self.ridge * mask).expand_as(centre.high)), start))
        return matrix, right, Floor.of(matrix, (self.ridge + self.weight_decay) / SHORT_CHAIN, self.free_bias)


@dataclass(frozen=True, eq=False)
class Solved:
    """A head and how far it is from the exact one.

    Attributes:
        head: X [K, C].
        energy: upper bounds of ||A^1/2 e||, [C]; infinite after training that stops early.
        errors: upper bounds, [C] each, of the norm of the weights' error and of the last coefficient's.
        own: the same as `errors` for what this step alone adds, given the heads before it as they are stored.
        inherited: upper bounds of `sqrt(ridge) ||e||`, without a free bias, for the next step, [C].
    """

    head: Doubled
    energy: torch.Tensor
    errors: tuple[torch.Tensor, torch.Tensor]
    own: tuple[torch.Tensor, torch.Tensor]
    inherited: torch.Tensor


@dataclass(frozen=True, eq=False)
class State:
    """All that a sequence remembers: its size depends on K and C, not on the tasks or the samples.

    Attributes:
        head: X [K, C].
        inherited: upper bounds of `sqrt(ridge) ||e_t||` after the last task, without a free bias, [C].
        handed_on: upper bounds of the root of sum_i (||Z_i e_i|| + ||d_i||)^2, [C].
        bias_error: upper bounds of the error of the last coefficient, [C].
        guard: sum of Z_i^T Z_i and of Z_i^T T_i.
        seen: the moments of all tasks together.
    """

    head: Doubled
    inherited: torch.Tensor
    handed_on: torch.Tensor
    bias_error: torch.Tensor
    guard: ExactNormal
    seen: TaskMoments

    def nbytes(self) -> int:
        """Bytes held."""
        small = (*self.head, self.inherited, self.handed_on, self.bias_error)
        return self.guard.nbytes() + self.seen.nbytes() + sum(8 * x.numel() for x in small)


def solve_step(state: State, moments: TaskMoments, pull: Pull) -> Solved:
    """The head after a task with these moments.  Cost: K^3 / 3 and some 300 K^2 C operations."""
    matrix, right, floor = pull.equations(moments.normal + state.guard, state.head)
    found = solve_dense(matrix, right, floor)
    energy = rounded_up(torch.hypot(state.inherited, state.handed_on) + found.energy)
    return Solved(found.x, energy, floor.errors(energy), floor.errors(found.energy), energy)


def train_step(state: State, moments: TaskMoments, pull: Pull, training: Training) -> Solved:
    """The head after training that stops early.  Cost: about 20 K^3 operations and some 60 K^2 C.

    Raises:
        TrainingDivergesError, ScaleError, MemoryEstimateError
    """
    (columns, outputs), device = state.head.high.shape, state.head.high.device
    checks.memory("the spectral forecast of a sequence", 8 * columns * (12 * columns + 30 * outputs), device)
    matrix, right, floor = pull.equations(moments.normal + state.guard, state.head)
    value, error = dense_residual(matrix, right, state.head)
    lost = float(norm_upper(matrix.value.low.abs() + matrix.radius))
    least = 0.0 if pull.free_bias else floor.ridge
    hessian = BoundedMatrix(matrix.value.high, lost)
    found = matrix_update(hessian, Bounded(-value, error), training, least, "the task's summed loss and its penalty")
    head = add(state.head, found.update)
    own = rounded_up(found.error_bound + 4 * U64**2 * norm_upper(state.head.high.abs() + found.update.abs(), dim=0))
    begun = state.inherited / math.sqrt(pull.ridge)
    if pull.free_bias:
        begun = torch.hypot(begun, state.bias_error)
    driven = found.gains.root * torch.hypot(state.inherited, state.handed_on)
    whole = rounded_up(found.kept * begun + driven + own)
    energy = torch.full_like(whole, math.inf)
    return Solved(head, energy, (whole, whole), (own, own), rounded_up(math.sqrt(pull.ridge) * whole))


def absorbed(state: State, moments: TaskMoments, anchor: Anchor, solved: Solved, among_samples: bool) -> State:
    """The state after the task: its sums and its anchor join those of the earlier ones.

    Args:
        among_samples: whether the anchor's probes are samples of the task.
    """
    sums, rounding = anchor.sums(solved.head)
    reach = anchor.reach(solved.energy, solved.errors, moments.least_weight if among_samples else None)
    return replace(
        state,
        head=solved.head,
        inherited=solved.inherited,
        bias_error=solved.errors[1],
        handed_on=rounded_up(torch.hypot(state.handed_on, reach + rounding)),
        guard=state.guard + sums,
        seen=state.seen + moments,
    )
