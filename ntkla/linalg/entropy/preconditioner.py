"""A preconditioner for the Hessian of softmax regression: one Kronecker product and the ridge.

`H = sum_i c_i S_i (x) phi_i phi_i^T + p I` is close to `B (x) A + p I` with

    A = Phi^T diag(c_i (1 - ||p_i||^2)) Phi,   B = sum_i c_i S_i / sum_i c_i (1 - ||p_i||^2),

the two averages over the samples of a factor each (1 - ||p_i||^2 is the trace of S_i; exact when all p_i are equal, as
they are before any training).  With A = Q diag(a) Q^T and B = R diag(b) R^T its inverse costs 4 K^2 C + 4 K C^2
operations.  Source of the form: Martens and Grosse, "Optimizing neural networks with Kronecker-factored approximate
curvature" (2015), for one layer and its exact expectation over the labels.
"""

from __future__ import annotations

import torch

from ntkla.linalg.checks import LARGEST_ENTRY
from ntkla.linalg.entropy.objective import EntropyProblem
from ntkla.linalg.precision import NEGLIGIBLE
from ntkla.linalg.solve.formed import formed_normal_matrix
from ntkla.linalg.solve.weights import SampleWeights

# An eigendecomposition of edge m takes the time of about so many m^3 operations of a matrix product.
_EIGEN_OPERATIONS = 30.0


class KroneckerPreconditioner:
    """R -> (B (x) A + p I)^-1 R for R [K, C]; `made` knows where there is none."""

    def __init__(self, normal: torch.Tensor, side: torch.Tensor, penalty: float) -> None:
        a, q = torch.linalg.eigh(normal)
        b, r = torch.linalg.eigh(side)
        curvature = torch.outer(a.to(torch.float64).clamp(min=0.0), b.clamp(min=0.0))
        self._inverse = (1.0 / (curvature + penalty)).to(normal.dtype)
        self._q, self._r = q, r.to(normal.dtype)

    @classmethod
    def made(
        cls, problem: EntropyProblem, probabilities: torch.Tensor, dtype: torch.dtype
    ) -> KroneckerPreconditioner | None:
        """For the probabilities of a point; None where all rows are so confident that no curvature is left to see."""
        counted = probabilities * problem.counts
        traces = (counted * (1.0 - probabilities)).sum(1)
        largest = float(traces.max())
        if not NEGLIGIBLE <= largest <= LARGEST_ENTRY:
            return None
        values = traces.clamp(min=largest * 2.0**-100)
        weights = SampleWeights.of(values, problem.design, torch.zeros_like(probabilities[:, :1]))
        normal = formed_normal_matrix(problem.design, weights, dtype).matrix
        side = (torch.diag(counted.sum(0)) - probabilities.T @ counted) / values.sum()
        if not bool(torch.isfinite(normal).all()) or not bool(torch.isfinite(side).all()):
            return None
        return cls(normal, side, float(problem.penalty.max()))

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """For x [K, C] in the type that it was made for."""
        with torch.autocast(x.device.type, enabled=False):
            turned = (self._q.T @ x @ self._r) * self._inverse
            result: torch.Tensor = self._q @ turned @ self._r.T
        return result


def preconditioner_cost(problem: EntropyProblem) -> float:
    """What making one costs, in products with the Hessian; infinite where applying it costs more than one."""
    n, k, c = float(problem.design.rows), float(problem.design.columns), float(problem.outputs)
    if k + c > n:
        return float("inf")
    return (n * k * k + n * c * c + _EIGEN_OPERATIONS * (k**3 + c**3)) / (4.0 * n * k * c)
