"""What a correction changes a residual by, in one pass over the features: the primitive `normal_matmul`, with a bound.

A correction d changes the residual by `-(Phi^T D Phi + diag(p)) d`.  The kernel keeps a block of rows on chip between
the two products, so the outputs `T = Phi d` in the middle are never seen.  Its rounding splits as everywhere
(`normal_problem.py`), with the counts of `split_roundings` (mode "float64", n rows of a block, K columns):

    T is off by at most     gamma_{K+2} |Phi| |d|                          (the weights' rounding included),
    Phi^T D T by at most    gamma_{n+2+blocks} |Phi|^T D |T|, T as computed,

and `||D^1/2 T||`, of which the second needs a bound, follows from what is seen, `g = Phi^T D Phi d` as computed:

    ||D^1/2 Phi d||^2 = d^T (Phi^T D Phi d) <= |d^T g| + gamma_K |d|^T |g| + ||d|| e,     e >= ||g - exact||,

e the primitive's own bound, `gamma_{n+K+4+blocks} ||D^1/2 Phi||_F^2 ||d||`, and `||D^1/2 T||` is larger by at most the
first rounding.
"""

from __future__ import annotations

import math

import torch

from ntkla.linalg.arithmetic.doubled import Doubled
from ntkla.linalg.arithmetic.slicing import power_of_two
from ntkla.linalg.backends.choices import most_features
from ntkla.linalg.backends.dispatch import Call, kernel_wanted
from ntkla.linalg.backends.primitive import normal_roundings, split_roundings
from ntkla.linalg.ops import normal_matmul
from ntkla.linalg.precision import TINY64, gamma, norm_upper, rounded_up
from ntkla.linalg.solve.normal_problem import (
    NormalProblem,
    Residual,
    adjoint_errors,
    adjoint_underflow,
    output_underflow,
)

# Beyond these the kernel reads the features for each few columns again, and two products in torch are as good.
MOST_COLUMNS = 32


def one_pass_wanted(problem: NormalProblem, columns: int) -> bool:
    """Whether a kernel is wanted for corrections of so many columns, and takes features as long as these."""
    design = problem.design
    if columns > MOST_COLUMNS or design.columns > most_features("normal_matmul"):
        return False
    # Blocks of rows come in float64, so that is the type of the call.
    work = 2.0 * design.rows * design.columns * columns
    kind = torch.empty(0, dtype=torch.float64, device=design.device)
    return kernel_wanted(Call("normal_matmul", kind, design.columns, "float64", work))


def one_pass_change(problem: NormalProblem, step: torch.Tensor) -> Residual:
    """`-(Phi^T D Phi + diag(p)) step` and the bound of its rounding, for a problem without targets and shift.

    Args:
        problem: only its features, weights and penalty are used.
        step: d, float64 [K, C].

    Raises:
        BackendError: Triton is forced and cannot run.

    Cost: 4 n K C operations, one pass over the features.
    """
    design, weights = problem.design, problem.weights
    product, blocks, longest = torch.zeros_like(step), 0, 0
    for rows, block in design.blocks():
        factors = None if weights is None else weights.values[rows]
        product += normal_matmul(block, step, weights=factors, precision="float64")
        blocks, longest = blocks + 1, max(longest, block.shape[0])
    forward, adjoint = split_roundings(longest, design.columns)
    size = norm_upper(step, dim=0)
    underflow = output_underflow(problem, size, products=1)
    output_error = rounded_up(gamma(forward) * problem.frobenius * size + underflow)
    whole = gamma(normal_roundings(longest, design.columns) + blocks)
    output_norm = rounded_up(_outputs_norm(problem, step, product, whole, underflow) + output_error)
    x = Doubled(step, torch.zeros_like(step))
    value = -product
    for diagonal in problem.diagonals:
        value.addcmul_(diagonal[:, None], step, value=-1.0)
    return Residual(value, None, output_error, *adjoint_errors(problem, x, output_norm, adjoint + blocks), output_norm)


def _outputs_norm(
    problem: NormalProblem, step: torch.Tensor, product: torch.Tensor, whole: float, underflow: torch.Tensor
) -> torch.Tensor:
    """Upper bounds of `||D^1/2 Phi d||`, [C], by the inequality above, or by `||D^1/2 Phi||_F ||d||` if that is less.

    Both factors are scaled by powers of two, so that squares neither vanish nor overflow.
    """
    size, frobenius = norm_upper(step, dim=0), problem.frobenius
    lost = adjoint_underflow(problem, frobenius * size + underflow, products=1) + frobenius * underflow
    half = 2.0 ** -max(-1000, math.frexp(frobenius)[1])
    unit = power_of_two(-torch.frexp(size).exponent.clamp(max=1000))
    length = size * unit
    seen = product * half * unit * half
    squares = ((step * unit) * seen).sum(0).abs() + gamma(problem.design.columns + 1) * length * norm_upper(seen, dim=0)
    # Scaling may lose what underflows, before it is scaled further.
    ends = 4.0 * problem.design.columns * TINY64 * (1.0 + half + unit * half)
    squares = squares + length * (whole * (frobenius * half) ** 2 * length + lost * half * unit * half) + ends
    return rounded_up(torch.minimum(rounded_up(squares).sqrt() / half / unit, frobenius * size))
