"""cuBLAS's symmetric rank-k update, which torch does not expose, called through ctypes in the library torch uses.

cublasStatus_t cublas{S,D}syrk_v2_64(cublasHandle_t, cublasFillMode_t, cublasOperation_t, int64_t n, int64_t k,
    const T *alpha, const T *A, int64_t lda, const T *beta, T *C, int64_t ldc)      (cuBLAS 12 and newer)
"""

from __future__ import annotations

import ctypes
import ctypes.util
import sys
from functools import cache
from pathlib import Path
from typing import Any

import torch

from perf.harness import Skip
from perf.judges import Triangle

_MAPS = Path("/proc/self/maps")
_SYMBOL = {torch.float32: ("cublasSsyrk_v2_64", ctypes.c_float), torch.float64: ("cublasDsyrk_v2_64", ctypes.c_double)}
_LOWER, _TRANSPOSED = 0, 1


def syrk(x: torch.Tensor) -> Triangle:
    """x x^T of a float32 or float64 CUDA tensor [n, F] with dense rows; the upper triangle alone is written.

    Raises:
        Skip: no cuBLAS that can be called this way.
        RuntimeError: cuBLAS refused the call.
    """
    function, number = _function(x.dtype)
    n, features = x.shape
    out = torch.empty((n, n), dtype=x.dtype, device=x.device)
    # cuBLAS numbers columns first: it sees x^T, [F, n], and its lower triangle is our upper one.
    status = function(
        ctypes.c_void_p(torch.cuda.current_blas_handle()),
        _LOWER,
        _TRANSPOSED,
        n,
        features,
        ctypes.byref(number(1.0)),
        ctypes.c_void_p(x.data_ptr()),
        x.stride(0),
        ctypes.byref(number(0.0)),
        ctypes.c_void_p(out.data_ptr()),
        n,
    )
    if status != 0:
        raise RuntimeError(f"{_SYMBOL[x.dtype][0]} returned status {status}")
    return Triangle(out, lower=False)


def _function(dtype: torch.dtype) -> tuple[Any, type[Any]]:
    """The routine of a type, with its signature, and the type's name in C."""
    name, number = _SYMBOL[dtype]
    library = _library()
    if not hasattr(library, name):
        raise Skip(f"{library._name} has no {name}: it is older than cuBLAS 12")
    function = getattr(library, name)
    pointer, integer = ctypes.POINTER(number), ctypes.c_int64
    function.restype = ctypes.c_int
    function.argtypes = [
        ctypes.c_void_p, ctypes.c_int, ctypes.c_int, integer, integer, pointer,
        ctypes.c_void_p, integer, pointer, ctypes.c_void_p, integer,
    ]  # fmt: skip
    return function, number


@cache
def _library() -> ctypes.CDLL:
    """The cuBLAS whose handles torch gives out: the one that this process has loaded, else what lies beside torch."""
    for path in candidates():
        try:
            return ctypes.CDLL(path)
        except OSError:
            continue
    raise Skip("no libcublas is loaded, lies beside torch, or is known to the system")


def candidates() -> list[str]:
    """Where libcublas may be, best first."""
    loaded = (
        [line.split()[-1] for line in _MAPS.read_text().splitlines() if "libcublas.so" in line]
        if _MAPS.exists()
        else []
    )
    beside = [str(p) for root in sys.path if root for p in sorted(Path(root).glob("nvidia/*/lib/libcublas.so*"))]
    known = ctypes.util.find_library("cublas")
    return list(dict.fromkeys([*loaded, *beside, *([known] if known else [])]))
