"""One call from old tasks, a new task and a head to what every way of training would cost, without training any."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from ntkla.forgetting.descent.training import Training
from ntkla.forgetting.forecast import Olds
from ntkla.forgetting.heads import LinearHead
from ntkla.forgetting.planning.arguments import checked_problem
from ntkla.forgetting.planning.entropy_run import EntropyRun
from ntkla.forgetting.planning.grid import Grid
from ntkla.forgetting.planning.result import Plan
from ntkla.forgetting.planning.run import Progress, Run
from ntkla.forgetting.tasks import Task


def plan(
    old_tasks: Olds,
    new_task: Task,
    head: LinearHead,
    *,
    ridges: Sequence[float],
    weights: Sequence[float] = (0.0,),
    strengths: Sequence[float] | None = None,
    modes: Sequence[int] = (),
    steps: Sequence[int | Training | None] = (None,),
    lr: float | None = None,
    momentum: float = 0.0,
    nesterov: bool = False,
    probes: Mapping[str, torch.Tensor] | None = None,
    old_tests: Mapping[str, Task] | None = None,
    new_test: Task | None = None,
    penalize_bias: bool = True,
    loss: str = "squared",
    tol: float | None = None,
    progress: Progress | None = None,
) -> Plan:
    """Tells for every (ridge, penalty, stopping time) of a grid what the new task would gain and each old one lose.

    A point minimises, or descends on for a number of steps from the head as it stands,

        1/2 sum_i w_i ||phi_i W^T - y_i||^2 + ridge/2 ||W - W_A||_F^2
            + sum_P weight / (C_P k_P) ||U_P^T Phi_P (W - W_A)^T||_F^2,

    U_P the k_P leading modes of old task P's probes: a `SpectralPenalty` on each old task, whose reference is what the
    head says now.  The protected directions are those of the modes as computed (`leading_modes.py`); everything else is
    certified: each update of the head by the residual of the eigendecomposition that it comes from, hence each loss and
    drift within its error, and each accuracy and count of flips as far as the bounds decide it.

    Args:
        old_tasks: a Task, a mapping from names to tasks, or a sequence ("old 1", "old 2", ...).  With labels the plan
            tells their accuracies, with targets their losses; when all have targets also the joint optimum.
        new_task: with targets.  Outputs that it does not use are not trained; its `weights` count in the training, and
            whatever is told of a task counts each sample once.  The same for old tasks in the joint optimum.
        head: as it stands before, with the outputs of all tasks; its bias, when it has one, is trained too.
        ridges: absolute, >= 0, each pulls towards the head as it stands.
        weights: of the penalty, >= 0; 0 is no protection.
        strengths: of the penalty, beside the weights and in other units: a strength s is the weight `s C k / 2` on each
            old task, for its C outputs and the k modes that are kept of it; at 1 a protected mode counts as in the
            squared loss of the samples that it was made of.  In their cross-entropy it counts for at most half as much:
            the softmax has a Hessian of at most 1/2.
        modes: k, how many modes of each old task are protected, >= 0; clamped to the certified rank of its probes, as
            each point tells.  Needed with a weight above 0; 0 is no protection.
        steps: where training stops: None is the optimum, a number of steps of full-batch gradient descent with `lr`,
            `momentum` and `nesterov` (as `GradientDescent`, for the summed loss), or a `GradientDescent` or
            `GradientFlow`.
        lr, momentum, nesterov: for the numbers among `steps`.
        probes: what is protected, by the names of the old tasks: features [n, F], or the numbers of rows of the task's
            own, integers [n], each once; a task that is not named protects all of its features.
        old_tests: samples that old tasks are judged by in the place of their own, by name, with targets or labels.
        new_test: samples of the new task that are not trained on, with targets or labels; the choice among points then
            goes by them.
        penalize_bias: whether the ridge holds the bias too; if not, each ridge costs a decomposition of its own.
        loss: "squared", or "cross_entropy" of the softmax over the outputs that the new task uses: every point is then
            an optimum that Newton's method finds and certifies, started from that of the next larger ridge; losses are
            mean cross-entropies, `steps` is None, ridges are above 0, and there is no joint optimum.
        tol: relative error of an update that counts as certified, 1e-6 when None; where it is not met in float64 the
            normal matrices are formed and judged beyond it.
        progress: called as `progress(done, total)` after every decomposition.

    Returns:
        Plan.  Inputs are detached.  Points with the same meaning (weight 0 or no modes) are there once.

    Raises:
        ArgumentError, ShapeError, DtypeError, DeviceError, NonFiniteError, ScaleError, LabelError, RidgeError,
        MemoryEstimateError
        UnsupportedTrainingError: stopping times under cross-entropy.
        TrainingDivergesError: at every point; names the largest stable learning rate of any.

    Cost: `n K^2` operations for each task's normal matrix, about 14 K^3 for each protection and each set of outputs
    that feels the same penalties, and with r the rank of the filters of one decomposition, a fraction of its P points,
    `2 n K C r + 2 n C r P` for each task.  Memory: `memory_estimate`.  Deterministic but for the times.
    """
    grid = Grid.checked(
        ridges=ridges,
        weights=weights,
        strengths=strengths,
        modes=modes,
        steps=steps,
        lr=lr,
        momentum=momentum,
        nesterov=nesterov,
    )
    problem = checked_problem(
        old_tasks,
        new_task,
        head,
        grid,
        probes=probes,
        old_tests=old_tests,
        new_test=new_test,
        penalize_bias=penalize_bias,
        loss=loss,
        tol=tol,
        progress=progress,
    )
    run = EntropyRun if loss == "cross_entropy" else Run
    return run.of(problem, grid, progress).result()
