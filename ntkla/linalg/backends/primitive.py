"""What every primitive does before it multiplies: its checks, and the types it takes, works in and returns."""

from __future__ import annotations

import torch

from ntkla.linalg import checks
from ntkla.linalg.backends.choices import ever_taken
from ntkla.linalg.design import widened
from ntkla.linalg.errors import DtypeError, ShapeError

PRECISIONS = ("auto", "ieee", "bf16", "float64")
_HALF = (torch.bfloat16, torch.float16)


def chosen_precision(precision: str, x: torch.Tensor, also: tuple[str, ...] = ()) -> str:
    """`precision` when it is one, or one of those that only this primitive has, and one for inputs like `x`.

    Raises:
        ArgumentError: for another word.
        DtypeError: for "bf16" with inputs whose products are not exact in float32, for "split" with other than float32.
    """
    checks.choice("precision", precision, PRECISIONS + also)
    if precision == "bf16" and x.dtype not in _HALF:
        raise DtypeError(f"precision 'bf16': expected bfloat16 or float16 arrays, got {x.dtype}. Use 'auto'.")
    if precision == "split" and x.dtype != torch.float32:
        raise DtypeError(f"precision 'split': expected float32 arrays, got {x.dtype}. Use 'auto'.")
    return precision


def arithmetic(dtype: torch.dtype, precision: str) -> str:
    """The mode of a kernel for inputs of a type: "float64", "ieee" (float32), or "bf16" (exact float32 products).

    "split" (float32 as two planes of float16) where it is asked for; for "auto" see `dispatch.at_best`.
    """
    if accumulation_dtype(dtype, precision) == torch.float64:
        return "float64"
    if precision == "split":
        return "split"
    return "bf16" if dtype in _HALF and precision != "ieee" else "ieee"


def gram_roundings(features: int, dtype: torch.dtype, precision: str, primitive: str = "gram") -> int:
    """How many roundings, in the returned type, an entry of `gram` meets at most, whatever implementation runs.

    A sum of F products with the bias meets F + 1 in any order.  In mode "bf16" tensor cores may cut what they add
    instead of rounding it, twice a rounding: `csrc_triton.gram` counts up to 2.5 F + 5 of them in a block of 128
    features or less, 320 in a longer row, and one for each block.  In mode "split" `csrc_triton.split_gram` counts so
    in blocks of 64, and 11 for what planes lose, for where their products meet and for the bias; torch, from planes,
    F + 5.  "auto" counts what "split" does once a row of the table takes it for this primitive, on any device.
    """
    auto = precision == "auto" and arithmetic(dtype, precision) == "ieee" and ever_taken(primitive, "split", dtype)
    if precision == "split" or auto:
        return max(features + 5, min(3 * features, 160) + features // 64 + 15)
    if arithmetic(dtype, precision) != "bf16":
        return features + 1
    return max(features + 1, min(3 * features, 320) + 8)


def normal_roundings(samples: int, features: int) -> int:
    """How many roundings, in the returned type, an entry of `normal_matmul` meets at most, whatever runs.

    Sums of F + 1 and n terms in any order, the factor of the sample, the two products, and the rounding of a sum that
    was kept in float64.
    """
    return samples + features + 4


def split_roundings(samples: int, features: int) -> tuple[int, int]:
    """`normal_roundings` of `x^T (d (x w))` in two: those of `d (x w)`, and those of `x^T` times what that came to."""
    return features + 2, samples + 2


def accumulation_dtype(dtype: torch.dtype, precision: str) -> torch.dtype:
    """The type a primitive multiplies, sums and returns: float64 for float64 or on request, else float32."""
    return torch.float64 if dtype == torch.float64 or precision in ("float64", "exact") else torch.float32


def primitive_input(name: str, x: object, ndim: int = 2) -> torch.Tensor:
    """`x` when it is a dense floating-point tensor of `ndim` dimensions; values are not looked at.

    Raises:
        DtypeError, ShapeError
    """
    if not isinstance(x, torch.Tensor) or x.dtype not in checks.FLOATING:
        came = x.dtype if isinstance(x, torch.Tensor) else type(x).__name__
        remedy = "Convert it with .to(torch.float32)" if isinstance(x, torch.Tensor) else "Use torch.as_tensor(...)"
        raise DtypeError(f"{name}: expected a float64, float32, bfloat16 or float16 tensor, got {came}. {remedy}.")
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
    if x.dtype == dtype:
        return x
    return widened(x) if dtype == torch.float64 else x.to(dtype)
