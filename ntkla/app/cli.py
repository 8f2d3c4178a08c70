"""The entry point `ntkla`: loads the commands, or says which extra brings what they need."""

from __future__ import annotations

import io
import sys

from ntkla.app.failures import EXIT_ERROR, missing_line


def main() -> None:
    """Runs the command line; exit code 0 when all went well, 2 for an error that a person can mend."""
    try:
        from ntkla.app.command_line.commands import app
    except ModuleNotFoundError as cause:
        if cause.name != "typer":
            raise
        print(f"ntkla: {missing_line(cause, 'cli')}", file=sys.stderr)
        sys.exit(EXIT_ERROR)
    if isinstance(sys.stdout, io.TextIOWrapper):
        # The name of a file may hold what the terminal's encoding has not.
        sys.stdout.reconfigure(errors="replace")
    app(prog_name="ntkla")


if __name__ == "__main__":
    main()
