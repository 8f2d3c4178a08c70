"""Counts what waits for a device: operations whose result the host needs, by the line of ntkla that asked for it."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from ntkla.linalg import host

_ATEN = torch.ops.aten
# The first give a number to Python, or a tensor whose size depends on values.
_WAITING = {_ATEN._local_scalar_dense, _ATEN.equal, _ATEN.is_nonzero, _ATEN.nonzero, _ATEN.masked_select}
_INDEXING = {_ATEN.index, _ATEN.index_put, _ATEN.index_put_, _ATEN._index_put_impl_}
_LIBRARY = str(Path(host.__file__).parents[1])


class HostReads(TorchDispatchMode):
    """Everything between its beginning and its end; `places` counts by "file:function"."""

    def __init__(self) -> None:
        super().__init__()
        self.places: Counter[str] = Counter()

    @property
    def total(self) -> int:
        return self.places.total()

    def __enter__(self) -> HostReads:
        self._numbers = host.numbers
        host.numbers = self._counted  # type: ignore[assignment]
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        host.numbers = self._numbers  # type: ignore[assignment]

    def _counted(self, *values: torch.Tensor) -> list[float]:
        """Packed numbers are one reading, which no operation shows on the CPU."""
        self.places[_place()] += 1
        return self._numbers(*values)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        packet = func.overloadpacket
        if packet in _WAITING or (packet in _INDEXING and _by_values(args[1])):
            self.places[_place()] += 1
        return func(*args, **(kwargs or {}))


def _by_values(indices: Any) -> bool:
    return any(isinstance(i, torch.Tensor) and i.dtype in (torch.bool, torch.uint8) for i in indices)


def _place() -> str:
    frame = sys._getframe(1)
    while frame is not None and not frame.f_code.co_filename.startswith(_LIBRARY):
        frame = frame.f_back
    if frame is None:
        return "outside"
    return f"{Path(frame.f_code.co_filename).name}:{frame.f_code.co_name}"
