"""What was typed after `ntkla forecast`, checked for what is missing or contradictory before any file is read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ntkla.app.failures import printable
from ntkla.app.notation import share
from ntkla.linalg import checks
from ntkla.linalg.errors import ArgumentError


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
                "--relative-ridge 0.01), or --sgd lr,steps for gradient descent that stops early."
            )
        if self.name is not None and len(self.name) != len(self.old):
            raise ArgumentError(f"--name: expected one for each of {len(self.old)} OLD, got {len(self.name)}.")
        if self.name is not None and len(set(map(printable, self.name))) < len(self.name):
            raise ArgumentError("--name: expected different names.")
        checks.integer("--top", self.top, least=0)
        share("--modes-share", self.modes_share)
        if self.tol is not None:
            checks.positive("--tol", self.tol)
