"""What a forecast is made of: a task (features and targets) and the linear head that was trained on the old one."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from ntkla.linalg import checks
from ntkla.linalg.design import DesignMatrix, widened
from ntkla.linalg.errors import DtypeError, LabelError, ShapeError
from ntkla.linalg.precision import TINY64, norm_upper, rounded_up
from ntkla.linalg.products import pieced_gamma

_INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)


@dataclass(frozen=True, eq=False)
class Task:
    """Samples of one task, as the frozen backbone sees them.

    Attributes:
        features: [n, F], float64, float32, bfloat16 or float16; detached, taken as exact numbers.
        targets: [n, C], any of these types, same device.
        labels: int64 [n], or None; with labels a forecast also says what happens to the accuracy.

    Raises:
        DtypeError, ShapeError, DeviceError, NonFiniteError, ScaleError, LabelError
    """

    features: torch.Tensor
    targets: torch.Tensor
    labels: torch.Tensor | None = None

    def __post_init__(self) -> None:
        features = checks.matrix("features", self.features)
        targets = checks.matrix("targets", self.targets, rows=features.shape[0])
        checks.one_device(features=features, targets=targets)
        object.__setattr__(self, "features", features)
        object.__setattr__(self, "targets", targets)
        if self.labels is not None:
            labels = _labels(self.labels, features.shape[0], targets.shape[1])
            checks.one_device(features=features, labels=labels)
            object.__setattr__(self, "labels", labels)

    @classmethod
    def from_labels(cls, features: torch.Tensor, labels: torch.Tensor, classes: int) -> Task:
        """A classification task with one-hot float64 targets.

        Args:
            features: [n, F].
            labels: integers [n], each in 0 ... classes - 1, on the features' device.
            classes: C, the number of outputs of the head (of all tasks, when they share it).

        Raises:
            LabelError: a label outside the classes.
            ArgumentError, DtypeError, ShapeError, DeviceError, NonFiniteError, ScaleError, MemoryEstimateError
        """
        features = checks.matrix("features", features)
        labels = _labels(labels, features.shape[0], checks.integer("classes", classes, least=1))
        checks.one_device(features=features, labels=labels)
        checks.memory("the one-hot targets", 8 * features.shape[0] * classes, features.device)
        targets = torch.zeros((features.shape[0], classes), dtype=torch.float64, device=features.device)
        targets.scatter_(1, labels[:, None], 1.0)
        return cls(features, targets, labels)

    def __str__(self) -> str:
        n, f = self.features.shape
        labelled = "with labels" if self.labels is not None else "without labels"
        return f"Task: {n} samples, {f} features, {self.targets.shape[1]} outputs, {labelled}"

    __repr__ = __str__


def _labels(labels: object, samples: int, classes: int) -> torch.Tensor:
    if not isinstance(labels, torch.Tensor) or labels.dtype not in _INTEGERS:
        came = labels.dtype if isinstance(labels, torch.Tensor) else type(labels).__name__
        raise DtypeError(f"labels: expected an integer tensor, got {came}. Convert it with .to(torch.int64).")
    checks.dense("labels", labels)
    checks.with_values("labels", labels)
    if labels.shape != (samples,):
        raise ShapeError(f"labels: expected one a sample, shape ({samples},), got {tuple(labels.shape)}.")
    labels = labels.to(torch.int64)
    low, high = (int(v) for v in torch.aminmax(labels))
    if low < 0 or high >= classes:
        raise LabelError(
            f"labels: expected integers from 0 to {classes - 1}, got {low} to {high}. "
            "Pass the number of classes of the whole head, or renumber the labels."
        )
    return labels


@dataclass(frozen=True, eq=False)
class LinearHead:
    """A linear head: `outputs = features weight^T + bias`.

    Attributes:
        weight: [C, F], float64, float32, bfloat16 or float16; detached, taken as exact numbers.
        bias: [C], or None.

    Raises:
        DtypeError, ShapeError, DeviceError, NonFiniteError, ScaleError
    """

    weight: torch.Tensor
    bias: torch.Tensor | None = None

    def __post_init__(self) -> None:
        weight = checks.matrix("weight", self.weight)
        object.__setattr__(self, "weight", weight)
        if self.bias is not None:
            if not isinstance(self.bias, torch.Tensor) or self.bias.ndim != 1:
                came = tuple(self.bias.shape) if isinstance(self.bias, torch.Tensor) else type(self.bias).__name__
                raise ShapeError(f"bias: expected shape ({weight.shape[0]},), one number an output, got {came}.")
            bias = checks.matrix("bias", self.bias[None, :], columns=weight.shape[0])[0]
            checks.one_device(weight=weight, bias=bias)
            object.__setattr__(self, "bias", bias)

    @property
    def outputs(self) -> int:
        """C."""
        return self.weight.shape[0]

    def stacked(self) -> torch.Tensor:
        """The parameters as one float64 matrix [F, C], or [F + 1, C] with the bias as last row; exact."""
        weight = widened(self.weight).T
        return weight if self.bias is None else torch.cat([weight, widened(self.bias)[None, :]])

    def predict(self, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Outputs and how far they can be from the exact ones.

        Args:
            features: [n, F] on the head's device.

        Returns:
            (outputs, error_bound): float64 [n, C] each, `|outputs - exact| <= error_bound` entrywise, from
            `gamma |phi_i| |w_c|`, gamma counting the summands, and the Cauchy-Schwarz inequality.

        Raises:
            DtypeError, ShapeError, DeviceError, NonFiniteError, ScaleError

        Cost: 2 n F C operations.
        """
        design = DesignMatrix(self._checked(features), self.bias is not None)
        columns = self.stacked()
        norms = norm_upper(columns, dim=0)
        # Beside the rounding, flushed arithmetic may drop subnormal features and subnormal parameters.
        relative = pieced_gamma(design.columns) * norms + TINY64 * math.sqrt(design.columns)
        bound = torch.outer(design.row_norms(), relative) + design.flushed_mass() * norms + 2 * design.columns * TINY64
        return design.matmul(columns), rounded_up(bound)

    def __call__(self, features: torch.Tensor) -> torch.Tensor:
        """The outputs of `predict`, float64 [n, C]."""
        return DesignMatrix(self._checked(features), self.bias is not None).matmul(self.stacked())

    def _checked(self, features: torch.Tensor) -> torch.Tensor:
        features = checks.matrix("features", features, columns=self.weight.shape[1])
        checks.one_device(features=features, weight=self.weight)
        return features

    def __str__(self) -> str:
        c, f = self.weight.shape
        return f"LinearHead: {f} features, {c} outputs, {'with' if self.bias is not None else 'without'} bias"

    __repr__ = __str__
