"""Files that are there whole or not at all: written beside their place, then moved there."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replaced(path: Path) -> Iterator[Path]:
    """A file to write to, with the ending of `path`; it becomes `path` where the block ends without an error.

    What was there stays whole until then.

    Raises:
        OSError, ValueError: as the system does; ValueError for a null byte in the path.
    """
    handle, name = tempfile.mkstemp(prefix=f".{path.stem}-", suffix=path.suffix, dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with open(temporary, "rb") as file:
            # Without it the name may reach the disk before the content does.
            os.fsync(file.fileno())
        # mkstemp makes files that only their owner reads: give them the permissions of any new file.
        mask = os.umask(0)
        os.umask(mask)
        temporary.chmod(0o666 & ~mask)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
