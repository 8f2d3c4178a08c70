"""What was typed after `ntkla forecast`, checked for what is missing or contradictory before any file is read."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from ntkla.app.command_line.notation import FIT, share
from ntkla.app.failures import printable
from ntkla.linalg import checks
from ntkla.linalg.errors import ArgumentError

USUAL_RIDGE = 0.1
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
class ForecastOptions:
    """Arguments and options as typed; `ntkla forecast --help` says what each means."""

    old: list[str]
    new: str
    head: str
    ridge: float | None = None
    relative_ridge: float | None = None
    sgd: str | None = None
    flow: float | None = None
    weight_decay: float = 0.0
    mean_loss: bool = False
    free_bias: bool = False
    tol: float | None = None
    strict: bool = False
    after: str | None = None
    old_outputs: list[str] | None = None
    new_outputs: str | None = None
    old_classes: list[str] | None = None
    new_classes: str | None = None
    name: list[str] | None = None
    top: int = 10
    modes_share: float = 0.9
    device: str = "cpu"
    json: bool = False
    output: Path | None = None

    def check(self) -> None:
        """Raises ArgumentError for options that are missing, exclude each other, or are outside their range."""
        if self.ridge is not None and self.relative_ridge is not None:
            raise ArgumentError("--ridge and --relative-ridge say the same thing in different units. Leave one out.")
        if self.sgd is not None and self.flow is not None:
            raise ArgumentError("--sgd and --flow are two ways of training. Leave one out.")
        if self.ridge is None and self.relative_ridge is None and self.sgd is None and self.flow is None:
            raise ArgumentError(
                "how is the head trained? Add --ridge or --relative-ridge for training to the optimum (a usual start: "
                f"--relative-ridge {USUAL_RIDGE}), or --sgd lr,steps for gradient descent that stops early."
            )
        self._require_no_stray_numbers()
        if self.name is not None and len(self.name) != len(self.old):
            raise ArgumentError(f"--name: expected one for each of {len(self.old)} OLD, got {len(self.name)}.")
        if self.name is not None and len(set(map(printable, self.name))) < len(self.name):
            raise ArgumentError("--name: expected different names.")
        checks.integer("--top", self.top, least=0)
        share("--modes-share", self.modes_share)
        if self.tol is not None:
            checks.positive("--tol", self.tol)

    def _require_no_stray_numbers(self) -> None:
        """Raises ArgumentError where the numbers of --sgd were typed with blanks, which makes files of some of them."""
        words = [word for word in (*self.old, self.new, self.head) if not os.path.exists(word)]
        numbers = [word.strip(",") for word in words if _is_number(word.strip(","))]
        if self.sgd is not None and numbers:
            together = ",".join([self.sgd.strip(","), *numbers])
            raise ArgumentError(f"--sgd takes one word without blanks: --sgd {together}.")


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True
