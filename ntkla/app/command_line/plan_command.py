"""The arguments and the help of `ntkla plan`."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from ntkla.app.command_line.plan_options import USUAL_MODES, USUAL_RIDGES, USUAL_STRENGTHS, PlanOptions
from ntkla.app.command_line.shared_options import Debug, Device
from ntkla.app.command_line.task_arguments import (
    CrossEntropy,
    Head,
    Name,
    New,
    NewClasses,
    NewOutputs,
    Old,
    OldClasses,
    OldOutputs,
)
from ntkla.app.command_line.task_options import positionals
from ntkla.app.failures import need, readable_errors

_GRID, _HOW, _SHOW = "The grid", "How the head is trained", "What is asked and shown"


class Over(str, Enum):
    """What --max-forgetting limits; a test keeps it in step with `Plan.recommend`."""

    WORST = "worst"
    MEAN = "mean"


Ridges = Annotated[
    str | None, typer.Option(metavar="NUMBERS", help="Absolute, such as 0.1,1,10.", rich_help_panel=_GRID)
]
RelativeRidges = Annotated[
    str | None,
    typer.Option(
        metavar="NUMBERS",
        help=f"In mean eigenvalues of NEW's Phi^T Phi; {USUAL_RIDGES} if neither is given.",
        rich_help_panel=_GRID,
    ),
]
Strengths = Annotated[
    str | None,
    typer.Option(
        metavar="NUMBERS",
        help="How much a protected mode counts: at 1 as in the loss of the samples that it was made of. "
        f"{USUAL_STRENGTHS} if neither this nor --weights is given.",
        rich_help_panel=_GRID,
    ),
]
Weights = Annotated[
    str | None,
    typer.Option(
        metavar="NUMBERS",
        help="Of ntkla.SpectralPenalty, for every OLD: a strength of S on K modes of C outputs is the weight S C K/2.",
        rich_help_panel=_GRID,
    ),
]
Modes = Annotated[
    str,
    typer.Option(metavar="NUMBERS", help="How many modes of each OLD the penalty protects.", rich_help_panel=_GRID),
]
Steps = Annotated[
    str | None,
    typer.Option(
        metavar="NUMBERS",
        help="Full-batch steps of gradient descent, and the word optimum, such as 10,100,optimum; the optimum alone if "
        "left out.",
        rich_help_panel=_GRID,
    ),
]
Lr = Annotated[float | None, typer.Option(metavar="LR", help="Learning rate of those steps.", rich_help_panel=_HOW)]
Momentum = Annotated[float, typer.Option(metavar="M", help="Their momentum.", rich_help_panel=_HOW)]
Nesterov = Annotated[bool, typer.Option("--nesterov", help="Nesterov's momentum.", rich_help_panel=_HOW)]
MeanLoss = Annotated[
    bool,
    typer.Option(
        "--mean-loss",
        help="LR, ridges and weights are meant for torch's mean: MSELoss(), over samples and outputs, or "
        "CrossEntropyLoss(), over samples; without this, for half the sum, or the sum.",
        rich_help_panel=_HOW,
    ),
]
FreeBias = Annotated[bool, typer.Option("--free-bias", help="No ridge on the bias.", rich_help_panel=_HOW)]
Probes = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        help="Protect N samples of each OLD only, evenly spread over its rows; all if left out. Accuracies are always "
        "of all.",
        rich_help_panel=_HOW,
    ),
]
OldTest = Annotated[
    list[str] | None,
    typer.Option(
        metavar="TASK",
        help="Held-out samples of an OLD, once an OLD in their order: its accuracy is told on these.",
        rich_help_panel=_SHOW,
    ),
]
NewTest = Annotated[
    str | None,
    typer.Option(metavar="TASK", help="Held-out samples of NEW: its accuracy is told on these.", rich_help_panel=_SHOW),
]
MaxForgetting = Annotated[
    float,
    typer.Option(
        metavar="SHARE", help="The most accuracy that old tasks may lose: 0.01 is one point.", rich_help_panel=_SHOW
    ),
]
On = Annotated[
    Over, typer.Option(help="Whether every OLD may lose so much, or they on average.", rich_help_panel=_SHOW)
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of tables.", rich_help_panel=_SHOW)]
Output = Annotated[
    Path | None,
    typer.Option(metavar="FOLDER", help="Write plan.json (every point) and plan.png there.", rich_help_panel=_SHOW),
]
Tolerance = Annotated[
    float | None, typer.Option(help="Relative error of each update that is to be proved; 1e-6 if left out.")
]


def plan(
    old: Old = None,
    new: New = None,
    head: Head = None,
    ridges: Ridges = None,
    relative_ridges: RelativeRidges = None,
    strengths: Strengths = None,
    weights: Weights = None,
    modes: Modes = USUAL_MODES,
    steps: Steps = None,
    lr: Lr = None,
    momentum: Momentum = 0.0,
    nesterov: Nesterov = False,
    cross_entropy: CrossEntropy = False,
    mean_loss: MeanLoss = False,
    free_bias: FreeBias = False,
    probes: Probes = None,
    old_test: OldTest = None,
    new_test: NewTest = None,
    max_forgetting: MaxForgetting = 0.01,
    on: On = Over.WORST,
    old_outputs: OldOutputs = None,
    new_outputs: NewOutputs = None,
    old_classes: OldClasses = None,
    new_classes: NewClasses = None,
    name: Name = None,
    json: Json = False,
    output: Output = None,
    tol: Tolerance = None,
    device: Device = "cpu",
    debug: Debug = False,
) -> None:
    """Which ridge, penalty and stopping time to train HEAD on NEW with, so that OLD is not forgotten; before training.

    Every combination of ridge, strength and number of protected modes (`ntkla.SpectralPenalty`), and training length is
    worked out in closed form: what NEW would reach, and what every OLD would lose. The table shows those that no other
    one beats in both, and beside them what training on all tasks at once would reach; the answer is the best for NEW
    among those that keep OLD as --max-forgetting says.

    Tasks and head are files as `ntkla forecast` takes them; every OLD and NEW need labels.

    Example: `ntkla plan old_x.npy,old_y.npy new_x.npy,new_y.npy weight.npy,bias.npy --max-forgetting 0.02`

    Exit codes: 0 done; 2 an error, in one line on stderr.
    """
    typed = {key: value for key, value in locals().items() if key != "debug"} | {"on": on.value}
    with readable_errors(debug):
        typed |= positionals(old, new, head)
        need("ntkla.app.reports.plan_run", "cli").run_plan(PlanOptions(**typed))
