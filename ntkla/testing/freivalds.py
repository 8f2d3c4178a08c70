"""Freivalds' check: whether a matrix is a product, found out with vectors, in far less time than the product takes.

`P = A B ...` is compared with its factors along random signs v: `P v` against `A (B (... v))`, both in float64.  A
product whose error is bounded entry by entry, `|P - A B ...| <= error |A| |B| ... + lost`, never fails: each row of the
two differs by at most

    (error + gamma) |A| |B| ... 1  +  m lost  +  what float64 underflows,

gamma counting the roundings of the check itself (Higham, Accuracy and Stability of Numerical Algorithms, section 3.1:
one inner product after another).  An entry that is wrong by more than twice that is noticed with a probability of at
least 1/2 by each vector, whatever else is wrong in its row: of the two signs that its column can get, one moves the row
by its error or more.  Source: Freivalds, "Probabilistic machines can use less running time" (1977).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch

from ntkla.linalg import checks
from ntkla.linalg.backends.primitive import primitive_input
from ntkla.linalg.design import widened
from ntkla.linalg.errors import ArgumentError, ScaleError, ShapeError
from ntkla.linalg.precision import SHORT_CHAIN, TINY64, gamma

_TRIALS = 20


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


def check_product(
    product: torch.Tensor,
    factors: Sequence[torch.Tensor],
    *,
    error: float,
    lost: float = 0.0,
    trials: int = _TRIALS,
    seed: int = 0,
) -> ProductCheck:
    """Compares a computed product with its factors by Freivalds' check.

    Args:
        product: [n, m], what was computed, of any supported dtype.
        factors: [n, k], [k, l], ..., [., m], of any supported dtypes, on its device.  A bias is a column of ones.
        error: the claim, entry by entry: `|product - exact| <= error |A| |B| ... + lost`; such as `gamma_k` of the
            primitive that made it.
        lost: what underflowed in an entry at most.
        trials: vectors; an error that is more than twice what is allowed escapes with a probability of `2^-trials`.
        seed: of their signs.

    Returns:
        ProductCheck.  A product within its claim always agrees.

    Raises:
        DtypeError, ShapeError, DeviceError, ArgumentError
        NonFiniteError, ScaleError: of factors, or of what their product may reach.

    Cost: `2 trials` operations for each entry of the product and of the factors; each in float64 at a time.
    Deterministic for fixed inputs, device and versions.
    """
    trials = checks.integer("trials", trials, least=1)
    error, lost = _claimed("error", error), _claimed("lost", lost)
    computed = primitive_input("product", product)
    given = [checks.matrix(f"factors[{i}]", factor) for i, factor in enumerate(factors)]
    _one_chain(computed, given)
    columns = computed.shape[1]
    signs = torch.randint(0, 2, (columns, trials), generator=torch.Generator("cpu").manual_seed(seed), device="cpu")
    v = (2 * signs - 1).to(computed.device, torch.float64)
    expected, sizes = v, torch.ones((columns, 1), dtype=torch.float64, device=v.device)
    dropped, roundings = torch.zeros_like(sizes), columns
    for factor in reversed(given):
        wide, inner = widened(factor), factor.shape[1]
        magnitudes = wide.abs()
        # Products that underflow, and subnormal numbers on either side that flushed arithmetic takes for zeros.
        ends = inner + magnitudes.sum(1, keepdim=True) + sizes.sum()
        dropped = magnitudes @ dropped + 4.0 * TINY64 * ends
        expected, sizes = wide @ expected, magnitudes @ sizes
        roundings += inner
    own = gamma(2 * roundings + 4)
    allowed = (error + 2.0 * own * (1.0 + error)) * sizes * (1.0 + own)
    allowed = (allowed + 2.0 * dropped + columns * (lost * (1.0 + own) + 4.0 * TINY64)) * SHORT_CHAIN
    if not bool(torch.isfinite(allowed).all()):
        raise ScaleError("check_product: the product of the factors' magnitudes overflows. Scale them down.")
    difference = (computed.detach().to(torch.float64) @ v - expected).abs()
    right = difference <= allowed  # False for NaN
    ratios = (difference / allowed)[torch.isfinite(difference)]
    wrong = torch.nonzero(~right.all(1)).flatten().tolist()
    return ProductCheck(tuple(wrong), float(ratios.max()) if ratios.numel() else 0.0, trials)


def _claimed(name: str, value: object) -> float:
    number = checks.number(name, value)
    if number < 0:
        raise ArgumentError(f"{name}: expected a number >= 0, got {value!r}.")
    return number


def _one_chain(product: torch.Tensor, factors: list[torch.Tensor]) -> None:
    shapes = [tuple(factor.shape) for factor in factors]
    fits = bool(factors) and all(x[1] == y[0] for x, y in pairwise(shapes))
    if not fits or product.shape != (shapes[0][0], shapes[-1][1]):
        raise ShapeError(
            f"check_product: expected a product [n, m] and its factors [n, k], ..., [l, m], got {tuple(product.shape)} "
            f"and {shapes}."
        )
    checks.one_device(product=product, **{f"factors[{i}]": factor for i, factor in enumerate(factors)})
