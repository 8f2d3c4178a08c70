"""The arguments and the help of `ntkla modes`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ntkla.app.failures import EXIT_NOT_CERTIFIED, need, readable_errors
from ntkla.app.shared_options import Debug, Device


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
    strict: Annotated[bool, typer.Option("--strict", help="Leave with exit code 3 unless that was proved.")] = False,
    device: Device = "cpu",
    debug: Debug = False,
) -> None:
    """The leading eigenvalues of the kernel G = Phi Phi^T of features, each with a proved error, and effective ranks.

    FEATURES is a `.npy` file, or a `.safetensors` file with the array `features`; a task as `ntkla forecast` takes it
    will do, its labels are not used.

    Example: `ntkla modes old_x.npy -k 30 --outputs 10 --bias`

    Exit codes: 0 done (a line on stderr warns where a bound does not meet the tolerance); 2 an error, in one line on
    stderr; 3 with --strict, done, but a bound does not meet the tolerance.
    """
    with readable_errors(debug):
        run = need("ntkla.app.modes_run", "cli")
        wanted = run.ModesOptions(features, count, outputs, bias, share, tol, device, json, output)
        if not run.run_modes(wanted) and strict:
            raise typer.Exit(EXIT_NOT_CERTIFIED)
