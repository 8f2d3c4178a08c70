"""The IDX format of MNIST and its kin: two zero bytes, 8 for uint8, the number of dimensions, the lengths, the bytes.

The lengths are 32-bit integers, the most significant byte first (Y. LeCun, "The MNIST database", file formats).
"""

from __future__ import annotations

import gzip
import math
import re
import struct
import zlib
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt
import torch

from ntkla.app.failures import DataError
from ntkla.app.files.mapped import opened
from ntkla.linalg import checks

GZIP = b"\x1f\x8b"
UINT8 = b"\0\0\x08"
_DOWNLOAD = "Get it again, whole."


def read_idx(path: Path, dimensions: int, what: str) -> npt.NDArray[np.uint8]:
    """The array of an IDX file of uint8, also of one that gzip compressed.

    Args:
        path: of the file.
        dimensions: how many it must have.
        what: an array of so many dimensions holds, for the messages.

    Raises:
        FileError: it cannot be opened.
        DataError: it is no such file, or damaged.
        MemoryEstimateError: decompressed it would not fit.

    Cost: mapped; one that is compressed is decompressed into memory.
    """
    with opened(path) as file:
        packed = file.read(2) == GZIP
        file.seek(0)
        plain: BinaryIO = gzip.GzipFile(fileobj=file) if packed else file  # type: ignore[assignment]
        try:
            shape = _shape(path, plain, dimensions, what)
            size, start = math.prod(shape), plain.tell()
            if packed:
                checks.memory(f"decompressing {path}", size, torch.device("cpu"))
            content = np.frombuffer(plain.read(size + 1), np.uint8) if packed else np.memmap(file, np.uint8, "r", start)
        except (EOFError, zlib.error, gzip.BadGzipFile) as cause:
            raise DataError(f"{path}: the compressed file is damaged ({cause}). {_DOWNLOAD}") from cause
    if content.size != size:
        length = "more" if content.size > size else f"{content.size}"
        raise DataError(f"{path}: expected {size} bytes after the header ({shape}), got {length}. {_DOWNLOAD}")
    return content.reshape(shape)


def labels_beside(path: Path) -> Path | None:
    """The file of labels that belongs to a file of images by its standard name, or None when there is none."""
    name, changed = re.subn(r"images([-.])idx3", r"labels\1idx1", path.name)
    plain = path.with_name(name.removesuffix(".gz"))
    candidates = [path.with_name(name), plain, plain.with_name(plain.name + ".gz")]
    return next((place for place in candidates if changed and place.is_file()), None)


def _shape(path: Path, file: BinaryIO, dimensions: int, what: str) -> tuple[int, ...]:
    magic = file.read(4)
    if magic[:3] != UINT8 or len(magic) < 4:
        raise DataError(f"{path}: expected an IDX file of uint8, which begins with bytes 0 0 8. {_DOWNLOAD}")
    if magic[3] != dimensions:
        raise DataError(f"{path}: expected {what}, {dimensions} dimensions, got {magic[3]}. Name the right file.")
    lengths = file.read(4 * dimensions)
    if len(lengths) < 4 * dimensions:
        raise DataError(f"{path}: the file ends within its header. {_DOWNLOAD}")
    shape = struct.unpack(f">{dimensions}I", lengths)
    if 0 in shape:
        raise DataError(f"{path}: expected at least one entry, got an array of shape {shape}.")
    return shape
