"""Where a call spends its time, by part, without a hook in the code that is measured.

Functions are wrapped for the length of one call.  A part's seconds are those spent in its functions less those spent
in wrapped functions that they call, so the parts add up to the whole; what no part covers is "other".
"""

from __future__ import annotations

import functools
import importlib
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

OTHER = "other"


@dataclass(frozen=True)
class Part:
    """A function that belongs to a part.

    Attributes:
        name: the part.
        module, attribute: where callers find the function, such as
            `("ntkla.linalg.solve.factor", "CholeskyFactor.build")`.
        inside: count it only when it is called from this part; None counts it always.
    """

    name: str
    module: str
    attribute: str
    inside: str | None = None


class _Clock:
    """Charges the time since the last switch to the part on top of the stack."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds: dict[str, float] = {}
        self.stack = [OTHER]
        self._last = time.perf_counter()

    def charge(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        now = time.perf_counter()
        self.seconds[self.stack[-1]] = self.seconds.get(self.stack[-1], 0.0) + now - self._last
        self._last = now


def split(call: Callable[[], Any], parts: list[Part], device: torch.device) -> dict[str, float]:
    """Runs `call` once; seconds by part, in the order of `parts`, "other" last."""
    clock = _Clock(device)
    with _wrapped(parts, clock):
        clock.charge()
        clock.seconds.clear()
        call()
        clock.charge()
    names = [*dict.fromkeys(part.name for part in parts), OTHER]
    return {name: clock.seconds[name] for name in names if name in clock.seconds}


@contextmanager
def _wrapped(parts: list[Part], clock: _Clock) -> Iterator[None]:
    originals: list[tuple[Any, str, Any]] = []
    try:
        for part in parts:
            owner: Any = importlib.import_module(part.module)
            *path, name = part.attribute.split(".")
            for step in path:
                owner = getattr(owner, step)
            original = owner.__dict__[name]
            originals.append((owner, name, original))
            setattr(owner, name, _timed(original, part, clock))
        yield
    finally:
        for owner, name, original in reversed(originals):
            setattr(owner, name, original)


def _timed(original: Any, part: Part, clock: _Clock) -> Any:
    if isinstance(original, classmethod):
        return classmethod(_timed(original.__func__, part, clock))

    @functools.wraps(original)
    def timed(*args: Any, **kwargs: Any) -> Any:
        if part.inside is not None and clock.stack[-1] != part.inside:
            return original(*args, **kwargs)
        clock.charge()
        clock.stack.append(part.name)
        try:
            return original(*args, **kwargs)
        finally:
            clock.charge()
            clock.stack.pop()

    return timed
