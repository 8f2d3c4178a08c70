"""What a module is called with, as a digest: two runs that saw the same inputs in the same order have the same one."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from ntkla.models.batches import tensors


class Digest:
    """Of every tensor taken in, one after another: values to the last bit, type and shape."""

    def __init__(self) -> None:
        self._hash = hashlib.blake2b()

    def take(self, tensor: torch.Tensor) -> None:
        """Takes a tensor in.  Cost: one copy to the CPU, and about a second for a gigabyte."""
        self._hash.update(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
        plain = tensor.detach().to_dense() if tensor.layout is not torch.strided else tensor.detach()
        flat = plain.cpu().resolve_conj().resolve_neg().contiguous().reshape(-1)
        self._hash.update(flat.view(torch.uint8).numpy().tobytes())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Digest) and self._hash.digest() == other._hash.digest()

    __hash__ = None  # type: ignore[assignment]


@contextmanager
def inputs_of(module: torch.nn.Module) -> Iterator[Digest]:
    """Inside, a digest of the inputs of every call of the module."""
    seen = Digest()

    def take(_: torch.nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        for tensor in tensors((arguments, keywords)):
            for part in tensor.unbind() if tensor.is_nested else (tensor,):
                seen.take(part)

    handle = module.register_forward_pre_hook(take, with_kwargs=True)
    try:
        yield seen
    finally:
        handle.remove()
