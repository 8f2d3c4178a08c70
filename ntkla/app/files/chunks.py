"""Features of many images, computed and kept in chunks: what a killed run has done, the next one finds in the cache."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch

from ntkla.app.failures import DataError
from ntkla.app.files.cache import cached, key_of
from ntkla.app.images.backbone import CHUNK, Backbone, Progress
from ntkla.app.images.images import Images
from ntkla.linalg import checks


def features_of(
    images: Images, backbone: Backbone, edge: int | None, progress: Progress, note: Callable[[str], None]
) -> torch.Tensor:
    """Features float32 [n, F] of all images, each chunk of `CHUNK` from the cache when it is there.

    A chunk's key is the backbone's name, version and weights, `edge`, and the content of its images: images that are
    added, changed or reordered leave the other chunks as they are.

    Args:
        images: where they come from.
        backbone: the frozen feature map.
        edge: to which images are scaled, or None.
        progress: called with (images done, images in all).
        note: told, in a sentence and once, what a person should know about the cache.

    Raises:
        MissingPackageError, FileError, DataError, MemoryEstimateError

    Cost: memory of 4 n F bytes and of one chunk's batches; in the cache, 4 n F bytes of files.
    """
    weights = backbone.weights()
    always = [backbone.name, backbone.version, str(edge), key_of([weights] if weights else [])]
    said: set[str] = set()

    def note_once(sentence: str) -> None:
        if sentence not in said:
            note(sentence)
        said.add(sentence)

    found: torch.Tensor | None = None
    for start in range(0, images.count, CHUNK):
        numbers = range(start, min(start + CHUNK, images.count))

        def build(numbers: range = numbers) -> dict[str, torch.Tensor]:
            def advance(done: int, total: int) -> None:
                progress(numbers.start + done, images.count)

            return {"features": backbone.features(images.image, numbers, edge, advance)}

        rows = cached(f"features-{backbone.name}", _parts(always, images, numbers), build, note_once)["features"]
        if found is None:
            checks.memory(f"features of {images.count} images", 4 * images.count * rows.shape[1], rows.device)
            found = torch.empty((images.count, rows.shape[1]), dtype=torch.float32, device=rows.device)
        if rows.shape[1] != found.shape[1]:
            raise DataError(
                f"image {start}: expected {found.shape[1]} features as of those before, got {rows.shape[1]}. "
                "Give --size to scale all to one size; grey and colour cannot be mixed."
            )
        found[numbers.start : numbers.stop] = rows
        progress(numbers.stop, images.count)
    assert found is not None, "images are never none"
    return found


def _parts(always: list[str], images: Images, numbers: range) -> Iterator[str | bytes]:
    yield from always
    yield from images.content(numbers.start, numbers.stop)
