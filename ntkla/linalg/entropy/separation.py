"""Whether the optimum shows that the samples can be separated, which a small ridge then pays for with a large head."""

from __future__ import annotations

from typing import NamedTuple

import torch

from ntkla.linalg.arithmetic.products import pieced_gamma
from ntkla.linalg.entropy.certificate import Certificate
from ntkla.linalg.entropy.objective import EntropyProblem
from ntkla.linalg.precision import SHORT_CHAIN, U64, norm_upper


class Separation(NamedTuple):
    """How the trained samples are classified.

    Attributes:
        accuracy: the share of them, by their counts, whose largest output is where their largest target is.
        least_margin: lower bound of the least lead of a right class over the others; None for soft targets.
        separable: whether every margin is certainly above 0.
    """

    accuracy: float
    least_margin: float | None
    separable: bool

    def __str__(self) -> str:
        return (
            f"The data are separable: every sample is classified right, by {self.least_margin:.3g} or more. "
            "The optimum grows as the ridge falls, and has no limit."
        )


def separation_of(problem: EntropyProblem, found: Certificate, x: torch.Tensor) -> Separation:
    """Judges the outputs at the update x.  Cost: a few passes over [n, C]."""
    z, counts = found.outputs, problem.counts[:, 0]
    counted = counts > 0
    right = problem.targets.argmax(1, keepdim=True)
    hits = (z.argmax(1, keepdim=True) == right)[:, 0]
    total = float(counts.sum())
    accuracy = float(counts[hits].sum()) / total if total > 0 else 0.0
    if not problem.one_hot or not bool(counted.any()) or problem.outputs == 1:
        return Separation(accuracy, None, False)
    lead = z.gather(1, right)[:, 0] - z.scatter(1, right, -torch.inf).amax(1)
    size = pieced_gamma(problem.design.columns) * float(norm_upper(x)) * problem.row_norms
    size = size + 4 * U64 * z.abs().amax(1)
    if problem.base is not None:
        size = size + norm_upper(problem.base.error)
    least = float((lead - 2.0 * SHORT_CHAIN * size)[counted].min())
    return Separation(accuracy, least, least > 0.0)
