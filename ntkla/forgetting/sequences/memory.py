"""What a sequence remembers, as its owner sees it: read, compared, added up, written to a file and read back."""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from typing import TypeVar

import torch

from ntkla.forgetting.heads import LinearHead
from ntkla.forgetting.sequences.carried import Carried
from ntkla.forgetting.sequences.curriculum import drift_size
from ntkla.forgetting.sequences.files import read_tensors, saved_in, write_tensors
from ntkla.forgetting.sequences.learned import Kept, LearnedTask
from ntkla.forgetting.sequences.moments import TaskMoments
from ntkla.forgetting.sequences.saved import carried_of, state_of
from ntkla.forgetting.sequences.sequence_head import SequenceHead
from ntkla.linalg import checks
from ntkla.linalg.errors import ArgumentError
from ntkla.linalg.results import wrapped

S = TypeVar("S", bound="Memory")


class Memory:
    """The memory of a `TaskSequence`: all that does not need a new task."""

    _carried: Carried
    _kept: dict[str, Kept]

    @property
    def tasks(self) -> tuple[LearnedTask, ...]:
        """What has been learned, in order."""
        return self._carried.tasks

    @property
    def current(self) -> SequenceHead:
        """The head as it stands, with its bound."""
        return self._carried.current

    @property
    def head(self) -> LinearHead:
        """The head as it stands, float64."""
        return self.current.head

    @property
    def moments(self) -> TaskMoments:
        """Those of all tasks learned so far, together."""
        return self._carried.state.seen

    @property
    def nbytes(self) -> int:
        """Bytes that are remembered, kept samples aside."""
        return self._carried.nbytes()

    def joint(self, ridge: float | None = None) -> SequenceHead:
        """The head trained on all tasks at once: the minimiser of the sum of all their losses, and one ridge.

        `1/2 sum_t ||Phi_t W^T - Y_t||_D^2 + ridge/2 ||W - W_0||^2 + weight_decay/2 ||W||^2`, with W_0 the head that the
        sequence began with: no penalty, no order, nothing forgotten.  The sums are exact: they depend on the samples
        alone, not on their order.

        Args:
            ridge: > 0; None for that of the sequence.

        Raises:
            ArgumentError: no task was learned yet.
            RidgeError

        Cost: K^3 / 3 + 300 K^2 C operations.
        """
        if not self.tasks:
            raise ArgumentError("joint: expected a sequence that has learned a task. Call learn first.")
        return self._carried.joint(ridge)

    def drift(self, name: str) -> tuple[float, float]:
        """What happened to a kept task's outputs since it was learned: root mean square, and the bound of its error.

        Raises:
            ArgumentError: no such task, or its samples were let go.
        """
        kept = self._kept.get(name)
        if kept is None:
            known = [task.name for task in self.tasks]
            what = "its samples were let go" if name in known else f"the sequence has learned {known}"
            raise ArgumentError(f"drift: {name!r}: {what}. Samples stay with learn(..., keep=True).")
        return drift_size(kept.learned, self.current.predict(kept.task.features))

    def merge(self: S, other: S) -> S:
        """A sequence that remembers what both do, with this one's head: sums and protected modes add up exactly.

        So `joint()` is that of all tasks of both, to the bit, and later tasks are kept from harming any of them.
        Parts of *one* task are merged before they are learned: `TaskMoments.of(a, ...) + TaskMoments.of(b, ...)`.

        Raises:
            ArgumentError: other settings, another start or shape, or a name in both.
        """
        carried = self._carried.merged(checks.instance("other", other, type(self))._carried)
        return self._of(carried, {**self._kept, **other._kept})

    def state_dict(self) -> dict[str, torch.Tensor]:
        """All that is remembered as tensors by name, for `from_state_dict`; samples that were kept are not in it."""
        return state_of(self._carried)

    @classmethod
    def from_state_dict(cls: type[S], state: Mapping[str, torch.Tensor]) -> S:
        """The sequence that a `state_dict` is of: it goes on to the same bits.

        Raises:
            SavedStateError: written by another version, or not what it should be.
        """
        return cls._of(carried_of(state), {})

    def save(self, path: str | PathLike[str]) -> None:
        """Writes the sequence to a `.safetensors` file, all or nothing; samples that were kept are not in it.

        Raises:
            MissingPackageError: safetensors is not installed.
            SavedStateError: the file cannot be written.
        """
        write_tensors(path, self.state_dict())

    @classmethod
    def load(cls: type[S], path: str | PathLike[str]) -> S:
        """The sequence in a file of `save`: it goes on to the same bits.

        Raises:
            MissingPackageError: safetensors is not installed.
            SavedStateError: no such file, damaged, of another version, or no sequence.
        """
        with saved_in(path):
            return cls.from_state_dict(read_tensors(path))

    @classmethod
    def _of(cls: type[S], carried: Carried, kept: dict[str, Kept]) -> S:
        found = cls.__new__(cls)
        found._carried, found._kept = carried, kept
        return found

    def __str__(self) -> str:
        lines = [f"TaskSequence: {self.head}, {self._carried.settings}", f"  {len(self.tasks)} tasks learned"]
        lines += [f"    {task.name}: {task.samples} samples, {task.modes} modes protected" for task in self.tasks]
        return "\n".join([*lines, *wrapped("status", str(self.current.status))])

    __repr__ = __str__
