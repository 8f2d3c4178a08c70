"""cuBLAS's symmetric rank-k update, which torch does not expose, called through ctypes in the library torch uses.

cublasStatus_t cublas{S,D}syrk_v2_64(cublasHandle_t, cublasFillMode_t, cublasOperation_t, int64_t n, int64_t k,
    const T *alpha, const T *A, int64_t lda, const T *beta, T *C, int64_t ldc)      (cuBLAS 12 and newer)

Rounding.  An entry is one inner product in the type's own operations, in whatever order: `gamma_F |x| |x|^T`, one
rounding more with the bias (`primitive.gram_roundings`).  That fails where cuBLAS is told to emulate the type (CUDA 13:
float64 in fixed point, float32 from bfloat16) or to take TF32.  So the handle's math mode and the environment are read
before each call, and float64 is probed once as torch's products are (`arithmetic/probe.py`).
"""

from __future__ import annotations

import ctypes
import ctypes.util
import os
import sys
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from pathlib import Path
from typing import Any

import torch

from ntkla.linalg.arithmetic.probe import keeps_the_bound
from ntkla.linalg.errors import BackendError

_MAPS = Path("/proc/self/maps")
_SYMBOL = {torch.float32: ("cublasSsyrk_v2_64", ctypes.c_float), torch.float64: ("cublasDsyrk_v2_64", ctypes.c_double)}
_LOWER, _AS_STORED, _TRANSPOSED = 0, 0, 1
# cublasMath_t: default, tensor cores where they are exact enough, pedantic, TF32; anything else emulates.
_SAFE_MATH = {torch.float64: (0, 1, 2, 3), torch.float32: (0, 2)}
_NO_REDUCED_SUMS = 16  # a flag beside the mode, of 16-bit products only
_EMULATED_BY = {torch.float64: "CUBLAS_EMULATE_DOUBLE_PRECISION", torch.float32: "CUBLAS_EMULATE_SINGLE_PRECISION"}
_RUNS_ON = "cuda"


def why_not(device: torch.device, dtype: torch.dtype) -> str | None:
    """A clause that says why cuBLAS cannot update a matrix of this type on this device; None when it can."""
    if device.type != _RUNS_ON:
        return f"the arrays lie on '{device.type}', and cuBLAS multiplies arrays on CUDA devices"
    if torch.version.hip is not None:
        return "this PyTorch is built for ROCm, which has no cuBLAS"
    asked = os.environ.get(_EMULATED_BY[dtype], "0")
    if asked.strip() not in ("", "0"):
        return f"{_EMULATED_BY[dtype]}={asked} lets it emulate {dtype}, which breaks the rounding bound: unset it"
    missing = unavailable(dtype)
    if missing is not None:
        return missing
    mode = _math_mode(device) & ~_NO_REDUCED_SUMS
    if mode not in _SAFE_MATH[dtype]:
        return f"its math mode is {mode}, which does not multiply {dtype} in {dtype}"
    if dtype == torch.float64 and not _conventional(device):
        return "its float64 update is less accurate than float64 operations allow (probed)"
    return None


def unavailable(dtype: torch.dtype) -> str | None:
    """Why the routine of a type cannot be called here at all; None when it can."""
    library = _library()
    if library is None:
        return "no libcublas is loaded, lies beside torch, or is known to the system"
    name = _SYMBOL[dtype][0]
    return None if hasattr(library, name) else f"{library._name} has no {name}: it is older than cuBLAS 12"


def gram(x: torch.Tensor, bias: bool = False) -> torch.Tensor:
    """`x x^T`, plus 1 with a bias, exactly symmetric, [n, n].

    Args:
        x: [n, F], float64 or float32, where `why_not` finds nothing.

    Raises:
        BackendError: cuBLAS refused the call.

    Cost: `n (n + 1) F` operations; rows and columns that are not dense are copied.
    """
    upper = triangle(x)
    whole = upper.triu() + upper.triu(1).T  # what lies below the diagonal was never written
    return whole.add_(1.0) if bias else whole


def triangle(x: torch.Tensor) -> torch.Tensor:
    """`x x^T` on and above the diagonal; below it is whatever the memory held.

    Raises:
        BackendError: cuBLAS refused the call.
    """
    n, features = x.shape
    if n == 0 or features == 0:
        return x.new_zeros((n, n))
    name, number = _SYMBOL[x.dtype]
    out = torch.empty((n, n), dtype=x.dtype, device=x.device)
    # cuBLAS numbers columns first.  Rows that lie densely are columns of what it sees, x^T [F, n], and so are read
    # transposed; where the columns of x lie densely it sees x itself.  Its lower triangle is our upper one.
    x = x.detach().resolve_neg()
    x = x if _readable(x) or _readable(x.T) else x.contiguous()
    # A single row or column may have any stride.
    operation, stride = (_TRANSPOSED, max(x.stride(0), features)) if _readable(x) else (_AS_STORED, max(x.stride(1), n))
    with _on(x.device):
        status = _function(x.dtype)(
            _handle(),
            _LOWER,
            operation,
            n,
            features,
            ctypes.byref(number(1.0)),
            ctypes.c_void_p(x.data_ptr()),
            stride,
            ctypes.byref(number(0.0)),
            ctypes.c_void_p(out.data_ptr()),
            n,
        )
    if status != 0:
        raise BackendError(f"{name} returned status {status} for {n} rows of {features}. Use backend('torch').")
    return out


def _readable(x: torch.Tensor) -> bool:
    """Whether rows lie densely, and no two of them overlap: what a leading dimension can say."""
    return x.stride(1) == 1 and x.stride(0) >= max(1, x.shape[1])


def _function(dtype: torch.dtype) -> Any:
    """The routine of a type, with its signature."""
    name, number = _SYMBOL[dtype]
    function = getattr(_library(), name)
    pointer, integer = ctypes.POINTER(number), ctypes.c_int64
    function.restype = ctypes.c_int
    function.argtypes = [
        ctypes.c_void_p, ctypes.c_int, ctypes.c_int, integer, integer, pointer,
        ctypes.c_void_p, integer, pointer, ctypes.c_void_p, integer,
    ]  # fmt: skip
    return function


def _on(device: torch.device) -> AbstractContextManager[Any]:
    """A handle belongs to one device, which must be the current one."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def _math_mode(device: torch.device) -> int:
    """cublasMath_t of the handle that torch gives out, and sets as it does; the default's if the library is silent."""
    tell, mode = getattr(_library(), "cublasGetMathMode", None), ctypes.c_int(0)
    if tell is not None:
        with _on(device):
            tell(_handle(), ctypes.byref(mode))
    return mode.value


def _handle() -> ctypes.c_void_p:
    return ctypes.c_void_p(torch.cuda.current_blas_handle())  # type: ignore[no-untyped-call]


@cache
def _conventional(device: torch.device) -> bool:
    """Whether the float64 update keeps the bound of a conventional product."""
    return keeps_the_bound(_by_square, device)


def _by_square(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """a b as a block of the update with the rows of a and the columns of b."""
    return gram(torch.cat([a, b.T]))[: a.shape[0], a.shape[0] :]


@cache
def _library() -> ctypes.CDLL | None:
    """The cuBLAS whose handles torch gives out: the one that this process has loaded, else what lies beside torch."""
    for path in candidates():
        try:
            return ctypes.CDLL(path)
        except OSError:
            continue
    return None


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
