"""The arguments `OLD... NEW HEAD`, and the options for outputs, samples and loss that several commands have."""

from __future__ import annotations

from typing import Annotated

import typer

_HOW, _WHAT = "How the head is trained", "Which outputs and samples"

# All three are required; that one is missing is told by `positionals`, which knows which.
Old = Annotated[list[str] | None, typer.Argument(metavar="OLD...", help="Tasks to be remembered, one or more.")]
New = Annotated[str | None, typer.Argument(metavar="NEW", help="The task to be trained on; needs labels or targets.")]
Head = Annotated[
    str | None,
    typer.Argument(
        metavar="HEAD",
        help="The linear head as it stands before the training; or the word fit, with exactly one OLD.",
    ),
]
OldOutputs = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NUMBERS",
        help="Outputs of the head that OLD uses, such as 0-4,7; once for all, or once an OLD.",
        rich_help_panel=_WHAT,
    ),
]
NewOutputs = Annotated[
    str | None,
    typer.Option(
        metavar="NUMBERS",
        help="Outputs that NEW trains, such as 5-9; the others stay. Without it NEW trains every output, with target 0 "
        "for classes that it does not have, as MSELoss on one-hot targets does.",
        rich_help_panel=_WHAT,
    ),
]
OldClasses = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NUMBERS",
        help="Only the samples of OLD with these labels, such as 0-4; once for all, or once an OLD.",
        rich_help_panel=_WHAT,
    ),
]
NewClasses = Annotated[
    str | None,
    typer.Option(metavar="NUMBERS", help="Only the samples of NEW with these labels.", rich_help_panel=_WHAT),
]
Name = Annotated[
    list[str] | None,
    typer.Option(
        help="What an OLD is called, once an OLD, such as --name cats --name dogs; its file's name if left out.",
        rich_help_panel=_WHAT,
    ),
]
CrossEntropy = Annotated[
    bool,
    typer.Option(
        "--cross-entropy",
        help="The loss is torch's CrossEntropyLoss; without this, its MSELoss on one-hot targets. To the optimum only.",
        rich_help_panel=_HOW,
    ),
]
