"""Which tasks, head and loss were typed, for every command that takes `OLD... NEW HEAD`."""

from __future__ import annotations

from dataclasses import dataclass

from ntkla.app.command_line.notation import FIT
from ntkla.app.failures import printable
from ntkla.linalg.errors import ArgumentError

_MISSING = {
    "OLD": "the old task's files (FEATURES.npy,LABELS.npy)",
    "NEW": "the new task's files (FEATURES.npy,LABELS.npy)",
    "HEAD": "the head's file (WEIGHT.npy,BIAS.npy), or the word fit",
}


def positionals(old: list[str] | None, new: str | None, head: str | None) -> dict[str, str | list[str]]:
    """OLD, NEW and HEAD as the command line parsed them, by name; ArgumentError says which were not typed.

    Where fewer than three were typed the parser fills HEAD first and OLD last, and a person types OLD first.
    """
    typed = [*(old or []), *(word for word in (new, head) if word is not None)]
    if len(typed) >= 3:
        return {"old": typed[:-2], "new": typed[-2], "head": typed[-1]}
    missing = list(_MISSING)[len(typed) :]
    if len(typed) == 2 and typed[-1] == FIT:
        missing = ["NEW"]
    names = " and ".join([", ".join(missing[:-1]), missing[-1]] if len(missing) > 1 else missing)
    verb = "is" if len(missing) == 1 else "are"
    raise ArgumentError(f"{names} {verb} missing: {'; '.join(_MISSING[name] for name in missing)}.")


@dataclass(frozen=True)
class TaskOptions:
    """Arguments and options as typed; `ntkla forecast --help` says what each means."""

    old: list[str]
    new: str
    head: str
    after: str | None = None
    old_outputs: list[str] | None = None
    new_outputs: str | None = None
    old_classes: list[str] | None = None
    new_classes: str | None = None
    name: list[str] | None = None
    cross_entropy: bool = False
    device: str = "cpu"

    def check_names(self) -> None:
        """Raises ArgumentError unless there are no names, or a different one for each OLD."""
        if self.name is not None and len(self.name) != len(self.old):
            raise ArgumentError(f"--name: expected one for each of {len(self.old)} OLD, got {len(self.name)}.")
        if self.name is not None and len(set(map(printable, self.name))) < len(self.name):
            raise ArgumentError("--name: expected different names.")
