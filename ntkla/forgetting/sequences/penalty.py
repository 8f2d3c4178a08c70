"""How strongly a sequence protects what it has learned, in one of two units.

`strength / 2 ||U^T (Phi W^T - F)||_F^2` for the k protected modes U of a task's probes: at strength 1 each of them
counts as in the squared loss of the samples that it was made of, whatever k and the number of outputs C.  The unit of
`SpectralPenalty` is `weight / (C k) ||...||_F^2`: a strength s is the weight `s C k / 2`, as in `ntkla.plan`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from ntkla.linalg import checks
from ntkla.linalg.errors import ArgumentError
from ntkla.linalg.precision import NEGLIGIBLE


@dataclass(frozen=True)
class Penalty:
    """How many modes of each task are protected, and how strongly: one of strength and weight is None."""

    modes: int
    strength: float | None
    weight: float | None

    @classmethod
    def checked(cls, modes: object, strength: object = None, weight: object = None) -> Penalty:
        """The penalty when its numbers are in their ranges, of strength 1 when nothing is said; else ArgumentError."""
        one_unit(strength=strength, weight=weight)
        return cls(
            checks.integer("modes", modes, least=0),
            None if weight is not None else _size("strength", 1.0 if strength is None else strength),
            None if weight is None else _size("weight", weight),
        )

    def of_modes(self, modes: int) -> Penalty:
        """The same for another number of modes."""
        return replace(self, modes=modes)

    @property
    def wanted(self) -> int:
        """How many modes of each task are to be protected: none of them with strength or weight 0."""
        return self.modes if self.strength or self.weight else 0

    def counted(self, modes: int, outputs: int) -> float:
        """What a protected mode counts when a task has so many of them: the strength, or `2 weight / (C k)`."""
        if self.weight is not None:
            return 2.0 * self.weight / (outputs * modes)
        assert self.strength is not None, "one of both is given"
        return self.strength

    def __str__(self) -> str:
        if not self.wanted:
            return "no penalty"
        unit = f"strength {self.strength:.4g}" if self.weight is None else f"weight {self.weight:.4g}"
        return f"{self.modes} modes a task with {unit}"


def one_unit(**units: object) -> None:
    """Raises ArgumentError when both of two units are given."""
    if all(value is not None for value in units.values()):
        first, second = units
        raise ArgumentError(f"{first} and {second} say the same thing in different units. Leave one out.")


def _size(name: str, value: object) -> float:
    number = checks.number(name, value)
    if not (number == 0 or NEGLIGIBLE <= number <= checks.LARGEST_ENTRY):
        raise ArgumentError(
            f"{name}: expected 0, or a number from {NEGLIGIBLE:.3g} to {checks.LARGEST_ENTRY:.3g}, got {value!r}."
        )
    return number
