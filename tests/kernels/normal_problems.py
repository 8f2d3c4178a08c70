"""Problems of the one-pass normal product, and what two products in float64 make of them.

Imports Triton: for modules that skip themselves where there is none.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch

from csrc_triton.normal_blocks import MODES
from csrc_triton.normal_matmul import normal_matmul
from tests.kernels.draws import whole

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
CASES = [(mode, dtype) for mode in MODES for dtype in DTYPES if (mode, dtype) != ("ieee", torch.float64)]
Draw = Callable[..., torch.Tensor]
Problem = tuple[torch.Tensor, torch.Tensor, "torch.Tensor | None", bool]


# Two bits, so that sums of products of four of them stay whole in float32.
small = partial(whole, most=3)


def drawn(
    draw: Draw, n: int, features: int, columns: int, *, weighted: bool, bias: bool, dtype: torch.dtype
) -> Problem:
    """x, w, weights and bias; `draw` makes the numbers."""
    weights = draw(n, seed=2, dtype=dtype).abs() if weighted else None
    return draw(n, features, dtype=dtype), draw(features + bias, columns, seed=1, dtype=dtype), weights, bias


def run(problem: Problem, mode: str) -> torch.Tensor:
    x, w, weights, bias = problem
    return normal_matmul(x, w, weights=weights, bias=bias, mode=mode)


def twice_in_torch(problem: Problem, magnitudes: bool = False) -> torch.Tensor:
    """The two products in float64 on the CPU, of the magnitudes if asked."""
    x, w, weights, bias = (t.cpu().double() if isinstance(t, torch.Tensor) else t for t in problem)
    design = torch.cat([x, torch.ones(x.shape[0], int(bias), dtype=torch.float64, device="cpu")], dim=1)
    factors = torch.ones(x.shape[0], dtype=torch.float64, device="cpu") if weights is None else weights
    if magnitudes:
        design, w, factors = design.abs(), w.abs(), factors.abs()
    return design.T @ (factors[:, None] * (design @ w))
