"""Everyone who computes a layer's tangent kernel in suite `layer_ntk`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch

import ntkla
from ntkla.linalg.layers.layer_cost import LayerShape, layer_cost
from ntkla.linalg.layers.layer_error import summed_terms
from ntkla.linalg.precision import UNIT_ROUNDOFF, gamma
from perf.harness import Contender, Work
from perf.precisions import TYPE, allowing, asked_for, explained
from perf.suites.primitives import RESULT, compiled, gigabytes, most_gigabytes, ours

GRADIENTS = "per-sample gradients, einsum"
JACOBIAN = "torch.func jacrev"
MOST_MATERIALISED = {"cpu": 1.5e11, "cuda": 1e14}  # operations that multiplying the Jacobian may take


@dataclass(frozen=True, eq=False)
class Problem:
    """The factors of one parameter: a [n, T, F_in], d [n, C, T, F_out]."""

    a: torch.Tensor
    d: torch.Tensor

    @property
    def shape(self) -> LayerShape:
        block = self.d.shape[:3]
        return LayerShape(*block, *block, self.a.shape[2], self.d.shape[3])

    @property
    def own(self) -> str:
        """The arithmetic of somebody who thinks no further."""
        return "float64" if self.a.dtype == torch.float64 else "float32"

    def work(self, arithmetic: str) -> Work:
        """The cheaper route, its pairs of samples counted once; factors read and the kernel written once."""
        cost, rows = layer_cost(self.shape), self.shape.samples * self.shape.outputs
        size = self.a.nbytes + self.d.nbytes + rows**2 * (8.0 if arithmetic == "float64" else 4.0)
        # Both counts are multiplications of all pairs: half of them, each with its addition.
        return Work(min(cost.gram, cost.materialised), size, arithmetic)

    def explained(self, arithmetic: str, sums: int) -> float:
        # Stored in 16 bits: both Gram matrices and their product.
        between = 3 if arithmetic == "bfloat16" else 0
        return explained(self.a.dtype, arithmetic, inputs=4, sums=sums, between=between, results=1)


def contenders(problem: Problem, device: torch.device, compiling: bool) -> tuple[list[Contender], dict[str, str]]:
    """The contenders on a device, and the reasons of those that are left out."""
    shape, dtype, kind = problem.shape, problem.a.dtype, device.type

    def digits(precision: str) -> float:
        terms = summed_terms([shape], dtype, precision, "auto", symmetric=True)
        return gamma(terms, UNIT_ROUNDOFF[RESULT[precision]])

    def call(precision: str) -> torch.Tensor:
        return _square(ntkla.layer_ntk(problem.a, problem.d, precision=precision))

    found, skipped = ours("layer_ntk", call, problem.a, kind, problem.work, digits)
    products, refused = _gram_products(problem, kind, compiling, most_gigabytes(device))
    gradients, refused_too = _materialised(problem, kind, most_gigabytes(device))
    return [*found, *products, *gradients], {**skipped, **refused, **refused_too}


def _square(kernel: torch.Tensor) -> torch.Tensor:
    """[n, C, n, C] as a matrix."""
    return kernel.flatten(2, 3).flatten(0, 1)


def _gram_products(
    problem: Problem, kind: str, compiling: bool, limit: float
) -> tuple[list[Contender], dict[str, str]]:
    """The formula as written: two Gram matrices of all positions, multiplied and summed."""
    s = problem.shape
    sums = s.inputs + s.deltas + s.positions**2 + 4
    found, skipped = [], {}
    for arithmetic in asked_for(kind):
        if problem.a.dtype == torch.float64 and arithmetic not in ("float64", "float32"):
            continue
        name = f"torch, Gram products, {arithmetic}"
        needed = gigabytes(float(s.samples * s.outputs * s.positions) ** 2, TYPE[arithmetic])
        if needed > limit:
            skipped[name] = f"one of its matrices needs {needed:,.0f} GB"
            continue
        call = partial(_in, arithmetic, problem)
        found.append(Contender(name, call, problem.work(arithmetic), digits=problem.explained(arithmetic, sums)))
        if compiling and arithmetic == problem.own:
            arguments = (TYPE[arithmetic], problem.a, problem.d)
            found.append(
                compiled(_multiplied, arguments, problem.work(arithmetic), problem.explained(arithmetic, sums))
            )
    return found, skipped


def _in(arithmetic: str, problem: Problem) -> torch.Tensor:
    with allowing(arithmetic):
        return _multiplied(TYPE[arithmetic], problem.a, problem.d)


def _multiplied(dtype: torch.dtype, a: torch.Tensor, d: torch.Tensor) -> torch.Tensor:
    n, outputs, positions, _ = d.shape
    activations, deltas = a.to(dtype).flatten(0, 1), d.to(dtype).flatten(0, 2)
    product = (deltas @ deltas.T).view(n, outputs, positions, n, outputs, positions)
    product *= (activations @ activations.T).view(n, 1, positions, n, 1, positions)
    return _square(product.sum(dim=(2, 5)))


def _materialised(problem: Problem, kind: str, limit: float) -> tuple[list[Contender], dict[str, str]]:
    """Jacobians in memory, multiplied: by hand from the factors, and as the tutorials of torch.func do."""
    s, arithmetic = problem.shape, problem.own
    weights, rows = s.inputs * s.deltas, s.samples * s.outputs
    needed, operations = gigabytes(float(rows) * weights, TYPE[arithmetic]), 2.0 * rows**2 * weights
    routes: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
        GRADIENTS: _gradients,
        JACOBIAN: _jacobian,
    }
    if needed > limit:
        return [], dict.fromkeys(routes, f"the Jacobian needs {needed:,.0f} GB")
    if operations > MOST_MATERIALISED[kind]:
        return [], dict.fromkeys(routes, f"takes {operations:.1g} operations")
    digits = problem.explained(arithmetic, 2 * s.positions + weights + 4)

    def call(formed: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> torch.Tensor:
        rows = formed(problem.a.to(TYPE[arithmetic]), problem.d.to(TYPE[arithmetic])).flatten(2).flatten(0, 1)
        return rows @ rows.T

    return [
        Contender(name, partial(call, formed), problem.work(arithmetic), digits=digits)
        for name, formed in routes.items()
    ], {}


def _gradients(a: torch.Tensor, d: torch.Tensor) -> torch.Tensor:
    return torch.einsum("itf,ictg->icfg", a, d)


def _jacobian(a: torch.Tensor, d: torch.Tensor) -> torch.Tensor:
    """The derivative of `f_c(W) = sum_t <d_ct, a_t W>`, one sample at a time: [n, C, F_in, F_out]."""

    def outputs(weight: torch.Tensor, inputs: torch.Tensor, deltas: torch.Tensor) -> torch.Tensor:
        return torch.einsum("tg,ctg->c", inputs @ weight, deltas)

    weight = torch.zeros(a.shape[2], d.shape[3], dtype=a.dtype, device=a.device)
    found: torch.Tensor = torch.func.vmap(torch.func.jacrev(outputs), in_dims=(None, 0, 0))(weight, a, d)
    return found
