"""From judged pairs to the result: enclosures, clusters, angles and status where only k eigenvalues are known."""

from __future__ import annotations

import math
from dataclasses import replace

import torch

from ntkla.linalg import status as codes
from ntkla.linalg.eigen.completeness import Outside, complete
from ntkla.linalg.eigen.leading_enclosures import LeadingPairs
from ntkla.linalg.eigen.modes import Eigenmodes, Spectrum
from ntkla.linalg.eigen.small_side import clusters_of, leading_angles, status_of
from ntkla.linalg.precision import SHORT_CHAIN, U64
from ntkla.linalg.status import Status


def partial_modes(
    pairs: LeadingPairs,
    k: int,
    outside: Outside,
    trace: tuple[float, float] | None,
    *,
    tolerance: float,
    passes: int,
    remedy: str,
    conditional: bool = False,
    rank: int | None = None,
) -> Eigenmodes:
    """The first k pairs as a result.

    Args:
        pairs: at least k of them.
        outside: d for the first k vectors.
        trace: bounds of the operator's trace, None where it is not known.
        remedy: what to do where completeness is not proved.
        conditional: whether the operator's rounding is not known.
        rank: upper bound of the operator's rank, None where there is none.
    """
    values, residuals = pairs.values[:k], pairs.residual_norms[:k]
    size = pairs.vectors.shape[0]
    lower, upper = pairs.lower(k), pairs.upper(k, outside.bound)
    # Room for one rounding: what a caller computes as `values + value_error` is still an upper bound.
    below = (values - lower) * SHORT_CHAIN + 4 * U64 * values
    in_order = torch.maximum(below, (upper - values) * SHORT_CHAIN + 4 * U64 * values)
    matched = below.clamp(min=pairs.coupling(k) * SHORT_CHAIN)
    largest = float(lower[0])
    # All of the operator was decomposed: none is missing, however wide the errors are.
    whole = outside.proof == "full" and math.isfinite(outside.bound)
    proved = whole or complete(pairs, k, outside.bound, tolerance)
    errors = in_order if proved else matched
    spectrum = _spectrum(values, below, None if proved else upper, in_order, size, trace, outside.bound)
    spectrum = replace(spectrum, conditional=conditional, rank=rank)
    lowest, highest = _padded(spectrum, size)
    found = status_of(max(float(errors.max()), float(residuals.max())), largest, tolerance)
    clusters = clusters_of(values, residuals, pairs.defect, lowest, highest)
    return Eigenmodes(
        values=values,
        value_error=errors,
        residual_norms=residuals,
        orthogonality=pairs.defect,
        angle_bound=leading_angles(values, residuals, pairs.defect, highest),
        clusters=clusters,
        cut=clusters[-1].stop > k,
        next_value_bound=outside.bound,
        complete=True if proved else None,
        proof=outside.proof if proved else None,
        converged=found.certified,
        tolerance=tolerance,
        spectrum=spectrum,
        status=_status(found, proved, conditional, remedy),
        basis=pairs.vectors[:, :k].contiguous(),
        passes=passes,
    )


def _spectrum(
    values: torch.Tensor,
    below: torch.Tensor,
    ceiling: torch.Tensor | None,
    in_order: torch.Tensor,
    size: int,
    trace: tuple[float, float] | None,
    rest: float,
) -> Spectrum:
    if trace is None:
        total, error = float(values.sum()), math.inf
    else:
        total = (trace[0] + trace[1]) / 2
        error = max(total - trace[0], trace[1] - total) * SHORT_CHAIN
    return Spectrum(values, in_order if ceiling is None else below, size, total, error, rest=rest, ceiling=ceiling)


def _padded(spectrum: Spectrum, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Enclosures of all eigenvalues: those that were not computed lie between zero and `rest`."""
    missing = size - spectrum.values.shape[0]
    lower = torch.nn.functional.pad(spectrum.lower, (0, missing))
    return lower, torch.nn.functional.pad(spectrum.upper, (0, missing), value=spectrum.rest)


def _status(found: Status, complete: bool, conditional: bool, remedy: str) -> Status:
    message = found.message
    if conditional:
        message += " That holds for the operator as evaluated: it states no error."
    if not found.certified:
        more = " More digits: route='full', if all of the matrix fits; for an operator in float32, one in float64."
        return Status(found.code, message + more)
    if not complete:
        return Status(codes.INCOMPLETE, f"{message} That none larger was missed is not proved: {remedy}")
    return Status(codes.CONDITIONAL, message) if conditional else found
