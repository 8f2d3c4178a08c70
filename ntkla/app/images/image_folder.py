"""A folder with one subfolder a class, PNG or JPEG images in each."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from ntkla.app.failures import DataError, FileError, need

SUFFIXES = (".png", ".jpg", ".jpeg")
_GREY, _COLOUR = ("1", "L", "LA"), ("RGB", "RGBA", "P", "PA", "CMYK", "YCbCr")


def labelled_files(folder: Path, classes: Sequence[str] | None) -> tuple[list[Path], list[int], dict[int, str]]:
    """The images in a fixed order, the label of each, and the names of the labels.

    Args:
        folder: its subfolders are the classes; images may lie deeper in them.
        classes: the names of all outputs of the head, in their order; a class gets its place there as its label.
            None: where all subfolders are called by numbers of at most nine digits, those numbers; else 0, 1, ... in
            the order of the names.

    Raises:
        FileError: a folder cannot be read.
        DataError: there is no subfolder, one without images, or one that `classes` does not name.
    """
    try:
        inside = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
        found = {
            path.name: sorted(file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES and file.is_file())
            for path in inside
            if path.is_dir()
        }
    except OSError as cause:
        raise FileError(f"{folder}: the folder cannot be read ({cause.strerror or cause}).") from cause
    if not found:
        arrays = next((path.name for path in inside if "idx3" in path.name or path.suffix == ".npy"), None)
        remedy = f"name the file: {folder / arrays}" if arrays else "put the images of each class in a subfolder"
        raise DataError(f"{folder}: expected one subfolder a class, got none: {remedy}.")
    empty = next((name for name, files in found.items() if not files), None)
    if empty is not None:
        raise DataError(f"{folder / empty}: expected PNG or JPEG images of one class, got none. Remove the folder.")
    labels = _labels(folder, list(found), classes)
    ordered = sorted(found, key=lambda name: labels[name])
    files = [file for name in ordered for file in found[name]]
    return files, [labels[name] for name in ordered for _ in found[name]], {labels[name]: name for name in ordered}


def _labels(folder: Path, names: list[str], classes: Sequence[str] | None) -> dict[str, int]:
    if classes is None:
        numbers = [int(name) for name in names if name.isascii() and name.isdecimal() and len(name) < 10]
        if len(set(numbers)) == len(names):
            return dict(zip(names, numbers, strict=True))
        return {name: number for number, name in enumerate(names)}
    missing = next((name for name in names if name not in classes), None)
    if missing is not None:
        raise DataError(f"{folder}: --classes does not name the subfolder {missing!r}. Add it, or take it away.")
    return {name: list(classes).index(name) for name in names}


def read_image(path: Path) -> torch.Tensor:
    """An image, uint8 [h, w] or [h, w, 3], turned as its EXIF data say; transparency is dropped.

    Raises:
        MissingPackageError, FileError
        DataError: not an image that can be read, or not of 8 bits.
    """
    pillow, turned = need("PIL.Image", "cli"), need("PIL.ImageOps", "cli").exif_transpose
    content = io.BytesIO(read_bytes(path))
    try:
        with pillow.open(content, formats=("PNG", "JPEG")) as opened:
            mode = opened.mode
            if mode in (*_GREY, *_COLOUR):
                return torch.from_numpy(np.array(turned(opened).convert("L" if mode in _GREY else "RGB")))
    except pillow.UnidentifiedImageError as cause:
        raise DataError(f"{path}: expected a PNG or JPEG image, got something else. Take it away.") from cause
    except (OSError, SyntaxError, ValueError, EOFError, pillow.DecompressionBombError) as cause:
        raise DataError(f"{path}: the image cannot be read ({cause}). Replace it, or take it away.") from cause
    raise DataError(f"{path}: expected 8 bits a pixel and colour, got Pillow's mode {mode!r}. Convert it to 8 bits.")


def read_bytes(path: Path) -> bytes:
    """The content of a file; FileError when it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as cause:
        raise FileError(f"{path}: the image cannot be read ({cause.strerror or cause}).") from cause
