"""The judge of a computed matrix: a sample of entries against double-double, and the whole of it against a product.

An answer K [R, S] with `|error| <= digits * magnitude`, entry by entry, is judged twice.

- Sampled entries, compared with their exact values: every one must lie within its limit.
- All entries, after Freivalds: with random signs v, `K v` must be what associativity gives for the exact matrix, in
  float64.  Signs of one block of columns at a time: a wrong tile stands out against the rounding of its block only.
  The errors e_j of a row are fixed before the signs are drawn, so by Hoeffding's inequality `|sum_j v_j e_j|` exceeds
  `SIGMAS` times the root of the sum of their squared limits with a chance below 1e-21.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from perf.harness import Contender, Verdict
from perf.pairs import Pair

SIGMAS = 10.0
BLOCK = 256


@dataclass(frozen=True)
class Triangle:
    """A symmetric answer of which only one triangle was written."""

    values: torch.Tensor
    lower: bool = True

    def whole(self) -> torch.Tensor:
        half = self.values if self.lower else self.values.mT
        return half.tril() + half.tril(-1).mT


@dataclass(frozen=True, eq=False)
class Entries:
    """Sampled entries: their places, exact values and magnitudes, [k] each."""

    rows: torch.Tensor
    columns: torch.Tensor
    exact: Pair
    magnitude: torch.Tensor


@dataclass(frozen=True, eq=False)
class Judge:
    """Judges the answers of one case; a contender's `digits` times the magnitude is what each entry may be off by.

    Attributes:
        sample: the sampled entries.
        left, right: [R] and [S] with `magnitude_ij <= left_i right_j`.
        expected: K V in float64 for V [S, blocks], without K.
        slack: unit of the rounding of `expected` and of K V: off by at most this times `left_i sum_j right_j |V_j|`.
        symmetric: ours must be exactly symmetric.
    """

    sample: Entries
    left: torch.Tensor
    right: torch.Tensor
    expected: Callable[[torch.Tensor], torch.Tensor]
    slack: float
    symmetric: bool = False

    def __call__(self, contender: Contender, answer: Any) -> Verdict:
        answer = answer.whole() if isinstance(answer, Triangle) else answer
        wanted = (self.left.shape[0], self.right.shape[0])
        if tuple(answer.shape) != wanted:
            return Verdict(False, math.nan, reason=f"shape {tuple(answer.shape)} for {wanted}")
        found = answer[self.sample.rows, self.sample.columns].double()
        difference = ((found - self.sample.exact.high) - self.sample.exact.low).abs()
        limits = contender.digits * self.sample.magnitude
        size = float(torch.linalg.vector_norm(self.sample.exact.high))
        error, bound = (float(torch.linalg.vector_norm(x)) / size for x in (difference, limits))
        worst = float((difference / limits).max())
        whole = self._freivalds(answer, contender.digits)
        said = f"{'its own bound' if contender.ours else 'what rounding explains'}, {bound:.1e}"
        reason = ""
        if not worst <= 1.0:
            reason = f"off by {error:.1e}, an entry by {worst:.2g} times {said}"
        elif not whole <= 1.0:
            reason = f"Freivalds: {whole:.2g} times {said}"
        elif contender.ours and self.symmetric and not torch.equal(answer, answer.mT):
            reason = "not exactly symmetric"
        facts = {"sampled": found.numel(), "worst_entry": worst, "freivalds": whole}
        return Verdict(not reason, error, bound if contender.ours else None, reason, facts)

    def _freivalds(self, answer: torch.Tensor, digits: float) -> float:
        """The largest deviation of K V from what is expected, in units of its limit; NaN where K holds one."""
        columns = answer.shape[1]
        generator = torch.Generator(device=answer.device).manual_seed(columns)
        signs = torch.randint(0, 2, (columns,), generator=generator, device=answer.device).double() * 2.0 - 1.0
        spread = torch.zeros(columns, -(-columns // BLOCK), dtype=torch.float64, device=answer.device)
        places = torch.arange(columns, device=answer.device)
        spread[places, places // BLOCK] = signs
        expected = self.expected(spread)
        ratios = []
        for block in range(spread.shape[1]):
            part = slice(block * BLOCK, (block + 1) * BLOCK)
            deviation = (answer[:, part].double() @ signs[part] - expected[:, block]).abs()
            right = self.right[part]
            limit = SIGMAS * digits * torch.linalg.vector_norm(right) + self.slack * right.sum()
            ratios.append((deviation / (limit * self.left)).amax())
        return float(torch.stack(ratios).amax())


def places(rows: int, columns: int, count: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Random places, with the corners and the neighbourhood of a tile's edge, where indexing goes wrong first."""
    generator = torch.Generator(device="cpu").manual_seed(rows + columns)
    edges = [
        (0, 0),
        (rows - 1, columns - 1),
        (rows - 1, 0),
        (0, columns - 1),
        (min(128, rows - 1), min(127, columns - 1)),
    ]
    drawn = [torch.randint(0, length, (count,), generator=generator) for length in (rows, columns)]
    fixed = torch.tensor(edges).T
    found = [torch.cat([some, all_]).to(device) for some, all_ in zip(fixed, drawn, strict=True)]
    return found[0], found[1]
