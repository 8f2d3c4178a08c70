"""Preconditioned conjugate gradients for one Newton step, to a stated reduction of the residual."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch

Linear = Callable[[torch.Tensor], torch.Tensor]


class Step(NamedTuple):
    """A step [K, C], the products with the Hessian that it took, and whether the residual was reduced as asked."""

    value: torch.Tensor
    products: int
    reached: bool


def newton_step(hessian: Linear, inverse: Linear | None, gradient: torch.Tensor, reduction: float, most: int) -> Step:
    """About `-H^-1 gradient`, the residual reduced in the preconditioner's norm; always a direction of descent.

    Args:
        hessian: symmetric positive (semi)definite.
        inverse: symmetric positive definite, near the inverse of `hessian`; None for the identity.
        gradient: [K, C], not zero.
        reduction: of the residual's norm, below 1.
        most: products with the Hessian.
    """
    residual, count = -gradient, 0
    step = torch.zeros_like(residual)
    turned = residual if inverse is None else inverse(residual)
    first = turned.clone()
    direction = turned.clone()
    size = _dot(residual, turned)
    goal, reached, longest = reduction * reduction * size, size, torch.finfo(step.dtype).max
    while count < most:
        count += 1
        image = hessian(direction)
        curvature = _dot(direction, image)
        length = size / curvature if curvature > 0.0 else math.inf
        if not length < longest:
            # Rounding has used up what this precision can tell: the step so far is as good as it gets.
            break
        step.add_(direction, alpha=length)
        residual.add_(image, alpha=-length)
        turned = residual if inverse is None else inverse(residual)
        reached = _dot(residual, turned)
        if not reached > goal:
            break
        direction.mul_(reached / size).add_(turned)
        size = reached
    # Without curvature there is no length, or one that overflows: the first direction descends all the same.
    usable = bool(torch.isfinite(step).all()) and bool(step.any())
    return Step(step if usable else first, count, reached <= goal)


def _dot(x: torch.Tensor, y: torch.Tensor) -> float:
    return float((x * y).sum())
