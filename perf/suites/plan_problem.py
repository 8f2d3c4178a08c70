"""Inputs of suite `plan`: old tasks of two classes each, a new one that has all classes in another domain, and a grid.

Every class has a mean, every task a shift, and the singular values decay like those of a backbone's features.  The head
is the ridge regression on all old tasks, so there is something to forget.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch

from ntkla.forgetting.descent.training import GradientDescent
from ntkla.forgetting.heads import LinearHead
from ntkla.forgetting.tasks import Task
from perf.suites.primitives import DTYPES

DECAY = 0.75  # singular value j falls like j^-DECAY
RIDGE = 1e-2  # of the head, in mean eigenvalues
RATE = 0.5  # of the stable learning rates at the strongest protection


@dataclass(frozen=True)
class Setting:
    """One case: so many old tasks of `n` samples, a new one of `n`, and counts of what the grid varies."""

    olds: int
    n: int
    features: int
    outputs: int
    dtype: str
    ridges: int
    strengths: int
    modes: tuple[int, ...]
    stops: tuple[int, ...]

    @property
    def points(self) -> int:
        """Ridges, times protections and none, times stopping times and the optimum."""
        return self.ridges * (self.strengths * len(self.modes) + 1) * (len(self.stops) + 1)

    @property
    def name(self) -> str:
        sizes = f"{self.olds} x {self.n} old, {self.n} new, {self.features} features, {self.outputs} outputs"
        return f"{sizes}, {self.dtype}, {self.points} points"


@dataclass(frozen=True, eq=False)
class Problem:
    """Tasks, head and grid; ridges absolute."""

    setting: Setting
    olds: dict[str, Task]
    new: Task
    head: LinearHead

    @cached_property
    def mean_eigenvalue(self) -> float:
        return float(self.new.features.double().square().sum()) / self.new.features.shape[1]

    @cached_property
    def grid(self) -> dict[str, object]:
        """Keyword arguments of `ntkla.plan`."""
        s = self.setting
        exponents = [3.0 * i / max(1, s.ridges - 1) - 2.0 for i in range(s.ridges)]
        ridges = [self.mean_eigenvalue * 10.0**e for e in exponents]
        strengths = [0.0, *(10.0 ** (-i) for i in range(s.strengths))]
        lr = RATE * 2.0 / (self.largest() + ridges[-1])
        steps = (None, *(GradientDescent(lr, t) for t in s.stops))
        return {"ridges": ridges, "strengths": strengths, "modes": s.modes, "steps": steps}

    def largest(self) -> float:
        """An upper bound of the largest eigenvalue of any point's normal matrix without the ridge."""
        tasks = [self.new, *self.olds.values()]
        return sum(float(torch.linalg.matrix_norm(task.features.double(), 2)) ** 2 for task in tasks)


def make(setting: Setting, device: torch.device) -> Problem:
    """The same problem every time."""
    generator = torch.Generator("cpu").manual_seed(20260618)
    f, c = setting.features, setting.outputs
    scale = torch.arange(1, f + 1, dtype=torch.float64, device="cpu") ** -DECAY
    turn = torch.linalg.qr(_normal(generator, f, f))[0]
    means = 0.3 * _normal(generator, c, f)

    def task(classes: list[int]) -> Task:
        picks = torch.randint(len(classes), (setting.n,), generator=generator, device="cpu")
        labels = torch.tensor(classes, device="cpu")[picks]
        raw = _normal(generator, setting.n, f) + _normal(generator, 1, f) + means[labels] * scale.rsqrt()
        features = (raw * scale) @ turn
        return Task.from_labels(features.to(DTYPES[setting.dtype]).to(device), labels.to(device), c)

    olds = {f"task {t}": task([2 * t % c, (2 * t + 1) % c]) for t in range(setting.olds)}
    new = task(list(range(c)))
    x = torch.cat([old.features.double() for old in olds.values()])
    y = torch.cat([old.targets for old in olds.values() if old.targets is not None])
    normal = x.T @ x
    ridge = RIDGE * float(normal.trace()) / f
    weight = torch.linalg.solve(normal + ridge * torch.eye(f, dtype=torch.float64, device=device), x.T @ y).T
    return Problem(setting, olds, new, LinearHead(weight.contiguous()))


def _normal(generator: torch.Generator, rows: int, columns: int) -> torch.Tensor:
    return torch.randn((rows, columns), dtype=torch.float64, device="cpu", generator=generator)
