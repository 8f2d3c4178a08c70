"""What a kernel's `layer_ntk` must be, times vectors: `J (J2^T v)` by associativity, in float64.

The gradients J are never formed: `J2^T v = sum_j a_j^T (d_j^T v_j)` is a parameter-sized matrix G for each vector, and
row (i, c) of the kernel times v is `sum_t d_ict^T (G^T a_it)`.

With the norms of `layer_error.py`, which bound the kernel K~ of the magnitudes entry by entry, row (i, c) of the
kernel's result may be off by `gamma_k norms_ic sum_je norms_je` for its own k roundings, and by what underflows, and
the reference by the same with its own: those of the sums over outputs, over samples and positions, over F_in, and over
positions and F_out, one for each block of samples, and one for each parameter.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch

from ntkla.linalg.backends.freivalds import Expected
from ntkla.linalg.errors import NonFiniteError, ScaleError
from ntkla.linalg.layers.layer_blocks import shape_of
from ntkla.linalg.layers.layer_cost import SLICE_ENTRIES
from ntkla.linalg.layers.layer_error import magnitudes, summed_terms, underflowing_terms
from ntkla.linalg.layers.layer_factors import Factors
from ntkla.linalg.precision import UNIT_ROUNDOFF, gamma, rounded_up

# Entries of a block of deltas, and of what it and some vectors come to.
_BLOCK_ENTRIES = 2**20


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

    Cost: `2 t n T F_out (C + F_in)` operations for each parameter and side, and the norms of the gradients.
    """
    other = left if right is None else right
    shapes = [shape_of(*pair) for pair in zip(left, other, strict=True)]
    value = sum(
        (_times(one, _gradients(two, v)) for one, two in zip(left, other, strict=True)),
        start=v.new_zeros((left[0].d.shape[0] * left[0].d.shape[1], v.shape[1])),
    )
    try:
        first = magnitudes(left)
        second = first if right is None else magnitudes(right)
    except (NonFiniteError, ScaleError):
        return Expected(value, torch.full_like(value[:, :1], math.inf))
    own = max(
        s.outputs2 + s.samples2 * s.positions2 + s.samples2 + s.inputs + s.positions * s.deltas + 4 for s in shapes
    )
    terms = summed_terms(shapes, dtype, precision, "gram", symmetric=right is None)
    error = gamma(terms, UNIT_ROUNDOFF[wide]) + 2.0 * gamma(own + len(shapes))
    lost = 16.0 * torch.finfo(wide).tiny * underflowing_terms(shapes)
    allowed = error * _outer_sums(first.norms, second.norms) + lost * _outer_sums(first.sums, second.sums)
    # Beyond the range of the type an inner product may overflow on its way.
    reach = first.sums.flatten()[:, None] * second.sums.amax()
    judged = torch.isfinite(allowed) & (reach < torch.finfo(wide).max / 4)
    return Expected(value, torch.where(judged, rounded_up(allowed), math.inf))


def _outer_sums(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """`left_ic sum_je right_je`, [n C, 1], not too small."""
    return left.flatten()[:, None] * right.sum() * (1.0 + gamma(right.numel() + 2))


def _gradients(side: Factors, v: torch.Tensor) -> list[torch.Tensor]:
    """`J^T v` for v [n C, t]: [F_in, F_out, t'], the vectors in groups of t' that fit in memory."""
    inputs, deltas = side.a.shape[2], side.d.shape[3]
    found = []
    for some in torch.split(v, max(1, SLICE_ENTRIES // max(1, inputs * deltas)), dim=1):
        total = v.new_zeros((inputs, deltas * some.shape[1]))
        by_sample = some.reshape(*side.d.shape[:2], some.shape[1])
        for samples, a, d in _blocks(side, some.shape[1]):
            weighted = d.flatten(2, 3).mT @ by_sample[samples]
            total += a.flatten(0, 1).T @ weighted.reshape(a.shape[0] * a.shape[1], total.shape[1])
        found.append(total.view(inputs, deltas, some.shape[1]))
    return found


def _times(side: Factors, gradients: list[torch.Tensor]) -> torch.Tensor:
    """`J G` for these groups of vectors, [n C, t]."""
    groups = []
    for group in gradients:
        rows = []
        for _, a, d in _blocks(side, group.shape[2]):
            outputs = a.flatten(0, 1) @ group.flatten(1)
            rows.append((d.flatten(2, 3) @ outputs.view(len(d), d.shape[2] * d.shape[3], group.shape[2])).flatten(0, 1))
        groups.append(torch.cat(rows))
    return torch.cat(groups, 1)


def _blocks(side: Factors, vectors: int) -> Iterator[tuple[slice, torch.Tensor, torch.Tensor]]:
    """(samples, a [m, T, F_in], d [m, C, T, F_out]) in float64."""
    n, outputs, positions, deltas = side.d.shape
    step = max(1, _BLOCK_ENTRIES // max(1, positions * deltas * max(outputs, vectors)))
    for start in range(0, n, step):
        samples = slice(start, min(start + step, n))
        yield samples, side.activations(samples), side.deltas(samples)
