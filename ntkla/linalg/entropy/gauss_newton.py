"""The one-step prediction: the Newton step at the old head, solved to more digits than it is worth."""

from __future__ import annotations

import torch

from ntkla.linalg.entropy.conjugate import newton_step
from ntkla.linalg.entropy.hessian import HessianProduct
from ntkla.linalg.entropy.objective import EntropyProblem
from ntkla.linalg.precision import NEGLIGIBLE, norm_upper

_MOST_PRODUCTS = 400
# Of the residual, in each of so many rounds: a second one makes up for products in float32.
REDUCTION = 1e-3
ROUNDS = 2


def gauss_newton_step(problem: EntropyProblem) -> torch.Tensor:
    """About `-H^-1 G` at X = 0, float64 [K, C]: what the linearised softmax would train.

    Cost: two rounds of some tens of products with the Hessian.
    """
    x = torch.zeros((problem.design.columns, problem.outputs), dtype=torch.float64, device=problem.design.device)
    z = torch.zeros_like(problem.targets) if problem.base is None else problem.base.value
    probabilities = torch.softmax(z, 1)
    gradient = problem.gradient(problem.residual(probabilities), x)
    hessian = HessianProduct(problem)
    hessian.at(probabilities)
    left = gradient
    for _ in range(ROUNDS):
        size = float(norm_upper(left))
        if size <= NEGLIGIBLE:
            break
        found = newton_step(hessian, None, (left / size).to(hessian.dtype), REDUCTION, _MOST_PRODUCTS)
        x = x + found.value.to(torch.float64) * size
        moved = problem.design.matmul(x)
        moved -= (probabilities * moved).sum(1, keepdim=True)
        curved = problem.design.rmatmul(moved * probabilities * problem.counts) + problem.penalty * x
        left = gradient + problem.add_quadratics(curved, x)
    return x
