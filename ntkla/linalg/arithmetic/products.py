"""Float64 matrix products in short pieces: the rounding bound of a sum of 128 terms for sums of any length.

Splitting the inner dimension into pieces of 128 and adding the pieces up keeps gamma_n at about `128 + n / 128`
roundings instead of n, at the cost of one pass over the result for each piece.

The product of a piece has to be finished before it is added: a BLAS that is asked for `C + A B` may begin its sums with
C (MKL does), and the pieces would be links of one chain of n roundings.  So products and additions are calls of their
own, but for the symmetric rank-k update on the CPU.  That one goes through SciPy's BLAS, because PyTorch does not
expose it, and adds to its matrix directly where a probe finds that it adds whole products.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from scipy.linalg import blas

from ntkla.linalg.precision import U64, gamma

PIECE = 128


def pieced_matmul(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """a b in float64, the inner dimension in pieces: off by at most `pieced_gamma(inner) |a| |b|` (+ underflow)."""
    out = a[:, :PIECE] @ b[:PIECE]
    add_matmul(out, a[:, PIECE:], b[PIECE:])
    return out


def add_matmul(out: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> None:
    """Adds a b to `out` piece by piece: for a sum over many blocks, gamma counts 128 and one for every piece."""
    product = torch.empty_like(out)
    for start in range(0, a.shape[1], PIECE):
        torch.mm(a[:, start : start + PIECE], b[start : start + PIECE], out=product)
        out.add_(product)


def pairwise_sums(x: torch.Tensor) -> torch.Tensor:
    """The sums over dim 1 of [n, length, ...], in float64 pairs of pairs: `pairwise_depth(length)` roundings a term."""
    while x.shape[1] > 1:
        half = x.shape[1] // 2
        folded = x[:, :half] + x[:, half : 2 * half]
        x = torch.cat([folded, x[:, 2 * half :]], 1) if x.shape[1] % 2 else folded
    return x[:, 0]


def pairwise_depth(length: int) -> int:
    """How many additions a term of `pairwise_sums` goes through: the logarithm of the length, rounded up."""
    return (length - 1).bit_length()


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
    if accumulator.dtype == torch.float64 and not _adds_whole_products():
        product = torch.zeros_like(accumulator)
        _blas_update(product, piece)
        accumulator.add_(product)
    else:
        _blas_update(accumulator, piece)


def _blas_update(accumulator: torch.Tensor, piece: torch.Tensor) -> None:
    update = blas.dsyrk if accumulator.dtype == torch.float64 else blas.ssyrk
    by_columns = accumulator.numpy().T
    result = update(1.0, piece.contiguous().numpy().T, beta=1.0, c=by_columns, overwrite_c=1, lower=0)
    assert result is by_columns or np.shares_memory(result, by_columns), "BLAS copied the accumulator"


@cache
def _adds_whole_products() -> bool:
    """Whether the rank-k update adds finished products: terms of u/2 added one by one to 1 would all be lost."""
    for columns in (1, 5, 96):
        ones = torch.ones((columns, columns), dtype=torch.float64, device="cpu")
        _blas_update(ones, torch.full((PIECE, columns), 2.0**-27, dtype=torch.float64, device="cpu"))
        if not bool((ones.tril() >= torch.tril(torch.full_like(ones, 1.0 + PIECE * U64 / 2))).all()):
            return False
    return True


def _add_lower_blocks(accumulator: torch.Tensor, piece: torch.Tensor) -> None:
    """The same in block rows: 9/16 of the operations of a full product with eight of them."""
    columns = piece.shape[1]
    edge = max(64, -(-columns // 8))
    for start in range(0, columns, edge):
        stop = min(start + edge, columns)
        accumulator[start:stop, :stop] += piece[:, start:stop].T @ piece[:, :stop]
