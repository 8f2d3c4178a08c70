"""The normal matrix Phi^T Phi and the Gram matrix Phi Phi^T in float64, each with a bound on its rounding.

Derivation.  With S = Phi^T Phi and the products summed in pieces, entry by entry
`|S_computed - S| <= gamma |Phi|^T |Phi| <= gamma d d^T` (Higham, Accuracy and Stability of Numerical Algorithms, 2nd
ed., section 3.5), d the column norms of Phi and gamma counting the summands of one entry.  The 2-norm is monotone in
the absolute values, and `||d d^T||_2 = d^T d = tr(S)`, so

    ||S_computed - S||_2 <= gamma tr(S).

The products are summed in pieces (see `products.py`), which keeps gamma at about (128 + n / 128) u instead of n u.

With sample weights D the rows are scaled by sqrt(w), rounded, block by block: `Phi^T D Phi` then is the same of the
scaled features, whose every entry is off by three roundings (two of the root, one of the product), so gamma counts six
more for the two factors.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch

from ntkla.linalg.arithmetic.products import PIECE, add_square
from ntkla.linalg.design import Design, DesignMatrix
from ntkla.linalg.precision import SHORT_CHAIN, TINY64, gamma
from ntkla.linalg.solve.weights import SampleWeights


class BoundedMatrix(NamedTuple):
    """A computed symmetric matrix and an upper bound of the 2-norm of its error."""

    matrix: torch.Tensor
    error: float


def normal_matrix(design: Design, weights: SampleWeights | None = None) -> BoundedMatrix:
    """`Phi^T D Phi` in float64, exactly symmetric, columns x columns, with the bound of `||matrix - exact||_2`.

    Cost: n columns^2 operations (one triangle only) and one float64 block of the features at a time (two with weights).
    """
    matrix = float64_normal_matrix(design, weights)
    return BoundedMatrix(matrix, _rounding(matrix, design, weights))


def float64_normal_matrix(design: Design, weights: SampleWeights | None = None) -> torch.Tensor:
    """The same without its bound."""
    accumulator = torch.zeros((design.columns, design.columns), dtype=torch.float64, device=design.device)
    for rows, block in design.blocks():
        add_square(accumulator, block if weights is None else block * weights.roots[rows, None])
    return _mirrored(accumulator)


def float32_normal_matrix(design: Design, weights: SampleWeights | None = None) -> torch.Tensor:
    """About `Phi^T D Phi` in float32, exactly symmetric, for a preconditioner: no bound and no float64 block."""
    if weights is not None:
        return _weighted_float32(design, weights)
    matrices = [_float32(part) for _, part in design.parts]
    return matrices[0] if len(matrices) == 1 else torch.stack(matrices).sum(0)


def _float32(design: DesignMatrix) -> torch.Tensor:
    features, columns = design.features, design.features.shape[1]
    matrix = torch.zeros((columns, columns), dtype=torch.float32, device=design.device)
    with torch.autocast(design.device.type, enabled=False):
        for rows in torch.split(features, design.block_rows):
            add_square(matrix, rows.to(torch.float32))
    matrix = _mirrored(matrix)
    if not design.bias:
        return matrix
    sums = features.sum(0, keepdim=True, dtype=torch.float32)
    corner = torch.full_like(sums[:, :1], design.rows)
    return torch.cat([torch.cat([matrix, sums.T], 1), torch.cat([sums, corner], 1)])


def gram_matrix(design: Design) -> BoundedMatrix:
    """`Phi Phi^T` in float64, exactly symmetric, n x n, with the bound of `||matrix - exact||_2`.

    Cost: n^2 columns operations (the lower triangle only); a design of several parts is copied.
    """
    if not isinstance(design, DesignMatrix):
        design = DesignMatrix(torch.cat([block.clone() for _, block in design.blocks()]))
    transposed = DesignMatrix(design.features.T)
    matrix = normal_matrix(transposed).matrix
    if design.bias:
        matrix += 1.0
    return BoundedMatrix(matrix, _rounding(matrix, transposed))


def exactly_zero(x: torch.Tensor) -> bool:
    """True when every entry is +0 or -0, read from the bits: flushed arithmetic takes subnormal numbers for zeros."""
    same_width = {8: torch.int64, 4: torch.int32, 2: torch.int16}[x.element_size()]
    return not bool((x.view(same_width) << 1).any())  # the sign is shifted out


def _mirrored(accumulator: torch.Tensor) -> torch.Tensor:
    return accumulator.tril() + accumulator.tril(-1).T


def _weighted_float32(design: Design, weights: SampleWeights) -> torch.Tensor:
    """The same with weights: the bias's column holds the roots, like every other one."""
    matrix = torch.zeros((design.columns, design.columns), dtype=torch.float32, device=design.device)
    with torch.autocast(design.device.type, enabled=False):
        for first, part in design.parts:
            roots = weights.roots[first : first + part.rows].to(torch.float32)[:, None]
            for start in range(0, part.rows, part.block_rows):
                rows = slice(start, start + part.block_rows)
                scaled = part.features[rows].to(torch.float32) * roots[rows]
                add_square(matrix, torch.cat([scaled, roots[rows]], 1) if part.bias else scaled)
    return _mirrored(matrix)


def _rounding(matrix: torch.Tensor, summed: Design, weights: SampleWeights | None = None) -> float:
    """gamma tr(S), plus what underflow and flushed subnormals may have dropped; the sums ran over `summed.rows`."""
    edge = matrix.shape[0]
    pieces = -(-summed.rows // PIECE) + -(-summed.rows // summed.block_rows)
    per_entry = gamma(min(summed.rows, PIECE) + pieces + (1 if weights is None else 7))
    trace = float(matrix.diagonal().sum()) * (1.0 + gamma(edge)) / (1.0 - per_entry)
    if trace == 0.0 and all(exactly_zero(part.features) for _, part in summed.parts):
        return 0.0
    flushed = summed.flushed_mass()
    if weights is not None:
        flushed = flushed * (weights.largest_root + 1.0) * SHORT_CHAIN  # scaling may underflow as well
    underflow = 2.0 * edge * (summed.rows + 1) * TINY64 + (2.0 * math.sqrt(trace) + flushed) * flushed
    return (per_entry * trace + underflow) * SHORT_CHAIN
