"""How far two drifts agree: the one that was forecast and the one that happened, each known within bounds."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch

from ntkla.forgetting.drift_bound import Size, size_of
from ntkla.linalg.precision import SHORT_CHAIN, U64, ratio, rounded_up
from ntkla.linalg.solve.normal import exactly_zero


class Agreement(NamedTuple):
    """A forecast beside a fact, in numbers; the fields are those of `PostMortem`."""

    cosine: float | None
    norm_ratio: float | None
    difference: float
    largest_difference: float
    relative_difference: float
    relative_error: float
    beyond_bounds: int


def agreement(
    forecast: torch.Tensor, forecast_bound: torch.Tensor, fact: torch.Tensor, fact_bound: torch.Tensor
) -> Agreement:
    """Compares two drifts, float64 [n, C] with entries up to 2^250, and the bounds of their errors."""
    distance = forecast - fact
    bound = rounded_up(forecast_bound + fact_bound + U64 * distance.abs())
    apart, expected, happened = size_of(distance, bound), size_of(forecast, forecast_bound), size_of(fact, fact_bound)
    relative = ratio(float(apart.value), float(happened.value))
    moved = bool(expected.value > 0), bool(happened.value > 0)
    # A fact that is called zero, and is not, may be any multiple of what else all but vanishes.
    related = moved[1] or (exactly_zero(forecast) and exactly_zero(fact))
    return Agreement(
        cosine=_cosine(forecast, fact) if all(moved) else None,
        norm_ratio=float(expected.value) / float(happened.value) if moved[1] else None,
        difference=float(apart.value),
        largest_difference=float(distance.abs().max()),
        relative_difference=relative,
        relative_error=_error_of(relative, apart, happened) if related else math.inf,
        beyond_bounds=int((distance.abs() > bound).sum()),
    )


def _error_of(relative: float, apart: Size, happened: Size) -> float:
    """How far the quotient of two sizes may be from the exact one: without a bound when the exact fact may be zero."""
    (part, part_error), (whole, whole_error) = ([float(x) for x in size] for size in (apart, happened))
    most = ratio(part + part_error, max(0.0, whole - whole_error)) * SHORT_CHAIN
    if math.isinf(most):
        return math.inf
    least = max(0.0, part - part_error) / (whole + whole_error) / SHORT_CHAIN
    return max(most - relative, relative - least) * SHORT_CHAIN


def _cosine(x: torch.Tensor, y: torch.Tensor) -> float:
    """Of the angle between two arrays that are not zero; their entries are brought to order 1 first."""
    x, y = x / x.abs().max(), y / y.abs().max()
    length = float(torch.linalg.vector_norm(x)) * float(torch.linalg.vector_norm(y))
    return max(-1.0, min(1.0, float((x * y).sum()) / length))
