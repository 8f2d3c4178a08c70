"""What the bounds decide: a number where they do, an interval where they do not."""

from __future__ import annotations

from dataclasses import dataclass

from ntkla.linalg.errors import ArgumentError, UndecidedError
from ntkla.linalg.results import Result


@dataclass(frozen=True)
class Decision(Result):
    """A count or a share that is certainly in [low, high]; decided when the two agree.

    `float(d)` and `int(d)` give the number of a decided one and raise UndecidedError otherwise; `str(d)` is
    `"12"` or `"[11, 13]"`.

    Attributes:
        low, high: the ends, both included.
    """

    low: float
    high: float

    def __post_init__(self) -> None:
        if not self.low <= self.high:
            raise ArgumentError(f"decision: expected low <= high, got [{self.low!r}, {self.high!r}].")

    @property
    def decided(self) -> bool:
        """Whether the bounds leave one value only."""
        return self.low == self.high

    @property
    def value(self) -> float | None:
        """The number when decided, else None."""
        return self.low if self.decided else None

    def __contains__(self, number: float) -> bool:
        return self.low <= number <= self.high

    def __float__(self) -> float:
        return float(self._number())

    def __int__(self) -> int:
        return int(self._number())

    def __str__(self) -> str:
        return f"{self.low:.6g}" if self.decided else f"[{self.low:.6g}, {self.high:.6g}]"

    def _number(self) -> float:
        if not self.decided:
            raise UndecidedError(
                f"the error bounds leave [{self.low!r}, {self.high!r}] open. Use .low and .high, or a smaller tol."
            )
        return self.low
