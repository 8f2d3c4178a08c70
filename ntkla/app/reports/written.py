"""Files of results, each written beside its place and moved there whole: a reader never sees half a file."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

from ntkla.app.failures import OutputError
from ntkla.forgetting.sequences.replaced import replaced


def make_folder(folder: Path, option: str = "--output") -> None:
    """Makes a folder and checks that files can be made in it; OutputError, which begins with the option, otherwise."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except FileExistsError as cause:
        raise OutputError(f"{option}: {folder} is a file, not a folder. Choose another name.") from cause
    except OSError as cause:
        raise OutputError(f"{option}: cannot write to {folder} ({cause.strerror}). Choose another folder.") from cause


def written(path: Path, write: Callable[[Path], object]) -> Path:
    """Lets `write` make a file and moves it to `path`; what was there is replaced, and kept when anything fails.

    Raises:
        OutputError: when the file cannot be written.
    """
    try:
        with replaced(path) as temporary:
            write(temporary)
    except OSError as cause:
        raise OutputError(f"{path} cannot be written ({cause.strerror}). Choose another place.") from cause
    return path
