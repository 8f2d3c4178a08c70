"""The header of a `.safetensors` file (section "Format" of the package's README), and the arrays behind it.

Eight bytes, little-endian, say how long the header is; the header is JSON, for each array its element type, its shape
and its first and last byte in the rest of the file, which the arrays fill without a gap.  Metadata is ignored.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import torch

from ntkla.app.failures import DataError
from ntkla.app.files.mapped import READABLE, Place, checked_shape, length, mapped, opened, shown
from ntkla.linalg.errors import DtypeError

# Some 10,000 arrays: as many as the largest models have, where a few are expected.
LONGEST_HEADER = 2**20
_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
}


def read_safetensors(path: Path, check_names: Callable[[list[str]], None]) -> dict[str, torch.Tensor]:
    """The arrays of a `.safetensors` file by name, each one- or two-dimensional, mapped.

    Args:
        path: of the file.
        check_names: raises for names that are not expected, before anything is asked of their arrays.

    Raises:
        FileError: it is not there, or cannot be opened.
        DataError: it is no .safetensors file, it is damaged, or it gives a name twice.
        DtypeError, ShapeError: an array has elements of another type, or more dimensions, or none.

    Cost: that of the header.
    """
    with opened(path) as file:
        size = int.from_bytes(file.read(8), "little")
        if not 2 <= size <= min(length(file) - 8, LONGEST_HEADER):
            raise _broken(
                path, f"the header claims {size} bytes (at most {LONGEST_HEADER} are read), the file has {length(file)}"
            )
        entries = _header(path, file.read(size))
        check_names(list(entries))
        places = {name: _place(path, name, entry, 8 + size) for name, entry in entries.items()}
        _check_order(path, places, 8 + size, length(file))
        return {name: mapped(file, place) for name, place in places.items()}


def converted(path: Path, name: str, dtype: str) -> str:
    """The line of Python that writes a `.safetensors` file with another element type for one array."""
    return (
        f"x = safetensors.torch.load_file({str(path)!r}); x['{name}'] = x['{name}'].to(torch.{dtype}); "
        "safetensors.torch.save_file(x, 'converted.safetensors')"
    )


def _header(path: Path, content: bytes) -> dict[str, object]:
    try:
        header = json.loads(content.decode(), object_pairs_hook=_unique)
    except (ValueError, RecursionError) as cause:
        raise _broken(path, f"the header cannot be read ({shown(str(cause))})") from cause
    if not isinstance(header, dict):
        raise _broken(path, "the header is not a dictionary")
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(text, str) for text in metadata.values()):
        raise _broken(path, "the metadata are not texts by name")
    return header


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    entries = dict(pairs)
    if len(entries) < len(pairs):
        raise ValueError("a name is given twice")
    return entries


def _place(path: Path, name: str, entry: object, start: int) -> Place:
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise _broken(path, f"the header has no readable entry for {shown(name)}")
    dtype = _DTYPES.get(entry["dtype"]) if isinstance(entry["dtype"], str) else None
    if dtype is None:
        raise DtypeError(
            f"{path}: {shown(name)}: expected {READABLE}, got {shown(entry['dtype'])}. "
            f"Convert it: {converted(path, shown(name)[1:-1], 'float32')}, or to torch.int64 for labels."
        )
    offsets = entry["data_offsets"]
    if not isinstance(offsets, list) or [type(offset) for offset in offsets] != [int, int]:
        raise _broken(path, f"the header has no readable offsets for {shown(name)}")
    place = Place(dtype, checked_shape(f"{path}: {shown(name)}", entry["shape"]), start + offsets[0])
    if place.end != start + offsets[1]:
        raise _broken(path, f"{shown(name)} of shape {shown(place.shape)} does not fit its offsets {shown(offsets)}")
    return place


def _check_order(path: Path, places: dict[str, Place], start: int, end: int) -> None:
    """Raises DataError unless the arrays follow each other and fill the bytes from `start` to `end`."""
    for place in sorted(places.values(), key=lambda place: place.start):
        if place.start != start:
            raise _broken(path, f"an array begins at byte {shown(place.start)} where {start} was expected")
        start = place.end
    if start != end:
        raise _broken(path, f"its arrays end at byte {shown(start)} and the file at {end}")


def _broken(path: Path, what: str) -> DataError:
    return DataError(
        f"{path}: {what}: this is no .safetensors file, or it is damaged. "
        "Write it with safetensors.torch.save_file({'features': x, 'labels': y}, 'task.safetensors')."
    )
