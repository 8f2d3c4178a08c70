"""The least curvature of softmax regression with a bias that no ridge holds.

For an update with weights V and a bias b that sums to zero, `h = sum_i c_i Var_p(phi_i V + b) + ridge ||V||_F^2`.  The
root of the first sum is a seminorm, so with `M = sum_i c_i ||phi_i||^2` and l the least eigenvalue of
`B = sum_i c_i (diag(p_i) - p_i p_i^T)` on vectors that sum to zero,

    sqrt(l) ||b|| <= (sum_i c_i Var_p(b))^1/2 <= sqrt(h) + sqrt(M / 2) ||V||,   ||V|| <= sqrt(h / ridge),

hence `||V||^2 + ||b||^2 <= h / m` with `1 / m = 1 / ridge + (1 + sqrt(M / (2 ridge)))^2 / l`.  A class that no
sample has is not held back at all: its probability, and l with it, goes to zero.
"""

from __future__ import annotations

import math

import torch

from ntkla.linalg.arithmetic.products import pairwise_depth
from ntkla.linalg.certificates import full_enclosure
from ntkla.linalg.design import DesignMatrix
from ntkla.linalg.entropy.objective import EntropyProblem
from ntkla.linalg.entropy.probabilities import SoftResidual
from ntkla.linalg.precision import SHORT_CHAIN, gamma
from ntkla.linalg.solve.normal import BoundedMatrix


def free_curvature(problem: EntropyProblem, soft: SoftResidual, delta: float) -> float:
    """Lower bound of m at the exact outputs; 0 where none is found.

    Args:
        problem: with a free bias and a ridge.
        soft: probabilities at the computed outputs.
        delta: bound of `(sum_i c_i max(max_j d_ij^2, ||d_i||^2 / 2))^1/2`, d how far those are from the exact ones.

    Cost: n C^2 + 20 C^3 operations.
    """
    ridge, c = problem.least_penalty, problem.outputs
    if c == 1:
        return ridge
    matrix, error = _second_moment(problem, soft)
    # Vectors that do not sum to zero are given the largest eigenvalue, so that the least of all is the one meant.
    top = float(matrix.diagonal().sum())
    lifted = matrix + top / c
    values, vectors = torch.linalg.eigh(lifted)
    enclosure = full_enclosure(BoundedMatrix(lifted, error + 4 * gamma(4) * top), vectors, values)
    least = (float(values[0]) - enclosure.value_error) / SHORT_CHAIN
    # Outputs that are off by d change a variance by factors of at least exp(-2 max|d|).
    positive = problem.count_roots[problem.count_roots > 0]
    off = 2.0 * math.sqrt(2.0) * delta / float(positive.min()) * SHORT_CHAIN
    least *= 1.0 - off
    if not least > 0.0:
        return 0.0
    sideways = 1.0 + problem.spread * math.sqrt(0.5 / ridge)
    return 1.0 / ((1.0 / ridge + sideways**2 / least) * SHORT_CHAIN)


def _second_moment(problem: EntropyProblem, soft: SoftResidual) -> tuple[torch.Tensor, float]:
    """B in float64, symmetric, and the bound of the 2-norm of its error for the exact P'."""
    p, counts = soft.probabilities, problem.counts
    counted = p * counts
    product = DesignMatrix(p).rmatmul(counted)
    matrix = torch.diag(counted.sum(0)) - (product + product.T) / 2.0
    total = float(counts.sum())
    terms = problem.design.rows + 4 * pairwise_depth(problem.outputs) + 24
    return matrix, 2.0 * gamma(terms) * total * SHORT_CHAIN
