"""Which implementation a primitive runs: chosen here, forced by `backend`, reported by `last_dispatch`."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

import torch

from ntkla.linalg import checks
from ntkla.linalg.backends import kernels
from ntkla.linalg.backends.choices import takes_kernel
from ntkla.linalg.errors import BackendError

BACKENDS = ("auto", "torch", "triton")
_forced: ContextVar[str | None] = ContextVar("ntkla_backend", default=None)
_last: ContextVar[str | None] = ContextVar("ntkla_last_dispatch", default=None)
# Kernels that the table wanted and that could not run in this process: each is tried, and warned of, once.
_given_up: set[tuple[str, torch.device, torch.dtype, str]] = set()


@contextmanager
def backend(name: str) -> Iterator[None]:
    """Forces an implementation inside the `with` block (this thread or task only).

    Args:
        name: `"auto"` takes what the table of `ntkla info --kernels` says, `"torch"` always torch, `"triton"` the
            Triton kernel: on CUDA devices, and on the CPU in Triton's interpreter (TRITON_INTERPRET=1 set before
            triton is imported).  The environment variable `NTKLA_BACKEND` sets the default.

    Raises:
        ArgumentError: for another name.
        BackendError: from a primitive that the forced implementation does not provide, or not here.
    """
    token = _forced.set(checks.choice("backend", name, BACKENDS))
    try:
        yield
    finally:
        _forced.reset(token)


def last_dispatch() -> str | None:
    """What the last primitive in this context really ran, None before the first.

    `"torch:gram:float64"` names the type that torch multiplied in, `"triton:gram:ieee"` the arithmetic of the kernel.
    """
    return _last.get()


def wanted_backend() -> str:
    """What the nearest `backend` block or the environment asks for."""
    return _forced.get() or checks.choice("NTKLA_BACKEND", os.environ.get("NTKLA_BACKEND", "auto"), BACKENDS)


@dataclass(frozen=True)
class Call:
    """A call of a primitive, as far as the choice of its implementation depends on it.

    Attributes:
        primitive: its name.
        x: its first array, for the device and the element type.
        features: the length of the rows of `x`.
        mode: the arithmetic: "ieee", "bf16" or "float64".
        work: multiplications that it takes.
    """

    primitive: str
    x: torch.Tensor
    features: int
    mode: str
    work: float


def kernel_wanted(call: Call) -> bool:
    """Whether `run` would try the Triton kernel first: for an algorithm that else has a better way than the torch body.

    True where Triton is forced, also where it cannot run: `run` then says why.
    """
    wanted = wanted_backend()
    if wanted != "auto":
        return wanted == "triton"
    key = _key(call)
    return key not in _given_up and takes_kernel(*key, call.features, call.work)


def run(
    call: Call, *, kernel: Callable[[], torch.Tensor], body: Callable[[], torch.Tensor], working: torch.dtype
) -> torch.Tensor:
    """What `kernel` (Triton) or `body` (torch, in the type `working`) returns, whichever is wanted and can run here.

    Raises:
        BackendError: when Triton is forced and cannot run.  Where the table prefers it, torch runs instead, after one
            RuntimeWarning that names the reason.
    """
    if kernel_wanted(call):
        result, reason = _tried(call, kernel)
        if result is not None:
            _last.set(f"triton:{call.primitive}:{call.mode}")
            return result
        if wanted_backend() == "triton":
            raise BackendError(
                f"{call.primitive}: the backend 'triton' was forced, but {reason}. Or use backend('auto')."
            )
        _given_up.add(_key(call))
        warnings.warn(
            f"{call.primitive} runs in torch from now on, for its Triton kernel cannot run: {reason}.",
            RuntimeWarning,
            stacklevel=2,
        )
    record(call.primitive, "torch", working)
    return body()


def _key(call: Call) -> tuple[str, torch.device, torch.dtype, str]:
    return call.primitive, call.x.device, call.x.dtype, call.mode


def _tried(call: Call, kernel: Callable[[], torch.Tensor]) -> tuple[torch.Tensor | None, str | None]:
    """The kernel's result, or why there is none."""
    reason = kernels.why_not(call.primitive, call.x.device, call.features)
    if reason is not None:
        return None, reason
    try:
        return kernel(), None
    except Exception as error:  # judged at once: what is not the compiler's is raised again
        if not kernels.compiler_failed(error):
            raise
        return None, f"its kernel did not compile or start ({type(error).__name__}: {error})"


def resolve(primitive: str) -> str:
    """The implementation of a primitive that has a torch body only.

    Raises:
        BackendError: when Triton is forced.
    """
    if wanted_backend() == "triton":
        raise BackendError(
            f"{primitive}: the backend 'triton' was forced, but there is only a torch body. Use backend('auto')."
        )
    return "torch"


def record(primitive: str, implementation: str, dtype: torch.dtype) -> None:
    """Notes for `last_dispatch` what ran."""
    _last.set(f"{implementation}:{primitive}:{str(dtype).removeprefix('torch.')}")
