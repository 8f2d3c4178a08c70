"""Whether this machine's float64 products obey the rounding model: the assumption of `precision.py`, tried once.

The model bounds every entry by itself: `|fl(A B) - A B| <= gamma_K |A| |B|`.  Strassen-like recursions and float64
emulated on one grid for a whole row are accurate in norm only, and lose what is small beside something large.  So the
probe multiplies matrices of integers of 26 bits, scaled by powers of two,

    A = 2^r_i M 2^s_k,   B = 2^-s_k N 2^c_j   (r, s, c = 0 or 40 in blocks and in turns),

whose exact product `2^(r_i + c_j) M N` needs integer arithmetic alone.  A library that changes its ways only for
matrices larger than the probe's is not noticed.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import torch

from ntkla.linalg.arithmetic.products import PIECE, add_square, pieced_matmul
from ntkla.linalg.errors import BackendError
from ntkla.linalg.precision import gamma

Multiply = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]

# Large enough for blocked code, small enough for a millisecond or two.
_EDGE = 256
# Rows whose exact values are computed: integer products are slow, and what breaks the bound breaks it in many rows.
_CHECKED = slice(0, _EDGE, 31)
_SPREAD = 40


def require_conventional_products(device: torch.device) -> None:
    """Raises BackendError when float64 products on `device` break their rounding bound.  Tried once a process."""
    if not conventional_products(device):
        raise BackendError(
            f"{device}: a product of two float64 matrices is less accurate than float64 operations allow, so no error "
            "bound would hold. The linear algebra library emulates float64 or multiplies Strassen-like: switch that "
            "off in its settings, or install a build of PyTorch and SciPy with a conventional BLAS."
        )


@cache
def conventional_products(device: torch.device) -> bool:
    """Whether both kinds of product that ntkla makes in float64 keep their bound on `device`."""
    return keeps_the_bound(pieced_matmul, device) and keeps_the_bound(_by_square, device)


def _by_square(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """a b as a block of the lower triangle of `[b, a^T]^T [b, a^T]`."""
    both = torch.cat([b, a.T], dim=1)
    square = torch.zeros((both.shape[1], both.shape[1]), dtype=both.dtype, device=both.device)
    add_square(square, both)
    return square[b.shape[1] :, : b.shape[1]]


def keeps_the_bound(multiply: Multiply, device: torch.device) -> bool:
    """Whether `multiply` is within `gamma |A| |B|` of the exact product, entry by entry, for the matrices above."""
    left, right = _integers(_EDGE, PIECE, 1), _integers(PIECE, _EDGE, 2)
    rows, inner, columns = (_powers(length) for length in (_EDGE, PIECE, _EDGE))
    a = left.to(torch.float64) * (rows[:, None] * inner)
    b = right.to(torch.float64) * (columns / inner[:, None])
    product = multiply(a.to(device), b.to(device))[_CHECKED].to("cpu") / (rows[_CHECKED, None] * columns)
    exact = left[_CHECKED] @ right  # below 2^59: int64 holds it
    # All terms are positive, so |A| |B| is the exact product itself; nothing near 2^62 is within the bound.
    error = product.nan_to_num(nan=2.0**62).clamp(-(2.0**62), 2.0**62).to(torch.int64) - exact
    return bool((error.abs().to(torch.float64) <= gamma(PIECE + 2) * exact.to(torch.float64)).all())


def _integers(rows: int, columns: int, seed: int) -> torch.Tensor:
    """Integers of 26 bits without a pattern: the middle bits of multiples of an odd number."""
    index = torch.arange(1, rows * columns + 1, dtype=torch.int64, device="cpu") + seed * rows * columns
    return ((index * 0x9E3779B1 >> 8) % 2**25 + 2**25).reshape(rows, columns)


def _powers(length: int) -> torch.Tensor:
    """1 or 2^40: in turns over the first half, 1 over the second."""
    index = torch.arange(length, dtype=torch.int64, device="cpu")
    large = (index < length // 2) & (index % 2 == 0)
    return 1.0 + (2.0**_SPREAD - 1.0) * large.to(torch.float64)
