"""cuBLAS's symmetric rank-k update as a contender: the library's own call, of which one triangle is written."""

from __future__ import annotations

import torch

from ntkla.linalg.backends import cublas
from perf.harness import Skip
from perf.judges import Triangle


def syrk(x: torch.Tensor) -> Triangle:
    """x x^T of a float32 or float64 CUDA tensor [n, F]; the upper triangle alone is written.

    Raises:
        Skip: no cuBLAS that can be called this way.
        BackendError: cuBLAS refused the call.
    """
    missing = cublas.unavailable(x.dtype)
    if missing is not None:
        raise Skip(missing)
    return Triangle(cublas.triangle(x), lower=False)
