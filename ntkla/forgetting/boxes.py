"""Enclosures of eigenvalues as exact integers, for decisions that no rounding of a sum may touch.

Every float64 number is an integer over 2^1074, so sums and comparisons of the ends of intervals are integer arithmetic.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from ntkla.linalg import checks
from ntkla.linalg.design import widened
from ntkla.linalg.eigenmodes import spectrum_of
from ntkla.linalg.errors import ArgumentError
from ntkla.linalg.feature_modes import FeatureModes
from ntkla.linalg.modes import Eigenmodes, Spectrum, beyond
from ntkla.linalg.precision import SHORT_CHAIN

_GRID = 2**1074


@dataclass(frozen=True)
class Boxes:
    """Enclosures of all eigenvalues of a positive semidefinite operator; numbers are integers over 2^1074.

    Attributes:
        low, high: ends of the intervals, [m], each descending; the other `size - m` eigenvalues are zero.
        values: the computed eigenvalues, descending.
        size: the number of eigenvalues, multiplicity left out.
        total_low, total_high: enclosure of the sum of the `size` eigenvalues.
        multiplicity: how often each eigenvalue occurs.
    """

    low: list[int]
    high: list[int]
    values: list[int]
    size: int
    total_low: int
    total_high: int
    multiplicity: int = 1


def _on_grid(x: float) -> int:
    numerator, denominator = x.as_integer_ratio()
    return numerator * (_GRID // denominator)


def _sorted_on_grid(x: torch.Tensor) -> list[int]:
    return sorted((_on_grid(v) for v in x.tolist()), reverse=True)


def boxes_of(given: object, bias: bool, value_error: torch.Tensor | float | None) -> Boxes:
    """The enclosures behind the first argument of `effective_rank`, whose errors it raises."""
    if isinstance(given, torch.Tensor) and given.ndim == 1:
        return _of_values(given, value_error)
    if value_error is not None:
        raise ArgumentError("value_error: expected None unless eigenvalues [m] are given; features bring their own.")
    if isinstance(given, (Eigenmodes, FeatureModes)):
        given = given.spectrum
    spectrum = given if isinstance(given, Spectrum) else spectrum_of(given, bias=bias)  # type: ignore[arg-type]
    low, high = (_on_grid(spectrum.trace) + sign * _on_grid(spectrum.trace_error) for sign in (-1, 1))
    # No eigenvalue exceeds the trace, which is known even where an enclosure failed.
    largest = (spectrum.trace + spectrum.trace_error) * SHORT_CHAIN
    boxes = _from_ends(spectrum.lower, spectrum.upper.clamp(max=largest), spectrum.values)
    return replace(
        boxes,
        size=spectrum.size,
        total_low=max(boxes.total_low, low),
        total_high=min(boxes.total_high, high),
        multiplicity=spectrum.multiplicity,
    )


def _of_values(values: torch.Tensor, value_error: torch.Tensor | float | None) -> Boxes:
    """The i-th largest eigenvalue lies between the i-th largest lower and the i-th largest upper end."""
    exact = widened(checks.matrix("values", values[None])[0])
    if value_error is None:
        error = torch.zeros_like(exact)
    elif isinstance(value_error, torch.Tensor):
        checks.dense("value_error", value_error)
        error = widened(checks.matrix("value_error", value_error.reshape(1, -1), columns=len(exact))[0])
        checks.one_device(values=values, value_error=error)
    else:
        error = torch.full_like(exact, checks.number("value_error", value_error))
    if bool((error < 0).any()):
        raise ArgumentError("value_error: expected bounds >= 0, got a negative one.")
    upper = beyond(exact + error, error, torch.inf)
    if bool((upper < 0).any()):
        raise ArgumentError(
            f"values: expected eigenvalues >= 0, got {float(exact.min()):.6g}. Clamp rounding noise to 0."
        )
    return _from_ends(beyond(exact - error, error, -torch.inf).clamp_(min=0.0), upper, exact.clamp(min=0.0))


def _from_ends(lower: torch.Tensor, upper: torch.Tensor, values: torch.Tensor) -> Boxes:
    low, high = _sorted_on_grid(lower), _sorted_on_grid(upper)
    return Boxes(low, high, _sorted_on_grid(values), len(low), sum(low), sum(high))
