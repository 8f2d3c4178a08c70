"""Products with the Hessian of softmax regression, matrix-free: two products with the features each.

They steer the search for the optimum and prove nothing, so features narrower than float64 are multiplied in float32,
twice as fast, unless their scale could leave its range.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from ntkla.linalg.entropy.objective import EntropyProblem

# Products of features with updates, and of probabilities with them, stay within float32 between these norms.
_FLOAT32_NORMS = (2.0**-40, 2.0**40)


class HessianProduct:
    """V -> H[V] at the probabilities that `at` was last told.

    Attributes:
        dtype: of V and of the products.
    """

    def __init__(self, problem: EntropyProblem) -> None:
        self.problem = problem
        self.dtype = torch.float32 if self._narrow() else torch.float64
        self._probabilities = self._counted = torch.empty(0)

    def widen(self) -> bool:
        """Takes float64 from now on; False when that is what it takes already."""
        if self.dtype == torch.float64:
            return False
        self.dtype = torch.float64
        return True

    def at(self, probabilities: torch.Tensor) -> None:
        """Moves to other probabilities, float64 [n, C]."""
        self._probabilities = probabilities.to(self.dtype)
        self._counted = (probabilities * self.problem.counts).to(self.dtype)
        self._penalty = self.problem.penalty.to(self.dtype)

    def __call__(self, v: torch.Tensor) -> torch.Tensor:
        """H[v] for v [K, C] in `dtype`.  Cost: 4 n K C operations."""
        features, bias = self.problem.design.features, self.problem.design.bias
        weights = v[: features.shape[1]]
        product = torch.zeros_like(weights)
        sums = torch.zeros_like(v[-1])
        with torch.autocast(v.device.type, enabled=False):
            for rows, block in self._blocks():
                moved = block @ weights
                if bias:
                    moved += v[-1]
                moved -= (self._probabilities[rows] * moved).sum(1, keepdim=True)
                moved *= self._counted[rows]
                product.addmm_(block.T, moved)
                if bias:
                    sums += moved.sum(0)
        result = torch.cat([product, sums[None]]) if bias else product
        return self.problem.add_quadratics(result.addcmul_(self._penalty, v), v)

    def _blocks(self) -> Iterator[tuple[slice, torch.Tensor]]:
        """The features in `dtype`: as they are stored where that is their type, else block by block."""
        features = self.problem.design.features
        # Within a block the outputs of a product are still in the cache when they are used.
        step = max(256, min(4096, 2**18 // self.problem.outputs))
        for start in range(0, features.shape[0], step):
            rows = slice(start, start + step)
            yield rows, features[rows].to(self.dtype)

    def _narrow(self) -> bool:
        problem = self.problem
        if problem.design.features.dtype == torch.float64:
            return False
        norms = problem.row_norms[problem.row_norms > 0]
        counts = problem.counts[problem.counts > 0]
        extremes = [float(x) for part in (norms, counts) if part.numel() for x in torch.aminmax(part)]
        penalty = float(problem.penalty.max())
        least, most = _FLOAT32_NORMS
        return penalty < most and all(least < value < most for value in extremes)
