"""How a computation ended, as data: a code for programs and a sentence for people."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ntkla.linalg.errors import NotCertifiedError

CERTIFIED = "certified"
ABOVE_TOLERANCE = "above_tolerance"
RANK_DEFICIENT = "rank_deficient"
UNCERTIFIED = "uncertified"
CONDITIONAL = "conditional"
INCOMPLETE = "incomplete"


@dataclass(frozen=True)
class Status:
    """The end of a computation.

    Attributes:
        code: one of
            `"certified"`: the error bound is proved and meets the tolerance;
            `"above_tolerance"`: the error bound is proved but larger than the tolerance;
            `"rank_deficient"`: `ridge=0` and full rank is not certified, so the bound is infinite;
            `"uncertified"`: no bound can be given, it is infinite, absolutely or in relation to the result;
            `"conditional"`: the bound holds for a foreign operator as evaluated, not for its exact values;
            `"incomplete"`: the bounds of what was found are proved and meet the tolerance, but not that nothing larger
            was missed.
        message: what happened, with the numbers, and what to do about it.
    """

    code: str
    message: str

    @classmethod
    def of_bound(cls, relative: float, tolerance: float, remedy: str, what: str = "the relative error") -> Status:
        """Certified or above the tolerance, by a proved relative bound; uncertified when that is infinite.

        Args:
            relative: the bound.
            tolerance: what it is compared with.
            remedy: the end of the sentence for a bound above the tolerance: why, and what to do.
            what: its beginning, the quantity that is bounded.
        """
        if relative <= tolerance:
            return cls(CERTIFIED, f"{what} is proved to be at most {relative:.2e} (tolerance {tolerance:.1e}).")
        if not math.isfinite(relative):
            reason = "the bound overflows, or what it is relative to vanishes within it. Read the absolute bound"
            return cls(UNCERTIFIED, f"no bound of {what} can be given: {reason}.")
        reached = f"{what} is proved to be at most {relative:.2e} only, above the tolerance {tolerance:.1e}"
        return cls(ABOVE_TOLERANCE, f"{reached}: {remedy}")

    @property
    def certified(self) -> bool:
        """True when the error bound is proved and meets the tolerance."""
        return self.code == CERTIFIED

    def require(self, strict: bool) -> Status:
        """This status.

        Raises:
            NotCertifiedError: when `strict` and it is not certified; holds the same code and message.
        """
        if strict and not self.certified:
            raise NotCertifiedError(str(self))
        return self

    def __str__(self) -> str:
        return f"{self.code}: {self.message}"
