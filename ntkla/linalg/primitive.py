"""What every primitive does before it multiplies: its checks, and the types it takes, works in and returns."""

from __future__ import annotations

import torch

from ntkla.linalg import checks
from ntkla.linalg.design import widened
from ntkla.linalg.errors import DtypeError, ShapeError

PRECISIONS = ("auto", "ieee", "float64")


def accumulation_dtype(dtype: torch.dtype, precision: str) -> torch.dtype:
    """The type a primitive multiplies, sums and returns: float64 for float64 or on request, else float32."""
    return torch.float64 if dtype == torch.float64 or precision == "float64" else torch.float32


def primitive_input(name: str, x: object, ndim: int = 2) -> torch.Tensor:
    """`x` when it is a dense floating-point tensor of `ndim` dimensions; values are not looked at.

    Raises:
        DtypeError, ShapeError
    """
    if not isinstance(x, torch.Tensor) or x.dtype not in checks.FLOATING:
        came = x.dtype if isinstance(x, torch.Tensor) else type(x).__name__
        raise DtypeError(f"{name}: expected a float64, float32, bfloat16 or float16 tensor, got {came}.")
    checks.dense(name, x)
    if x.ndim != ndim:
        raise ShapeError(f"{name}: expected {ndim} dimensions, got shape {tuple(x.shape)}.")
    return x


def same_kind(left: str, x: torch.Tensor, right: str, y: torch.Tensor) -> None:
    """Raises DeviceError or DtypeError when two tensors differ in device or element type."""
    checks.one_device(**{left: x, right: y})
    checks.one_dtype(**{left: x, right: y})


def working_dtype(wide: torch.dtype) -> torch.dtype:
    """The type to multiply in: float64 where a lowered float32 precision (TF32, bfloat16 units) breaks the bound."""
    return wide if wide == torch.float64 or _float32_is_float32() else torch.float64


def _float32_is_float32() -> bool:
    try:
        return torch.get_float32_matmul_precision() == "highest"
    except RuntimeError:
        # torch refuses to answer once its newer settings were used: assume that they lowered something.
        return False


def converted(x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """`x` in float64 or float32, exactly where that type is wider."""
    return widened(x) if dtype == torch.float64 else x.to(dtype)
