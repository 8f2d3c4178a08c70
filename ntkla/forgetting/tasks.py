"""A task: its samples as the frozen backbone sees them, what the head should say of them, and which outputs it uses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ntkla.linalg import checks
from ntkla.linalg.errors import ArgumentError, DtypeError, LabelError, ShapeError
from ntkla.linalg.solve.weights import sample_weights


@dataclass(frozen=True, eq=False)
class Task:
    """Samples of one task.

    Attributes:
        features: [n, F], float64, float32, bfloat16 or float16; detached, taken as exact numbers.
        targets: [n, C], any of these types, same device; one column for each output that the task uses.  None where
            nothing is trained on the task: an old one.
        labels: int64 [n], or None; with labels a forecast also says what happens to the accuracy.  A label is the
            number of an output of the whole head.
        outputs: int64 [C], the outputs of the head that the task uses, in the order of the targets' columns; None for
            all of the head's.  Of a new task, the others are not trained: no loss, ridge or decay touches them.  Of an
            old task, the forecast is about these, and the predicted class is the largest among them.
        weights: float64 [n], >= 0 and one above 0, of each sample in the loss that is trained on a new task,
            `1/2 sum_i weights_i ||phi_i W^T - y_i||^2`; None for 1 each.  What a forecast says about an old task
            counts each sample once.

    Raises:
        DtypeError, ShapeError, DeviceError, NonFiniteError, ScaleError, LabelError, ArgumentError
    """

    features: torch.Tensor
    targets: torch.Tensor | None = None
    labels: torch.Tensor | None = None
    outputs: torch.Tensor | None = None
    weights: torch.Tensor | None = None

    def __post_init__(self) -> None:
        features = checks.matrix("features", self.features)
        samples = features.shape[0]
        outputs = None if self.outputs is None else _outputs(self.outputs, features.device)
        targets, columns = self.targets, None if outputs is None else outputs.shape[0]
        if targets is not None:
            targets = checks.matrix("targets", targets, rows=samples, columns=columns)
            columns = targets.shape[1]
        classes = columns if outputs is None else None
        labels = None if self.labels is None else checked_labels(self.labels, samples, classes)
        if labels is not None and outputs is not None:
            _require_among(labels, outputs)
        weights = None if self.weights is None else sample_weights("weights", self.weights, samples)
        checked = {"targets": targets, "labels": labels, "outputs": outputs, "weights": weights}
        checks.one_device(features=features, **checked)
        for name, value in {"features": features, **checked}.items():
            object.__setattr__(self, name, value)

    @classmethod
    def from_labels(
        cls,
        features: torch.Tensor,
        labels: torch.Tensor,
        classes: int,
        *,
        outputs: torch.Tensor | Sequence[int] | None = None,
        weights: torch.Tensor | None = None,
    ) -> Task:
        """A classification task with one-hot float64 targets.

        Args:
            features: [n, F].
            labels: integers [n], each in 0 ... classes - 1, on the features' device.
            classes: the number of outputs of the head (of all tasks, when they share it).
            outputs: the classes that this task uses, in the order of the targets' columns; None for all.
            weights: [n], of each sample in the loss.

        Raises:
            LabelError: a label outside the classes, or outside `outputs`.
            ArgumentError, DtypeError, ShapeError, DeviceError, NonFiniteError, ScaleError, MemoryEstimateError
        """
        features = checks.matrix("features", features)
        classes = checks.integer("classes", classes, least=1)
        labels = checked_labels(labels, features.shape[0], classes)
        checks.one_device(features=features, labels=labels)
        columns = labels
        if outputs is not None:
            outputs = require_outputs("outputs", _outputs(outputs, features.device), classes)
            columns = positions(labels, outputs)
        width = classes if outputs is None else outputs.shape[0]
        checks.memory("the one-hot targets", 8 * features.shape[0] * width, features.device)
        targets = torch.zeros((features.shape[0], width), dtype=torch.float64, device=features.device)
        targets.scatter_(1, columns[:, None], 1.0)
        return cls(features, targets, labels, outputs, weights)

    def select(self, classes: Sequence[int]) -> Task:
        """The task of the samples whose label is one of `classes`; their features are copied.

        Raises:
            ArgumentError: the task has no labels.  LabelError: no sample has such a label.
        """
        if self.labels is None:
            raise ArgumentError("select: expected a task with labels, got one without. Pass labels= to Task.")
        wanted = _outputs(classes, self.features.device)
        rows = torch.isin(self.labels, wanted)
        if not bool(rows.any()):
            raise LabelError(f"select: no sample has one of the labels {wanted.tolist()}.")
        targets, weights = (None if x is None else x[rows] for x in (self.targets, self.weights))
        return Task(self.features[rows], targets, self.labels[rows], self.outputs, weights)

    def __str__(self) -> str:
        n, f = self.features.shape
        width = self.targets if self.targets is not None else self.outputs
        said = [f"{n} samples, {f} features"]
        said += [] if width is None else [f"{width.shape[-1]} outputs"]
        said += ["with labels" if self.labels is not None else "without labels"]
        said += ["weighted"] if self.weights is not None else []
        return "Task: " + ", ".join(said)

    __repr__ = __str__


def checked_labels(labels: object, samples: int, classes: int | None) -> torch.Tensor:
    """Labels as int64 [samples], below the number of classes when that is known.

    Raises:
        DtypeError, ShapeError, DeviceError, LabelError
    """
    if not isinstance(labels, torch.Tensor) or labels.dtype not in checks.INTEGERS:
        came = labels.dtype if isinstance(labels, torch.Tensor) else type(labels).__name__
        raise DtypeError(f"labels: expected an integer tensor, got {came}. Convert it with .to(torch.int64).")
    checks.dense("labels", labels)
    checks.with_values("labels", labels)
    if labels.shape != (samples,):
        raise ShapeError(f"labels: expected one a sample, shape ({samples},), got {tuple(labels.shape)}.")
    labels = labels.to(torch.int64)
    require_labels_below(labels, classes)
    return labels


def require_labels_below(labels: torch.Tensor, classes: int | None) -> None:
    """Raises LabelError for a label below 0, or not below the number of classes when that is known."""
    low, high = (int(v) for v in torch.aminmax(labels))
    if low < 0 or (classes is not None and high >= classes):
        upper = "upwards" if classes is None else f"to {classes - 1}"
        raise LabelError(
            f"labels: expected integers from 0 {upper}, the numbers of the whole head's outputs, got {low} to {high}. "
            "A head needs an output for every class, old and new: append rows to its weight, and entries to its bias."
        )


def _outputs(outputs: object, device: torch.device) -> torch.Tensor:
    """Distinct numbers of outputs as int64 [c]."""
    if isinstance(outputs, torch.Tensor):
        if outputs.dtype not in checks.INTEGERS:
            raise DtypeError(
                f"outputs: expected integers, got {outputs.dtype}. Use mask.nonzero().flatten() of a mask."
            )
        if outputs.ndim != 1 or outputs.numel() == 0:
            raise ShapeError(f"outputs: expected one dimension and an entry or more, got {tuple(outputs.shape)}.")
        checks.dense("outputs", outputs)
        checks.with_values("outputs", outputs)
        numbers = outputs.to(torch.int64)
    elif isinstance(outputs, Sequence) and not isinstance(outputs, (str, bytes)) and len(outputs) > 0:
        listed = [checks.integer("outputs", number, least=0) for number in outputs]
        numbers = torch.tensor(listed, dtype=torch.int64, device=device)
    else:
        raise ArgumentError(f"outputs: expected numbers of outputs, one or more, got {outputs!r}.")
    if int(numbers.min()) < 0 or len(set(numbers.tolist())) != numbers.shape[0]:
        raise ArgumentError(f"outputs: expected distinct numbers >= 0, got {numbers.tolist()}.")
    return numbers


def require_outputs(name: str, outputs: torch.Tensor, count: int) -> torch.Tensor:
    """`outputs` when a head with so many has them all; ArgumentError otherwise."""
    if int(outputs.max()) >= count:
        raise ArgumentError(f"{name}: the head has the outputs 0 to {count - 1}, and {int(outputs.max())} was named.")
    return outputs


def positions(labels: torch.Tensor, outputs: torch.Tensor) -> torch.Tensor:
    """For each label its place in `outputs`; LabelError for a label that is not there."""
    _require_among(labels, outputs)
    order = outputs.argsort()
    return order[torch.searchsorted(outputs[order], labels)]


def _require_among(labels: torch.Tensor, outputs: torch.Tensor) -> None:
    strangers = sorted(set(labels[~torch.isin(labels, outputs)].tolist()))
    if strangers:
        raise LabelError(
            f"labels: {strangers[:5]} are not among the task's outputs {outputs.tolist()[:20]}. "
            "Labels are numbers of the whole head's outputs: add those outputs, or drop the samples with .select(...)."
        )
