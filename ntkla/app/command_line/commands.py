"""The commands of `ntkla`: arguments and their help; what a command needs is imported when it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from ntkla.app.command_line.features_command import BackboneName, features
from ntkla.app.command_line.forecast_command import forecast
from ntkla.app.command_line.modes_command import modes
from ntkla.app.command_line.plan_command import plan
from ntkla.app.command_line.shared_options import Debug
from ntkla.app.failures import need, readable_errors

app = typer.Typer(
    help="Forecasts what training on a new task does to every old prediction, and proves how exact it is.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _version(wanted: bool) -> None:
    if wanted:
        from ntkla import __version__

        typer.echo(f"ntkla {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and leave.")
    ] = False,
) -> None:
    """Options before any command."""


class _InOneLine(TyperCommand):
    """Shows the arguments `OLD... NEW HEAD` as they are typed, not as the parser sees them."""

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        return ["[OPTIONS]", "OLD... NEW HEAD"]


app.command(cls=_InOneLine)(forecast)
app.command(cls=_InOneLine)(plan)
app.command()(modes)
app.command()(features)


@app.command()
def demo(
    output: Annotated[
        Path, typer.Option(help="Folder for the pictures and report.json; made when it is not there.")
    ] = Path("ntkla-demo"),
    seed: Annotated[int, typer.Option(min=0, max=2**63 - 1, help="Which images of each task are held out.")] = 0,
    backbone: Annotated[
        BackboneName, typer.Option(help="Frozen features: an ImageNet network, or the pixels themselves.")
    ] = BackboneName.EFFICIENTNET_LITE0,
    debug: Debug = False,
) -> None:
    """Real data, no arguments: forecast forgetting on Split-MNIST, then train, then compare.

    Five tasks of two digits are learned one after another by one linear head on frozen features.  Before each task the
    drift of every earlier one is forecast; then the head is really trained.  Exit code 1 if one forecast differs from
    the fact by more than its proven bound and the training's own rounding.
    """
    with readable_errors(debug):
        # Imported through `need`, because it draws with rich and a small typer comes without it.
        if not need("ntkla.app.demo.demo", "cli").run_demo(output, seed, backbone.value):
            raise typer.Exit(1)


@app.command()
def info(
    kernels: Annotated[
        bool, typer.Option("--kernels", help="Instead, from which size on each Triton kernel is taken, and why.")
    ] = False,
    debug: Debug = False,
) -> None:
    """Versions, devices, threads, and what each primitive would run here and why."""
    with readable_errors(debug):
        from ntkla.app.command_line.info import describe, describe_kernels

        typer.echo(describe_kernels() if kernels else describe())
