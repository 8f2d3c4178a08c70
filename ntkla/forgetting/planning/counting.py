"""Hits and flips of many updates, as far as the errors of the outputs decide them.

Each of the outputs `V = F_0 + O T_p` of row i at point p is within `radius_ip = ||phi_i|| slope_p + offset_i + lost_p`,
the same for all outputs of a row, of the exact one.  A class is certain when it leads by more than two radii, and
possible when it is behind by no more, as in `predictions.py`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch

from ntkla.forgetting.planning.watched import Part, Watched
from ntkla.linalg.precision import SHORT_CHAIN, gamma, rounded_up

# Entries of a block of outputs: 16 MiB, a few of which stay in the cache.
BLOCK_ENTRIES = 2**21


class Radius(NamedTuple):
    """What the errors of the outputs are made of; slopes and lost float64 [P], see the module's docstring.

    Attributes:
        whole: bounds of the Frobenius norm of the error of all changes, [P].
    """

    slopes: torch.Tensor
    lost: torch.Tensor
    whole: torch.Tensor


def count(
    watched: Watched,
    rows: slice,
    parts: Sequence[Part],
    images: Sequence[torch.Tensor],
    radius: Radius,
    counts: torch.Tensor,
) -> None:
    """Adds a block's hits and flips, certain and possible, [4, P], a few points at a time."""
    base, norms, offsets = watched.base[rows], watched.norms[rows], watched.offsets[rows]
    offsets = rounded_up(offsets + 4 * gamma(64 + max((i.shape[1] for i in images), default=0)) * base.abs().amax(1))
    labels, classes = None if watched.labels is None else watched.labels[rows], watched.classes[rows]
    inside = (watched.undecided >= rows.start) & (watched.undecided < rows.stop)
    unsure, allowed = watched.undecided[inside] - rows.start, watched.possible[inside]
    step = max(1, BLOCK_ENTRIES // base.numel())
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
