"""What the files of a task hold, array by array, and the task that it makes for a head."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch

from ntkla.forgetting.tasks import Task
from ntkla.linalg import checks
from ntkla.linalg.errors import ArgumentError, LabelError, NtklaError, ShapeError


@dataclasses.dataclass(frozen=True, eq=False)
class TaskFile:
    """A task as its files hold it; the tensors map the files.

    Attributes:
        name: of the first file, without folder and suffix.
        argument: as it was typed.
        paths: by role ("features", "labels", ...) the file that holds it.
        features: [n, F], floats.
        labels: integers [n], or None.
        targets: floats [n, C], or None.
        weights: floats [n], or None.
        outputs: integers [C], or None.
    """

    name: str
    argument: str
    paths: Mapping[str, Path]
    features: torch.Tensor
    labels: torch.Tensor | None = None
    targets: torch.Tensor | None = None
    weights: torch.Tensor | None = None
    outputs: torch.Tensor | None = None

    def select(self, classes: Sequence[int]) -> tuple[TaskFile, torch.Tensor]:
        """The same of the samples whose label is one of `classes`, and their rows, int64; their arrays are copied.

        Raises:
            ArgumentError: there are no labels.  LabelError: no sample has such a label.
            ShapeError: an array has not one row a sample.
        """
        if self.labels is None:
            raise ArgumentError("expected a task with labels, got one without. Add a file of integers [n].")
        arrays = {role: getattr(self, role) for role in self.paths if role != "outputs"}
        for role, array in arrays.items():
            if len(array) != len(self.features):
                raise ShapeError(f"{role}: expected one row a sample, {len(self.features)}, got {len(array)}.")
        wanted = torch.tensor(classes, dtype=torch.int64, device=self.labels.device)
        rows = torch.isin(self.labels.to(torch.int64), wanted).nonzero().flatten()
        if not len(rows):
            raise LabelError(f"no sample has one of the labels {wanted.tolist()[:20]}.")
        return dataclasses.replace(self, **{role: array[rows] for role, array in arrays.items()}), rows

    def task(self, classes: int, *, outputs: Sequence[int] | None = None, need_targets: bool) -> Task:
        """The task for a head with so many outputs; a message about an array begins with the name of its file.

        Args:
            classes: C of the head.
            outputs: those that the task uses, where the file names none.
            need_targets: True for the new task, which is trained on; labels without targets then become one-hot rows.

        Raises:
            ArgumentError: a new task without labels and targets, or outputs that do not fit the head or the file.
            DtypeError, ShapeError, NonFiniteError, ScaleError, LabelError, MemoryEstimateError: as for `ntkla.Task`.

        Cost: one pass over the features, which checks that they are finite; no copy of them.
        """
        self._require_outputs(classes)
        with naming(self.paths, self.argument):
            used = self._outputs(classes, outputs)
            width = classes if used is None else used.shape[0]
            if self.targets is not None and self.targets.shape[1] != width:
                raise ShapeError(f"targets: expected {width} columns, one an output, got {self.targets.shape[1]}.")
            if not need_targets or self.targets is not None:
                return Task(self.features, self.targets, self.labels, used, self.weights)
            if self.labels is None:
                raise ArgumentError(
                    "features: the new task needs labels or targets to be trained on. Add a file of integers [n], "
                    "FEATURES.npy,LABELS.npy, or an array `labels` to a .safetensors file."
                )
            return Task.from_labels(self.features, self.labels, classes, outputs=used, weights=self.weights)

    def _require_outputs(self, classes: int) -> None:
        """Raises LabelError when the head has no output for a label."""
        if self.labels is None:
            return
        low, high = (int(label) for label in torch.aminmax(self.labels))
        if low < 0:
            raise LabelError(
                f"{self.paths['labels']}: labels {low} to {high}: expected numbers of the head's outputs, from 0. "
                "Leave out samples without a class."
            )
        if high >= classes:
            rows = f"numpy.zeros(({high + 1 - classes}, {self.features.shape[1]}))"
            raise LabelError(
                f"{self.paths['labels']}: labels {low} to {high}, and the head has the outputs 0 to {classes - 1}. "
                "New classes need rows of their own in the head: "
                f'numpy.save("weight.npy", numpy.vstack([w, {rows}])), the bias likewise; or write fit.'
            )

    def _outputs(self, classes: int, named: Sequence[int] | None) -> torch.Tensor | None:
        """The outputs that the file or the caller names, each of them one of the head's."""
        if self.outputs is None:
            if named is None:
                return None
            listed = [checks.integer("outputs", number, least=0, most=classes - 1) for number in named]
            return torch.tensor(listed, dtype=torch.int64, device=self.features.device)
        if named is not None:
            raise ArgumentError("outputs: named in the file and once more. Leave one of the two out.")
        low, high = (int(number) for number in torch.aminmax(self.outputs))
        if low < 0 or high >= classes or len(self.outputs) > classes:
            raise ArgumentError(
                f"outputs: expected distinct numbers of the head's outputs, 0 to {classes - 1}, "
                f"got {len(self.outputs)} from {low} to {high}."
            )
        return self.outputs.to(torch.int64)

    def __str__(self) -> str:
        held = ", ".join(f"{role} {tuple(getattr(self, role).shape)}" for role in self.paths)
        return f"TaskFile {self.name}: {held}"

    __repr__ = __str__


@contextmanager
def naming(paths: Mapping[str, Path], argument: str) -> Iterator[None]:
    """Puts the file's name before the library's messages, which begin with the name of the array."""
    try:
        yield
    except NtklaError as error:
        role, _, _ = str(error).partition(":")
        error.args = (f"{paths.get(role, argument)}: {error}",)
        raise
