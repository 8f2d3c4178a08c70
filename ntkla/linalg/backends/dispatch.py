"""Which implementation a primitive runs: chosen here, forced by `backend`, reported by `last_dispatch`."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import TypeVar

import torch

from ntkla.linalg import checks
from ntkla.linalg.backends import kernels
from ntkla.linalg.backends.checked import require_product, setting, vectors_wanted
from ntkla.linalg.backends.choices import preferred, takes_kernel
from ntkla.linalg.backends.freivalds import Reference
from ntkla.linalg.errors import BackendError

T = TypeVar("T")
BACKENDS = ("auto", "torch", "triton", "cublas")
_forced: ContextVar[str | None] = ContextVar("ntkla_backend", default=None)
_last: ContextVar[str | None] = ContextVar("ntkla_last_dispatch", default=None)
# Kernels that the table wanted and that could not run in this process: each is tried, and warned of, once.
_given_up: set[tuple[str, torch.device, torch.dtype, str]] = set()


def backend(name: str) -> AbstractContextManager[None]:
    """Forces an implementation inside a `with` block (this thread or task only); without `with` nothing changes.

    Args:
        name: `"auto"` takes what the table of `ntkla info --kernels` says, `"torch"` always torch, `"triton"` the
            Triton kernel: on CUDA devices, and on the CPU in Triton's interpreter (TRITON_INTERPRET=1 set before
            triton is imported), `"cublas"` cuBLAS's symmetric update: `gram` of one array on CUDA devices, and with it
            the matrices that solvers factor.  The environment variable `NTKLA_BACKEND` sets the default,
            for new threads too.

    Raises:
        ArgumentError: for another name.
        BackendError: from a primitive that the forced implementation does not provide, or not here.
    """
    return setting(_forced, checks.choice("backend", name, BACKENDS))


def last_dispatch() -> str | None:
    """What the last primitive in this context really ran, None before the first.

    `"torch:gram:float64"` names the type that torch multiplied in, `"triton:gram:ieee"` and `"cublas:gram:float64"` the
    arithmetic of the kernel, `"triton:gram:split+ieee"` that some rows could not be split and were multiplied in the
    mode "ieee".
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
        mode: the arithmetic: "ieee", "split", "bf16", "float64" or "exact".
        work: multiplications that it takes.
        symmetric: whether it multiplies an array by its own transpose, which cuBLAS does at half the cost.
    """

    primitive: str
    x: torch.Tensor
    features: int
    mode: str
    work: float
    symmetric: bool = False


@dataclass(frozen=True)
class Library:
    """What runs a call without Triton and without torch.

    Attributes:
        name: "cublas".
        mode: its arithmetic, as `last_dispatch` names it.
        why_not: a clause that says why it cannot run the call here; None when it can.
        compute: its result.
    """

    name: str
    mode: str
    why_not: Callable[[], str | None]
    compute: Callable[[], torch.Tensor]


def implementation(call: Call) -> str:
    """What `run` tries first: "triton", "cublas" or "torch"; what is forced, also where it cannot run."""
    wanted = wanted_backend()
    if wanted != "auto":
        return wanted
    key = _key(call)
    if key in _given_up:
        return "torch"
    if call.symmetric and preferred(*key, call.features, call.work) == "cublas":
        return "cublas"
    return "triton" if takes_kernel(*key, call.features, call.work) else "torch"


def at_best(call: Call, precision: str) -> Call:
    """`call` in mode "split" instead of "ieee", where the caller leaves that open and the table takes it."""
    split = replace(call, mode="split")
    left_open = precision == "auto" and call.mode == "ieee" and call.x.dtype == torch.float32
    return split if left_open and wanted_backend() == "auto" and implementation(split) == "triton" else call


def kernel_wanted(call: Call) -> bool:
    """Whether `run` would try the Triton kernel first: for an algorithm that else has a better way than the torch body.

    True where Triton is forced, also where it cannot run: `run` then says why.
    """
    return implementation(call) == "triton"


def run(
    call: Call,
    *,
    kernel: Callable[[], torch.Tensor],
    body: Callable[[], torch.Tensor],
    working: torch.dtype | str,
    library: Library | None = None,
    reference: Reference | None = None,
) -> torch.Tensor:
    """What `kernel` (Triton), `library` or `body` (torch, in the type `working`) returns: what is wanted and can run.

    Args:
        call: what is computed.
        kernel, body, working, library: who can; `working` may be a word for the arithmetic, "exact".
        reference: what the result times random vectors must be, for `checked_products`.

    Raises:
        BackendError: when one is forced and cannot run.  Where the table prefers it, torch runs instead, after one
            RuntimeWarning that names the reason.
        KernelFaultError: a result that is checked is wrong.
    """
    chosen = implementation(call)
    if chosen != "torch":
        result, reason = tried(call, kernel) if chosen == "triton" else _by_library(chosen, library)
        if result is not None:
            ran = f"{chosen}:{call.primitive}:{call.mode if library is None or chosen == 'triton' else library.mode}"
            _last.set(ran)
            vectors = vectors_wanted()
            if vectors:
                require_product(ran, result, reference, vectors)
            return result
        if wanted_backend() != "auto":
            raise BackendError(
                f"{call.primitive}: the backend '{chosen}' was forced, but {reason}. Or use backend('auto')."
            )
        _given_up.add(_key(call))
        what = "its Triton kernel" if chosen == "triton" else chosen
        warnings.warn(
            f"{call.primitive} runs in torch from now on, for {what} cannot run: {reason}.",
            RuntimeWarning,
            stacklevel=2,
        )
    record(call.primitive, "torch", working)
    return body()


def _key(call: Call) -> tuple[str, torch.device, torch.dtype, str]:
    return call.primitive, call.x.device, call.x.dtype, call.mode


def tried(call: Call, kernel: Callable[[], T]) -> tuple[T | None, str | None]:
    """The kernel's result, or why there is none."""
    reason = kernels.why_not(call.primitive, call.x.device, call.features, call.mode)
    if reason is not None:
        return None, reason
    try:
        return kernel(), None
    except Exception as error:  # judged at once: what is not the compiler's is raised again
        if not kernels.compiler_failed(error):
            raise
        return None, f"its kernel did not compile or start ({type(error).__name__}: {error})"


def _by_library(name: str, library: Library | None) -> tuple[torch.Tensor | None, str | None]:
    """The library's result, or why there is none."""
    if library is None or library.name != name:
        return None, f"'{name}' multiplies an array by its own transpose only, in `gram`"
    reason = library.why_not()
    return (None, reason) if reason is not None else (library.compute(), None)


def resolve(primitive: str) -> str:
    """The implementation of a primitive that has a torch body only.

    Raises:
        BackendError: when another is forced.
    """
    wanted = wanted_backend()
    if wanted not in ("auto", "torch"):
        raise BackendError(
            f"{primitive}: the backend '{wanted}' was forced, but there is only a torch body. Use backend('auto')."
        )
    return "torch"


def add_to_record(call: Call, more: str) -> None:
    """Adds to what `last_dispatch` says of a call whose kernel has run; nothing where another implementation has."""
    ran = f"triton:{call.primitive}:{call.mode}"
    if _last.get() == ran:
        _last.set(ran + more)


def record(primitive: str, implementation: str, dtype: torch.dtype | str) -> None:
    """Notes for `last_dispatch` what ran."""
    _last.set(f"{implementation}:{primitive}:{str(dtype).removeprefix('torch.')}")
