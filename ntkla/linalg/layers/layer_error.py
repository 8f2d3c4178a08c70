"""How far `layer_ntk` can be from the exact kernel of the factors as stored, before it is computed.

Every entry is a sum of products `a_itf a_jsf d_ictg d_jesg`, whichever route adds them up.  A product that goes through
k roundings is off by at most `gamma_k` of its magnitude (Higham, sections 3.1 and 3.5), so an entry is off by at most
`gamma_k K~`, K~ the kernel of |a| and |d|.  Counting roundings of one product:

- Gram products, in torch and in the Triton kernel: those of two inner products (`gram_roundings`), 1 where they meet,
  T T' in the sum over positions;
- per-sample gradients: T and T' in forming both, one slice's columns in their product;
- both: one for each tile or slice that is added to the result, over all parameters, and one for rounding it.

K~ is a Gram matrix, so by Cauchy-Schwarz its entry is at most the root of its two diagonal entries: that costs n C
numbers instead of the kernel over again.

Underflow: each of the operations above, and each stored number that flushed arithmetic drops, loses at most `tiny`
times the other three factors of a product (or fewer).  With `s_a = 1 + sum_t ||a_it||` and `s_d = 1 + sum_t ||d_ict||`
all of it together is at most `8 tiny (F_a + F_d + T T' + (T + T' + 1) F_a F_d) s_a s_a' s_d s_d'`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ntkla.linalg import checks
from ntkla.linalg.backends.dispatch import wanted_backend
from ntkla.linalg.backends.primitive import accumulation_dtype, chosen_precision, gram_roundings
from ntkla.linalg.layers.layer_blocks import shape_of
from ntkla.linalg.layers.layer_cost import ROUTES, LayerShape, column_slices, layer_cost, tile_edges
from ntkla.linalg.layers.layer_diagonal import diagonal_terms, factor_diagonal
from ntkla.linalg.layers.layer_factors import Factors, Given, GivenMask, layer_factors
from ntkla.linalg.precision import SHORT_CHAIN, TINY64, UNIT_ROUNDOFF, gamma, norm_upper, rounded_up


def layer_ntk_error(
    a: Given,
    d: Given,
    a2: Given | None = None,
    d2: Given | None = None,
    *,
    mask: GivenMask = None,
    mask2: GivenMask = None,
    precision: str = "auto",
    route: str = "auto",
) -> torch.Tensor:
    """Upper bounds of the rounding error of `layer_ntk` with the same arguments, entry by entry.

    Args:
        a, d, a2, d2, mask, mask2, precision, route: as for `layer_ntk`.

    Returns:
        float64 [n, C, n2, C2], `|layer_ntk(...) - exact| <= bound`; infinite where a sum is too long for the type.  It
        holds as long as nothing overflows.

    Raises:
        DtypeError, ShapeError, DeviceError, ArgumentError
        NonFiniteError, ScaleError: factors without a kernel that numbers can hold.

    Cost: that of `layer_ntk_diagonal` for both sides in float64.
    """
    checks.choice("route", route, ROUTES)
    left, right = layer_factors(a, d, a2, d2, mask, mask2)
    chosen_precision(precision, left.a[0], also=("split",))
    sides = [side.factors(torch.float64) for side in (left, right or left)]
    shapes = [shape_of(*pair) for pair in zip(*sides, strict=True)]
    dtype = accumulation_dtype(left.a[0].dtype, precision)
    first = magnitudes(sides[0])
    second = first if right is None else magnitudes(sides[1])
    terms = summed_terms(shapes, left.a[0].dtype, precision, route, symmetric=right is None)
    rounding = gamma(terms, UNIT_ROUNDOFF[dtype])
    lost = 8.0 * torch.finfo(dtype).tiny * underflowing_terms(shapes)
    return rounded_up(rounding * _outer(first.norms, second.norms) + lost * _outer(first.sums, second.sums))


def summed_terms(shapes: list[LayerShape], dtype: torch.dtype, precision: str, route: str, *, symmetric: bool) -> int:
    """The k of gamma_k: how many roundings a product of four factors goes through at most."""
    most, added = 0, 1
    for shape in shapes:
        if layer_cost(shape, route).route == "gram" or (route == "auto" and wanted_backend() == "triton"):
            lengths = (shape.inputs, shape.deltas)
            inner = sum(gram_roundings(length, dtype, precision, "layer_ntk") for length in lengths)
            terms = inner + 1 + shape.positions * shape.positions2
            added += 1
        else:
            rows = shape.samples * shape.outputs + (0 if symmetric else shape.samples2 * shape.outputs2)
            slices = column_slices(rows, shape.inputs, shape.deltas)
            columns = max(((f.stop - f.start) * (g.stop - g.start) for f, g in slices), default=0)
            terms = shape.positions + shape.positions2 + columns
            added += len(slices)
        most = max(most, terms)
    return most + added


def underflowing_terms(shapes: list[LayerShape]) -> float:
    """How many operations or stored numbers of an entry can lose something to underflow, over all parameters."""
    return float(
        sum(
            s.inputs + s.deltas + s.positions * s.positions2 + (s.positions + s.positions2 + 1) * s.inputs * s.deltas
            for s in shapes
        )
    )


@dataclass(frozen=True, eq=False)
class Magnitudes:
    """What bounds need of one side.

    Attributes:
        norms: [n, C], upper bounds of the root of the diagonal of K~.
        sums: [n, C], upper bounds of `s_a s_d`, over all parameters.
    """

    norms: torch.Tensor
    sums: torch.Tensor


def magnitudes(side: list[Factors]) -> Magnitudes:
    """The magnitudes of one side in one pass over its factors.

    Raises:
        DeviceError, NonFiniteError, ScaleError
    """
    squares = torch.zeros(side[0].d.shape[:2], dtype=torch.float64, device=side[0].d.device)
    sums = torch.ones_like(squares)
    for factors in side:
        for name, x in (("a", factors.a), ("d", factors.d)):
            checks.with_values(name, x)
        a_sums, d_sums = _norm_sums(factors)
        sums = sums + (1.0 + a_sums[:, None]) * (1.0 + d_sums)
        # All terms are positive: what was computed is at least 1 - gamma_k >= 1 / (1 + gamma_2k) of the exact diagonal.
        terms = diagonal_terms(factors.d.shape[2], factors.a.shape[2], factors.d.shape[3])
        squares = squares + factor_diagonal(factors, absolute=True) * (1.0 + gamma(2 * terms))
        squares = squares + 4.0 * TINY64 * terms * sums.square()
    return Magnitudes(rounded_up(squares).sqrt() * SHORT_CHAIN, rounded_up(sums))


def _norm_sums(factors: Factors) -> tuple[torch.Tensor, torch.Tensor]:
    """Upper bounds of `sum_t ||a_it||` [n] and of `sum_t ||d_ict||` [n, C]."""
    n, outputs, positions = factors.d.shape[:3]
    a_sums = torch.zeros(n, dtype=torch.float64, device=factors.d.device)
    d_sums = torch.zeros((n, outputs), dtype=torch.float64, device=factors.d.device)
    allowance = 1.0 + gamma(positions + 2)
    for samples, rows in tile_edges(n, outputs, positions):
        a, d = factors.activations(samples), factors.deltas(samples, rows)
        checks.finite("a", a)
        checks.finite("d", d)
        a_sums[samples] = norm_upper(a, dim=2).sum(1) * allowance
        d_sums[samples, rows] = norm_upper(d, dim=3).sum(2) * allowance
    return a_sums, d_sums


def _outer(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    return left[:, :, None, None] * right
