"""What was typed after `ntkla plan`, checked before any file is read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ntkla.app.command_line.notation import nonnegatives, positive_integers, training_lengths
from ntkla.app.command_line.task_options import TaskOptions
from ntkla.linalg import checks
from ntkla.linalg.errors import ArgumentError

USUAL_RIDGES = "0.001,0.01,0.1,1"
USUAL_MODES = "3,10,30,100,300"
USUAL_STRENGTHS = "0.1,0.3,1,3"


@dataclass(frozen=True)
class PlanOptions(TaskOptions):
    """Arguments and options as typed; `ntkla plan --help` says what each means."""

    old_test: list[str] | None = None
    new_test: str | None = None
    ridges: str | None = None
    relative_ridges: str | None = None
    strengths: str | None = None
    weights: str | None = None
    modes: str = USUAL_MODES
    lr: float | None = None
    steps: str | None = None
    momentum: float = 0.0
    nesterov: bool = False
    mean_loss: bool = False
    free_bias: bool = False
    probes: int | None = None
    max_forgetting: float = 0.01
    on: str = "worst"
    tol: float | None = None
    json: bool = False
    output: Path | None = None

    def check(self) -> None:
        """Raises ArgumentError for options that are missing, exclude each other, or are outside their range."""
        if self.ridges is not None and self.relative_ridges is not None:
            raise ArgumentError("--ridges and --relative-ridges say the same thing in different units. Leave one out.")
        option, text = self.typed_ridges
        nonnegatives(option, text)
        if self.strengths is not None and self.weights is not None:
            raise ArgumentError("--strengths and --weights say the same thing in different units. Leave one out.")
        if self.weights is not None:
            nonnegatives("--weights", self.weights)
        positive_integers("--modes", self.modes)
        if self.steps is not None and any(training_lengths(self.steps)) and self.lr is None:
            raise ArgumentError("--steps: gradient descent needs its learning rate. Add --lr.")
        if self.steps is None and self.lr is not None:
            raise ArgumentError("--lr: how many steps? Add --steps, such as --steps 10,100,optimum.")
        if self.probes is not None:
            checks.integer("--probes", self.probes, least=1)
        if not 0 <= self.max_forgetting <= 1:
            raise ArgumentError(
                f"--max-forgetting: expected a share from 0 to 1, got {self.max_forgetting!r}; two points are 0.02."
            )
        if self.tol is not None:
            checks.positive("--tol", self.tol)
        self.check_names()

    @property
    def typed_ridges(self) -> tuple[str, str]:
        """The option that says how strongly the old head holds, and its numbers as typed or as they usually are."""
        if self.ridges is not None:
            return "--ridges", self.ridges
        return "--relative-ridges", self.relative_ridges or USUAL_RIDGES

    @property
    def typed_strengths(self) -> list[float] | None:
        """How strongly modes are protected, as typed or as usual; None where weights were typed."""
        return None if self.weights is not None else nonnegatives("--strengths", self.strengths or USUAL_STRENGTHS)
