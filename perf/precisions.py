"""The arithmetics that contenders multiply in: how to ask torch for one, and what its rounding explains."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

# From coarse to fine: what one holds, the next holds exactly.
ARITHMETICS = ("bfloat16", "tf32", "float32", "float64")
TYPE = {
    "bfloat16": torch.bfloat16,
    "tf32": torch.float32,
    "float32": torch.float32,
    "float64": torch.float64,
}
# tf32 keeps 11 bits and may cut instead of rounding, which loses twice as much.
ROUNDOFF = {"bfloat16": 2.0**-8, "tf32": 2.0**-10, "float32": 2.0**-24, "float64": 2.0**-53}
# A sum on tensor cores is cut twice an addition, by up to two roundings each.
CUT = 4
# cuBLAS may split a long sum and add the parts in bfloat16 when that is the result's type.
SPLIT = 3


def asked_for(device_type: str) -> tuple[str, ...]:
    """The arithmetics of matrix products on a device; torch's tf32 exists on CUDA only."""
    return tuple(name for name in ARITHMETICS if name != "tf32" or device_type == "cuda")


@contextmanager
def allowing(arithmetic: str) -> Iterator[None]:
    """Lets torch multiply float32 matrices in tf32 inside the block when that is the arithmetic, and not otherwise."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if arithmetic == "tf32" else "highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def explained(
    stored: torch.dtype, arithmetic: str, *, inputs: int, sums: int, between: int = 0, results: int = 0
) -> float:
    """How far rounding may put an entry off, relative to its magnitude, when a product is computed in an arithmetic.

    Args:
        stored: the type that the inputs come in.
        arithmetic: of `ARITHMETICS`; bfloat16 and tf32 products are summed in float32.
        inputs: how many inputs one product of the result holds, each rounded to the arithmetic if it is narrower.
        sums: roundings that a product meets while it is summed.
        between: how often something that is multiplied further was rounded to the arithmetic.
        results: how often a sum is stored in the arithmetic's type.
    """
    own = str(stored).removeprefix("torch.")
    kept = ARITHMETICS.index(own) <= ARITHMETICS.index(arithmetic)
    wide = ROUNDOFF["float64" if arithmetic == "float64" else "float32"]
    stored_as = ROUNDOFF["float32" if arithmetic == "tf32" else arithmetic]
    results *= SPLIT if arithmetic == "bfloat16" else 1
    rounded = between + (0 if kept else inputs)
    return (1.0 + CUT * sums * wide) * (1.0 + stored_as) ** results * (1.0 + ROUNDOFF[arithmetic]) ** rounded - 1.0
