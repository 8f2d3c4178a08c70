"""How rows of features are brought into a form that the kernels read without spilling registers."""

from __future__ import annotations

import torch
import triton

# Rows that start and end at multiples of so many numbers need no masks or addresses of single numbers.
ALIGNED = 16


def loaded_dtype(dtype: torch.dtype, mode: str) -> torch.dtype:
    """The dtype the kernels load: Triton 3.6 cannot feed its float64 matrix instruction from 16-bit loads."""
    return torch.float32 if mode == "float64" and dtype.itemsize == 2 else dtype


def loaded(x: torch.Tensor, mode: str) -> torch.Tensor:
    """`x` in that dtype, without the lazy negation that a pointer does not show."""
    return x.detach().resolve_neg().to(loaded_dtype(x.dtype, mode))


def aligned(x: torch.Tensor) -> bool:
    """True for dense rows of a multiple of 16 numbers, 16-byte aligned, a multiple of 16 numbers below 2^31 apart."""
    row, column = x.stride()
    lengths = all(length % ALIGNED == 0 for length in (x.data_ptr(), x.shape[1], row))
    return lengths and column == 1 and row < 1 << 31


def padded(x: torch.Tensor) -> torch.Tensor:
    """An aligned copy with zeros behind each row, which a product of rows adds as it adds what is masked."""
    rows, features = x.shape
    copy = x.new_empty((rows, triton.cdiv(features, ALIGNED) * ALIGNED))
    copy[:, :features], copy[:, features:] = x, 0.0
    return copy
