"""Leading modes of any positive semidefinite operator: Lanczos on its products, or all of it where that is cheaper.

The vectors that come out are multiplied once more, and that product with the operator's own `error_bound` proves what
is said.  An operator that says nothing about its rounding is judged as evaluated: the status is then conditional.
Vectors for an operator in a narrower type are handed over as sums of vectors of that type, so nothing is rounded.
"""

from __future__ import annotations

import math

import torch

from ntkla.linalg.arithmetic.accurate import PANEL
from ntkla.linalg.eigen.completeness import Outside, by_inertia, by_trace, complete, remainder
from ntkla.linalg.eigen.lanczos_search import LanczosSearch, Progress, patience
from ntkla.linalg.eigen.leading_enclosures import LeadingPairs, Measured
from ntkla.linalg.eigen.modes import Eigenmodes
from ntkla.linalg.eigen.partial_modes import partial_modes
from ntkla.linalg.errors import ArgumentError
from ntkla.linalg.linear_operator import LinearOperator
from ntkla.linalg.precision import SHORT_CHAIN, U64, UNIT_ROUNDOFF, gamma, norm_upper, rounded_up
from ntkla.linalg.solve.normal import BoundedMatrix


def lanczos_modes(
    operator: LinearOperator,
    k: int,
    *,
    block: int,
    tolerance: float,
    prove: str | None,
    seed: int,
    progress: Progress | None,
) -> Eigenmodes:
    """The k leading modes of a positive semidefinite operator by Lanczos, as far as they converged."""
    size = operator.shape[0]
    search = LanczosSearch(
        lambda v: operator._matmat(v.to(operator.dtype)).to(torch.float64),
        size,
        k,
        block=block,
        # What a narrow type rounds off cannot be iterated away.
        tolerance=max(tolerance, 4 * UNIT_ROUNDOFF[operator.dtype]),
        seed=seed,
        device=operator.device,
        most_columns=patience(k, block),
        progress=progress,
    )
    trace = operator.trace_bounds()
    while True:
        converged = search.converge()
        values, vectors = search.pairs(min(k + block, len(search.ritz.values)))
        pairs, conditional = _judged(operator, values, vectors)
        outside = _by_trace(pairs, k, trace, prove)
        if prove == "inertia" and not complete(pairs, k, outside.bound, tolerance):
            outside = min(outside, _by_inertia(operator, pairs, k, search.following(), tolerance))
        if not converged or complete(pairs, k, outside.bound, tolerance) or not search.look_again():
            break
    _require_psd(operator, search.ritz.values, search.last_vector())
    _require_trace(operator, pairs, trace)
    return partial_modes(
        pairs,
        k,
        outside,
        trace,
        tolerance=tolerance,
        passes=search.lanczos.passes,
        remedy=_remedy(trace, prove),
        conditional=conditional,
    )


def dense_modes(operator: LinearOperator, k: int, *, tolerance: float) -> Eigenmodes:
    """The same from all products: the section on the whole space is the operator itself."""
    values, vectors = torch.linalg.eigh(dense_matrix(operator).matrix)
    _require_psd(operator, values.flip(0), vectors[:, :1])
    pairs, conditional = _judged(operator, values.flip(0).clamp(min=0.0), vectors.flip(1).contiguous())
    trace = operator.trace_bounds()
    _require_trace(operator, pairs, trace)
    return partial_modes(
        pairs,
        k,
        Outside(pairs.outside(k, 0.0), "full"),
        trace,
        tolerance=tolerance,
        passes=0,
        remedy="the vectors are too far from orthonormal. Scale the operator, so that its norm is about 1.",
        conditional=conditional,
    )


def _by_trace(pairs: LeadingPairs, k: int, trace: tuple[float, float] | None, prove: str | None) -> Outside:
    if prove is None or trace is None:
        return Outside(math.inf if trace is None else trace[1], "trace")
    return Outside(by_trace(pairs, k, trace[1]), "trace")


def _require_trace(operator: LinearOperator, pairs: LeadingPairs, trace: tuple[float, float] | None) -> None:
    """ArgumentError when the pairs prove that the trace is larger than a sum of N numbers in float64 rounds."""
    inside = pairs.trace_inside(pairs.values.shape[0])
    if trace is not None and trace[1] * (1.0 + gamma(2 * operator.shape[0])) < inside:
        raise ArgumentError(
            f"{operator}: expected a trace of at least {inside:.17g}, which its products prove, got {trace[1]:.17g}. "
            "Pass the sum of its diagonal, or none."
        )


def _by_inertia(operator: LinearOperator, pairs: LeadingPairs, k: int, following: float, tolerance: float) -> Outside:
    left = remainder(dense_matrix(operator), pairs, k)
    return Outside(by_inertia(left, pairs, k, following, tolerance), "inertia")


def dense_matrix(operator: LinearOperator) -> BoundedMatrix:
    """The operator as its products with the identity, symmetric, and the 2-norm bound of its error where it tells one.

    Cost: a product with N columns, and N^2 numbers beside the result.
    """
    size, errors = operator.shape[0], []
    matrix = torch.empty((size, size), dtype=torch.float64, device=operator.device)
    for start in range(0, size, PANEL):
        width = min(PANEL, size - start)
        unit = torch.zeros((size, width), dtype=torch.float64, device=operator.device)
        unit[start : start + width].fill_diagonal_(1.0)
        _, matrix[:, start : start + width], error = _product(operator, unit)
        errors.append(error)
    lost = torch.cat(errors)
    # A is symmetric, so the symmetric part is no farther from it.
    matrix = (matrix + matrix.T) * 0.5
    known = float(norm_upper(lost)) if bool(lost.isfinite().all()) else 0.0
    return BoundedMatrix(matrix, (known + 2 * U64 * float(norm_upper(matrix))) * SHORT_CHAIN)


def _remedy(trace: tuple[float, float] | None, prove: str | None) -> str:
    if prove is None:
        return "no proof was asked for. Pass prove='trace' or 'inertia'."
    if prove == "inertia":
        return "the factorisation found more. Pass a larger block_size."
    if trace is None:
        return (
            "the operator does not tell its trace. Give FunctionOperator(..., trace=...) one, or pass prove='inertia'."
        )
    return "the other eigenvalues hold too much of the trace. Pass prove='inertia', which forms the whole matrix."


def _judged(operator: LinearOperator, values: torch.Tensor, vectors: torch.Tensor) -> tuple[LeadingPairs, bool]:
    """The pairs by a product of their own, and whether only as the operator was evaluated."""
    vectors, image, error = _product(operator, vectors)
    conditional = not bool(error.isfinite().all())
    return Measured(vectors, values, image).pairs(torch.zeros_like(error) if conditional else error), conditional


def _product(operator: LinearOperator, v: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """v as the operator can take it, its product in float64, and 2-norm bounds of the errors of the columns."""
    if operator.dtype == torch.float64:
        return v, operator._matmat(v), operator._error_bound(v)
    image, error, rest = torch.zeros_like(v), torch.zeros_like(v[0]), v
    for _ in range(math.ceil(math.log(U64) / math.log(UNIT_ROUNDOFF[operator.dtype]))):
        part = rest.to(operator.dtype)
        wide = part.to(torch.float64)
        image = image + operator._matmat(part).to(torch.float64)
        # The parts may cancel, so each sum counts with its own size.
        error = error + operator._error_bound(wide) + U64 * norm_upper(image, dim=0)
        rest = rest - wide
    # What is left underflows in the narrow type: the vectors do without it.
    return v - rest, image, rounded_up(error)


def _require_psd(operator: LinearOperator, values: torch.Tensor, vector: torch.Tensor) -> None:
    """ArgumentError when the vector [N, 1] of the smallest value shows that there is a negative eigenvalue."""
    vector, image, error = _product(operator, vector)
    quotient, size = float((vector * image).sum()), operator.shape[0]
    # Beside its own rounding, where that is known, what float sums of this length and type lose at most.
    noise = gamma(4 * size, UNIT_ROUNDOFF[operator.dtype]) * float(values[0].abs())
    if quotient < -max(noise, float(error) if bool(error.isfinite()) else 0.0):
        raise ArgumentError(
            f"{operator}: expected a positive semidefinite operator, as it says it is, but a vector has the Rayleigh "
            f"quotient {quotient:.6g}. Shift it, or square it."
        )
