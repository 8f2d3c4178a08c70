"""Float64 matrix products in short pieces: the rounding bound of a sum of 128 terms for sums of any length.

Splitting the inner dimension into pieces of 128 and adding the pieces up keeps gamma_n at about `128 + n / 128`
roundings instead of n.  It is free: the BLAS cuts its inner dimension to about that length anyway.

On the CPU the products go through NumPy's and SciPy's BLAS: SciPy exposes the symmetric rank-k update, which PyTorch
does not, and ambient settings of PyTorch (autocast, `set_float32_matmul_precision`) do not reach it.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy.linalg import blas

from ntkla.linalg.precision import gamma

PIECE = 128


def pieced_matmul(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """a b in float64, the inner dimension in pieces: off by at most `pieced_gamma(inner) |a| |b|` (+ underflow)."""
    out = a[:, :PIECE] @ b[:PIECE]
    for start in range(PIECE, a.shape[1], PIECE):
        out.addmm_(a[:, start : start + PIECE], b[start : start + PIECE])
    return out


def add_matmul(out: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> None:
    """Adds a b to `out` piece by piece: for a sum over many blocks, gamma counts 128 and one for every piece."""
    for start in range(0, a.shape[1], PIECE):
        out.addmm_(a[:, start : start + PIECE], b[start : start + PIECE])


def pieced_gamma(inner: int) -> float:
    """The rounding factor of `pieced_matmul`, with two operations to spare."""
    return gamma(min(inner, PIECE) + -(-inner // PIECE) + 2)


def add_square(accumulator: torch.Tensor, block: torch.Tensor) -> None:
    """Adds block^T block to the lower triangle of `accumulator` (and anything to the upper one), piece by piece.

    Args:
        accumulator: [K, K], float64 or float32, contiguous.
        block: [m, K], same type.
    """
    for piece in torch.split(block, PIECE):
        if accumulator.device.type == "cpu":
            _rank_update(accumulator, piece)
        else:
            _add_lower_blocks(accumulator, piece)


def _rank_update(accumulator: torch.Tensor, piece: torch.Tensor) -> None:
    """BLAS's symmetric rank-k update, in place: the lower triangle by rows is the upper one by columns."""
    update = blas.dsyrk if accumulator.dtype == torch.float64 else blas.ssyrk
    by_columns = accumulator.numpy().T
    result = update(1.0, piece.contiguous().numpy().T, beta=1.0, c=by_columns, overwrite_c=1, lower=0)
    assert result is by_columns or np.shares_memory(result, by_columns), "BLAS copied the accumulator"


def _add_lower_blocks(accumulator: torch.Tensor, piece: torch.Tensor) -> None:
    """The same in block rows: 9/16 of the operations of a full product with eight of them."""
    columns = piece.shape[1]
    edge = max(64, -(-columns // 8))
    for start in range(0, columns, edge):
        stop = min(start + edge, columns)
        accumulator[start:stop, :stop].addmm_(piece[:, start:stop].T, piece[:, :stop])
