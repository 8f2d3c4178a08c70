"""What was typed after `ntkla forecast`, checked for what is missing or contradictory before any file is read."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from ntkla.app.command_line.notation import share
from ntkla.app.command_line.task_options import TaskOptions
from ntkla.linalg import checks
from ntkla.linalg.errors import ArgumentError

USUAL_RIDGE = 0.1


@dataclass(frozen=True)
class ForecastOptions(TaskOptions):
    """Arguments and options as typed; `ntkla forecast --help` says what each means."""

    ridge: float | None = None
    relative_ridge: float | None = None
    sgd: str | None = None
    flow: float | None = None
    weight_decay: float = 0.0
    mean_loss: bool = False
    free_bias: bool = False
    protect: int | None = None
    protect_weight: float | None = None
    tol: float | None = None
    strict: bool = False
    top: int = 10
    modes_share: float = 0.9
    json: bool = False
    output: Path | None = None

    def check(self) -> None:
        """Raises ArgumentError for options that are missing, exclude each other, or are outside their range."""
        if self.ridge is not None and self.relative_ridge is not None:
            raise ArgumentError("--ridge and --relative-ridge say the same thing in different units. Leave one out.")
        if self.sgd is not None and self.flow is not None:
            raise ArgumentError("--sgd and --flow are two ways of training. Leave one out.")
        if self.cross_entropy and (self.sgd is not None or self.flow is not None):
            raise ArgumentError(
                "--cross-entropy: training that stops early has no closed form under it, the optimum has. Leave out "
                f"--sgd and --flow, and add --relative-ridge {USUAL_RIDGE}."
            )
        if self.ridge is None and self.relative_ridge is None and self.sgd is None and self.flow is None:
            raise ArgumentError(
                "how is the head trained? Add --ridge or --relative-ridge for training to the optimum (a usual start: "
                f"--relative-ridge {USUAL_RIDGE}), or --sgd lr,steps for gradient descent that stops early."
            )
        self._require_no_stray_numbers()
        self._check_protection()
        self.check_names()
        checks.integer("--top", self.top, least=0)
        share("--modes-share", self.modes_share)
        if self.tol is not None:
            checks.positive("--tol", self.tol)

    def _check_protection(self) -> None:
        if self.protect_weight is not None:
            if not 0 <= self.protect_weight <= checks.LARGEST_ENTRY:
                raise ArgumentError(
                    f"--protect-weight: expected a number from 0 to {checks.LARGEST_ENTRY:.3g}, got "
                    f"{self.protect_weight!r}."
                )
            if self.protect is None:
                raise ArgumentError("--protect-weight is the weight of what --protect K protects. Add --protect 20.")
        if self.protect is not None:
            checks.integer("--protect", self.protect, least=1)
            if self.free_bias:
                raise ArgumentError("--protect and --free-bias exclude each other. Leave out --free-bias.")

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
