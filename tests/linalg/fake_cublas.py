"""A stand-in for libcublas: what SciPy's BLAS computes of the pointers, lengths and strides that it is given."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.linalg import blas

from ntkla.linalg.backends import cublas

HANDLE = 77
_SIGNATURE = (ctypes.c_void_p, ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)


def columns_first(address: int, number: type[Any], rows: int, columns: int, stride: int) -> np.ndarray:
    """The matrix whose columns are `stride` numbers apart."""
    entries = stride * (columns - 1) + rows
    flat = np.ctypeslib.as_array((number * entries).from_address(address))
    return np.lib.stride_tricks.as_strided(flat, (rows, columns), (flat.itemsize, stride * flat.itemsize))


def routine(number: type[Any], compute: Callable[..., np.ndarray], calls: list[tuple[int, ...]]) -> Any:
    """A function with cuBLAS's signature for one type, which notes the fill, the operation and the leading dimensions.

    Status 7 says that an argument is none that cuBLAS takes.
    """
    pointer = ctypes.POINTER(number)
    signature = ctypes.CFUNCTYPE(
        ctypes.c_int, *_SIGNATURE, pointer, ctypes.c_void_p, ctypes.c_int64, pointer, ctypes.c_void_p, ctypes.c_int64
    )

    def syrk(handle, fill, operation, n, k, alpha, a, lda, beta, c, ldc):
        rows, columns = (k, n) if operation == 1 else (n, k)
        if handle != HANDLE or fill not in (0, 1) or operation not in (0, 1) or lda < max(1, rows) or ldc < max(1, n):
            return 7
        calls.append((fill, operation, lda, ldc))
        left, out = columns_first(a, number, rows, columns, lda), columns_first(c, number, n, n, ldc)
        found = compute(alpha[0], left, beta=beta[0], trans=operation, lower=int(fill == 0))
        half = np.tril_indices(n) if fill == 0 else np.triu_indices(n)
        out[half] = found[half]
        return 0

    return signature(syrk)


def stand_in(monkeypatch: pytest.MonkeyPatch, *, mode: int = 0, wrong: float = 1.0) -> list[tuple[int, ...]]:
    """Makes arrays of the processor those of a device with cuBLAS; returns what it will be called with.

    Args:
        mode: the math mode that the handle says it has.
        wrong: what the product is multiplied with.
    """
    calls: list[tuple[int, ...]] = []

    def scaled(compute: Callable[..., np.ndarray]) -> Callable[..., np.ndarray]:
        return lambda *args, **options: compute(*args, **options) * wrong

    def math_mode(handle, out):
        out._obj.value = mode
        return 0 if handle.value == HANDLE else 7

    library = SimpleNamespace(
        _name="libcublas.so.stand-in",
        cublasDsyrk_v2_64=routine(ctypes.c_double, scaled(blas.dsyrk), calls),
        cublasSsyrk_v2_64=routine(ctypes.c_float, scaled(blas.ssyrk), calls),
        cublasGetMathMode=math_mode,
    )
    monkeypatch.setattr(cublas, "_library", lambda: library)
    monkeypatch.setattr(cublas, "_RUNS_ON", "cpu")
    monkeypatch.setattr(torch.cuda, "current_blas_handle", lambda: HANDLE, raising=False)
    monkeypatch.setattr(cublas, "_conventional", cache(cublas._conventional.__wrapped__))
    return calls
