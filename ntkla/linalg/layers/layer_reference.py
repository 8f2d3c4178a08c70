"""What a kernel's `layer_ntk` must be, times vectors: `J (J2^T v)` from per-sample gradients, in float64.

With the norms of `layer_error.py`, which bound the kernel K~ of the magnitudes entry by entry, row (i, c) of the
kernel's result may be off by `gamma_k norms_ic sum_je norms_je` for its own k roundings, and by what underflows, and
the reference by the same with its own: those of forming both gradients, of the sum over (j, e), of the columns of a
slice, and of adding slices.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from ntkla.linalg.backends.freivalds import Expected
from ntkla.linalg.errors import NonFiniteError, ScaleError
from ntkla.linalg.layers.layer_blocks import all_gradients, shape_of
from ntkla.linalg.layers.layer_cost import column_slices
from ntkla.linalg.layers.layer_error import magnitudes, summed_terms, underflowing_terms
from ntkla.linalg.layers.layer_factors import Factors
from ntkla.linalg.precision import UNIT_ROUNDOFF, gamma, rounded_up


def layer_reference(
    left: list[Factors],
    right: list[Factors] | None,
    dtype: torch.dtype,
    precision: str,
    wide: torch.dtype,
    v: torch.Tensor,
) -> Expected:
    """K v for v [n2 C2, t], and what row (i, c) of a right kernel times v may be off by.

    Args:
        left, right: the factors, in float64; no right side in the symmetric case.
        dtype, precision: of the factors as given, and as for `layer_ntk`.
        wide: the type of the kernel's result.

    Cost: `2 n C F_in F_out (T + t)` operations for each parameter and side.
    """
    other = left if right is None else right
    shapes = [shape_of(*pair) for pair in zip(left, other, strict=True)]
    value, roundings = _product(left, other, v)
    try:
        first = magnitudes(left)
        second = first if right is None else magnitudes(right)
    except (NonFiniteError, ScaleError):
        return Expected(value, torch.full_like(value[:, :1], math.inf))
    terms = summed_terms(shapes, dtype, precision, "gram", symmetric=right is None)
    error = gamma(terms, UNIT_ROUNDOFF[wide]) + 2.0 * gamma(roundings + len(shapes))
    lost = 16.0 * torch.finfo(wide).tiny * underflowing_terms(shapes)
    allowed = error * _outer_sums(first.norms, second.norms) + lost * _outer_sums(first.sums, second.sums)
    # Beyond the range of the type an inner product may overflow on its way.
    reach = first.sums.flatten()[:, None] * second.sums.amax()
    judged = torch.isfinite(allowed) & (reach < torch.finfo(wide).max / 4)
    return Expected(value, torch.where(judged, rounded_up(allowed), math.inf))


def _outer_sums(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """`left_ic sum_je right_je`, [n C, 1], not too small."""
    return left.flatten()[:, None] * right.sum() * (1.0 + gamma(right.numel() + 2))


def _product(left: Sequence[Factors], right: Sequence[Factors], v: torch.Tensor) -> tuple[torch.Tensor, int]:
    """J (J2^T v), and how many roundings a term of it meets at most, but for those of adding parameters."""
    n, outputs = left[0].d.shape[:2]
    value, most = v.new_zeros((n * outputs, v.shape[1])), 0
    for one, two in zip(left, right, strict=True):
        slices = column_slices(value.shape[0] + v.shape[0], one.a.shape[2], one.d.shape[3])
        longest = 0
        for columns in slices:
            gradients = all_gradients(two, columns)
            inner = gradients.T @ v
            value += (gradients if one is two else all_gradients(one, columns)) @ inner
            longest = max(longest, inner.shape[0])
        formed = one.d.shape[2] + two.d.shape[2]
        most = max(most, formed + v.shape[0] + longest + len(slices) + 4)
    return value, most
