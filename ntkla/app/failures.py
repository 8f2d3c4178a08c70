"""What goes wrong at the command line, as one readable line on stderr and exit code 2."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from types import ModuleType

from ntkla.linalg.errors import MissingPackageError, NtklaError

EXIT_ERROR = 2
EXIT_NOT_CERTIFIED = 3


class OutputError(NtklaError, OSError):
    """A file or folder cannot be written."""


class FileError(NtklaError, OSError):
    """A file is not there, or cannot be opened or read."""


class DataError(NtklaError, ValueError):
    """A file does not hold what it should."""


def need(module: str, extra: str) -> ModuleType:
    """Imports an optional module.

    Raises:
        MissingPackageError: when its package is not installed, naming the extra of ntkla that installs it.
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as cause:
        raise MissingPackageError(missing_line(cause, extra)) from cause


def missing_line(cause: ModuleNotFoundError, extra: str) -> str:
    """The sentence that says which package is missing and what to type."""
    return (
        f"the package '{cause.name}' is not installed. Install what this command needs: pip install 'ntkla[{extra}]' "
        f"or, in a checkout, pip install '.[{extra}]'"
    )


def printable(text: str) -> str:
    """A name as screens and files of text can hold it."""
    return "".join(character if character.isprintable() else "?" for character in text)


@contextmanager
def before(where: str) -> Iterator[None]:
    """Puts the option, and the file where there is one, before the library's message."""
    try:
        yield
    except NtklaError as error:
        error.args = (f"{where}: {error}",)
        raise


@contextmanager
def readable_errors(debug: bool) -> Iterator[None]:
    """Turns an error that a person can mend into one line on stderr and exit code 2; with `debug` it passes through.

    These are every NtklaError, and what the system refuses while the block runs, such as printing to a full disk.
    """
    try:
        yield
        if sys.stdout is not None:  # as it is where it was closed
            sys.stdout.flush()
    except BrokenPipeError:
        raise  # a reader that has seen enough, as `head` has: typer leaves in silence
    except (NtklaError, OSError) as error:
        if debug:
            raise
        print(f"ntkla: {type(error).__name__}: {printable(' '.join(str(error).split()))}", file=sys.stderr)
        raise SystemExit(EXIT_ERROR) from None
