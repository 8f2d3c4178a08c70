"""What `ntkla features` runs: images in, a file for `ntkla forecast` out."""

from __future__ import annotations

import json
from pathlib import Path

import torch

import ntkla
from ntkla.app.failures import OutputError
from ntkla.app.files.cache import save
from ntkla.app.files.chunks import features_of
from ntkla.app.images.backbone import BACKBONES
from ntkla.app.images.images import Images, open_images
from ntkla.app.reports.screen import console, progress_bar
from ntkla.app.reports.written import make_folder, written
from ntkla.linalg.errors import ArgumentError


def run_features(
    source: Path, output: Path, backbone: str, labels: Path | None, classes: str | None, size: int | None
) -> None:
    """Computes the features of images and writes them with their labels to a `.safetensors` file.

    Args:
        source, labels: see `open_images`.
        output: of the file; what was there is replaced at once, and kept when anything fails.
        backbone: a name in `BACKBONES`.
        classes: for a folder, the names of all outputs of the head with commas between them, or None.
        size: edge to which images are scaled, or None for the backbone's own.

    Raises:
        MissingPackageError, FileError, DataError, DtypeError, ShapeError, ArgumentError, OutputError
        MemoryEstimateError
    """
    screen, notes = console(), console(stderr=True)
    _require_place(output)
    names = None if classes is None else _names(classes)
    images = open_images(source, labels, names)
    chosen = BACKBONES[backbone]
    edge = size or chosen.edge
    with progress_bar(notes) as progress:
        bar = progress.add_task(f"computing {backbone} features", total=images.count)

        def advance(done: int, total: int) -> None:
            progress.update(bar, completed=done, total=total)

        features = features_of(images, chosen, edge, advance, lambda note: notes.print(f"note: {note}"))
    arrays = {"features": features} | ({} if images.labels is None else {"labels": images.labels})
    metadata = {
        "ntkla": ntkla.__version__,
        "backbone": f"{chosen.name} {chosen.version}",
        "size": str(edge or "as it is"),
        "classes": json.dumps({str(label): name for label, name in images.classes.items()}),
    }
    written(output, lambda place: save(arrays, place, metadata))
    screen.print(_summary(output, features, images), markup=False)


def _require_place(output: Path) -> None:
    """Before the long part: raises unless the output has the right suffix and its folder can be written; makes that."""
    if output.suffix.lower() != ".safetensors":
        raise ArgumentError(f"OUTPUT: expected a name that ends in .safetensors, got {str(output)!r}.")
    if output.is_dir():
        raise OutputError(f"{output}: expected the name of a file, and there is a folder. Choose another name.")
    make_folder(output.parent, "OUTPUT")


def _names(classes: str) -> list[str]:
    names = [name.strip() for name in classes.split(",")]
    if "" in names or len(set(names)) < len(names):
        raise ArgumentError(f"--classes: expected different names with commas between them, got {classes!r}.")
    return names


def _summary(output: Path, features: torch.Tensor, images: Images) -> str:
    lines = [f"Written to {output}: features {_shape(features)}"]
    if images.labels is None:
        return f"{lines[0]}. There are no labels: without them no accuracy can be forecast; see --labels."
    lines[0] += f" and labels {_shape(images.labels)}."
    if images.classes:
        shown = [f"{label} {name}" for label, name in list(images.classes.items())[:10]]
        lines.append("Labels, the head's outputs: " + ", ".join(shown) + (", ..." if len(images.classes) > 10 else ""))
    return "\n".join(lines)


def _shape(array: torch.Tensor) -> str:
    return f"{list(array.shape)} {str(array.dtype).removeprefix('torch.')}"
