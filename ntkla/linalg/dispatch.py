"""Which implementation a primitive runs: chosen here, forced by `backend`, reported by `last_dispatch`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch

from ntkla.linalg import checks
from ntkla.linalg.errors import BackendError

BACKENDS = ("auto", "torch", "triton")
_forced: ContextVar[str | None] = ContextVar("ntkla_backend", default=None)
_last: ContextVar[str | None] = ContextVar("ntkla_last_dispatch", default=None)


@contextmanager
def backend(name: str) -> Iterator[None]:
    """Forces an implementation inside the `with` block (this thread or task only).

    Args:
        name: `"auto"`, `"torch"` or `"triton"`.  The environment variable `NTKLA_BACKEND` sets the default.

    Raises:
        ArgumentError: for another name.
        BackendError: from a primitive that the forced implementation does not provide.
    """
    token = _forced.set(checks.choice("backend", name, BACKENDS))
    try:
        yield
    finally:
        _forced.reset(token)


def last_dispatch() -> str | None:
    """What the last primitive in this context really ran, such as `"torch:gram:float64"`; None before the first."""
    return _last.get()


def resolve(primitive: str) -> str:
    """The implementation that `primitive` will run here: so far every primitive has a torch body only."""
    name = _forced.get() or checks.choice("NTKLA_BACKEND", os.environ.get("NTKLA_BACKEND", "auto"), BACKENDS)
    if name == "triton":
        raise BackendError(
            f"{primitive}: the backend 'triton' was forced, but there is only a torch body. Use backend('auto')."
        )
    return "torch"


def record(primitive: str, implementation: str, dtype: torch.dtype) -> None:
    """Notes for `last_dispatch` what ran."""
    _last.set(f"{implementation}:{primitive}:{str(dtype).removeprefix('torch.')}")
