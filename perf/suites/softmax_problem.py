"""Features as a frozen backbone makes them, labels that they do not separate, and what a head is judged by."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from perf.suites.primitives import DTYPES


@dataclass(frozen=True)
class Setting:
    """One case: the optimum to a relative gradient, `||gradient||_F <= target ridge ||W||_F`.

    Attributes:
        relative_ridge: ridge over the mean eigenvalue of Phi^T Phi.
    """

    rows: int
    features: int
    classes: int
    dtype: str
    relative_ridge: float
    target: float

    @property
    def name(self) -> str:
        shape = f"{self.rows} x {self.features}, {self.classes} classes, {self.dtype}"
        return f"{shape}, ridge {self.relative_ridge:g}, to {self.target:g}"


@dataclass(frozen=True, eq=False)
class Problem:
    """Phi [n, F], labels [n], and the ridge.

    Attributes:
        wide: Phi in float64.
    """

    setting: Setting
    x: torch.Tensor
    wide: torch.Tensor
    labels: torch.Tensor
    ridge: float

    def relative_gradient(self, weight: torch.Tensor) -> float:
        """`||gradient||_F / (ridge ||W||_F)` at a head, in float64: its distance from the optimum is at most that."""
        weight = weight.to(torch.float64)
        residual = torch.softmax(self.wide @ weight.T, 1)
        residual[torch.arange(len(residual)), self.labels] -= 1.0
        gradient = residual.T @ self.wide + self.ridge * weight
        return float(torch.linalg.vector_norm(gradient) / (self.ridge * torch.linalg.vector_norm(weight)))


def make(setting: Setting, device: torch.device) -> Problem:
    """Rectified mixtures of decaying factors around one centre a class; a tenth of the labels is drawn anew."""
    n, features, classes = setting.rows, setting.features, setting.classes
    generator = torch.Generator().manual_seed(n + features + classes)
    decay = torch.arange(1, features + 1, dtype=torch.float32)[:, None] ** -0.7
    mixing = torch.randn(features, features, generator=generator) * decay
    centres = 0.5 * torch.randn(classes, features, generator=generator)
    labels = torch.randint(0, classes, (n,), generator=generator)
    x = ((torch.randn(n, features, generator=generator) + centres[labels]) @ mixing + 0.1).relu()
    again = torch.rand(n, generator=generator) < 0.1
    labels = torch.where(again, torch.randint(0, classes, (n,), generator=generator), labels)
    x = x.to(DTYPES[setting.dtype])
    wide = x.to(torch.float64)
    ridge = setting.relative_ridge * float(wide.square().sum()) / features
    return Problem(setting, x.to(device), wide.to(device), labels.to(device), ridge)
