"""The filters of many points at once: every ridge and every training on the eigenvalues of one decomposition.

The optimum is one more filter, `h(a) = 1 / a`; its gains are those of a solve, `||A^-1|| <= 1 / a_min`.

Plain gradient descent has the closed form `h = (1 - (1 - w)^T) / a`, w = lr a in (0, 2), which needs no recurrence.
Rounding, with the elementary functions within a few units in the last place:

- `w <= 1/2`: `h = -expm1(T log1p(-w)) / a`.  The rounding of w changes the logarithm by at most 2 u of itself, the
  logarithm rounds by 4 u, the product by u, and the condition of `1 - exp(x)` is at most 1 for x <= 0: with expm1 (4 u)
  and the division 12 u of h, taken as 16 u.  For `T w <= u / 2` the filter is `lr T` to a rounding.
- `w > 1/2`: `1 - w` is exact for the rounded w, which is off by at most 2 u, so `(1 - w)^T` is off by at most
  `2 u T max(|1 - w| + 2 u)^(T - 1)`; and by 16 u for the logarithm, product and exponential, because `x exp(-x) <= 1`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch

from ntkla.forgetting.descent.filters import FilterValues, filter_values
from ntkla.forgetting.descent.gains import Gains, gains, peaks
from ntkla.forgetting.descent.training import GradientDescent, Training
from ntkla.forgetting.planning.decomposed import Decomposed
from ntkla.linalg.precision import SHORT_CHAIN, TINY64, U64, rounded_up


class Filters(NamedTuple):
    """The filters of P points on K eigenvalues; `Gains` of `gains.py` for each point.

    Attributes:
        values, errors, forces: float64 [P, K]: h, the bound of its error, and the bound of the force that a unit
            disturbance of the matrix exerts on any step.
        shifted: float64 [P, K], the eigenvalues with their ridge.
        filter, root, push: upper bounds for all eigenvalues, float64 [P].
    """

    values: torch.Tensor
    errors: torch.Tensor
    forces: torch.Tensor
    shifted: torch.Tensor
    filter: torch.Tensor
    root: torch.Tensor
    push: torch.Tensor


def largest_stable_lr(found: Decomposed, ridge: float, training: Training | None) -> float | None:
    """The largest learning rate that is certainly stable where this training's is not; None where it is."""
    if not isinstance(training, GradientDescent):
        return None
    limit = training.largest_stable_lr((found.largest + ridge) * SHORT_CHAIN)
    return limit if training.lr > limit else None


def filters(found: Decomposed, points: Sequence[tuple[float, Training | None]]) -> Filters:
    """The filters of stable points, each a ridge and a training; those of one training are computed together."""
    ridges = found.values.new_tensor([ridge for ridge, _ in points])
    shifted = found.values[None, :] + ridges[:, None]
    values, errors, forces = (torch.empty_like(shifted) for _ in range(3))
    places: dict[Training | None, list[int]] = {}
    for number, (_, training) in enumerate(points):
        places.setdefault(training, []).append(number)
    for training, numbers in places.items():
        rows = torch.tensor(numbers, device=shifted.device)
        a = shifted[rows]
        value = _optimum(a, ridges[rows], found) if training is None else _trained(training, a)
        force = rounded_up(value.value.abs() + value.error) if training is None else peaks(training, a, value)
        values[rows], errors[rows], forces[rows] = value.value, value.error, force
    bounds = [_gains(found, ridge, training) for ridge, training in points]
    return Filters(
        values, errors, forces, shifted, *(shifted.new_tensor(column) for column in zip(*bounds, strict=True))
    )


def _gains(found: Decomposed, ridge: float, training: Training | None) -> Gains:
    low, high = (found.smallest + ridge) / SHORT_CHAIN, (found.largest + ridge) * SHORT_CHAIN
    if training is not None:
        return gains(training, low, high)
    inverse = SHORT_CHAIN / low if low > 0 else math.inf
    return Gains(inverse, math.sqrt(inverse) * SHORT_CHAIN, inverse)


def _optimum(a: torch.Tensor, ridges: torch.Tensor, found: Decomposed) -> FilterValues:
    """1 / a; 0 where an eigenvalue cannot be told from 0 and there is no ridge: the minimum-norm update."""
    # By the ridge itself: a small one vanishes in the sum with an eigenvalue that is nothing but rounding.
    null = (a <= found.value_error) & (ridges[:, None] == 0.0)
    value = torch.where(null, 0.0, 1.0 / torch.where(null, 1.0, a.clamp(min=TINY64)))
    return FilterValues(value, rounded_up(2 * U64 * value))


def _trained(training: Training, a: torch.Tensor) -> FilterValues:
    if isinstance(training, GradientDescent) and training.momentum == 0.0:
        return plain_filter(training, a)
    value, error = filter_values(training, a.flatten())
    return FilterValues(value.view_as(a), error.view_as(a))


def plain_filter(training: GradientDescent, a: torch.Tensor) -> FilterValues:
    """h_T(a) of plain gradient descent for float64 eigenvalues a >= 0 with `lr a < 2`, any shape, with its errors."""
    steps, w = training.steps, training.lr * a
    early = steps * w <= U64 / 2
    safe = torch.where(early, 1.0, a)
    small = -torch.expm1(steps * torch.log1p(-w.clamp(max=0.5))) / safe
    left = 1.0 - w
    size = left.abs().clamp(min=TINY64)
    power = torch.exp(steps * size.log())
    large = (1.0 - torch.where(left < 0, -power, power) if steps % 2 else 1.0 - power) / safe
    slope = 2.0 * torch.exp((steps - 1) * (size + 2 * U64).clamp(max=1.0).log())
    large_error = (2 * U64 * steps * slope + 18 * U64) / safe + 2 * U64 * large.abs()
    gentle = w <= 0.5
    value = torch.where(early, training.lr * steps, torch.where(gentle, small, large))
    error = torch.where(early | gentle, 16 * U64 * value.abs(), large_error)
    return FilterValues(value, rounded_up(error))
