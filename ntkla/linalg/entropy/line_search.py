"""How far to go along a Newton step: by the slope of the convex objective, which costs no product with the features.

Along X + t V the outputs move by `t Phi V`, so a slope is one softmax and sums over entries.  Slopes say what
differences of the objective cannot near the optimum, where those drown in its rounding: a step that ends at a slope
<= 0 of a convex function lowers it.  Short steps are doubled as well: where the loss falls like exp(-t), a Newton step
gains 1 in t.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from ntkla.linalg.entropy.objective import EntropyProblem
from ntkla.linalg.precision import U64

# The slope that is left, over the one at the start.
_LEFT = 0.3
_MOST_TRIALS = 30
# A slope cannot be told from zero within this many roundings of its terms.
_SLOPE_ROUNDINGS = 16.0


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
    squared = float((problem.penalty * step * step).sum())
    linear = float((problem.linear_terms(x) * step).sum())
    start = float((residual * moved).sum()) + linear
    # An entry of T is off by roundings of its count, however small it is.
    noise = _SLOPE_ROUNDINGS * U64 * float(torch.linalg.vector_norm(problem.counts * moved.abs().amax(1, keepdim=True)))
    enough = max(_LEFT * abs(start), noise)
    low, low_slope, high, high_slope = 0.0, start, None, 0.0
    length = 1.0
    for _ in range(_MOST_TRIALS):
        probabilities = torch.softmax(torch.add(z, moved, alpha=length), 1)
        slope = float((problem.residual(probabilities) * moved).sum()) + linear + length * squared
        if abs(slope) <= enough:
            break
        if slope < 0.0:
            low, low_slope = length, slope
        else:
            high, high_slope = length, slope
        if high is None:
            length *= 2.0
        else:
            share = -low_slope / (high_slope - low_slope)
            length = low + (high - low) * min(0.9, max(0.1, share))
    return Landing(length, probabilities)
