"""Fixed-point matrices and exact normal equations in Python's integers."""

from __future__ import annotations

from fractions import Fraction

import torch

from ntkla.linalg.arithmetic.fixed_point import LIMB_BITS, FixedPoint
from ntkla.testing.exact import dyadic

Rows = list[list[Fraction]]


def exactly(x: torch.Tensor) -> Rows:
    """The stored numbers, read from their bits."""
    entries = iter([m * Fraction(2) ** e for m, e in dyadic(x)])
    return [[next(entries) for _ in range(x.shape[1])] for _ in range(x.shape[0])]


def value(x: FixedPoint) -> Rows:
    """What the limbs stand for."""
    _, rows, columns = x.limbs.shape
    whole = [[0] * columns for _ in range(rows)]
    for place, limb in enumerate(x.limbs.tolist()):
        whole = [[a + (b << LIMB_BITS * place) for a, b in zip(*r, strict=True)] for r in zip(whole, limb, strict=True)]
    return [[Fraction(a) * Fraction(2) ** (LIMB_BITS * x.lowest) for a in row] for row in whole]


def normal_equations(
    features: torch.Tensor, targets: torch.Tensor, bias: bool, weights: torch.Tensor | None
) -> tuple[Rows, Rows]:
    """Phi^T D Phi and Phi^T D Y."""
    phi = [row + [Fraction(1)] * bias for row in exactly(features)]
    counts = [Fraction(1)] * len(phi) if weights is None else [row[0] for row in exactly(weights[:, None])]
    left = [[w * x for x in row] for w, row in zip(counts, phi, strict=True)]
    return _product(left, phi), _product(left, exactly(targets))


def _product(left: Rows, right: Rows) -> Rows:
    columns = list(zip(*right, strict=True))
    return [
        [sum((a * b for a, b in zip(x, y, strict=True)), Fraction(0)) for y in columns] for x in zip(*left, strict=True)
    ]
