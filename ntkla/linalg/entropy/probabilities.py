"""The residual T = diag(c) P - diag(w) Y of softmax regression, with all that rounding can do to it.

Nearly all of it is a change of the outputs, which is cheap (`certificate.py`).  Let z be the computed outputs of a row,
z + d the exact ones, m the largest of them, and q_j = exp(z_j - z_m) as computed.

- `q / sum(q)`, taken exactly, is the softmax of outputs that differ from z + d by d, by the rounding of `z_j - z_m`, at
  most `2 u max|z|`, and by that of exp (`EXP_ULPS`).
- `c P_j` for j other than m is off by t_j of itself, `|t_j| <= t = gamma_(2 depth + 6)`: the sum, the division, c.  T_m
  is not computed that way, because it would lose to cancellation what a confident row is about: rows of T sum to zero,
  `s = sum_j y_j`, and `T_m = -sum_(j != m) T_j`.  So it is as if `P_m = 1 - sum_(j != m) P_j (1 + t_j)`, a probability
  again, and the row is the softmax of outputs changed by about t_j, and at m by at most `t / P_m`.

A change d costs the root of its variance: at most max|d|, and at most `(sum_j P_j d_j^2)^1/2 <= t (1 + 1 / P_m)^1/2`.

What no change of the outputs explains: T_j is off by a rounding of itself and one of `w y_j` where there are weights,
T_m inherits that and adds `gamma_depth` of the sum of |T_j|.  In 2-norm a row is off by at most
`sum_(j != m) ((2 u + gamma_depth) |T_j| + 2 u w y_j)`: it shrinks with the row's own residual.  Outputs more than 700
below the largest are lifted to that, which changes a probability by less than exp(-700).
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from ntkla.linalg.arithmetic.products import pairwise_depth, pairwise_sums
from ntkla.linalg.entropy.objective import EntropyProblem
from ntkla.linalg.precision import TINY64, U64, gamma, norm_upper, rounded_up

# Assumption: torch's exp is within this many units in the last place (SLEEF and CUDA state at most 1, libm 1).
EXP_ULPS = 2
# exp(-700) is 2^-1009: above the smallest normal number with room for a division by C.
_LOWEST = -700.0


class SoftResidual(NamedTuple):
    """What is known about T at some outputs.

    Attributes:
        value: T, float64 [n, C]; rows sum to zero but for the rounding of that sum.
        probabilities: P' rounded, [n, C].
        error: bounds of the 2-norm of the error of each row of T that no change of the outputs explains, [n].
        moved: bounds of the change of each row's outputs that the rest of the rounding amounts to, as the root of its
            variance, [n].
    """

    value: torch.Tensor
    probabilities: torch.Tensor
    error: torch.Tensor
    moved: torch.Tensor


class Softmax(NamedTuple):
    """The softmax of outputs z: rounded, [n, C]; the largest output of each row, [n, 1]; and `SoftResidual.moved`."""

    probabilities: torch.Tensor
    top: torch.Tensor
    moved: torch.Tensor


def softmax_of(z: torch.Tensor) -> Softmax:
    """For float64 z [n, C], taken as exact; entries are within twice `gamma_(2 depth + 6)` of what `moved` explains."""
    largest, top = z.max(1, keepdim=True)
    powers = (z - largest).clamp_(min=_LOWEST).exp_()
    probabilities = powers / pairwise_sums(powers)[:, None]
    reach = torch.maximum(z.amax(1), -z.amin(1))
    relative = softmax_rounding(z.shape[1]) * (1.0 + 1.0 / probabilities.gather(1, top)[:, 0]).sqrt()
    return Softmax(probabilities, top, rounded_up(U64 * (2.0 * reach + 4.0 * EXP_ULPS) + relative + 4 * TINY64))


def softmax_rounding(outputs: int) -> float:
    """`gamma_(2 depth + 6)`."""
    return gamma(2 * pairwise_depth(outputs) + 6)


def soft_residual(problem: EntropyProblem, z: torch.Tensor) -> SoftResidual:
    """T for computed outputs z, float64 [n, C]."""
    outputs = problem.outputs
    probabilities, top, moved = softmax_of(z)
    counted = probabilities * problem.counts
    others = (counted - problem.weighted_targets).scatter_(1, top, 0.0)
    value = others.scatter(1, top, -pairwise_sums(others)[:, None])
    depth = pairwise_depth(outputs)
    error = (2.0 * U64 + gamma(depth)) * pairwise_sums(others.abs())
    if problem.weights is not None:
        error = error + 2.0 * U64 * pairwise_sums(problem.weighted_targets.abs().scatter_(1, top, 0.0))
    # Lifted outputs, and what underflows in products and sums.
    error = error + problem.counts[:, 0] * (4.0 * outputs * 2.0**-1009) + 8 * outputs * TINY64
    return SoftResidual(value, probabilities, rounded_up(error), moved)


def counted_size(problem: EntropyProblem, rows: torch.Tensor) -> float:
    """Upper bound of `(sum_i c_i r_i^2)^1/2` for bounds r of something in each row, [n]."""
    return float(norm_upper(problem.count_roots * rows))
