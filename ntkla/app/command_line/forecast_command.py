"""The arguments and the help of `ntkla forecast`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ntkla.app.command_line.forecast_options import USUAL_RIDGE, ForecastOptions
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
from ntkla.app.failures import EXIT_NOT_CERTIFIED, need, readable_errors
from ntkla.linalg.errors import ArgumentError

_HOW, _SHOW = "How the head is trained", "What is shown"

Ridge = Annotated[
    float | None,
    typer.Option(help="Pull towards the old head: absolute, added to Phi^T Phi.", rich_help_panel=_HOW),
]
RelativeRidge = Annotated[
    float | None,
    typer.Option(
        help="How strongly the old head holds, in mean eigenvalues of NEW's Phi^T Phi: 0.01 is nearly free, 1 is "
        f"strong, and {USUAL_RIDGE} a usual start. If you train with SGD for known steps, use --sgd: it needs no "
        "ridge.",
        rich_help_panel=_HOW,
    ),
]
Sgd = Annotated[
    str | None,
    typer.Option(
        metavar="LR,STEPS[,MOMENTUM[,nesterov]]",
        help="Full-batch gradient descent instead of the optimum, as one word: 0.02,50,0.9; the ridge is then 0 unless "
        "given.",
        rich_help_panel=_HOW,
    ),
]
Elsewhere = Annotated[str | None, typer.Option("--lr", "--steps", "--momentum", hidden=True)]
Flow = Annotated[
    float | None,
    typer.Option(metavar="TIME", help="Gradient flow for this time instead of the optimum.", rich_help_panel=_HOW),
]
WeightDecay = Annotated[float, typer.Option(help="Pull towards zero, absolute.", rich_help_panel=_HOW)]
MeanLoss = Annotated[
    bool,
    typer.Option(
        "--mean-loss",
        help="LR, TIME, ridge, weight decay and W are meant for torch's mean: MSELoss(), over samples and outputs, or "
        "CrossEntropyLoss(), over samples; without this, for half the sum, or the sum.",
        rich_help_panel=_HOW,
    ),
]
FreeBias = Annotated[
    bool, typer.Option("--free-bias", help="No ridge or weight decay on the bias.", rich_help_panel=_HOW)
]
Protect = Annotated[
    int | None,
    typer.Option(
        metavar="K",
        help="Add ntkla.SpectralPenalty to the loss, to keep what the head says along the K leading modes of every "
        "OLD.",
        rich_help_panel=_HOW,
    ),
]
ProtectWeight = Annotated[
    float | None,
    typer.Option(
        metavar="W",
        help="The weight of each such penalty; C K/2 for C outputs if left out: a mode then counts as in the loss of "
        "OLD's samples.",
        rich_help_panel=_HOW,
    ),
]
After = Annotated[
    str | None,
    typer.Option(
        metavar="HEAD", help="The head after the training: what really happened, beside.", rich_help_panel=_SHOW
    ),
]
Top = Annotated[int, typer.Option(help="How many of the samples that drift most are listed.", rich_help_panel=_SHOW)]
ModesShare = Annotated[
    float, typer.Option(metavar="SHARE", help="The share of the kernel that k_G counts.", rich_help_panel=_SHOW)
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of tables.", rich_help_panel=_SHOW)]
Output = Annotated[
    Path | None,
    typer.Option(
        metavar="FOLDER",
        help="Write report.json, page.png and drift.safetensors (drift and error bound of every sample) there.",
        rich_help_panel=_SHOW,
    ),
]
Tolerance = Annotated[
    float | None,
    typer.Option(help="Relative error that is to be proved; 1e-10 if left out. A larger one is faster."),
]
Strict = Annotated[bool, typer.Option("--strict", help="Leave with exit code 3 unless that was proved for every OLD.")]


def forecast(
    old: Old = None,
    new: New = None,
    head: Head = None,
    ridge: Ridge = None,
    relative_ridge: RelativeRidge = None,
    sgd: Sgd = None,
    elsewhere: Elsewhere = None,
    flow: Flow = None,
    cross_entropy: CrossEntropy = False,
    weight_decay: WeightDecay = 0.0,
    mean_loss: MeanLoss = False,
    free_bias: FreeBias = False,
    protect: Protect = None,
    protect_weight: ProtectWeight = None,
    old_outputs: OldOutputs = None,
    new_outputs: NewOutputs = None,
    old_classes: OldClasses = None,
    new_classes: NewClasses = None,
    name: Name = None,
    after: After = None,
    top: Top = 10,
    modes_share: ModesShare = 0.9,
    json: Json = False,
    output: Output = None,
    tol: Tolerance = None,
    strict: Strict = False,
    device: Device = "cpu",
    debug: Debug = False,
) -> None:
    """What training HEAD on NEW will do to every prediction on OLD, before the first step, with proved error bounds.

    A task is one `.safetensors` file with the arrays `features` [n, F] (the frozen backbone's output, one row a sample)
    and `labels` [n] (integers, the number of the head's output) or `targets` [n, C], and if wanted `weights` [n] and
    `outputs`; or `.npy` files joined by commas, `FEATURES.npy[,LABELS.npy][,TARGETS.npy][,WEIGHTS.npy]`.
    OLD needs no labels, but without them there is no accuracy.

    A head is one `.safetensors` file with `weight` [C, F] and `bias` [C] (the state_dict of a torch.nn.Linear; the bias
    may be missing), or `WEIGHT.npy[,BIAS.npy]`. Without a head of your own write `fit`: one is fitted to the one OLD
    first, by regression on its labels with the loss that NEW is trained with.

    Example, two tasks and a head saved with numpy:

    `ntkla forecast old_x.npy,old_y.npy new_x.npy,new_y.npy weight.npy,bias.npy --relative-ridge 0.1`

    Exit codes: 0 done (a line on stderr warns where a bound does not meet the tolerance); 2 an error, in one line on
    stderr; 3 with --strict, done, but a bound does not meet the tolerance.
    """
    typed = {key: value for key, value in locals().items() if key not in ("debug", "elsewhere")}
    with readable_errors(debug):
        if elsewhere is not None:
            raise ArgumentError("--lr, --steps and --momentum are one word after --sgd: --sgd LR,STEPS[,MOMENTUM].")
        typed |= positionals(old, new, head)
        run = need("ntkla.app.reports.forecast_run", "cli").run_forecast
        if not run(ForecastOptions(**typed)) and strict:
            raise typer.Exit(EXIT_NOT_CERTIFIED)
