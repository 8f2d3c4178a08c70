"""The product of features with a change of the head, with the bound of its error in the same pass: `csrc_triton.drift`.

For algorithms that know what the change itself is off by.  Where no kernel is wanted they multiply in torch and read
the features once more for the norms of their rows: this file is the other way, and says when it is taken.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch

from ntkla.linalg.arithmetic.products import pieced_gamma
from ntkla.linalg.backends import kernels
from ntkla.linalg.backends.checked import require_bounds, vectors_wanted
from ntkla.linalg.backends.dispatch import Call, kernel_wanted, run
from ntkla.linalg.backends.freivalds import Factor, product_reference
from ntkla.linalg.design import DesignMatrix
from ntkla.linalg.precision import U64, norm_upper, norms_below

# Below this the square of a norm may have lost what underflowed, and the kernel's bound of it is loose.
_LEAST_NORM = 2.0**-400


class Moved(NamedTuple):
    """What a change of the weights does to the outputs.

    Attributes:
        value, bound: float64 [n, C], the change, and `distances e + norms r + t` from above.
        norms, distances: upper bounds of ||phi_i||, and of ||phi_i - centre|| (without a centre of the norm of the
            whole row), float64 [n].
    """

    value: torch.Tensor
    bound: torch.Tensor
    norms: torch.Tensor
    distances: torch.Tensor


class Errors(NamedTuple):
    """What multiplies distances and norms in the bound of column c, and what stands alone: e, r and t, float64 [C].

    r counts the product's own rounding with `pieced_gamma`, which holds for the kernel.
    """

    update: torch.Tensor
    rounding: torch.Tensor
    constant: torch.Tensor


class Centre(NamedTuple):
    """Where distances are measured from, [F], and what they are off by beside a rounding of the norm."""

    place: torch.Tensor
    beside: torch.Tensor | float


def _call(design: DesignMatrix, columns: int) -> Call:
    features = design.features
    return Call("drift", features, features.shape[1], "float64", work=float(design.rows) * features.shape[1] * columns)


def one_pass_wanted(design: DesignMatrix, columns: int) -> bool:
    """Whether a kernel is wanted for a change of so many columns."""
    return columns > 0 and kernel_wanted(_call(design, columns))


def moved(
    design: DesignMatrix, high: torch.Tensor, errors: Errors, *, low: torch.Tensor | None = None, centre: Centre | None
) -> Moved | None:
    """`Phi (high + low)` for float64 changes [K, C], and its bound, from one read of the features.

    None where rows are so small (zeros, most of all) that norms from plain squares would be loose, and where the kernel
    that the table wants cannot run.

    Raises:
        BackendError: Triton is forced and cannot run.

    Cost: 2 n K C operations, 4 with `low`.
    """
    found: list[Moved] = []

    def by_kernel() -> torch.Tensor:
        found.append(Moved(*kernels.drift(design.features, high, low, errors, design.bias, centre)))
        return found[0].value

    factors = (Factor(design), Factor(DesignMatrix(high)))
    reference = product_reference(factors, pieced_gamma(design.columns)) if low is None else None
    run(_call(design, high.shape[1]), kernel=by_kernel, body=lambda: high, working=torch.float64, reference=reference)
    if not found:
        return None
    if vectors_wanted():
        _require_bounds(design, errors, centre, found[0])
    return found[0] if bool((found[0].norms > _LEAST_NORM).all()) else None


def _require_bounds(design: DesignMatrix, errors: Errors, centre: Centre | None, claimed: Moved) -> None:
    """Raises KernelFaultError unless norms, distances and bounds are at least what the rows ask for.

    Cost: one more read of the features.
    """
    features = design.features.shape[1]
    wrong = torch.zeros(design.rows, dtype=torch.bool, device=design.device)
    for rows, block in design.blocks():
        away = block if centre is None else block[:, :features] - centre.place
        norms, distances = (
            norms_below(norm_upper(part, dim=1), part.shape[1]) * (1.0 - 4 * U64)
            for part in (block[:, :features], away)
        )
        least = torch.outer(distances, errors.update) + torch.outer(norms, errors.rounding) + errors.constant
        # An infinite error of a row of zeros says nothing.
        least = (least * (1.0 - 8 * U64)).nan_to_num(nan=0.0, posinf=math.inf)
        kept = (claimed.bound[rows] >= least).all(1)
        wrong[rows] = ~(kept & (claimed.norms[rows] >= norms) & (claimed.distances[rows] >= distances))
    require_bounds("triton:drift:float64", wrong)


class Summed(NamedTuple):
    """Sums of squares of a change and of its bounds, along rows [n] and columns [C], float64; and flags, int32 [n].

    Flags: bit 0, a class is possible before and after; bit 1, one is possible at one time only; from bits 2 and 4 on,
    how many are possible before and after, 2 for more; bits 6 and 7, the label is possible before and after.
    """

    row_squares: torch.Tensor
    row_errors: torch.Tensor
    column_squares: torch.Tensor
    column_errors: torch.Tensor
    flags: torch.Tensor | None


def summed(
    design: DesignMatrix,
    high: torch.Tensor,
    errors: Errors,
    known: tuple[torch.Tensor, torch.Tensor] | None,
    labels: torch.Tensor | None,
) -> Summed | None:
    """The sums for a float64 change [K, C], and with the outputs before and their bounds, [n, C] each, the flags.

    None where the kernel that the table wants cannot run.  Nothing checks it in production: `drift` is checked.

    Raises:
        BackendError: Triton is forced and cannot run.
    """
    found: list[Summed] = []

    def by_kernel() -> torch.Tensor:
        found.append(Summed(*kernels.drift_summary(design.features, high, errors, design.bias, known, labels)))
        return found[0].row_squares

    run(_call(design, high.shape[1]), kernel=by_kernel, body=lambda: high, working=torch.float64)
    return found[0] if found else None
