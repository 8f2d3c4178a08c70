"""The judge of the suite `penalty`: what a step returned, held against the formulas in float64.

A step returns what its network said beside its objective, so everything after the network is judged exactly: the loss
of the batch, and the penalty (or the mean of squares) of the probes.  What float32 explains, to first order in u:

- cross-entropy of C outputs and n samples: every number on the way is at most `1 + 2 spread + log C`, spread the
  largest difference of two outputs of a sample, and no more than `C + n + 16` roundings (exp and log count for four
  each) are made of one;
- the penalty: a coefficient is `u_j^T m` with m a column of the movement, off by `gamma_n ||m||`; all k C squares
  together by `2 gamma_n sqrt(k) ||M||_F^2`, and their sum by `gamma_(k C)` of itself, which is at most `||M||_F^2`;
- a mean of squares: its sum.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from ntkla.forgetting.penalties.spectral_penalty import SpectralPenalty
from ntkla.linalg.precision import gamma
from perf.harness import Contender, Verdict
from perf.precisions import ROUNDOFF

U32 = ROUNDOFF["float32"]


class Step(NamedTuple):
    """What a contender computed.

    Attributes:
        total: its objective, a scalar.
        logits: what the network says about the batch; None without one.
        outputs: what it says about the probes; None without them.
    """

    total: torch.Tensor
    logits: torch.Tensor | None = None
    outputs: torch.Tensor | None = None


class Known(NamedTuple):
    """A number in float64, and how far float32 may be from it."""

    value: float
    rounding: float


@dataclass(frozen=True, eq=False)
class Judge:
    """The total must be the loss of the batch, where there is one, plus what is asked of the probes.

    Attributes:
        penalty: the penalty.
        labels: of the batch.
        replay: the contender that takes a mean of squares in place of the penalty.
    """

    penalty: SpectralPenalty
    labels: torch.Tensor
    replay: str

    def __call__(self, contender: Contender, answer: Any) -> Verdict:
        parts = [] if answer.logits is None else [cross_entropy(answer.logits, self.labels)]
        if answer.outputs is not None:
            replayed = contender.name == self.replay
            parts.append(mean_of_squares(answer.outputs) if replayed else penalised(self.penalty, answer.outputs))
        exact, value = sum(part.value for part in parts), float(answer.total.detach())
        # The parts' sum rounds once more.
        allowed = sum(part.rounding for part in parts) + 2.0 * U32 * abs(exact)
        error = abs(value - exact)
        return Verdict(error <= allowed, error / exact, allowed / exact, f"{value} where {exact} is right")


def cross_entropy(logits: torch.Tensor, labels: torch.Tensor) -> Known:
    """The mean over a batch, logits [n, C]."""
    wide, (samples, outputs) = logits.detach().double(), logits.shape
    spread = float((wide.amax(1) - wide.amin(1)).max())
    rounding = gamma(outputs + samples + 16, U32) * (1.0 + 2.0 * spread + math.log(outputs))
    return Known(float(torch.nn.functional.cross_entropy(wide, labels)), rounding)


def penalised(penalty: SpectralPenalty, outputs: torch.Tensor) -> Known:
    """`weight / k ||U^T (f - f_ref)||^2`, outputs [n, C]."""
    moved = outputs.detach().double() - penalty.reference.double()
    share, size = penalty.weight / penalty.count, float(moved.square().sum())
    probes, modes = penalty.basis.shape
    # The movement and the square round too, and the basis is of unit columns to a rounding.
    relative = 2.0 * gamma(probes + 2, U32) * math.sqrt(modes) + gamma(penalty.count + 4, U32)
    return Known(float((penalty.basis.double().T @ moved).square().sum()) * share, relative * size * share)


def mean_of_squares(outputs: torch.Tensor) -> Known:
    """Of all outputs."""
    value = float(outputs.detach().double().square().mean())
    return Known(value, gamma(outputs.numel() + 2, U32) * value)
