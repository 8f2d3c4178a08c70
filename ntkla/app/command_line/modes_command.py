"""The arguments and the help of `ntkla modes`."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from ntkla.app.command_line.shared_options import Debug, Device
from ntkla.app.failures import EXIT_NOT_CERTIFIED, need, readable_errors


class Proof(str, Enum):
    """How it is proved that no larger eigenvalue was missed; a test keeps them in step with `completeness.PROOFS`."""

    TRACE = "trace"
    INERTIA = "inertia"
    NONE = "none"


class Route(str, Enum):
    """How the modes are computed; a test keeps them in step with `eigen_cost.ROUTES`."""

    AUTO = "auto"
    FULL = "full"
    LANCZOS = "lanczos"


def modes(
    features: Annotated[str, typer.Argument(metavar="FEATURES", help="Features [n, F], one row a sample.")],
    count: Annotated[
        int | None,
        typer.Option("-k", metavar="N", help="How many eigenvalues; if left out, 20, or all where there are fewer."),
    ] = None,
    outputs: Annotated[int, typer.Option(metavar="C", help="Outputs of the head, for k* = C k_G.")] = 1,
    bias: Annotated[bool, typer.Option("--bias", help="The head has a bias: a column of ones is appended.")] = False,
    share: Annotated[float, typer.Option(help="The share of the trace that k_G counts.")] = 0.9,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document instead of tables.")] = False,
    output: Annotated[Path | None, typer.Option(metavar="FOLDER", help="Write modes.json and modes.png there.")] = None,
    tol: Annotated[
        float | None,
        typer.Option(help="Error, relative to the largest eigenvalue, that is to be proved; 1e-10 if left out."),
    ] = None,
    prove: Annotated[
        Proof,
        typer.Option(
            help="How Lanczos proves that no larger one was missed: by what is left of the trace (free; enough where "
            "eigenvalues fall off steeply), by inertia (forms the smaller side and factors it), or not at all."
        ),
    ] = Proof.TRACE,
    route: Annotated[
        Route,
        typer.Option(
            help="Decompose the smaller side of the features in full, which also decides the ranks, or by Lanczos, "
            "which knows -k eigenvalues only; auto: Lanczos where it costs less than half."
        ),
    ] = Route.AUTO,
    block_size: Annotated[
        int | None,
        typer.Option(metavar="B", help="Vectors that Lanczos multiplies at once; 16, or 32 beyond -k 32, if left out."),
    ] = None,
    seed: Annotated[int, typer.Option(metavar="S", help="Of the vectors that Lanczos starts with.")] = 0,
    strict: Annotated[bool, typer.Option("--strict", help="Leave with exit code 3 unless that was proved.")] = False,
    device: Device = "cpu",
    debug: Debug = False,
) -> None:
    """The leading eigenvalues of the kernel G = Phi Phi^T of features, each with a proved error, and effective ranks.

    FEATURES is a `.npy` file, or a `.safetensors` file with the array `features`; a task as `ntkla forecast` takes it
    will do, its labels are not used.

    Example: `ntkla modes old_x.npy -k 30 --outputs 10 --bias`

    Every error is proved. So is that none larger was missed, on the direct route always, by Lanczos as --prove says;
    where that proof fails, the table, a line on stderr and the field `complete` say so.

    Exit codes: 0 done (a line on stderr warns where a bound does not meet the tolerance, or something larger may have
    been missed); 2 an error, in one line on stderr; 3 with --strict, done, but with such a warning.
    """
    with readable_errors(debug):
        run = need("ntkla.app.reports.modes_run", "cli")
        wanted = run.ModesOptions(
            features,
            count=count,
            outputs=outputs,
            bias=bias,
            share=share,
            tol=tol,
            prove=None if prove is Proof.NONE else prove.value,
            route=route.value,
            block_size=block_size,
            seed=seed,
            device=device,
            json=json,
            output=output,
        )
        if not run.run_modes(wanted) and strict:
            raise typer.Exit(EXIT_NOT_CERTIFIED)
