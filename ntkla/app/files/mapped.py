"""An array of a file, mapped into memory and never copied, and what must hold before it is mapped.

`npy.py` and `safe_tensors.py` say where in a file each array lies.  They read the few lines of header themselves, and
not through numpy and safetensors, for what has to be known before anything is mapped: that the arrays fill their file
exactly, that no name is given twice, that the element types are those below, and that nothing needs pickle.

A file must not change while its arrays are in use: they are the file's own pages, read when they are first touched.
"""

from __future__ import annotations

import math
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from numpy.typing import NDArray

from ntkla.app.failures import DataError, FileError
from ntkla.linalg.errors import NtklaError, ShapeError

READABLE = "float64, float32, float16, bfloat16 (in .safetensors), int64, int32, int16, int8 or uint8"


@dataclass(frozen=True)
class Place:
    """Where an array lies in its file.

    Attributes:
        dtype: of its elements, little-endian.
        shape: one or two lengths, none of them 0.
        start: its first byte.
        columns_first: whether its columns follow each other (Fortran order) and not its rows.
    """

    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int
    columns_first: bool = False

    @property
    def end(self) -> int:
        """The first byte after it."""
        return self.start + math.prod(self.shape) * self.dtype.itemsize


@contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """The file, open for reading.

    Raises:
        FileError: when it is not there, is no plain file, or the system refuses to open, read or map it.
    """
    try:
        kind = os.stat(path).st_mode
        if not stat.S_ISREG(kind):
            came = "a folder" if stat.S_ISDIR(kind) else "a pipe or a device, which cannot be mapped"
            raise FileError(f"{path}: expected a file on disk, got {came}. Name the file itself.")
        with open(path, "rb") as file:
            yield file
    except NtklaError:
        raise
    except (OSError, ValueError) as cause:  # ValueError: a name that no file can have
        raise FileError(f"{path}: the file cannot be read ({getattr(cause, 'strerror', None) or cause}).") from cause


def length(file: BinaryIO) -> int:
    """Bytes in an open file."""
    return os.fstat(file.fileno()).st_size


def mapped(file: BinaryIO, place: Place) -> torch.Tensor:
    """The array at a place inside the file, copy-on-write: whatever is done to the tensor, the file stays as it is.

    Cost: none; the numbers are read when they are first used.
    """
    content: NDArray[np.uint8] = np.memmap(file, np.uint8, "c", offset=place.start, shape=(place.end - place.start,))
    if place.start % place.dtype.itemsize:
        content = np.array(content)  # no such address may be an operand everywhere; only odd .safetensors have them
    flat = torch.from_numpy(content).view(place.dtype)
    return flat.reshape(place.shape[::-1]).T if place.columns_first else flat.reshape(place.shape)


def checked_shape(where: str, stated: object) -> tuple[int, ...]:
    """The shape that a header states, when it is one or two lengths above 0.

    Raises:
        DataError, ShapeError: otherwise; `where` names the file, and the array in it.
    """
    if not isinstance(stated, (list, tuple)) or not all(type(count) is int and count >= 0 for count in stated):
        raise DataError(f"{where}: the header states no readable shape, the file is damaged. Save it again.")
    if len(stated) not in (1, 2):
        raise ShapeError(
            f"{where}: expected one or two dimensions, got {len(stated)}. Flatten each sample: x.reshape(len(x), -1)."
        )
    if 0 in stated:
        raise ShapeError(f"{where}: expected at least one row and one column, got shape {shown(tuple(stated))}.")
    return tuple(stated)


def shown(value: object) -> str:
    """What a header says, as a message may hold it: nothing unprintable, at most 80 characters of it."""
    text = ascii(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
