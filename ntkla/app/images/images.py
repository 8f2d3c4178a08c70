"""Images in a user's own files: a folder of classes, a `.npy` array, or IDX files; read when they are needed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from ntkla.app.failures import DataError
from ntkla.app.files.mapped import opened
from ntkla.app.files.npy import MAGIC, read_npy
from ntkla.app.images.idx import GZIP, UINT8, labels_beside, read_idx
from ntkla.app.images.image_folder import labelled_files, read_bytes, read_image
from ntkla.linalg.errors import ArgumentError, DtypeError, ShapeError


@dataclass(frozen=True)
class Images:
    """Images in a fixed order.

    Attributes:
        count: n.
        image: number of an image to uint8 [h, w] (grey) or [h, w, 3] (colour).
        content: start and stop to the bytes that those images are made from: what a cache goes by.
        labels: int64 [n], or None.
        classes: names of labels, where the source has any.
    """

    count: int
    image: Callable[[int], torch.Tensor]
    content: Callable[[int, int], Iterable[bytes]]
    labels: torch.Tensor | None
    classes: dict[int, str]


def open_images(path: Path, labels: Path | None, classes: Sequence[str] | None) -> Images:
    """The images under `path`, told apart by what is there and not by its name.

    Args:
        path: a folder with one subfolder a class; a `.npy` file of uint8 [n, H, W] or [n, H, W, 3]; an IDX file of
            images, gzip or not, whose labels are looked for beside it under their standard name.
        labels: a `.npy` file of integers [n]; None: as the source has them.
        classes: for a folder, see `labelled_files`.

    Raises:
        FileError, DataError, DtypeError, ShapeError, ArgumentError, MemoryEstimateError
    """
    if path.is_dir():
        if labels is not None:
            raise ArgumentError("--labels: the subfolders are the classes. Leave it out, or see --classes.")
        return _of_folder(path, classes)
    if classes is not None:
        raise ArgumentError("--classes: names subfolders, and the images are in one file. Leave it out.")
    with opened(path) as file:
        begin = file.read(len(MAGIC))
    if begin.startswith(MAGIC):
        return _of_array(_npy(path), None if labels is None else _given(labels))
    if not begin.startswith((GZIP, UINT8)):
        raise DataError(
            f"{path}: expected a folder with one subfolder a class, a .npy file or an IDX file of images. "
            "Write an array with numpy.save('images.npy', x)."
        )
    beside = labels_beside(path) if labels is None else None
    found = torch.from_numpy(read_idx(beside, 1, "labels").astype(np.int64)) if beside else None
    return _of_array(read_idx(path, 3, "images [n, H, W]"), found if labels is None else _given(labels), beside)


def _of_folder(folder: Path, classes: Sequence[str] | None) -> Images:
    files, labels, names = labelled_files(folder, classes)
    return Images(
        len(files),
        lambda number: read_image(files[number]),
        lambda start, stop: map(read_bytes, files[start:stop]),
        torch.tensor(labels, dtype=torch.int64),
        names,
    )


def _of_array(images: npt.NDArray[np.uint8], labels: torch.Tensor | None, beside: Path | None = None) -> Images:
    if labels is not None and labels.shape != (len(images),):
        where = beside or "--labels"
        raise ShapeError(f"{where}: expected {len(images)} labels, one an image, got shape {tuple(labels.shape)}.")
    return Images(
        len(images),
        lambda number: torch.from_numpy(np.array(images[number])),
        lambda start, stop: (str(images.shape[1:]).encode(), np.ascontiguousarray(images[start:stop]).tobytes()),
        labels,
        {},
    )


def _given(path: Path) -> torch.Tensor:
    """The labels in a `.npy` file, int64 [n]."""
    labels = read_npy(path)
    if labels.is_floating_point():
        raise DtypeError(f"{path}: expected integers, got {labels.dtype}. Convert labels with x.astype('int64').")
    if int(labels.min()) < 0:
        raise DataError(f"{path}: expected labels from 0, got {int(labels.min())}. Leave such images out.")
    return labels.to(torch.int64)


def _npy(path: Path) -> npt.NDArray[np.uint8]:
    """The images in a `.npy` file, mapped."""
    try:
        array: npt.NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, TypeError, OSError, EOFError, OverflowError) as cause:
        raise DataError(f"{path}: the .npy file cannot be read ({cause}). Save it again with numpy.save.") from cause
    if array.dtype != np.uint8:
        # Converted as they are, values from 0 to 1 would all become black.
        unit = array.dtype.kind == "f" and array.size > 0 and bool(((array >= 0) & (array <= 1)).all())
        remedy = "(x * 255).round().astype('uint8')" if unit else "x.astype('uint8')"
        scaled = "Its values lie in 0..1, convert them" if unit else "Scale to that and convert"
        raise DtypeError(f"{path}: expected uint8, from 0 to 255, got {array.dtype}. {scaled}: {remedy}.")
    colour = array.ndim == 4 and array.shape[3] == 3
    grey = array.ndim == 3 and array.shape[2] != 3
    if not (colour or grey) or 0 in array.shape:
        remedy = {
            2: "Reshape flat images: x.reshape(len(x), height, width)",
            3: "One colour image is x[None]",
            4: "Channels come last: x.transpose(0, 2, 3, 1); grey images have none: x[..., 0]",
        }.get(array.ndim, "Save it so")
        raise ShapeError(f"{path}: expected images [n, H, W] or [n, H, W, 3], got shape {array.shape}. {remedy}.")
    return array
