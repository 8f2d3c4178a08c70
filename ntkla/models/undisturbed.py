"""A module is used and found again as it was: modes, device, buffers, hooks, and the process's random generators."""

from __future__ import annotations

import difflib
import random
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch.nn.parameter import is_lazy

from ntkla.linalg import checks
from ntkla.linalg.errors import ArgumentError, DeviceError


def home(backbone: torch.nn.Module) -> torch.device | None:
    """The device of the module's first parameter or buffer; None without any.

    Raises:
        DeviceError: a part of the module has no values.
        ArgumentError: a part of the module has no shape before its first call.
    """
    for name, tensor in chain(backbone.named_parameters(), backbone.named_buffers()):
        if is_lazy(tensor):
            raise ArgumentError(f"backbone: {name} has no shape yet. Call the module once before, or load its weights.")
        if tensor.device.type == "meta":
            raise DeviceError(f"backbone: {name} lies on the meta device and has no values. Load its weights first.")
    first = next(chain(backbone.parameters(), backbone.buffers()), None)
    return None if first is None else first.device


def device_named(device: object) -> torch.device:
    """`device` with its index, as tensors name theirs; DeviceError when there is none here that holds values."""
    try:
        found = torch.empty(0, dtype=torch.float32, device=device)  # type: ignore[call-overload]
    except (RuntimeError, TypeError, AssertionError, NotImplementedError) as cause:
        reason = str(cause).splitlines()[0]
        raise DeviceError(f"device: expected one that is here, such as 'cpu', got {device!r} ({reason}).") from cause
    checks.with_values("device", found)  # a module that is moved to the meta device loses its values
    return found.device  # type: ignore[no-any-return]


@contextmanager
def evaluating(backbone: torch.nn.Module, device: torch.device | None) -> Iterator[None]:
    """The module in evaluation mode and, unless None, on `device`; afterwards as it was, whatever happened.

    Every submodule gets its own training flag back, and every buffer that was changed in place its values.  A buffer
    that the module replaced stays replaced: a module that does so keeps account of it elsewhere.

    Raises:
        DeviceError: it should be moved, and its parts lie on several devices.
    """
    start = _one_home(backbone) if device is not None else None
    with ExitStack() as undo:
        for module in backbone.modules():
            undo.callback(setattr, module, "training", module.training)
        backbone.eval()
        if start is not None and start != device:
            undo.callback(backbone.to, start)  # before the move, which may fail half way
            backbone.to(device)
        undo.enter_context(_values_kept(list(backbone.buffers())))
        yield


def _one_home(backbone: torch.nn.Module) -> torch.device | None:
    devices = {x.device for x in chain(backbone.parameters(), backbone.buffers())}
    if len(devices) > 1:
        listing = ", ".join(sorted(map(str, devices)))
        raise DeviceError(f"device: the backbone lies on {listing} and cannot be moved as one. Leave device out.")
    return next(iter(devices), None)


@contextmanager
def _values_kept(buffers: list[torch.Tensor]) -> Iterator[None]:
    copies = [(x, x.detach().clone()) for x in buffers if x.layout is torch.strided]
    try:
        yield
    finally:
        with torch.no_grad():
            for x, copy in copies:
                # Written only where needed: a graph that waits for its backward pass may hold the buffer.
                if not torch.equal(x, copy):
                    x.copy_(copy)


@contextmanager
def generators_kept(device: torch.device | None) -> Iterator[None]:
    """The global random generators of torch (of the CPU, and of `device` if that is CUDA), numpy and Python."""
    of_python, of_numpy = random.getstate(), np.random.get_state()  # noqa: NPY002 (the global one is meant)
    try:
        with torch.random.fork_rng([device] if device is not None and device.type == "cuda" else []):
            yield
    finally:
        random.setstate(of_python)
        np.random.set_state(of_numpy)  # noqa: NPY002


@contextmanager
def arithmetic(device: torch.device, precision: torch.dtype | None) -> Iterator[None]:
    """No gradients, and autocast to `precision` or none at all, whatever the caller has switched on."""
    with (
        torch.no_grad(),
        torch.autocast(device.type, dtype=precision, enabled=precision is not None),
    ):
        yield


@contextmanager
def listening(backbone: torch.nn.Module, layer: str | None, hear: Callable[[Any], None]) -> Iterator[None]:
    """Inside, `hear` is told every output of the submodule of that name; of none for None.

    Raises:
        ArgumentError: there is no such submodule, or it cannot be listened to.
    """
    if layer is None:
        yield
        return
    parts = {name: part for name, part in backbone.named_modules(remove_duplicate=False) if name}
    if layer not in parts:
        names = list(parts)
        near = difflib.get_close_matches(str(layer), names, n=5, cutoff=0.4) or names[-5:]
        raise ArgumentError(
            f"layer: expected the dotted name of a submodule, got {layer!r}. "
            + (f"Near ones: {', '.join(near)}." if near else "This module has none.")
            + " The names are those of backbone.named_modules()."
        )
    if isinstance(parts[layer], torch.jit.ScriptModule):
        raise ArgumentError(f"layer: {layer!r} is scripted and runs no hooks. Pass the module that it was made from.")
    handle = parts[layer].register_forward_hook(lambda module, inputs, output: hear(output))
    try:
        yield
    finally:
        handle.remove()
