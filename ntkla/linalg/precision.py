"""The rounding model: unit roundoffs, gamma_n, underflow, and norms that are upper bounds.

Every bound in ntkla is assembled from the functions of this file, so no tolerance is typed in anywhere else.

Model (Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed., sections 2.2 and 3.1).  For a basic
operation in a precision of unit roundoff u, `fl(x op y) = (x op y)(1 + d) + e` with `|d| <= u` and `|e| <= tiny`,
where `tiny` is the smallest *normal* number: taking it instead of the smallest subnormal keeps every bound valid
when the processor flushes subnormals to zero.  An inner product of length n, summed in any order, with or without
fused multiply-add, is off by at most `gamma_n |x|^T |y| + 2 n tiny`, `gamma_n = n u / (1 - n u)`.

Assumption: the BLAS in use multiplies float64 matrices with float64 operations in the conventional way.  One that
emulates float64 or multiplies Strassen-like breaks the model; `probe.py` tries it once a process.
"""

from __future__ import annotations

import math

import torch

from ntkla.linalg import host

UNIT_ROUNDOFF = {
    torch.float64: 2.0**-53,
    torch.float32: 2.0**-24,
    torch.float16: 2.0**-11,
    torch.bfloat16: 2.0**-8,
}
U64 = UNIT_ROUNDOFF[torch.float64]
TINY64 = torch.finfo(torch.float64).tiny

# Fewer than 64 float64 operations on non-negative numbers, and the product with this factor, lose at most this factor:
# (1 + 66 u)(1 - u)^64 > 1.  The even multiple of u is a float64; 65 u would be rounded down.
SHORT_CHAIN = 1.0 + 66 * U64

# An error below this is nothing but the allowance for underflow: it counts as zero when the result is zero.
NEGLIGIBLE = 2.0**-900

# What a caller gets who names no tolerance, relative to the scale that each result states.
DEFAULT_TOLERANCE = 1e-10
# The same under cross-entropy, where exp and log carry the error of their library.
ENTROPY_TOLERANCE = 1e-7
# What a plan asks of each of its points: they differ by percents, and the one that is chosen can be confirmed.
PLAN_TOLERANCE = 1e-6

# Elementwise operations of torch give a thread of the pool at least this many entries (at::internal::GRAIN_SIZE).
_PARALLEL_GRAIN = 2**15


def gamma(n: int, unit_roundoff: float = U64) -> float:
    """Upper bound of `gamma_n = n u / (1 - n u)`; infinite when `n u >= 1`."""
    product = n * unit_roundoff
    if product >= 1.0:
        return math.inf
    return product / (1.0 - product) * SHORT_CHAIN


def rounded_up(value: torch.Tensor) -> torch.Tensor:
    """`value`, a non-negative result of fewer than 64 float64 operations on upper bounds, made an upper bound."""
    return value * SHORT_CHAIN + TINY64


def norm_upper(x: torch.Tensor, dim: int | None = None) -> torch.Tensor:
    """Upper bound of the Euclidean norm of a float64 array, along `dim` or of all entries.

    Args:
        x: float64, any shape.
        dim: the dimension to reduce; None reduces all.

    Returns:
        float64, `x.shape` without `dim` (a scalar for None); infinite where an entry is.

    Cost: one pass, or five when a norm is zero or near the ends of the range, and on devices, where looking which one
    it is takes longer.
    """
    if x.numel() == 0:
        shape = [] if dim is None else [s for i, s in enumerate(x.shape) if i != dim % x.ndim]
        return torch.zeros(shape, dtype=torch.float64, device=x.device)
    length = x.numel() if dim is None else x.shape[dim]
    norm = torch.linalg.vector_norm(x, dim=dim) if host.reads_are_free(x.device) else None
    if norm is None or not bool(((norm > _SQUARES_KEPT) & (norm < _SQUARES_FINITE)).all()):
        norm = _scaled_norm(x, dim)
    bound: torch.Tensor = norm * (1.0 + gamma(length + 9)) + TINY64 * math.sqrt(length)
    return bound


def norm_lower(x: torch.Tensor) -> float:
    """Lower bound of the Euclidean norm of all entries of a float64 array; positive unless they all but vanish."""
    return float(norms_below(norm_upper(x), x.numel()))


def norms_below(upper: torch.Tensor, length: int) -> torch.Tensor:
    """Lower bounds of the norms of so many entries each, of which `upper` is what `norm_upper` found."""
    # The upper bound is at most (1 + rounding)^2 of the norm, and three times its allowance for underflow.
    return ((upper - 4.0 * TINY64 * math.sqrt(length)) * (1.0 - 4.0 * gamma(length + 9))).clamp(min=0.0)


# Within these limits no square overflows, and the squares that vanish lose less than one more rounding.
_SQUARES_KEPT = 2.0**-400
_SQUARES_FINITE = 2.0**500


def _scaled_norm(x: torch.Tensor, dim: int | None) -> torch.Tensor:
    """The norm with the entries divided by their largest magnitude first: squares neither overflow nor all vanish."""
    largest = x.abs().amax() if dim is None else x.abs().amax(dim, keepdim=True)
    # Below `tiny` a quotient would overflow, and flushed arithmetic sees zeros: the caller's last term covers it.
    divisor = largest.clamp(min=TINY64)
    scaled = x / divisor
    total = (scaled * scaled).sum() if dim is None else (scaled * scaled).sum(dim, keepdim=True)
    norm = torch.where(torch.isinf(largest), largest, divisor * total.sqrt())
    return norm if dim is None else norm.squeeze(dim)


def flushes_subnormals() -> bool:
    """True when float arithmetic flushes subnormal numbers to zero, in this thread or in one of torch's pool.

    `torch.set_flush_denormal` sets the calling thread only, and the threads of the pool keep the mode in which they
    were started: the probe is long enough to reach every one of them.
    """
    smallest = torch.finfo(torch.float32).tiny
    probe = torch.full((_PARALLEL_GRAIN * torch.get_num_threads(),), smallest, dtype=torch.float32, device="cpu")
    return bool((probe.mul_(0.5).mul_(2.0) == 0.0).any())


def ratio(bound: float, scale: float) -> float:
    """A bound relative to a scale; zero when the scale is zero and the bound is underflow, infinite on overflow."""
    if scale == 0.0 and bound <= NEGLIGIBLE:
        return 0.0
    return bound / scale if scale > 0 and math.isfinite(bound) and math.isfinite(scale) else math.inf
