"""The weight of a penalty's pseudo-samples, known beyond float64."""

from __future__ import annotations

from fractions import Fraction

from ntkla.linalg.errors import ArgumentError


def row_weight(weight: float, count: int) -> tuple[float, float]:
    """`c = 2 weight / count` as the sum of two float64 numbers: the nearest one, and the nearest to what that leaves.

    Args:
        weight: of the penalty, finite, >= 0.
        count: `C k`, the modes of the whole kernel.

    Raises:
        ArgumentError: c is beyond float64.
    """
    exact = 2 * Fraction(weight) / count
    try:
        high = float(exact)
    except OverflowError as cause:
        raise ArgumentError(
            f"weight: expected 2 weight / {count} within the range of float64, got the weight {weight:.3g}."
        ) from cause
    return high, float(exact - Fraction(high))
