"""Mode "float64" keeps subnormal numbers of narrow inputs where arithmetic flushes them, in torch and in kernels."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import pytest
import torch

import ntkla
from ntkla.testing import hostile_states
from tests.kernels.draws import DEVICE

pytest.importorskip("triton", reason="the kernels need Triton, which is made for Linux only")


@cache  # made before anything is flushed
def tiny(*shape: int) -> torch.Tensor:
    return torch.full(shape, 1e-40, device=DEVICE)


@cache
def large(*shape: int) -> torch.Tensor:
    return torch.full(shape, 2.0**100, device=DEVICE)


HALVES, LARGE_AND_ZERO, TINY_AND_ZERO = (
    torch.tensor([pair], device=DEVICE) for pair in ([0.5, 0.5], [2.0**100, 0.0], [1e-40, 0.0])
)
CALLS: dict[str, Callable[[], torch.Tensor]] = {
    "gram, left": lambda: ntkla.gram(tiny(2, 2), large(2, 2), precision="float64"),
    "gram, right": lambda: ntkla.gram(large(2, 2), tiny(2, 2), precision="float64"),
    "normal_matmul, x": lambda: ntkla.normal_matmul(tiny(2, 2), large(2, 2), precision="float64"),
    "normal_matmul, w": lambda: ntkla.normal_matmul(large(2, 2), tiny(2, 2), precision="float64"),
    "normal_matmul, weights": lambda: ntkla.normal_matmul(
        large(2, 2), large(2, 2), weights=tiny(2), precision="float64"
    ),
    "layer_ntk": lambda: ntkla.layer_ntk(tiny(2, 2), large(2, 1, 2), large(2, 2), large(2, 1, 2), precision="float64"),
    "softmax_gram, v": lambda: ntkla.softmax_gram(large(1, 1), HALVES, TINY_AND_ZERO, precision="float64"),
    "softmax_gram, x": lambda: ntkla.softmax_gram(tiny(1, 1), HALVES, LARGE_AND_ZERO, precision="float64"),
}


@pytest.mark.parametrize("backend", ["torch", "triton"])
@pytest.mark.parametrize("name", CALLS)
def test_subnormal_numbers_count_where_they_are_flushed(name, backend):
    with ntkla.backend("torch"):
        expected = CALLS[name]()
    assert bool((expected != 0).any())
    with hostile_states()["flush denormal"](), ntkla.backend(backend):
        found = CALLS[name]()
    size, bound = torch.linalg.vector_norm(expected), 64 * torch.finfo(torch.float64).eps
    assert float(torch.linalg.vector_norm(found - expected)) <= bound * float(size)
