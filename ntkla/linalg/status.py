"""How a computation ended, as data: a code for programs and a sentence for people."""

from __future__ import annotations

from dataclasses import dataclass

from ntkla.linalg.errors import NotCertifiedError

CERTIFIED = "certified"
ABOVE_TOLERANCE = "above_tolerance"
RANK_DEFICIENT = "rank_deficient"
UNCERTIFIED = "uncertified"
CONDITIONAL = "conditional"


@dataclass(frozen=True)
class Status:
    """The end of a computation.

    Attributes:
        code: one of
            `"certified"`: the error bound is proved and meets the tolerance;
            `"above_tolerance"`: the error bound is proved but larger than the tolerance;
            `"rank_deficient"`: `ridge=0` and full rank is not certified, so the bound is infinite;
            `"uncertified"`: no bound can be given, the bound is infinite;
            `"conditional"`: the bound holds for a foreign operator as evaluated, not for its exact values.
        message: what happened, with the numbers, and what to do about it.
    """

    code: str
    message: str

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
