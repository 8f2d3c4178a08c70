"""Small predictions with a hidden truth inside of their bounds, and what is true of them in exact arithmetic.

Values lie on a coarse grid, so that ties and touching intervals are common and every comparison is exact.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import torch
from hypothesis import strategies as st

from ntkla.forgetting.reports.predictions import Predictions

GRID = 0.25
Rows = list[list[Fraction]]


def exactly(x: torch.Tensor) -> Rows:
    return [[Fraction(v) for v in row] for row in x.tolist()]


@dataclass(frozen=True)
class Known:
    """Numbers [n, C] as computed, the bounds of their errors, and what they really are."""

    value: torch.Tensor
    bound: torch.Tensor
    truth: Rows

    def predictions(self) -> Predictions:
        return Predictions(self.value, self.bound)

    def possible(self) -> list[set[int]]:
        """The classes that anything inside the bounds may make the largest, row by row."""
        rows = zip(exactly(self.value), exactly(self.bound), strict=True)
        found = []
        for values, bounds in rows:
            intervals = list(zip(values, bounds, strict=True))
            least = max(v - b for v, b in intervals)
            found.append({j for j, (v, b) in enumerate(intervals) if v + b >= least})
        return found

    def classes(self) -> list[set[int]]:
        """The classes that are really largest, row by row: several in a tie."""
        return [{j for j, v in enumerate(row) if v == max(row)} for row in self.truth]

    def squares(self) -> list[Fraction]:
        """The squared norms of the true rows."""
        return [sum((v * v for v in row), Fraction(0)) for row in self.truth]


@st.composite
def known(draw: st.DrawFn, n: int, c: int, bounds: tuple[int, ...] = (0, 0, 1, 3)) -> Known:
    """n x c numbers in steps of `GRID`; bounds in the same steps, and the truth anywhere inside, often at an end."""

    def numbers(values: st.SearchStrategy[int]) -> torch.Tensor:
        rows = draw(st.lists(st.lists(values, min_size=c, max_size=c), min_size=n, max_size=n))
        return torch.tensor(rows, dtype=torch.float64)

    value, bound = numbers(st.integers(-6, 6)) * GRID, numbers(st.sampled_from(bounds)) * GRID
    place = numbers(st.sampled_from((-4, -4, -1, 0, 3, 4, 4))) / 4
    return Known(value, bound, exactly(value + bound * place))


def labels_for(n: int, c: int) -> st.SearchStrategy[torch.Tensor]:
    return st.lists(st.integers(0, c - 1), min_size=n, max_size=n).map(lambda x: torch.tensor(x, dtype=torch.int64))


def within(norm: float, error: float, square: Fraction) -> bool:
    """Whether the root of `square` is within `error` of `norm`."""
    middle, radius = Fraction(norm), Fraction(error)
    return max(middle - radius, Fraction(0)) ** 2 <= square <= (middle + radius) ** 2
