"""Roots of probabilities with which products with B have no rounding, and the definition of the product."""

from __future__ import annotations

import torch

from tests.kernels.draws import DEVICE


def exact_roots(n: int, outputs: int, seed: int = 0) -> torch.Tensor:
    """Roots 1/2 at four places of each row, or 1 at one where there are fewer, in an order that is drawn; norm 1."""
    generator = torch.Generator(device="cpu").manual_seed(seed)
    places = torch.rand((n, outputs), generator=generator, device="cpu").argsort(1)
    count = torch.where(torch.arange(n, device="cpu") % 3 == 0, 1, 4 if outputs >= 4 else 1)[:, None]
    return torch.where(places < count, 1.0 / count.sqrt(), 0.0).double().to(DEVICE)


def tops(roots: torch.Tensor) -> torch.Tensor:
    return torch.where(roots.amax(1) ** 2 > 0.5, roots.argmax(1), -1)


def as_written(x: torch.Tensor, roots: torch.Tensor, v: torch.Tensor, bias: bool) -> torch.Tensor:
    """The definition in float64 on the CPU: `B^T (G (B v))` with the matrices `B_i`."""
    x, q, v = (t.cpu().double() for t in (x, roots, v))
    root = torch.diag_embed(q) - (q * q)[:, :, None] * q[:, None, :]
    changed = torch.einsum("ice,iem->icm", root, v)
    return torch.einsum("iec,ij,jem->icm", root, x @ x.T + float(bias), changed)
