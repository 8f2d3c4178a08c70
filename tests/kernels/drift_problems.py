"""What the tests of the kernel `drift` multiply with."""

from __future__ import annotations

import torch

from ntkla.linalg.drift_product import Errors
from tests.kernels.draws import normal


def wide(*shape: int, seed: int = 0) -> torch.Tensor:
    return normal(*shape, seed=seed, dtype=torch.float64)


def columns_of(outputs: int) -> Errors:
    """e, r and t of different sizes."""
    return Errors(*(wide(outputs, seed=seed).abs() * scale for seed, scale in ((5, 1e-9), (6, 1e-3), (7, 1e-4))))
