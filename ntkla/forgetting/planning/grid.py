"""The grid of a plan: every combination of protection, ridge and training, each protection and each training once."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from ntkla.forgetting.descent.training import GradientDescent, GradientFlow, Training, require_training
from ntkla.linalg import checks
from ntkla.linalg.errors import ArgumentError


class Setting(NamedTuple):
    """One way to protect the old tasks; all 0 without one.

    Attributes:
        weight: of the spectral penalty on each old task; 0 where a strength says it.
        modes: k, how many of each are asked for.
        strength: what each mode that is kept counts: the weight is `strength C k / 2` for C outputs and k modes kept.
    """

    weight: float
    modes: int
    strength: float = 0.0

    @property
    def protects(self) -> bool:
        """Whether there is a penalty."""
        return self.weight > 0 or self.strength > 0

    def weight_on(self, outputs: int, kept: int) -> float:
        """Of the `SpectralPenalty` on a task with so many outputs of which so many modes are kept."""
        return self.strength * outputs * kept / 2 if self.strength > 0 else self.weight


@dataclass(frozen=True)
class Grid:
    """The points of a plan, protection by protection, in each ridge by ridge, in each training by training.

    Attributes:
        settings: distinct; weight 0 and 0 modes are the same, no protection.
        ridges: distinct, ascending.
        trainings: distinct, in the order given; None is the optimum.
    """

    settings: tuple[Setting, ...]
    ridges: tuple[float, ...]
    trainings: tuple[Training | None, ...]

    @classmethod
    def checked(
        cls,
        *,
        ridges: object,
        weights: object,
        strengths: object,
        modes: object,
        steps: object,
        lr: object,
        momentum: object,
        nesterov: object,
    ) -> Grid:
        """The grid when every value is in its range; else ArgumentError, RidgeError."""
        found = [checks.nonnegative("ridges", ridge) for ridge in _several("ridges", ridges)]
        held = [_at_least_zero("weights", weight) for weight in _several("weights", weights)]
        shares = [] if strengths is None else _several("strengths", strengths, empty=True)
        relative = [_at_least_zero("strengths", share) for share in shares]
        counts = [checks.integer("modes", k, least=0) for k in _several("modes", modes, empty=True)]
        if max([*held, *relative]) > 0 and not counts:
            raise ArgumentError(
                "modes: a weight above 0 protects modes, and none were asked for. Pass how many, such as modes=(10,)."
            )
        tried = [Setting(weight, k) for weight in held for k in counts or [0]]
        tried += [Setting(0.0, k, strength) for strength in relative for k in counts or [0]]
        settings = {one if one.protects and one.modes > 0 else Setting(0.0, 0) for one in tried}
        trainings = [_training(step, lr, momentum, nesterov) for step in _several("steps", steps)]
        return cls(tuple(sorted(settings)), tuple(sorted(set(found))), tuple(dict.fromkeys(trainings)))

    @property
    def each(self) -> int:
        """How many points one protection has."""
        return len(self.ridges) * len(self.trainings)

    def __len__(self) -> int:
        return len(self.settings) * self.each

    def point(self, number: int) -> tuple[Setting, float, Training | None]:
        """Protection, ridge and training of one point."""
        setting, rest = divmod(number, self.each)
        ridge, training = divmod(rest, len(self.trainings))
        return self.settings[setting], self.ridges[ridge], self.trainings[training]


def _several(name: str, values: object, empty: bool = False) -> list[object]:
    """The values as a list; a single one may stand for itself."""
    single = isinstance(values, (str, bytes)) or getattr(values, "ndim", 1) == 0
    listed = list(values) if isinstance(values, Iterable) and not single else [values]
    if not listed and not empty:
        raise ArgumentError(f"{name}: expected at least one, got none.")
    return listed


def _at_least_zero(name: str, value: object) -> float:
    found = checks.number(name, value)
    if not 0 <= found <= checks.LARGEST_ENTRY:
        raise ArgumentError(f"{name}: expected numbers from 0 to {checks.LARGEST_ENTRY:.3g}, got {found!r}.")
    return found


def _training(step: object, lr: object, momentum: object, nesterov: object) -> Training | None:
    """One stopping time: None, a number of steps of gradient descent, or a training as it is."""
    if step is None or isinstance(step, (GradientDescent, GradientFlow)):
        return step
    if isinstance(step, (str, bytes, float)):
        return require_training(step)
    count = checks.integer("steps", step, least=1)
    if lr is None:
        raise ArgumentError("lr: a number of steps needs the learning rate, for the summed loss. Pass lr=.")
    return GradientDescent(
        checks.positive("lr", lr), count, checks.number("momentum", momentum), checks.flag("nesterov", nesterov)
    )
