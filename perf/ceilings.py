"""The machine's own ceilings, measured in the same run: matrix-product rates and copy bandwidth.

Each is the best median over the libraries at hand, so a contender cannot beat it by using another library.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch

from perf.precisions import TYPE, allowing, asked_for

RUNS = 5


def measure(size: str, device: torch.device) -> dict[str, float]:
    """Operations a second of matrix products by arithmetic, and bytes (read + written) a second for `"copy"`."""
    edge = {"small": 256, "full": 2048 if device.type == "cpu" else 8192}[size]
    found: dict[str, float] = {}
    generator = torch.Generator(device=device).manual_seed(0)
    for name in asked_for(device.type):
        a = torch.randn(edge, edge, device=device, generator=generator, dtype=torch.float64).to(TYPE[name])
        with allowing(name):
            seconds = [_median(partial(torch.matmul, a, a), device)]
        if device.type == "cpu" and name != "bfloat16":
            seconds.append(_median(partial(np.matmul, a.numpy(), a.numpy()), device))
        found[name] = 2.0 * edge**3 / min(seconds)
    length = 2**20 if size == "small" else (2**25 if device.type == "cpu" else 2**29)
    source = torch.rand(length, dtype=torch.float64, device=device, generator=generator)
    target = torch.empty_like(source)
    seconds = [_median(partial(target.copy_, source), device)]
    if device.type == "cpu":
        seconds.append(_median(partial(np.copyto, target.numpy(), source.numpy()), device))
    found["copy"] = 2.0 * source.numel() * source.element_size() / min(seconds)
    return found


def _median(call: Callable[[], Any], device: torch.device) -> float:
    times = []
    for _ in range(RUNS + 2):
        start = time.perf_counter()
        call()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - start)
    return statistics.median(times[2:])
