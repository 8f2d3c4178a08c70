"""Hostile ambient states: settings of the process that a user may have changed and that must not break a bound.

`hostile_states()` names them; each is a context manager that restores what it found.  `ambient_state()` is a
fingerprint of every such setting and of the global random generators: equal before and after a call means that the
call left nothing behind.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import numpy as np
import torch

_TINY = 2.0**-149


def hostile_states() -> dict[str, Callable[[], AbstractContextManager[Any]]]:
    """Name -> function that returns a fresh context manager for that state."""
    return {
        "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
        "matmul precision medium": _matmul_precision,
        "flush denormal": _flush_denormal,
        "default float16": lambda: _default_dtype(torch.float16),
        "default bfloat16": lambda: _default_dtype(torch.bfloat16),
        "default float64": lambda: _default_dtype(torch.float64),
        "default device meta": lambda: torch.device("meta"),
        "inference mode": torch.inference_mode,
        "no grad": torch.no_grad,
        "anomaly mode": lambda: torch.autograd.set_detect_anomaly(True),
        "deterministic": _deterministic,
        "one thread": lambda: _threads(1),
        "three threads": lambda: _threads(3),
    }


def ambient_state() -> dict[str, Any]:
    """Every global setting that ntkla must leave alone, as comparable values."""
    return {
        "autocast": torch.is_autocast_enabled("cpu"),
        "autocast dtype": torch.get_autocast_dtype("cpu"),
        "matmul precision": torch.get_float32_matmul_precision(),
        "tf32": (torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32),
        "flushes": flushes_subnormals_now(),
        "default dtype": torch.get_default_dtype(),
        "default device": torch.get_default_device(),
        "inference": torch.is_inference_mode_enabled(),
        "grad": torch.is_grad_enabled(),
        "anomaly": torch.is_anomaly_enabled(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "threads": torch.get_num_threads(),
        "torch generator": hash(bytes(torch.get_rng_state().tolist())),
        "numpy generator": hash(np.random.get_state()[1].tobytes()),  # type: ignore[index]  # noqa: NPY002
        "python generator": hash(random.getstate()),
    }


def flushes_subnormals_now() -> bool:
    """True when float32 arithmetic of this thread turns subnormals into zero."""
    return bool(torch.full((1,), _TINY, dtype=torch.float64, device="cpu").to(torch.float32).mul(1.0).eq(0.0).all())


@contextmanager
def _matmul_precision() -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


@contextmanager
def _flush_denormal() -> Iterator[None]:
    before = flushes_subnormals_now()
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(before)


@contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextmanager
def _deterministic() -> Iterator[None]:
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
