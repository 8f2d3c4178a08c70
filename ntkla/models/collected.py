"""Features and labels gathered batch by batch, without a second copy where their number is known."""

from __future__ import annotations

import torch

from ntkla.linalg import checks
from ntkla.linalg.errors import ArgumentError, ShapeError
from ntkla.models.batches import Batch


class Collected:
    """Rows in the order in which they came.

    Attributes:
        done: samples so far.
        expected: samples in all, or None.
    """

    def __init__(self, dtype: torch.dtype, device: torch.device | None, expected: int | None) -> None:
        self.done = 0
        self.expected = expected
        self._dtype = dtype
        self._device = device
        self._blocks: list[torch.Tensor] = []
        self._filled = 0  # rows of the last block
        self._labels: list[torch.Tensor] = []

    def add(self, batch: Batch, rows: torch.Tensor) -> None:
        """Takes the rows [n, F] of a batch, and its labels.

        Raises:
            ShapeError, ArgumentError: they do not fit the earlier ones.
            MemoryEstimateError
        """
        if self._blocks and rows.shape[1] != self._blocks[0].shape[1]:
            raise ShapeError(
                f"{batch.name}: expected {self._blocks[0].shape[1]} features as in the batches before, got "
                f"{rows.shape[1]}. Scale or pad inputs to one size, or use a pooling that does not depend on it."
            )
        if self.done and (batch.labels is None) == bool(self._labels):
            have, had = ("none", "had some") if batch.labels is None else ("labels", "had none")
            raise ArgumentError(
                f"{batch.name}: has {have}, and those before {had}. Give labels in every batch or in none."
            )
        self.done += len(rows)
        if self.expected is not None and self.done > self.expected:
            self.expected = None  # the loader gives more than it told
        if batch.labels is not None:
            self._labels.append(batch.labels)
        self._store(rows)

    def _store(self, rows: torch.Tensor) -> None:
        if not self._blocks:
            self._device = self._device or torch.device("cpu" if rows.device.type == "mps" else rows.device)
            self._blocks.append(self._empty(max(self.expected or 0, len(rows)), rows.shape[1]))
        elif self._filled + len(rows) > len(self._blocks[-1]):
            self._blocks[-1] = self._blocks[-1][: self._filled]
            self._blocks.append(self._empty(len(rows), rows.shape[1]))
            self._filled = 0
        self._blocks[-1][self._filled : self._filled + len(rows)].copy_(rows)
        self._filled += len(rows)

    def _empty(self, count: int, width: int) -> torch.Tensor:
        assert self._device is not None
        checks.memory(f"keeping {count} x {width} features", count * width * self._dtype.itemsize, self._device)
        return torch.empty((count, width), dtype=self._dtype, device=self._device)

    def joined(self) -> tuple[torch.Tensor, torch.Tensor | None]:
        """All features [n, F], and all labels [n] or None.

        Raises:
            ArgumentError: there was no batch.
            MemoryEstimateError
        """
        if not self._blocks:
            raise ArgumentError(
                "loader: expected at least one batch, got none. A generator gives its batches once only; "
                "drop_last=True drops the only batch of a small dataset."
            )
        last = self._blocks.pop()[: self._filled]
        labels = torch.cat([x.to(self._device) for x in self._labels]) if self._labels else None
        if not self._blocks:
            return last, labels
        joined = self._empty(self.done, last.shape[1])
        torch.cat([*self._blocks, last], out=joined)
        return joined, labels
