"""Computed arrays kept between runs in the user's cache folder: keyed by content, written atomically, checked.

A file's name holds the SHA-256 of everything that its arrays were computed from, so nothing stale is ever read.  It is
written beside its place and moved there in one step, so a run that is killed leaves no half file under that name.  What
was damaged later (cut short, a flipped bit) fails its checksum and is computed again.
"""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Callable, Iterable
from pathlib import Path

import torch

from ntkla.app.failures import need
from ntkla.forgetting.sequences.replaced import replaced

Arrays = dict[str, torch.Tensor]


def folder() -> Path:
    """The cache folder: `$XDG_CACHE_HOME/ntkla` where that is set, else the platform's usual place."""
    configured = os.environ.get("XDG_CACHE_HOME", "")
    if os.path.isabs(configured):
        return Path(configured) / "ntkla"
    return Path(need("platformdirs", "cli").user_cache_path("ntkla", appauthor=False))


def key_of(parts: Iterable[str | bytes | Path]) -> str:
    """SHA-256 over the parts: texts and bytes as they are, paths by the content of their files.

    Each part is hashed by itself first, so that no two lists of parts run together.
    """
    whole = hashlib.sha256()
    for part in parts:
        content = part.read_bytes() if isinstance(part, Path) else part.encode() if isinstance(part, str) else part
        whole.update(hashlib.sha256(content).digest())
    return whole.hexdigest()


def cached(
    name: str, parts: Iterable[str | bytes | Path], build: Callable[[], Arrays], note: Callable[[str], None]
) -> Arrays:
    """The arrays that `build` computes from `parts`, from the cache when they are there.

    Args:
        name: the readable start of the file's name.
        parts: everything that the arrays depend on, see `key_of`.
        build: computes the arrays; called when they are not in the cache, or damaged there.
        note: told, in a sentence, when a damaged file is replaced or the cache cannot be written.

    Returns:
        CPU tensors by name, the same bits whether computed or read.
    """
    path = folder() / f"{name}-{key_of(parts)[:32]}.safetensors"
    if path.exists():
        arrays = _read(path)
        if arrays is not None:
            return arrays
        note(f"the cached file {path} is damaged and will be computed again.")
    arrays = build()
    try:
        _write(path, arrays)
    except OSError as error:
        note(f"the result could not be kept in {path.parent} ({error}); the next run will compute it again.")
    return arrays


def _read(path: Path) -> Arrays | None:
    """The arrays of a file, or None when it is not whole."""
    safetensors = need("safetensors", "cli")
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            stated = (file.metadata() or {}).get("sha256")
            arrays: Arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dictionary)
    except (safetensors.SafetensorError, OSError):
        return None
    return arrays if stated == _checksum(arrays) else None


def _write(path: Path, arrays: Arrays) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with replaced(path) as temporary:
        save(arrays, temporary, {"sha256": _checksum(arrays)})


def save(arrays: Arrays, path: Path, metadata: dict[str, str]) -> None:
    """Writes arrays to a `.safetensors` file; OSError when that fails."""
    save_file, failed = need("safetensors.torch", "cli").save_file, need("safetensors", "cli").SafetensorError
    try:
        save_file(arrays, path, metadata=metadata)
    except failed as cause:
        raise OSError(errno.EIO, str(cause)) from cause  # how the package reports a full disk


def _checksum(arrays: Arrays) -> str:
    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = arrays[name].contiguous()
        digest.update(f"{name} {array.dtype} {tuple(array.shape)}".encode())
        digest.update(array.numpy().tobytes())
    return digest.hexdigest()
