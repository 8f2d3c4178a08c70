"""Norms of what many updates do to one task's predictions, from one small Gram matrix.

With the images O = Phi basis of the r updates of a basis, and the residual R, `G` is the Gram matrix [r + 1, r + 1] of
`[R, O]`; for t = (1, T_p), `||R + O T_p||^2 = t^T G t`, whose rounding is at most `gamma (sum_j |t_j| d_j)^2`, d_j the
norms of the columns.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ntkla.forgetting.planning.watched import Part, Watched
from ntkla.linalg.arithmetic.products import PIECE
from ntkla.linalg.precision import SHORT_CHAIN, TINY64, U64, gamma, norm_upper, rounded_up


@dataclass(frozen=True, eq=False)
class Squares:
    """The Gram matrix of `[residual, images]` of one part, float64 [r + 1, r + 1]; without targets the first is 0."""

    part: Part
    residual: torch.Tensor | None
    gram: torch.Tensor
    summands: int

    @classmethod
    def empty(cls, part: Part, watched: Watched) -> Squares:
        """Of no row yet."""
        count, c = part.updates.mix.shape[0] + 1, part.places.shape[0]
        gram = torch.zeros((count, count), dtype=torch.float64, device=watched.base.device)
        residual = None if watched.residual is None else watched.residual[:, part.places]
        return cls(part, residual, gram, 2 * PIECE + watched.design.rows * (c + 1) // PIECE)

    def add(self, image: torch.Tensor, rows: slice) -> None:
        """Adds a block of rows, in pieces whose products are summed one by one."""
        first = image.new_zeros((image.shape[0], 1)) if self.residual is None else self.residual[rows].reshape(-1, 1)
        stacked = torch.cat([first, image], dim=1)
        stacked = torch.nn.functional.pad(stacked, (0, 0, 0, -stacked.shape[0] % PIECE)).view(
            -1, PIECE, stacked.shape[1]
        )
        self.gram.add_((stacked.mT @ stacked).sum(0))

    def of(self, first: float) -> tuple[torch.Tensor, torch.Tensor]:
        """`||first residual + images mix||^2` and its error, [P] each."""
        mix = self.part.updates.mix
        t = torch.cat([torch.full_like(mix[:1], first), mix])
        value = (t * (self.gram @ t)).sum(0).clamp(min=0.0)
        sizes = self.gram.diagonal().sqrt() * (1.0 + 2 * gamma(self.summands)) + TINY64
        rounding = 2 * gamma(self.summands + 2 * t.shape[0] + 8)
        return value, rounded_up(rounding * (sizes @ t.abs()).square() * SHORT_CHAIN)


def _between(value: torch.Tensor, error: torch.Tensor, apart: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The ends of a norm whose square is known, and whose array is off by `apart`."""
    low = ((value - error).clamp(min=0.0).sqrt() / SHORT_CHAIN - apart).clamp(min=0.0) / SHORT_CHAIN
    return low, rounded_up((value + error).sqrt() * SHORT_CHAIN + apart)


def drifts_from(
    watched: Watched, sums: Sequence[Squares], whole: torch.Tensor, points: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """The drift's norm, and its error, [P] each; `whole` bounds the Frobenius norm of the error of all changes."""
    value, error = (watched.norms.new_zeros(points) for _ in range(2))
    for one in sums:
        square, off = one.of(0.0)
        value, error = value + square, rounded_up(error + off + U64 * square)
    low, high = _between(value, error, whole)
    norm = value.sqrt()
    return norm, rounded_up(torch.maximum(high - norm, norm - low)) if sums else torch.zeros_like(norm)


def losses_from(
    watched: Watched, sums: Sequence[Squares], whole: torch.Tensor, points: int
) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """The mean over the samples of half the squared error, and its error."""
    residual = watched.residual
    if residual is None:
        return None, None
    still = torch.ones(residual.shape[1], dtype=torch.bool, device=residual.device)
    for one in sums:
        still[one.part.places] = False
    norm = norm_upper(residual[:, still])
    value = (norm * norm).expand(points)
    error = 4 * gamma(residual.numel() + 16) * value
    for one in sums:
        square, off = one.of(1.0)
        value, error = value + square, rounded_up(error + off + U64 * (value + square))
    known = norm_upper(watched.offsets) * math.sqrt(residual.shape[1]) + 2 * U64 * norm_upper(residual)
    low, high = (end.square() for end in _between(value, error, rounded_up(whole + known)))
    samples = 2.0 * residual.shape[0]
    return value / samples, rounded_up(
        torch.maximum(high - value, value - low) + 8 * U64 * high
    ) / samples * SHORT_CHAIN
