"""Modules and data that the tests of this folder share."""

from __future__ import annotations

import pytest
import torch
from torch.utils.data import TensorDataset

from tests.models.modules import Images, Tokens


@pytest.fixture
def images() -> Images:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        module = Images().train()
    module.body[1].eval()  # flags that differ, as when batch norm is frozen
    return module


@pytest.fixture
def data() -> TensorDataset:
    draw = torch.Generator().manual_seed(1)
    return TensorDataset(torch.randn(10, 1, 6, 6, generator=draw), torch.arange(10) % 4)


@pytest.fixture
def tokens() -> Tokens:
    with torch.random.fork_rng():
        torch.manual_seed(4)
        return Tokens()
