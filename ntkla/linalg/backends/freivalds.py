"""Freivalds' check: whether a matrix is a product, found out with vectors, in far less time than the product takes.

`P = A B ...` is compared with its factors along random signs v: `P v` against `A (B (... v))`, both in float64.  A
product whose error is bounded entry by entry, `|P - A B ...| <= error |A| |B| ... + lost`, never fails: each row of the
two differs by at most

    (error + gamma) |A| |B| ... 1  +  m lost  +  what underflows,

gamma counting the roundings of the check itself (Higham, Accuracy and Stability of Numerical Algorithms, section 3.1:
one inner product after another).  An entry that is wrong by more than twice that is noticed with a probability of at
least 1/2 by each vector, whatever else is wrong in its row: of the two signs that its column can get, one moves the row
by its error or more.  Source: Freivalds, "Probabilistic machines can use less running time" (1977).

What underflows: a product of two numbers, or a subnormal number that flushed arithmetic drops, loses at most `tiny` of
the type that is multiplied in, times the other factor.  In row i of A B, with m columns, that is at most
`tiny (m (k + sum_j |a_ij|) + sum |B|)`, and A carries what B had lost.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch

from ntkla.linalg.design import DesignMatrix, widened
from ntkla.linalg.precision import SHORT_CHAIN, TINY64, gamma

# Entries that are widened at a time: on the CPU what stays in a cache, else enough to keep a device busy.
_CACHED, _BUSY = 2**17, 2**24


class Factor(NamedTuple):
    """A factor of a product: features, which may have a bias, or their transpose."""

    design: DesignMatrix
    transposed: bool = False


class Expected(NamedTuple):
    """What a product times vectors must be: float64 [n, t], and by how much a right one may differ, [n, 1].

    Rows that cannot be judged, because they or their bound overflow, are allowed to differ by infinity.
    """

    value: torch.Tensor
    allowed: torch.Tensor


Reference = Callable[[torch.Tensor], Expected]


class _Product(NamedTuple):
    """Some of the last factors, times vectors: value [k, t]; of the magnitudes, times ones: sizes, dropped [k, 1]."""

    value: torch.Tensor
    sizes: torch.Tensor
    dropped: torch.Tensor
    roundings: int
    peak: torch.Tensor


def signs(columns: int, vectors: int, seed: int, device: torch.device) -> torch.Tensor:
    """Random signs [columns, vectors], float64, from a generator of their own."""
    generator = torch.Generator("cpu").manual_seed(seed)
    drawn = torch.randint(0, 2, (columns, vectors), generator=generator, device="cpu")
    return (2 * drawn - 1).to(device, torch.float64)


def product_reference(
    factors: tuple[Factor | torch.Tensor, ...],
    error: float,
    *,
    lost: float = 0.0,
    dtype: torch.dtype = torch.float64,
) -> Reference:
    """What the product of a chain of factors must be.

    Args:
        factors: [n, k], [k, l], ..., [., m]; a vector [k] stands for a diagonal matrix.
        error, lost: the claim, entry by entry: `|product - exact| <= error |A| |B| ... + lost`, beside what underflows.
        dtype: the type in which it was multiplied.

    Cost: `2 t + 4` operations for each entry of the factors, block by block in float64.
    """
    limits = torch.finfo(dtype)

    def reference(v: torch.Tensor) -> Expected:
        ones = torch.ones_like(v[:, :1])
        product = _Product(v, ones, torch.zeros_like(ones), v.shape[0], ones[0, 0])
        for factor in reversed(factors):
            product = _through(factor, product, v.shape[0], float(limits.tiny))
        own = gamma(2 * product.roundings + 4)
        allowed = (error + 2.0 * own * (1.0 + error)) * product.sizes * (1.0 + own)
        ends = 2.0 * product.dropped + v.shape[0] * (lost * (1.0 + own) + 4.0 * TINY64)
        allowed = (allowed + ends) * SHORT_CHAIN
        # Beyond the range of the type a sum may overflow on its way, though it need not.
        judged = torch.isfinite(allowed) & (product.peak < limits.max / 4)
        return Expected(product.value, torch.where(judged, allowed, math.inf))

    return reference


def _through(factor: Factor | torch.Tensor, right: _Product, columns: int, tiny: float) -> _Product:
    """One factor more on the left."""
    if isinstance(factor, torch.Tensor):
        weights = widened(factor)[:, None]
        sizes = weights.abs() * right.sizes
        lost = 4.0 * tiny * (columns * (1.0 + weights.abs()) + right.sizes)
        dropped = weights.abs() * right.dropped + lost
        return _Product(weights * right.value, sizes, dropped, right.roundings + 2, _peak(right, sizes))
    design, transposed = factor
    rows, inner = (design.columns, design.rows) if transposed else (design.rows, design.columns)
    value = right.value.new_zeros((rows, right.value.shape[1]))
    # |A| times the sizes, what was lost, and ones, which makes the row sums of |A|.
    beside = torch.cat([right.sizes, right.dropped, torch.ones_like(right.sizes)], 1)
    sums, blocks = right.value.new_zeros((rows, 3)), 0
    for part, block in design.blocks(_rows_at_once(design.columns, value.device)):
        if transposed:
            value += block.T @ right.value[part]
            sums += block.abs().T @ beside[part]
        else:
            value[part], sums[part] = block @ right.value, block.abs() @ beside
        blocks += 1
    sizes = sums[:, :1]
    lost = 4.0 * tiny * (columns * (inner + sums[:, 2:]) + right.sizes.sum())
    return _Product(value, sizes, sums[:, 1:2] + lost, right.roundings + inner + blocks, _peak(right, sizes))


def _peak(right: _Product, sizes: torch.Tensor) -> torch.Tensor:
    return torch.maximum(right.peak, sizes.amax())


@dataclass(frozen=True)
class ProductCheck:
    """What random vectors found out about a product.

    Attributes:
        rows: the rows that are certainly wrong, ascending; all of them that hold a NaN or an infinity among these.
        largest_ratio: the largest difference over what is allowed, among finite rows.
        trials: how many vectors were used.
    """

    rows: tuple[int, ...]
    largest_ratio: float
    trials: int

    @property
    def agrees(self) -> bool:
        """True when no row was found wrong."""
        return not self.rows

    def __str__(self) -> str:
        named = ", ".join(map(str, self.rows[:5])) + (", ..." if len(self.rows) > 5 else "")
        found = f"{len(self.rows)} rows are wrong ({named})" if self.rows else "no row is wrong"
        return f"{found}; {self.trials} vectors, difference at most {self.largest_ratio:.3g} of what is allowed"


def compared(product: torch.Tensor, v: torch.Tensor, expected: Expected) -> ProductCheck:
    """Compares a product [n, m] with what it times v must be.  Reads one number from the device if all is well."""
    value, allowed = expected
    difference = torch.empty_like(value)
    step = _rows_at_once(product.shape[1], product.device)
    for start in range(0, product.shape[0], step):
        rows = slice(start, start + step)
        difference[rows] = (product[rows].to(torch.float64) @ v - value[rows]).abs_()
    # An infinity or a NaN is below no finite number; beyond the range of the type they may be right.
    wrong = ~((difference <= allowed) | torch.isinf(allowed)).all(1)
    ratios = torch.where(torch.isfinite(difference), difference / allowed, 0.0)
    if not ratios.numel():
        return ProductCheck((), 0.0, v.shape[1])
    count, largest = torch.stack([wrong.sum().to(torch.float64), ratios.amax()]).tolist()
    named = torch.nonzero(wrong).flatten().tolist() if count else []
    return ProductCheck(tuple(named), largest, v.shape[1])


def _rows_at_once(columns: int, device: torch.device) -> int:
    return max(1, (_CACHED if device.type == "cpu" else _BUSY) // columns)
