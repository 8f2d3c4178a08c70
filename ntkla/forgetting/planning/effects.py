"""What many updates of the head do to one task: drift, loss, hits and flips, each with what is proved of it.

The features meet the r updates of a basis (`updates.py`), block by block of rows; a point's outputs are combinations of
their images.  The error of an output in row i is at most `||phi_i||` times the error of the update, and the rounding of
both products is at most gamma `||phi_i|| sum_j |T_jp| ||basis_j||` each.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch

from ntkla.forgetting.planning import counting
from ntkla.forgetting.planning.counting import Radius, count
from ntkla.forgetting.planning.squares import Squares, drifts_from, losses_from
from ntkla.forgetting.planning.watched import Part, Watched
from ntkla.linalg.arithmetic.products import PIECE, pieced_gamma, pieced_matmul
from ntkla.linalg.precision import SHORT_CHAIN, TINY64, gamma, norm_upper, rounded_up


class Effects(NamedTuple):
    """What P updates do to one task: float64 or int64 [P] each, each number within its error or between its ends.

    Attributes:
        drift, drift_error: Frobenius norm of the change of the predictions.
        loss, loss_error: mean over the samples of half the squared error; None without targets.
        hits_low, hits_high: samples whose predicted class is the label; None without labels.
        flips_low, flips_high: samples whose predicted class changes.
    """

    drift: torch.Tensor
    drift_error: torch.Tensor
    loss: torch.Tensor | None
    loss_error: torch.Tensor | None
    hits_low: torch.Tensor | None
    hits_high: torch.Tensor | None
    flips_low: torch.Tensor
    flips_high: torch.Tensor


def effects(watched: Watched, parts: Sequence[Part], points: int) -> Effects:
    """What updates do to one task's predictions.

    Args:
        watched: the task.
        parts: the updates of the outputs that change, each output in one part; may be none.
        points: P, the updates in every part.

    Cost: `2 n K C r` operations for r updates of the basis, `2 n C r P` and a few passes over n C P entries for the
    decisions.
    """
    radius = _radius(watched, parts, points)
    sums = [Squares.empty(part, watched) for part in parts]
    counts = torch.zeros((4, points), dtype=torch.int64, device=watched.base.device)
    entries = watched.outputs.shape[0] * (1 + max((part.updates.mix.shape[0] for part in parts), default=0))
    for rows, block in watched.design.blocks(
        max(PIECE, min(watched.design.block_rows, 2 * counting.BLOCK_ENTRIES // entries))
    ):
        images = [_image(block, part) for part in parts]
        for one, image in zip(sums, images, strict=True):
            one.add(image, rows)
        count(watched, rows, parts, images, radius, counts)
    drift, drift_error = drifts_from(watched, sums, radius.whole, points)
    loss, loss_error = losses_from(watched, sums, radius.whole, points)
    low, high = (None, None) if watched.labels is None else (counts[0], counts[1])
    return Effects(drift, drift_error, loss, loss_error, low, high, counts[2], counts[3])


def _image(block: torch.Tensor, part: Part) -> torch.Tensor:
    """The outputs of a block of rows under the updates of the basis, [m c, r]."""
    basis = part.updates.basis
    return pieced_matmul(block, basis.reshape(basis.shape[0], -1)).view(-1, basis.shape[2])


def _radius(watched: Watched, parts: Sequence[Part], points: int) -> Radius:
    slopes, lost, whole = (watched.norms.new_zeros(points) for _ in range(3))
    columns, rows = watched.design.columns, watched.design.rows
    for places, update in parts:
        mix = update.mix.abs()
        reach = (update.sizes @ mix).T * SHORT_CHAIN
        rounding = pieced_gamma(columns) + 2 * gamma(mix.shape[0] + 4)
        # Beside the rounding, flushed arithmetic may drop subnormal features and subnormal entries of the basis.
        ends = TINY64 * (math.sqrt(columns) + 4 * columns) * (mix.sum(0)[:, None] + reach + 1.0)
        slope = rounded_up(update.errors + rounding * reach + ends)
        slopes = torch.maximum(slopes, slope.amax(dim=1))
        lost = torch.maximum(lost, ends.amax(dim=1))
        share = norm_upper(watched.norms) * norm_upper(slope, dim=1)
        whole = torch.hypot(whole, share + math.sqrt(rows * places.shape[0]) * ends.amax(dim=1))
    return Radius(rounded_up(slopes), rounded_up(lost), rounded_up(whole))
