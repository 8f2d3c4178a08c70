"""The header of a `.npy` file (versions 1.0, 2.0 and 3.0, see numpy.lib.format) and the array behind it."""

from __future__ import annotations

import ast
import warnings
from pathlib import Path
from typing import BinaryIO

import torch

from ntkla.app.failures import DataError
from ntkla.app.files.mapped import READABLE, Place, checked_shape, length, mapped, opened, shown
from ntkla.linalg.errors import DtypeError

MAGIC = b"\x93NUMPY"
_LENGTH_BYTES = {b"\1\0": 2, b"\2\0": 4, b"\3\0": 4}  # by version
# numpy's own limit for a header that is not trusted; one of plain numbers has some 120 bytes.
LONGEST_HEADER = 10_000
_DTYPES = {
    "<f8": torch.float64,
    "<f4": torch.float32,
    "<f2": torch.float16,
    "<i8": torch.int64,
    "<i4": torch.int32,
    "<i2": torch.int16,
    "|i1": torch.int8,
    "|u1": torch.uint8,
}


def read_npy(path: Path) -> torch.Tensor:
    """The array of a `.npy` file, one- or two-dimensional, in C or Fortran order, mapped.

    Raises:
        FileError: it is not there, or cannot be opened.
        DataError: it is no .npy file, or its header and its length do not fit together.
        DtypeError, ShapeError: it holds something else than numbers of a known type, or more dimensions, or none.

    Cost: that of the header.
    """
    with opened(path) as file:
        place = _place(path, file)
        surplus = length(file) - place.end
        if surplus:
            state = f"has {surplus} bytes after its array" if surplus > 0 else f"ends {-surplus} bytes too early"
            raise DataError(f"{path}: the file {state}, of shape {shown(place.shape)}. Save it again with numpy.save.")
        return mapped(file, place)


def converted(path: Path, dtype: str, first: str = "") -> str:
    """The line of Python that writes a `.npy` file with another element type."""
    return f"numpy.save('converted.npy', numpy.load({str(path)!r}){first}.astype('{dtype}'))"


def _place(path: Path, file: BinaryIO) -> Place:
    magic, version = file.read(6), file.read(2)
    if magic != MAGIC:
        raise DataError(
            f"{path}: expected a .npy file, got {_kind(magic)}. Write it with numpy.save('features.npy', x)."
        )
    if version not in _LENGTH_BYTES:
        raise DataError(f"{path}: the version of its .npy format is not known. Save it again with numpy.save.")
    width = _LENGTH_BYTES[version]
    stated = int.from_bytes(file.read(width), "little")
    start = 8 + width + stated
    if start > min(length(file), 8 + width + LONGEST_HEADER):
        raise DataError(
            f"{path}: the header claims {stated} bytes (at most {LONGEST_HEADER} are read) and the file has "
            f"{length(file)}: it is damaged or cut short. Save it again with numpy.save."
        )
    header = _header(path, file.read(stated).decode("utf-8" if version == b"\3\0" else "latin-1", "replace"))
    shape = checked_shape(str(path), header["shape"])
    return Place(_dtype(path, header["descr"]), shape, start, header["fortran_order"] is True and len(shape) == 2)


def _kind(magic: bytes) -> str:
    if magic[:1] == b"\x80":
        return "a pickle, which is never loaded because it can run any code"
    if magic[:2] == b"PK":
        return "an archive (as numpy.savez and torch.save write them)"
    return "an empty file" if not magic else "something else"


def _header(path: Path, text: str) -> dict[str, object]:
    """The header: a dictionary of Python literals; nothing in it is run."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about odd ways to write a literal
            header = ast.literal_eval(text)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        header = None
    if (
        not isinstance(header, dict)
        or header.keys() != {"descr", "fortran_order", "shape"}
        or not isinstance(header["fortran_order"], bool)
        or not isinstance(header["shape"], tuple)
    ):
        raise DataError(f"{path}: the .npy header cannot be read: it is damaged. Save it again with numpy.save.")
    return header


def _dtype(path: Path, descr: object) -> torch.dtype:
    kind = descr[1:2] if isinstance(descr, str) else "V"
    if isinstance(descr, str) and descr in _DTYPES:
        return _DTYPES[descr]
    if kind in ("O", "V"):
        raise DtypeError(
            f"{path}: expected numbers, got Python objects or records ({shown(descr)}); objects need pickle, which is "
            "never loaded. Write plain numbers: numpy.save('converted.npy', numpy.asarray(rows, dtype='float32'))."
        )
    assert isinstance(descr, str)
    like = {"f4": "float32", "f2": "float16"}.get(descr[1:], "int64" if kind in ("i", "u", "b") else "float64")
    line = converted(path, like, ".real" if kind == "c" else "")
    raise DtypeError(f"{path}: expected {READABLE}, got {shown(descr)}. Convert it: {line}.")
