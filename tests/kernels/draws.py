"""Inputs of kernels, where kernels run here: on the GPU if there is one, else on the CPU in Triton's interpreter."""

from __future__ import annotations

import torch

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def whole(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32, most: int = 7) -> torch.Tensor:
    """Integers of at most so large a magnitude."""
    generator = torch.Generator(device="cpu").manual_seed(seed)
    return torch.randint(-most, most + 1, shape, generator=generator, device="cpu").to(dtype).to(DEVICE)


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    generator = torch.Generator(device="cpu").manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64, device="cpu").to(dtype).to(DEVICE)


def factors(n: int, c: int, t: int, f: int, g: int, seed: int = 0, dtype: torch.dtype = torch.float32, draw=whole):
    """A layer's activations [n, t, f] and deltas [n, c, t, g]; `draw` makes the numbers."""
    return draw(n, t, f, seed=seed, dtype=dtype), draw(n, c, t, g, seed=seed + 1, dtype=dtype)


def formula(a: torch.Tensor, d: torch.Tensor, a2: torch.Tensor, d2: torch.Tensor) -> torch.Tensor:
    """The layer's kernel as written, in float64 on the CPU."""
    return torch.einsum("itf,jsf,ictg,jesg->icje", *(x.cpu().double() for x in (a, a2, d, d2)))
