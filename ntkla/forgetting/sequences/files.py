"""Tensors by name in a `.safetensors` file: the one place of the library that touches a file format.

`TaskSequence.save` and `load` are methods of a library class, and the library imports no format when it is loaded: the
package comes late, inside these functions, as `tests/import_rules.py` allows for this file alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from types import ModuleType

import torch

from ntkla.forgetting.sequences.replaced import replaced
from ntkla.linalg.errors import ArgumentError, MissingPackageError, SavedStateError


def write_tensors(path: str | PathLike[str], tensors: Mapping[str, torch.Tensor]) -> None:
    """Writes all or nothing: a file that was there stays whole until the new one is.

    Raises:
        MissingPackageError, SavedStateError
    """
    package, target = _safetensors(), _path(path)
    content = package.torch.save({name: x.detach().cpu() for name, x in tensors.items()})
    try:
        with replaced(target) as temporary:
            temporary.write_bytes(content)
    except (OSError, ValueError) as cause:  # ValueError for a null byte in the path
        raise SavedStateError(f"{target}: cannot be written ({_reason(cause)}). Choose another folder.") from cause


def read_tensors(path: str | PathLike[str]) -> dict[str, torch.Tensor]:
    """All arrays of a file.

    Raises:
        MissingPackageError, SavedStateError
    """
    package = _safetensors()
    try:
        content = _path(path).read_bytes()
    except (OSError, ValueError) as cause:
        raise SavedStateError(f"cannot be read ({_reason(cause)}). Check the path.") from cause
    try:
        found: dict[str, torch.Tensor] = package.torch.load(content)
    except (package.SafetensorError, ValueError, KeyError, TypeError) as cause:  # the last three for strange headers
        raise SavedStateError(f"is no .safetensors file, or is damaged ({cause}). Save the sequence again.") from cause
    return found


@contextmanager
def saved_in(path: str | PathLike[str]) -> Iterator[None]:
    """Puts the file's name before what is wrong with it."""
    try:
        yield
    except SavedStateError as error:
        error.args = (f"{_path(path)}: {error}",)
        raise


def _path(path: object) -> Path:
    if not isinstance(path, (str, PathLike)):
        raise ArgumentError(f"path: expected a text or a pathlib.Path, got {type(path).__name__}.")
    return Path(path)


def _reason(cause: OSError | ValueError) -> str:
    return (cause.strerror if isinstance(cause, OSError) else None) or str(cause)


def _safetensors() -> ModuleType:
    try:
        import safetensors
        import safetensors.torch
    except ModuleNotFoundError as cause:
        raise MissingPackageError(
            f"the package '{cause.name}' is not installed, and files of sequences need it: pip install 'ntkla[cli]'. "
            "Without a file, state_dict() and from_state_dict() do the same."
        ) from cause
    return safetensors
