"""Freivalds' check of a product, for tests: whether a matrix is a product, in far less time than the product takes.

The mathematics and its bound are in `ntkla.linalg.backends.freivalds`, which checks kernels in production too.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch

from ntkla.linalg import checks
from ntkla.linalg.backends.freivalds import Factor, ProductCheck, compared, product_reference, signs
from ntkla.linalg.backends.primitive import primitive_input
from ntkla.linalg.design import DesignMatrix
from ntkla.linalg.errors import ArgumentError, ScaleError, ShapeError

_TRIALS = 20


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

    Cost: `2 trials` operations for each entry of the product and of the factors, block by block in float64.
    Deterministic for fixed inputs, device and versions.
    """
    trials = checks.integer("trials", trials, least=1)
    error, lost = _claimed("error", error), _claimed("lost", lost)
    computed = primitive_input("product", product).detach()
    given = [checks.matrix(f"factors[{i}]", factor) for i, factor in enumerate(factors)]
    _one_chain(computed, given)
    v = signs(computed.shape[1], trials, seed, computed.device)
    reference = product_reference(tuple(Factor(DesignMatrix(factor)) for factor in given), error, lost=lost)
    expected = reference(v)
    if not bool(torch.isfinite(expected.allowed).all()):
        raise ScaleError("check_product: the product of the factors' magnitudes overflows. Scale them down.")
    return compared(computed, v, expected)


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
