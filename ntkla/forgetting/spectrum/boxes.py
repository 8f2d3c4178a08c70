"""Enclosures of eigenvalues as exact integers, for decisions that no rounding of a sum may touch.

Every float64 number is an integer over 2^1074, so sums and comparisons of the ends of intervals are integer arithmetic.

Of a spectrum that is known in part, the other eigenvalues are never listed: they lie between zero and one common bound,
and what they add up to is what the known ones leave of the trace.  With T the upper bound of the trace and L the sum of
all lower bounds, no eigenvalue exceeds its own lower bound by more than T - L.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import accumulate

import torch

from ntkla.linalg import checks
from ntkla.linalg.design import widened
from ntkla.linalg.eigen.feature_modes import FeatureModes
from ntkla.linalg.eigen.foreign import as_operator
from ntkla.linalg.eigen.modes import Eigenmodes, Spectrum, beyond
from ntkla.linalg.eigenmodes import eigenmodes, spectrum_of
from ntkla.linalg.errors import ArgumentError
from ntkla.linalg.kronecker import KroneckerGram
from ntkla.linalg.linear_operator import LinearOperator
from ntkla.linalg.operators import GramOperator

_GRID = 2**1074
# Rows of an operator that is no Gram matrix, up to which all of its eigenvalues are computed without being asked for.
_DENSE_ROWS = 2048


@dataclass(frozen=True)
class LowerEnds:
    """Lower bounds of the eigenvalues of a positive semidefinite operator, where nothing bounds them from above.

    Numbers are integers over 2^1074.

    Attributes:
        low: lower ends, [m], descending; the other `size - m` eigenvalues are at least zero.
        values: the computed eigenvalues, descending.
        tail: about the sum of the others.
        size: the number of eigenvalues that may be positive, multiplicity left out.
        multiplicity: how often each eigenvalue occurs.
        conditional: whether the ends hold for an operator as evaluated only.
    """

    low: list[int]
    values: list[int]
    tail: int
    size: int
    multiplicity: int
    conditional: bool

    @property
    def everything(self) -> int:
        """The number of eigenvalues, every copy counted."""
        return self.size * self.multiplicity


@dataclass(frozen=True)
class Boxes(LowerEnds):
    """Enclosures of all eigenvalues.

    Attributes:
        high: upper ends, [m], descending.
        rest: upper bound of each of the other `size - m` eigenvalues, at most the last upper end.
        total_low, total_high: enclosure of the sum of the `size` eigenvalues.
    """

    high: list[int]
    rest: int
    total_low: int
    total_high: int

    @property
    def others(self) -> int:
        """How many eigenvalues that are not listed may be positive."""
        return self.size - len(self.high) if self.rest > 0 else 0

    @property
    def count(self) -> int:
        """How many eigenvalues may be positive."""
        return sum(h > 0 for h in self.high) + self.others


def boxes_of(given: object, bias: bool, value_error: torch.Tensor | float | None) -> LowerEnds:
    """The enclosures behind the first argument of `effective_rank`, whose errors it raises."""
    if isinstance(given, torch.Tensor) and given.ndim == 1:
        return _of_spectrum(_of_values(given, value_error))
    if value_error is not None:
        raise ArgumentError("value_error: expected None unless eigenvalues [m] are given; features bring their own.")
    if isinstance(given, (Eigenmodes, FeatureModes)):
        given = given.spectrum
    return _of_spectrum(given if isinstance(given, Spectrum) else _all_eigenvalues(given, bias))


def _all_eigenvalues(given: object, bias: bool) -> Spectrum:
    """Of features, or of an operator; ArgumentError for one that takes too long without being asked for."""
    operator = as_operator(given)
    if not isinstance(operator, LinearOperator):
        return spectrum_of(operator, bias=bias)  # type: ignore[arg-type]
    factor = operator.gram if isinstance(operator, KroneckerGram) else operator
    if isinstance(factor, GramOperator):
        return spectrum_of(operator, bias=bias)
    if factor.shape[0] > _DENSE_ROWS:
        raise ArgumentError(
            f"expected features, a Gram operator, or an operator of at most {_DENSE_ROWS} rows, got {factor}: all of "
            "its eigenvalues would be computed. Pass the result of eigenmodes(operator, k): k modes bound its ranks."
        )
    return eigenmodes(operator, operator.shape[0], bias=bias).spectrum


def _of_values(values: torch.Tensor, value_error: torch.Tensor | float | None) -> Spectrum:
    """Eigenvalues and errors that a caller claims."""
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
    if bool((beyond(exact + error, error, torch.inf) < 0).any()):
        raise ArgumentError(
            f"values: expected eigenvalues >= 0, got {float(exact.min()):.6g}. Clamp rounding noise to 0."
        )
    return Spectrum(exact, error, len(exact), float(exact.sum()), math.inf)


def _of_spectrum(spectrum: Spectrum) -> LowerEnds:
    """The i-th largest eigenvalue lies between the i-th largest lower and the i-th largest upper end."""
    low, values = _sorted_on_grid(spectrum.lower), _sorted_on_grid(spectrum.values.clamp(min=0.0))
    size = spectrum.size if spectrum.rank is None else max(spectrum.rank, len(low))
    upper, missing = sorted(spectrum.upper.tolist(), reverse=True), size - len(low)
    known = (low, values, _tail(spectrum, values), size, spectrum.multiplicity, spectrum.conditional)
    # The others come after the last one that is listed.
    rest = min(spectrum.rest, upper[-1]) if missing else 0.0
    if not math.isfinite(spectrum.trace_error):
        if not math.isfinite(upper[0]):
            return LowerEnds(*known)
        high, last = [_on_grid(h) for h in upper], _on_grid(rest)
        return Boxes(*known, high, last, sum(low), sum(high) + missing * last)
    least, most = (_on_grid(spectrum.trace) + sign * _on_grid(spectrum.trace_error) for sign in (-1, 1))
    slack = most - sum(low)
    ends = [min(a + slack, _on_grid(h) if math.isfinite(h) else most) for a, h in zip(low, upper, strict=True)]
    high = list(accumulate(ends, min))
    last = min(slack, _on_grid(rest) if math.isfinite(rest) else most)
    total_low, total_high = max(sum(low), least), min(sum(high) + missing * last, most)
    if total_low > total_high:
        raise ArgumentError("trace: expected one that agrees with the eigenvalues, got one that no such spectrum has.")
    return Boxes(*known, high, last, total_low, total_high)


def _tail(spectrum: Spectrum, values: list[int]) -> int:
    """What the trace leaves to the eigenvalues that are not listed, as computed."""
    if spectrum.rest == 0.0 or not math.isfinite(spectrum.trace_error):
        return 0
    return max(0, _on_grid(spectrum.trace) - sum(values))


def _on_grid(x: float) -> int:
    numerator, denominator = x.as_integer_ratio()
    return numerator * (_GRID // denominator)


def _sorted_on_grid(x: torch.Tensor) -> list[int]:
    return sorted((_on_grid(v) for v in x.tolist()), reverse=True)
