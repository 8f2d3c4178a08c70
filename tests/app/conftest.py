"""A small made-up sequence of tasks, learned once for all tests of the app."""

from __future__ import annotations

import pytest
import torch

from ntkla.app.data import SplitTask
from ntkla.app.sequence import Plan, run_sequence


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
