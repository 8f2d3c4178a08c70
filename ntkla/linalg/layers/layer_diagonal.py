"""The diagonal of a layer's tangent kernel: the squared norms of the per-sample gradients, by the cheaper route."""

from __future__ import annotations

import torch

from ntkla.linalg.backends.primitive import accumulation_dtype, chosen_precision, working_dtype
from ntkla.linalg.layers.layer_cost import column_slices, tile_edges
from ntkla.linalg.layers.layer_factors import Factors, Given, GivenMask, one_side


def layer_ntk_diagonal(a: Given, d: Given, *, mask: GivenMask = None, precision: str = "auto") -> torch.Tensor:
    """The diagonal of `layer_ntk(a, d)`: `K[(i,c),(i,c)] = ||dF_ic/dW||_F^2`, summed over parameters.

    Args:
        a, d, mask, precision: as for `layer_ntk`.

    Returns:
        [n, C]; float64 for float64 inputs or `precision="float64"`, else float32.  Off by at most gamma_k of the same
        diagonal for |a| and |d|, `k = diagonal_terms(T, F_in, F_out)` and one for each parameter, plus what underflows.

    Raises:
        DtypeError, ShapeError, DeviceError, ArgumentError

    Differentiable.  Cost: for each sample `T^2 (F_in + C (F_out + 1))` or `C F_in F_out (T + 1)` multiplications,
    whichever is less.  Deterministic for fixed inputs (strides included), versions and thread count.
    """
    side = one_side(a, d, mask)
    chosen_precision(precision, side.a[0])
    wide = accumulation_dtype(side.a[0].dtype, precision)
    working = working_dtype(wide)
    total = torch.zeros(side.d[0].shape[:2], dtype=working, device=side.d[0].device)
    with torch.autocast(total.device.type, enabled=False):
        for factors in side.factors(working):
            total = total + factor_diagonal(factors)
    return total.to(wide)


def factor_diagonal(factors: Factors, absolute: bool = False) -> torch.Tensor:
    """[n, C] of one parameter in the working type; for |a| and |d| with `absolute`."""
    diagonal = torch.zeros(factors.d.shape[:2], dtype=factors.working, device=factors.d.device)
    for samples, outputs in tile_edges(*factors.d.shape[:3]):
        a, d = factors.activations(samples), factors.deltas(samples, outputs)
        diagonal[samples, outputs] = diagonal_tile(*((a.abs(), d.abs()) if absolute else (a, d)))
    return diagonal


def diagonal_tile(a: torch.Tensor, d: torch.Tensor) -> torch.Tensor:
    """[m, c] from blocks [m, T, F_a] and [m, c, T, F_d]."""
    _, c, positions, deltas = d.shape
    inputs = a.shape[2]
    grams = positions**2 * (inputs + c * (deltas + 1))
    if grams <= c * inputs * deltas * (positions + 1):
        return ((d @ d.mT) * (a @ a.mT)[:, None]).sum((2, 3))
    total = torch.zeros(d.shape[:2], dtype=d.dtype, device=d.device)
    for rows, columns in column_slices(d.shape[0] * c, inputs, deltas):
        total = total + torch.matmul(a[:, :, rows].mT[:, None], d[..., columns]).square().sum((2, 3))
    return total


def diagonal_terms(positions: int, inputs: int, deltas: int) -> int:
    """The k of gamma_k for the diagonal of one parameter, on either route, summed in any order."""
    return max(inputs + deltas + positions**2 + 1, 2 * positions + inputs * deltas + 2)
