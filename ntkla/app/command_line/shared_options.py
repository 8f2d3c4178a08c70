"""The options that several commands have, said once."""

from __future__ import annotations

from typing import Annotated

import typer

Device = Annotated[str, typer.Option(help="Where to compute: cpu, cuda, cuda:1, ...")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the whole traceback of an error.")]
