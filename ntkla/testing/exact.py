"""Floating-point tensors as exact numbers: every entry is an integer times a power of two.

The numbers are read from the stored bits with integer operations, so subnormals survive `torch.set_flush_denormal`,
narrow types are never rounded, and no other ambient state can touch them.
"""

from __future__ import annotations

import torch

from ntkla.linalg.errors import DtypeError, NonFiniteError

# dtype: (integer type of the same width, mantissa bits, exponent bits)
_FORMATS = {
    torch.float64: (torch.int64, 52, 11),
    torch.float32: (torch.int32, 23, 8),
    torch.bfloat16: (torch.int16, 7, 8),
    torch.float16: (torch.int16, 10, 5),
}


def dyadic(x: torch.Tensor) -> list[tuple[int, int]]:
    """The entries of `x` in row-major order as pairs (m, e), each entry being exactly m 2^e.

    Args:
        x: any shape and strides; float64, float32, bfloat16 or float16; finite.

    Raises:
        DtypeError: another element type.
        NonFiniteError: a NaN or an infinity.
    """
    if x.dtype not in _FORMATS:
        raise DtypeError(f"dyadic: expected float64, float32, bfloat16 or float16, got {x.dtype}.")
    integer, mantissa_bits, exponent_bits = _FORMATS[x.dtype]
    bits = x.detach().cpu().contiguous().view(integer).to(torch.int64).flatten()
    mantissa = bits & ((1 << mantissa_bits) - 1)
    exponent = (bits >> mantissa_bits) & ((1 << exponent_bits) - 1)
    if bool((exponent == (1 << exponent_bits) - 1).any()):
        raise NonFiniteError("dyadic: expected finite entries, got a NaN or an infinity.")
    # Exponent field 0 holds the subnormals: no hidden bit, and the scale of field 1.
    mantissa = torch.where(exponent > 0, mantissa | (1 << mantissa_bits), mantissa)
    mantissa = torch.where(bits < 0, -mantissa, mantissa)
    offset = (1 << (exponent_bits - 1)) - 1 + mantissa_bits
    return list(zip(mantissa.tolist(), (exponent.clamp(min=1) - offset).tolist(), strict=True))


def dyadic_number(value: float) -> tuple[int, int]:
    """A Python float as the pair (m, e) with value = m 2^e exactly."""
    return dyadic(torch.tensor([value], dtype=torch.float64, device="cpu"))[0]


def integers(pairs: list[tuple[int, int]]) -> tuple[list[int], int]:
    """Integers k and one shift e with m_i 2^e_i = k_i 2^e for every pair (m_i, e_i)."""
    shift = min((e for m, e in pairs if m), default=0)
    return [m << (e - shift) if m else 0 for m, e in pairs], shift
