"""How far to go along a Newton step: by the slope of the convex objective, which costs no product with the features.

Along X + t V the outputs move by `t Phi V`, so a slope is one softmax and sums over entries.  Slopes say what
differences of the objective cannot near the optimum, where those drown in its rounding: a step that ends at a slope
<= 0 of a convex function lowers it.  One that ends beyond the least value must not raise it by more than rounding.
Short steps are doubled as well: where the loss falls like exp(-t), a Newton step gains 1 in t.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch

from ntkla.linalg.entropy.objective import EntropyProblem
from ntkla.linalg.precision import U64

# The slope that is left, over the one at the start.
_LEFT = 0.3
_MOST_TRIALS = 40
# A slope cannot be told from zero within this many roundings of its terms, and a value likewise.
_ROUNDINGS = 16.0
# Outputs that move by more change all probabilities: the model that the step comes from knows nothing of that.
_FARTHEST = 64.0


class Landing(NamedTuple):
    """Where a search ended: the length, and the softmax of the outputs there."""

    length: float
    probabilities: torch.Tensor


def search(
    problem: EntropyProblem,
    x: torch.Tensor,
    z: torch.Tensor,
    residual: torch.Tensor,
    step: torch.Tensor,
    moved: torch.Tensor,
) -> Landing:
    """A length t > 0 at which the slope along the step is at most 0.3 of what it was.

    Args:
        problem: f.
        x: the current update [K, C].
        z, residual: outputs and residual T there, [n, C].
        step, moved: V [K, C] and Phi V [n, C].
    """
    squared = float((problem.add_quadratics(problem.penalty * step, step) * step).sum())
    linear = float((problem.linear_terms(x) * step).sum())
    start = float((residual * moved).sum()) + linear
    # An entry of T is off by roundings of its count, however small it is.
    reach = moved.abs().amax(1, keepdim=True)
    noise = _ROUNDINGS * U64 * float(torch.linalg.vector_norm(problem.counts * reach))
    # A slope that does not fall is rounding: any length will do.
    enough = max(_LEFT * abs(start), noise) if start < 0.0 else math.inf
    low, low_slope, high, high_slope = 0.0, start, math.inf, 0.0
    length = min(1.0, _FARTHEST / max(float(reach.max()), _FARTHEST))
    for _ in range(_MOST_TRIALS):
        probabilities = torch.softmax(torch.add(z, moved, alpha=length), 1)
        slope = float((problem.residual(probabilities) * moved).sum()) + linear + length * squared
        if abs(slope) <= enough and (slope <= noise or not _raised(problem, z, moved, length, linear, squared)):
            break
        if slope < 0.0:
            low, low_slope = length, slope
        else:
            high, high_slope = length, slope if math.isfinite(slope) else math.inf
        if math.isinf(high):
            length *= 2.0
        else:
            # Where slopes are rounding they may agree, or fall: nothing is known but the ends.
            rise = high_slope - low_slope
            share = -low_slope / rise if 0.0 < rise < math.inf else 0.5
            length = low + (high - low) * min(0.9, max(0.1, share))
    return Landing(length, probabilities)


def _raised(
    problem: EntropyProblem, z: torch.Tensor, moved: torch.Tensor, length: float, linear: float, squared: float
) -> bool:
    """Whether the objective is larger at this length than at 0, by more than its own rounding."""
    there = torch.add(z, moved, alpha=length)
    losses = problem.counts[:, 0] * (there.logsumexp(1) - z.logsumexp(1))
    gained = length * (problem.weighted_targets * moved).sum(1)
    change = float((losses - gained).sum()) + length * linear + 0.5 * length * length * squared
    size = problem.counts[:, 0] * (z.abs().amax(1) + there.abs().amax(1) + 1.0)
    return change > _ROUNDINGS * U64 * float(size.sum())
