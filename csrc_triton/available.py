"""Whether the installed Triton is one that the kernels were tried with, where it runs, and what its compiler raises."""

from __future__ import annotations

import subprocess

import torch
import triton

# The oldest release whose compiled kernels were looked at.
LEAST_VERSION = (3, 6)


def version() -> tuple[int, ...]:
    """The installed release, (major, minor)."""
    return tuple(int(part) for part in triton.__version__.split("+")[0].split(".")[:2])


def too_old() -> str | None:
    """A sentence when the installed Triton is older than the kernels need; None when it is not."""
    if version() >= LEAST_VERSION:
        return None
    wanted = ".".join(map(str, LEAST_VERSION))
    return f"Triton {triton.__version__} is installed and the kernels need {wanted} or newer"


def compiler_failed(error: BaseException) -> bool:
    """True for what Triton, its assembler and the C compiler of its launcher raise; not for running out of memory."""
    if isinstance(error, torch.OutOfMemoryError):
        return False
    # A failed pass of the compiler and a missing C compiler are plain RuntimeErrors.
    return isinstance(error, (triton.TritonError, RuntimeError, OSError, subprocess.CalledProcessError))
