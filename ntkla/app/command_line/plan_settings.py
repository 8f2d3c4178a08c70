"""From the options of `ntkla plan` to the arguments of `ntkla.plan`, in the units of half the summed squared loss.

With --mean-loss the options are meant for f times that loss, f as in `settings.py`: ridges and weights are then divided
by f and the learning rate is multiplied by it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ntkla.app.command_line import notation
from ntkla.app.command_line.inputs import Tasks
from ntkla.app.command_line.plan_options import PlanOptions
from ntkla.app.command_line.settings import mean_eigenvalue, mean_factor
from ntkla.forgetting.shared_head import outputs_of
from ntkla.linalg import checks
from ntkla.linalg.precision import PLAN_TOLERANCE


@dataclass(frozen=True, eq=False)
class PlanSettings:
    """The grid, for `ntkla.plan`.

    Attributes:
        ridges, strengths, weights, modes, steps, lr, momentum, nesterov, penalize_bias, loss, tolerance: as there;
            strengths or weights, not both.
        probes: features that are protected instead of all, by the names of the old tasks; None for all.
        mean_eigenvalue: of the new task's normal matrix.
        typed_lr_unit: what a learning rate of the library is multiplied by to be one as it is typed.
    """

    ridges: list[float]
    strengths: list[float] | None
    weights: list[float]
    modes: list[int]
    steps: list[int | None]
    lr: float | None
    momentum: float
    nesterov: bool
    penalize_bias: bool
    loss: str
    tolerance: float
    probes: dict[str, torch.Tensor] | None
    mean_eigenvalue: float
    typed_lr_unit: float


def settle(options: PlanOptions, tasks: Tasks) -> PlanSettings:
    """The settings in the library's units.

    Raises:
        ArgumentError: a value outside its range.

    Cost: one pass over the new features.
    """
    new, outputs = tasks.new, outputs_of(tasks.new, tasks.head).shape[0]
    loss = "cross_entropy" if options.cross_entropy else "squared"
    halves = mean_factor(new.features.shape[0], outputs, loss) if options.mean_loss else 1.0
    eigenvalue = mean_eigenvalue(new, tasks.head.bias is not None)
    option, typed = options.typed_ridges
    unit = halves if option == "--ridges" else eigenvalue
    return PlanSettings(
        ridges=[unit * ridge for ridge in notation.nonnegatives(option, typed)],
        strengths=options.typed_strengths,
        weights=[0.0, *(halves * weight for weight in notation.nonnegatives("--weights", options.weights or "0"))],
        modes=notation.positive_integers("--modes", options.modes),
        steps=[None] if options.steps is None else notation.training_lengths(options.steps),
        lr=None if options.lr is None else checks.positive("--lr", options.lr) / halves,
        momentum=options.momentum,
        nesterov=options.nesterov,
        penalize_bias=not options.free_bias,
        loss=loss,
        tolerance=PLAN_TOLERANCE if options.tol is None else options.tol,
        probes=_probes(options.probes, tasks),
        mean_eigenvalue=eigenvalue,
        typed_lr_unit=halves,
    )


def _probes(count: int | None, tasks: Tasks) -> dict[str, torch.Tensor] | None:
    """So many samples of each old task, evenly spread over its rows."""
    if count is None:
        return None
    found = {}
    for name, task in tasks.olds.items():
        samples = task.features.shape[0]
        kept = min(count, samples)
        rows = torch.arange(kept, device=task.features.device) * samples // kept
        found[name] = task.features[rows]
    return found
