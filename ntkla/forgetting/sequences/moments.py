"""What a squared loss remembers of a task once its samples are gone: two matrices, exact to the last bit."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ntkla.forgetting.tasks import Task
from ntkla.linalg import checks
from ntkla.linalg.design import DesignMatrix
from ntkla.linalg.errors import ArgumentError, DeviceError, ShapeError
from ntkla.linalg.solve.exact_normal import ExactNormal, exact_normal


@dataclass(frozen=True, eq=False)
class TaskMoments:
    """`Phi^T D Phi` and `Phi^T D Y` of a task, D its samples' weights, without any rounding.

    Parts of a task, wherever they were summed up, merge to the bits of the whole: `a + b` is `TaskMoments.of` the
    samples of both, in any order and any cut.  The memory is that of K^2 + K C numbers of 200 bits or so, K the
    features (and the bias), C the outputs, whatever the number of samples.

    Attributes:
        normal: the two exact matrices.
        bias: whether a column of ones, the last, is among the K.
        samples: how many were summed up.
        least_weight: the smallest weight among them.
    """

    normal: ExactNormal
    bias: bool
    samples: int
    least_weight: float

    @classmethod
    def of(cls, task: Task, *, bias: bool) -> TaskMoments:
        """Of a task with targets for all outputs of its head.

        Args:
            task: its `outputs` must be None; its `weights` count.
            bias: whether the head has one.

        Raises:
            ArgumentError: no targets, or targets for some outputs of the head only.
            MemoryEstimateError

        Cost: with m slices of 20 bits in the features (2 for bfloat16, 3 or 4 for float32), m (m + 1) n K^2 / 2
        operations.  The bits of the result depend on the samples alone: not on their order, threads or tiling.
        """
        task = checks.instance("task", task, Task)
        if task.targets is None:
            raise ArgumentError("task: expected one with targets. Use Task.from_labels, or pass targets=.")
        if task.outputs is not None:
            raise ArgumentError(
                "task: expected targets for all outputs of the head, got those of some (outputs=). A sequence trains "
                "one head whole: use Task.from_labels(features, labels, classes) with all its classes."
            )
        design = DesignMatrix(task.features, checks.flag("bias", bias))
        least = 1.0 if task.weights is None else float(task.weights.min())
        return cls(exact_normal(design, (task.targets,), task.weights), bias, design.rows, least)

    @property
    def columns(self) -> int:
        """K: the features, and the bias."""
        return self.normal.square.limbs.shape[1]

    @property
    def outputs(self) -> int:
        """C."""
        return self.normal.right.limbs.shape[2]

    def __add__(self, other: TaskMoments) -> TaskMoments:
        """`merge`, where both are moments."""
        return self.merge(other) if isinstance(other, TaskMoments) else NotImplemented

    def merge(self, other: TaskMoments) -> TaskMoments:
        """Those of all samples of both.

        Raises:
            ArgumentError, ShapeError, DeviceError: no moments; of other features, outputs or bias; on another device.
        """
        other = checks.instance("other", other, TaskMoments)
        if (self.columns, self.outputs, self.bias) != (other.columns, other.outputs, other.bias):
            raise ShapeError(
                f"moments: expected {self}, got {other}. Sum up both parts with the same features, outputs and bias."
            )
        devices = {x.normal.square.limbs.device for x in (self, other)}
        if len(devices) > 1:
            raise DeviceError(f"moments: expected both on one device, got {sorted(map(str, devices))}.")
        least = min(self.least_weight, other.least_weight)
        return TaskMoments(self.normal + other.normal, self.bias, self.samples + other.samples, least)

    def equals(self, other: TaskMoments) -> bool:
        """Whether both are the same, bit by bit; ArgumentError when the other is none."""
        other = checks.instance("other", other, TaskMoments)
        same = (self.bias, self.samples, self.least_weight) == (other.bias, other.samples, other.least_weight)
        return same and self.normal.equals(other.normal)

    def nbytes(self) -> int:
        """Bytes held: independent of the number of samples, but for a limb of 44 bits more in a long sum."""
        return self.normal.nbytes()

    def __str__(self) -> str:
        features = self.columns - self.bias
        return (
            f"TaskMoments: {self.samples} samples, {features} features, {self.outputs} outputs, "
            f"{'with' if self.bias else 'without'} bias"
        )

    __repr__ = __str__


def no_moments(columns: int, outputs: int, bias: bool, device: torch.device) -> TaskMoments:
    """Of no samples."""
    return TaskMoments(ExactNormal.zeros(columns, outputs, device), bias, 0, 1.0)
