"""A task whose predictions a plan watches: where they stand, and what each of many head updates does to them.

The features meet the r updates of a basis (`updates.py`), block by block of rows; a point's outputs are combinations of
their images O = Phi basis.

- *Norms* come from Gram matrices [r + 1, r + 1] of `[residual, O]`: with t = (1, T_p), `||residual + O T_p||^2 =
  t^T G t`, whose rounding is at most `gamma (sum_j |t_j| d_j)^2`, d_j the norms of the columns.
- *Decisions* come from the outputs `V = F_0 + O T_p` themselves.  Each is within
  `radius_ip = ||phi_i|| slope_p + offset_i + lost_p`, the same for all outputs of a row, of the exact one, where
  slope_p bounds, over the outputs, the error of the update, and the rounding of both products beside
  `sum_j |T_jp| ||basis_j||`.  A class is certain when it leads by more than two radii, and possible when it is behind
  by no more, as in `predictions.py`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch

from ntkla.forgetting.heads import LinearHead
from ntkla.forgetting.planning.updates import Updates
from ntkla.forgetting.predictions import Predictions
from ntkla.forgetting.shared_head import outputs_of
from ntkla.forgetting.tasks import Task, positions
from ntkla.linalg.arithmetic.products import PIECE, pieced_gamma, pieced_matmul
from ntkla.linalg.decisions import Decision
from ntkla.linalg.design import DesignMatrix, widened
from ntkla.linalg.precision import SHORT_CHAIN, TINY64, U64, gamma, norm_upper, rounded_up

# Entries of a block of outputs: 16 MiB, a few of which stay in the cache.
_BLOCK_ENTRIES = 2**21


@dataclass(frozen=True, eq=False)
class Watched:
    """The samples of one task, and what the head says of them before.

    Attributes:
        design: their features.
        outputs: int64 [C], the outputs of the head that the task uses.
        base: their predictions, float64 [n, C].
        offsets: bounds of the error of base, [n], the largest of each row.
        residual: base minus target, or None without targets.
        labels: int64 [n], the place of each label among the outputs, or None.
        classes: int64 [n], the predicted class; undecided: the rows where another one is possible, int64 [u], and
            possible: which ones are, bool [u, C].
        norms: upper bounds of the norms of the rows of the features, float64 [n].
    """

    design: DesignMatrix
    outputs: torch.Tensor
    base: torch.Tensor
    offsets: torch.Tensor
    residual: torch.Tensor | None
    labels: torch.Tensor | None
    classes: torch.Tensor
    undecided: torch.Tensor
    possible: torch.Tensor
    norms: torch.Tensor

    @classmethod
    def of(cls, task: Task, head: LinearHead) -> Watched:
        """The predictions of one task.  Cost: 2 n K C operations."""
        design, outputs = DesignMatrix(task.features, head.bias is not None), outputs_of(task, head)
        before = Predictions(*head.select(task.outputs).predict(task.features))
        possible = before.possible_classes()
        undecided = (possible.sum(dim=1) > 1).nonzero()[:, 0]
        return cls(
            design,
            outputs,
            before.value,
            before.error_bound.amax(dim=1),
            None if task.targets is None else before.value - widened(task.targets),
            None if task.labels is None else positions(task.labels, outputs),
            before.value.argmax(dim=1),
            undecided,
            possible[undecided],
            design.row_norms().clamp(min=TINY64),
        )

    def from_zero(self) -> Watched:
        """The same for updates of a head that is zero: the residual is minus the target."""
        residual = None if self.residual is None else self.residual - self.base
        nothing = torch.zeros_like(self.base)
        return Watched(
            self.design, self.outputs, nothing, torch.zeros_like(self.offsets), residual, self.labels, self.classes,
            self.undecided, self.possible, self.norms,
        )  # fmt: skip


class Part(NamedTuple):
    """Updates of some of a task's outputs: their places among them, int64 [c], and the updates in that order."""

    places: torch.Tensor
    updates: Updates


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


class _Radius(NamedTuple):
    """What the errors of the outputs are made of; slopes and lost float64 [P], see the module's docstring.

    Attributes:
        whole: bounds of the Frobenius norm of the error of all changes, [P].
    """

    slopes: torch.Tensor
    lost: torch.Tensor
    whole: torch.Tensor


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
    sums = [_Squares.empty(part, watched) for part in parts]
    counts = torch.zeros((4, points), dtype=torch.int64, device=watched.base.device)
    entries = watched.outputs.shape[0] * (1 + max((part.updates.mix.shape[0] for part in parts), default=0))
    for rows, block in watched.design.blocks(max(PIECE, min(watched.design.block_rows, 2 * _BLOCK_ENTRIES // entries))):
        images = [_image(block, part) for part in parts]
        for one, image in zip(sums, images, strict=True):
            one.add(image, rows)
        _count(watched, rows, parts, images, radius, counts)
    drift, drift_error = _norms(watched, sums, radius, points)
    loss, loss_error = _losses(watched, sums, radius, points)
    low, high = (None, None) if watched.labels is None else (counts[0], counts[1])
    return Effects(drift, drift_error, loss, loss_error, low, high, counts[2], counts[3])


def _image(block: torch.Tensor, part: Part) -> torch.Tensor:
    """The outputs of a block of rows under the updates of the basis, [m c, r]."""
    basis = part.updates.basis
    return pieced_matmul(block, basis.reshape(basis.shape[0], -1)).view(-1, basis.shape[2])


def _radius(watched: Watched, parts: Sequence[Part], points: int) -> _Radius:
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
    return _Radius(rounded_up(slopes), rounded_up(lost), rounded_up(whole))


@dataclass(frozen=True, eq=False)
class _Squares:
    """The Gram matrix of `[residual, images]` of one part, float64 [r + 1, r + 1]; without targets the first is 0."""

    part: Part
    residual: torch.Tensor | None
    gram: torch.Tensor
    summands: int

    @classmethod
    def empty(cls, part: Part, watched: Watched) -> _Squares:
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


def _norms(
    watched: Watched, sums: Sequence[_Squares], radius: _Radius, points: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """The drift's norm, and its error."""
    value, error = (watched.norms.new_zeros(points) for _ in range(2))
    for one in sums:
        square, off = one.of(0.0)
        value, error = value + square, rounded_up(error + off + U64 * square)
    low, high = _between(value, error, radius.whole)
    norm = value.sqrt()
    return norm, rounded_up(torch.maximum(high - norm, norm - low)) if sums else torch.zeros_like(norm)


def _losses(
    watched: Watched, sums: Sequence[_Squares], radius: _Radius, points: int
) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """The mean loss, and its error."""
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
    low, high = (end.square() for end in _between(value, error, rounded_up(radius.whole + known)))
    samples = 2.0 * residual.shape[0]
    return value / samples, rounded_up(
        torch.maximum(high - value, value - low) + 8 * U64 * high
    ) / samples * SHORT_CHAIN


def _count(
    watched: Watched,
    rows: slice,
    parts: Sequence[Part],
    images: Sequence[torch.Tensor],
    radius: _Radius,
    counts: torch.Tensor,
) -> None:
    """Adds a block's hits and flips, certain and possible, [4, P], a few points at a time."""
    base, norms, offsets = watched.base[rows], watched.norms[rows], watched.offsets[rows]
    offsets = rounded_up(offsets + 4 * gamma(64 + max((i.shape[1] for i in images), default=0)) * base.abs().amax(1))
    labels, classes = None if watched.labels is None else watched.labels[rows], watched.classes[rows]
    inside = (watched.undecided >= rows.start) & (watched.undecided < rows.stop)
    unsure, allowed = watched.undecided[inside] - rows.start, watched.possible[inside]
    step = max(1, _BLOCK_ENTRIES // base.numel())
    for start in range(0, counts.shape[1], step):
        some = slice(start, start + step)
        outputs = _outputs(base, parts, images, some, counts[:, some].shape[1])
        room = 2.0 * rounded_up(torch.outer(norms, radius.slopes[some]) + (offsets[:, None] + radius.lost[some]))
        room.mul_(SHORT_CHAIN)
        if labels is not None:
            lead = _lead(outputs, labels)
            counts[0, some] += (lead > room).sum(0)
            counts[1, some] += (lead >= -room).sum(0)
        lead = _lead(outputs, classes)
        gone, stays = lead < -room, lead > room
        if unsure.shape[0]:
            gone[unsure], stays[unsure] = _leads_of_sets(outputs[unsure], allowed) < -room[unsure], False
        counts[2, some] += gone.sum(0)
        counts[3, some] += gone.shape[0] - stays.sum(0)


def _outputs(
    base: torch.Tensor, parts: Sequence[Part], images: Sequence[torch.Tensor], some: slice, count: int
) -> torch.Tensor:
    """The outputs of a block under some points, [m, C, count]."""
    m, c = base.shape
    if len(parts) == 1 and torch.equal(parts[0].places, torch.arange(c, device=base.device)):
        mix = parts[0].updates.mix[:, some]
        return torch.addmm(base.reshape(-1, 1), images[0], mix).view(m, c, count)
    outputs = base[:, :, None].repeat(1, 1, count)
    for part, image in zip(parts, images, strict=True):
        outputs[:, part.places] += (image @ part.updates.mix[:, some]).view(m, -1, count)
    return outputs


def _lead(outputs: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
    """By how much the output of each row's class [m] leads all others, [m, count]; the outputs stay as they were."""
    rows = torch.arange(outputs.shape[0], device=outputs.device)
    own = outputs[rows, classes]
    outputs[rows, classes] = -math.inf
    others = outputs.amax(dim=1)
    outputs[rows, classes] = own
    return own - others


def _leads_of_sets(outputs: torch.Tensor, allowed: torch.Tensor) -> torch.Tensor:
    """By how much the best output of a set [m, C] leads all others, [m, count]."""
    inside = outputs.masked_fill(~allowed[:, :, None], -math.inf).amax(dim=1)
    return inside - outputs.masked_fill(allowed[:, :, None], -math.inf).amax(dim=1)


def share(low: torch.Tensor, high: torch.Tensor, samples: int) -> Decision:
    """Two counts as a share of the samples."""
    return Decision(int(low) / samples, int(high) / samples)
