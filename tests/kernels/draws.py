"""Inputs of kernels, where kernels run here: on the GPU if there is one, else on the CPU in Triton's interpreter."""

from __future__ import annotations

import torch

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def whole(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Integers of at most 3 bits."""
    generator = torch.Generator(device="cpu").manual_seed(seed)
    return torch.randint(-7, 8, shape, generator=generator, device="cpu").to(dtype).to(DEVICE)


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    generator = torch.Generator(device="cpu").manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64, device="cpu").to(dtype).to(DEVICE)
