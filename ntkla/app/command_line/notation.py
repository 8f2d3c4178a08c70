"""What options spell out: lists of numbers such as 0-4,7, the settings of SGD, shares, one value for each OLD."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from ntkla.linalg.errors import ArgumentError

T = TypeVar("T")
# In the place of HEAD: a head is fitted to OLD first.
FIT = "fit"
# Among the numbers of steps: training to the end.
OPTIMUM = "optimum"


@dataclass(frozen=True)
class Sgd:
    """The settings of `--sgd`, as typed.

    Attributes:
        lr: the learning rate.
        steps: full-batch steps.
        momentum: 0 where none was typed.
        nesterov: whether the word was typed.
    """

    lr: float
    steps: int
    momentum: float = 0.0
    nesterov: bool = False


def sgd(text: str) -> Sgd:
    """`lr,steps[,momentum[,nesterov]]`; ArgumentError otherwise."""
    parts = [part.strip() for part in text.split(",")]
    wrong = ArgumentError(
        f"--sgd: expected lr,steps[,momentum[,nesterov]], such as 0.01,100,0.9,nesterov, got {text!r}."
    )
    if not 2 <= len(parts) <= 4 or (len(parts) == 4 and parts[3].lower() != "nesterov"):
        raise wrong
    try:
        return Sgd(float(parts[0]), int(parts[1]), float(parts[2]) if len(parts) > 2 else 0.0, len(parts) == 4)
    except ValueError as cause:
        raise wrong from cause


def numbers(option: str, text: str, count: int) -> list[int]:
    """The numbers of some of the head's outputs, in the order in which they are named.

    Args:
        option: for the messages.
        text: numbers and ranges between commas, both ends included: `0-4,7`.
        count: how many outputs the head has; every number is below it.

    Raises:
        ArgumentError: another notation, a number that is not there, or one that is named twice.
    """
    found: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        # isdecimal alone takes digits of other scripts, and int takes underscores: neither is meant.
        ends = [first, last] if dash else [first]
        if not all(end.isascii() and end.isdecimal() and len(end) < 10 for end in ends):
            raise ArgumentError(f"{option}: expected numbers and ranges between commas, such as 0-4,7, got {text!r}.")
        start, stop = int(ends[0]), int(ends[-1])
        if stop < start:
            raise ArgumentError(f"{option}: the range {part!r} runs backwards. Write {stop}-{start}.")
        if stop >= count:
            raise ArgumentError(f"{option}: the head has the outputs 0 to {count - 1}, and {part!r} was named.")
        found += range(start, stop + 1)
    return _once(option, text, found)


def nonnegatives(option: str, text: str) -> list[float]:
    """Numbers >= 0 between commas, each once: `0,0.1,1e3`; ArgumentError otherwise."""
    try:
        found = [float(part) for part in text.split(",")]
    except ValueError as cause:
        raise ArgumentError(f"{option}: expected numbers between commas, such as 0.1,1,10, got {text!r}.") from cause
    if not all(math.isfinite(number) and number >= 0 for number in found):
        raise ArgumentError(f"{option}: expected finite numbers >= 0, got {text!r}.")
    return _once(option, text, found)


def positive_integers(option: str, text: str) -> list[int]:
    """Whole numbers >= 1 between commas, each once: `1,10,100`; ArgumentError otherwise."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdecimal() and len(part) < 10 and int(part) > 0 for part in parts):
        raise ArgumentError(f"{option}: expected whole numbers >= 1 between commas, such as 1,10,100, got {text!r}.")
    return _once(option, text, [int(part) for part in parts])


def training_lengths(text: str) -> list[int | None]:
    """The steps of `--steps`, None for the word optimum: `10,100,optimum`; ArgumentError otherwise."""
    parts = [part.strip().lower() for part in text.split(",")]
    steps = [part for part in parts if part != OPTIMUM]
    numbers = iter(positive_integers("--steps", ",".join(steps)) if steps else [])
    return _once("--steps", text, [None if part == OPTIMUM else next(numbers) for part in parts])


def _once(option: str, text: str, found: list[T]) -> list[T]:
    if len(set(found)) < len(found):
        raise ArgumentError(f"{option}: expected each number once, got {text!r}.")
    return found


def share(option: str, value: float) -> float:
    """`value` when it is above 0 and at most 1; ArgumentError otherwise."""
    if not 0 < value <= 1:
        raise ArgumentError(f"{option}: expected a share above 0 and at most 1, got {value!r}.")
    return value


def for_each(option: str, given: Sequence[T], count: int) -> list[T | None]:
    """One value for each of `count` old tasks: none, one for all, or one each; ArgumentError otherwise."""
    if len(given) not in (0, 1, count):
        times = f"once for all, or {count} times, once an OLD" if count > 1 else "once"
        raise ArgumentError(f"{option}: expected it {times}, got it {len(given)} times.")
    return [*given] if len(given) == count else [given[0] if given else None] * count
