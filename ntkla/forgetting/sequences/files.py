"""Tensors by name in a `.safetensors` file: the one place of the library that touches a file format.

`TaskSequence.save` and `load` are methods of a library class, and the library imports no format when it is loaded: the
package comes late, inside these functions, as `tests/import_rules.py` allows for this file alone.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from os import PathLike
from pathlib import Path
from types import ModuleType

import torch

from ntkla.linalg.errors import MissingPackageError, SavedStateError


def write_tensors(path: str | PathLike[str], tensors: Mapping[str, torch.Tensor]) -> None:
    """Writes all or nothing: a file that was there stays whole until the new one is.

    Raises:
        MissingPackageError, SavedStateError
    """
    torch_files, target = _safetensors(), Path(path)
    content = torch_files.save({name: x.detach().cpu() for name, x in tensors.items()})
    try:
        handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
            Path(temporary).replace(target)
        except BaseException:
            with suppress(OSError):
                Path(temporary).unlink()
            raise
    except OSError as cause:
        raise SavedStateError(f"{target}: cannot be written ({cause.strerror}). Choose another folder.") from cause


def read_tensors(path: str | PathLike[str]) -> dict[str, torch.Tensor]:
    """All arrays of a file.

    Raises:
        MissingPackageError, SavedStateError
    """
    torch_files = _safetensors()
    try:
        content = Path(path).read_bytes()
    except OSError as cause:
        raise SavedStateError(f"cannot be read ({cause.strerror}). Check the path.") from cause
    try:
        found: dict[str, torch.Tensor] = torch_files.load(content)
    except Exception as cause:  # safetensors raises its own errors, and ValueError or KeyError for strange headers
        raise SavedStateError(f"is no .safetensors file, or is damaged ({cause}). Save the sequence again.") from cause
    return found


@contextmanager
def saved_in(path: str | PathLike[str]) -> Iterator[None]:
    """Puts the file's name before what is wrong with it."""
    try:
        yield
    except SavedStateError as error:
        error.args = (f"{Path(path)}: {error}",)
        raise


def _safetensors() -> ModuleType:
    try:
        import safetensors.torch
    except ModuleNotFoundError as cause:
        raise MissingPackageError(
            f"the package '{cause.name}' is not installed, and files of sequences need it: pip install 'ntkla[cli]'. "
            "Without a file, state_dict() and from_state_dict() do the same."
        ) from cause
    module: ModuleType = safetensors.torch
    return module
