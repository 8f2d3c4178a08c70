"""Kernels checked in production: every result of one is compared with its factors along random vectors, on request.

A kernel may be miscompiled or race where no test saw it.  The check (`freivalds.py`) asks of its result no more than
the bound that the kernel claims, so a right result never fails, and it costs a small part of the product.  What torch
multiplies is not checked.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from importlib import metadata
from typing import TypeVar

import torch

from ntkla.linalg import checks
from ntkla.linalg.backends.freivalds import ProductCheck, Reference, compared, signs
from ntkla.linalg.errors import BackendError, KernelFaultError

_VECTORS = 8
_wanted: ContextVar[int | None] = ContextVar("ntkla_checked_products", default=None)
# Each check draws other signs; the n-th of a process always the same.
_seeds = itertools.count()


T = TypeVar("T")


@contextmanager
def setting(variable: ContextVar[T], value: T) -> Iterator[None]:
    """Gives a variable a value inside of a `with` block, for this thread or task only."""
    token = variable.set(value)
    try:
        yield
    finally:
        variable.reset(token)


def checked_products(vectors: int = _VECTORS) -> AbstractContextManager[None]:
    """Checks every result of a kernel inside a `with` block (this thread or task only), by Freivalds' check.

    What Triton kernels and cuBLAS return is checked; where torch multiplies (`last_dispatch()` then begins with
    "torch:") nothing is.  Without `with` a call changes nothing.  The environment variable `NTKLA_CHECK=1` does the
    same everywhere, in new threads too.

    Args:
        vectors: random vectors for each result.  An error of more than twice what a whole row may be off escapes with a
            probability of `2^-vectors`, and every check draws others; 0 checks nothing.  Results of no more columns
            than that are compared column by column.

    Raises:
        ArgumentError: for no such number.
        KernelFaultError: from a primitive, or from what uses it, whose kernel was wrong.

    Cost: in float64, `2 vectors + 8` operations for each entry of the result and each time its factors are gone
    through, and one number read from the device.  Beside a Gram matrix of n rows that share falls as `1 / n`: for
    float32 features of length 768, on one core, 31 % of torch's time at n = 2048 (15 % with one vector), 10 % at 8192.
    Beside `normal_matmul` of few columns it is as much as the product.  On a device it is not measured.  No result
    changes by it.
    """
    return setting(_wanted, checks.integer("vectors", vectors, least=0))


def vectors_wanted() -> int:
    """How many vectors the nearest `checked_products` block or the environment asks for; 0 without a check."""
    wanted = _wanted.get()
    if wanted is not None:
        return wanted
    return _VECTORS if checks.choice("NTKLA_CHECK", os.environ.get("NTKLA_CHECK", "0"), ("0", "1")) == "1" else 0


def require_product(ran: str, result: torch.Tensor, reference: Reference | None, vectors: int) -> None:
    """Raises KernelFaultError when a kernel's result is not the product that it should be.

    Args:
        ran: what `last_dispatch` says of it: "triton:gram:ieee".
        result: an even number of dimensions, the first half of them its rows.
        reference: what it must be, times vectors.
        vectors: how many.

    Raises:
        BackendError: nothing is known to check this kernel with.
    """
    if reference is None:
        raise BackendError(f"{ran}: products are to be checked, and no check is known of this kernel. Use torch.")
    if result.numel() == 0:
        return
    half = result.ndim // 2
    matrix = result.detach().flatten(half).flatten(0, half - 1)
    columns = matrix.shape[1]
    if columns <= vectors:
        v = torch.eye(columns, dtype=torch.float64, device=matrix.device)
    else:
        v = signs(columns, vectors, next(_seeds), matrix.device)
    found = compared(matrix, v, reference(v))
    if not found.agrees:
        raise KernelFaultError(_said(ran, matrix, found), ran, found.rows)


def require_bounds(ran: str, wrong: torch.Tensor) -> None:
    """Raises KernelFaultError where a kernel claims less than it must: `wrong` [n] says in which rows."""
    rows = tuple(wrong.nonzero().flatten().tolist())
    if rows:
        raise KernelFaultError(
            f"{ran}: error bounds or norms that are too small in {len(rows)} of {len(wrong)} rows on "
            f"{_device(wrong.device)}, the first is {rows[0]}, where a right result never fails. It was dropped. "
            f"Compute with backend('torch'), and report this with: {_versions()}.",
            ran,
            rows,
        )


def _said(ran: str, matrix: torch.Tensor, found: ProductCheck) -> str:
    implementation, primitive, mode = ran.split(":")
    shape = " x ".join(map(str, matrix.shape))
    return (
        f"{primitive}: {implementation} in mode '{mode}' returned a wrong {shape} matrix on {_device(matrix.device)}: "
        f"{found}, where a right result never fails. It was dropped. Compute with backend('torch'), and report this "
        f"with: {_versions()}."
    )


def _device(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)


def _versions() -> str:
    """The versions that a wrong result may depend on."""
    try:
        triton = metadata.version("triton")
    except metadata.PackageNotFoundError:
        triton = "not installed"
    return f"torch {torch.__version__}, triton {triton}, CUDA {torch.version.cuda}, HIP {torch.version.hip}"
