"""What the tests of the app share: a small made-up sequence of tasks, learned once, and the files of a user."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch

from ntkla.app.demo.data import SplitTask
from ntkla.app.demo.planned import Asked, plan_and_train
from ntkla.app.demo.protection import protection_curve
from ntkla.app.demo.sequence import Plan, run_sequence
from tests.app.user_files import BIAS, HEAD, WEIGHTS, T, X, Y


def made_up_tasks(count: int = 3, features: int = 24, train: int = 40, test: int = 20) -> list[SplitTask]:
    """Tasks of two classes each: noisy copies of one pattern a class, some of it shared by all."""
    generator = torch.Generator().manual_seed(5)
    tasks = []
    for number in range(count):
        labels = torch.arange(train + test) % 2 + 2 * number
        patterns = torch.randn((2, features), generator=generator, dtype=torch.float64)
        inputs = patterns[labels % 2] + 0.5 * torch.randn(
            (train + test, features), generator=generator, dtype=torch.float64
        )
        inputs = inputs.to(torch.float32)
        name = f"{2 * number}/{2 * number + 1}"
        tasks.append(SplitTask(name, inputs[:train], labels[:train], inputs[train:], labels[train:]))
    return tasks


@pytest.fixture(scope="session")
def small_tasks() -> list[SplitTask]:
    return made_up_tasks()


@pytest.fixture(scope="session")
def comparisons(small_tasks):
    return run_sequence(small_tasks, 6, Plan(steps=20), lambda what: None)


@pytest.fixture(scope="session")
def planned(small_tasks):
    return plan_and_train(small_tasks, 6, Asked(modes=(2, 5), iterations=300), lambda done, total: None)


@pytest.fixture(scope="session")
def curve():
    """Of ten noisy patterns."""
    generator = torch.Generator().manual_seed(7)
    labels = torch.arange(200) % 10
    patterns = torch.randn((10, 12), generator=generator)
    features = patterns[labels] + 0.3 * torch.randn((200, 12), generator=generator)
    return protection_curve(features, labels, 0, modes=(0, 2, 12))


@pytest.fixture
def user_files(tmp_path, monkeypatch):
    """x.npy, y.npy, ... in the folder where the test runs; nothing may warn."""
    monkeypatch.chdir(tmp_path)
    for name, array in {"x": X, "y": Y, "t": T, "w": WEIGHTS, "head": HEAD, "bias": BIAS}.items():
        np.save(f"{name}.npy", array)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield tmp_path
