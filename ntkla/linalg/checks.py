"""What enters: every check that a public function makes on its arguments, each raising a named error.

A message says what was expected, what came, and what to do.
"""

from __future__ import annotations

import math
import operator
import struct
from collections.abc import Sequence
from typing import TypeVar

import torch

from ntkla.linalg import host
from ntkla.linalg.errors import (
    ArgumentError,
    DeviceError,
    DtypeError,
    MemoryEstimateError,
    NonFiniteError,
    RidgeError,
    ScaleError,
    ShapeError,
)
from ntkla.linalg.free_memory import available_memory

T = TypeVar("T")
FLOATING = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)
# Gram entries are sums of products of two entries and enter further products with a head: a quarter of float64's
# exponent range keeps every intermediate finite with room for n, F and the reciprocal of a ridge.
LARGEST_ENTRY = 2.0**250
# A penalty divides: below this one a bound of it may be subnormal, and zero where arithmetic flushes.
LEAST_PENALTY = 2.0**-1000
# The longest dimension that a tensor can have.
LONGEST = 2**63 - 1


def matrix(name: str, x: object, *, rows: int | None = None, columns: int | None = None) -> torch.Tensor:
    """`x` as a detached two-dimensional floating-point tensor with finite entries and at least one row and column.

    Args:
        name: how the caller calls it, for the messages.
        rows, columns: the lengths it must have, or None.

    Raises:
        DtypeError, ShapeError, NonFiniteError, ScaleError, DeviceError
    """
    if not isinstance(x, torch.Tensor):
        raise DtypeError(
            f"{name}: expected a torch.Tensor, got {type(x).__name__}. Convert it with torch.as_tensor(...)."
        )
    if x.dtype not in FLOATING:
        raise DtypeError(
            f"{name}: expected float64, float32, bfloat16 or float16, got {x.dtype}. Use .to(torch.float64)."
        )
    dense(name, x)
    if x.ndim != 2:
        raise ShapeError(f"{name}: expected two dimensions (one row a sample), got shape {tuple(x.shape)}.")
    lengths(name, x, rows=rows, columns=columns)
    certifiable(name, x)
    # A pending sign (the imaginary part of a conjugate has one) is applied: bits and numpy views do not know of it.
    x = x.detach().resolve_neg()
    finite(name, x)
    return x


def dense(name: str, x: torch.Tensor) -> None:
    """Raises DtypeError for sparse, nested and other tensors that are no plain array."""
    if x.is_nested:
        raise DtypeError(f"{name}: expected a dense tensor, got a nested one. Convert it with .to_padded_tensor(...).")
    if x.layout is not torch.strided:
        raise DtypeError(f"{name}: expected a dense tensor, got layout {x.layout}. Convert it with .to_dense().")


def with_values(name: str, x: torch.Tensor) -> None:
    """Raises DeviceError for a tensor without values."""
    if x.device.type == "meta":
        raise DeviceError(f"{name}: lies on the meta device and has no values. Move real data to 'cpu' or 'cuda'.")


def certifiable(name: str, x: torch.Tensor) -> None:
    """Raises DeviceError for a tensor without values, or on a device that has no float64."""
    with_values(name, x)
    if x.device.type == "mps":
        raise DeviceError(
            f"{name}: lies on 'mps', which has no float64, so nothing can be certified there. Move it to 'cpu'."
        )


def lengths(name: str, x: torch.Tensor, *, rows: int | None = None, columns: int | None = None) -> None:
    """Raises ShapeError for a matrix without entries, or with other lengths than those given."""
    if x.shape[0] == 0 or x.shape[1] == 0:
        raise ShapeError(f"{name}: expected at least one row and one column, got shape {tuple(x.shape)}.")
    if rows is not None and x.shape[0] != rows:
        raise ShapeError(f"{name}: expected {rows} rows, got {x.shape[0]} (shape {tuple(x.shape)}).")
    if columns is not None and x.shape[1] != columns:
        raise ShapeError(f"{name}: expected {columns} columns, got {x.shape[1]} (shape {tuple(x.shape)}).")


def finite(name: str, x: torch.Tensor) -> None:
    """Raises NonFiniteError for a NaN or an infinity, ScaleError for entries whose products overflow."""
    if x.numel() == 0:
        return
    low, high = host.numbers(x.amin(), x.amax())  # not torch.aminmax, which copies what is not contiguous
    if not (math.isfinite(low) and math.isfinite(high)):
        bad = int((~torch.isfinite(x)).sum())
        raise NonFiniteError(
            f"{name}: expected finite entries, got {bad} NaN or infinite of {x.numel()}. Clean or drop those rows."
        )
    if max(-low, high) > LARGEST_ENTRY:
        raise ScaleError(
            f"{name}: the largest magnitude is {max(-low, high):.3g}, and products of such entries overflow. "
            f"Divide by a power of two to bring it below {LARGEST_ENTRY:.3g}."
        )


def bounds(name: str, x: object, **bounded: torch.Tensor) -> torch.Tensor:
    """`x`, detached, when it holds bounds >= 0, maybe infinite, for the entries of an array given by its name."""
    ((whole, array),) = bounded.items()
    if not isinstance(x, torch.Tensor) or x.dtype not in FLOATING:
        raise DtypeError(f"{name}: expected a float64, float32, bfloat16 or float16 tensor, or None.")
    dense(name, x)
    one_device(**{whole: array, name: x})
    if x.shape != array.shape:
        raise ShapeError(f"{name}: expected {tuple(array.shape)}, as the {whole}, got {tuple(x.shape)}.")
    if bool(x.isnan().any()):
        raise NonFiniteError(f"{name}: expected bounds, got NaN. Where no bound is known, say infinity.")
    if bool((x < 0).any()):
        raise ArgumentError(f"{name}: expected bounds >= 0, got a negative one.")
    return x.detach()


def one_device(**tensors: torch.Tensor | None) -> torch.device:
    """The device that all given tensors share; DeviceError when they do not."""
    devices = {name: x.device for name, x in tensors.items() if x is not None}
    if len(set(devices.values())) > 1:
        listing = ", ".join(f"{name} on {device}" for name, device in devices.items())
        raise DeviceError(f"expected all arrays on one device, got {listing}. Move them with .to(device).")
    return next(iter(devices.values()))


def one_dtype(**tensors: torch.Tensor | None) -> torch.dtype:
    """The element type that all given tensors share; DtypeError when they do not."""
    dtypes = {name: x.dtype for name, x in tensors.items() if x is not None}
    if len(set(dtypes.values())) > 1:
        listing = ", ".join(f"{name} {dtype}" for name, dtype in dtypes.items())
        raise DtypeError(f"expected one dtype for all features, got {listing}. Convert with .to(dtype).")
    return next(iter(dtypes.values()))


def nonnegative(name: str, value: object) -> float:
    """`value` as a finite non-negative float (a ridge or a weight decay); RidgeError otherwise."""
    number = _number(name, value, RidgeError)
    if not math.isfinite(number) or number < 0:
        raise RidgeError(f"{name}: expected a finite number >= 0 (absolute, added to Phi^T Phi), got {value!r}.")
    if number < LEAST_PENALTY and _not_zero(number):
        raise RidgeError(
            f"{name}: expected 0 or at least {LEAST_PENALTY:.3g}, got {number!r}: it cannot be told from 0 safely."
        )
    if number > LARGEST_ENTRY:
        raise RidgeError(
            f"{name}: expected at most {LARGEST_ENTRY:.3g}, got {number:.3g}: the update is zero to every digit there."
        )
    return number


def _not_zero(number: float) -> bool:
    """Read from the bits, without the sign: where subnormal numbers are flushed, they compare equal to zero."""
    return int.from_bytes(struct.pack(">d", number), "big") % (1 << 63) != 0


def number(name: str, value: object) -> float:
    """`value` as a finite float; ArgumentError otherwise."""
    converted = _number(name, value, ArgumentError)
    if not math.isfinite(converted):
        raise ArgumentError(f"{name}: expected a finite number, got {value!r}.")
    return converted


def positive(name: str, value: object) -> float:
    """`value` as a finite positive float; ArgumentError otherwise."""
    converted = number(name, value)
    if converted <= 0:
        raise ArgumentError(f"{name}: expected a finite number > 0, got {value!r}.")
    return converted


def _number(name: str, value: object, error: type[Exception]) -> float:
    if isinstance(value, (bool, str, bytes, type(None))):
        raise error(f"{name}: expected a number, got {value!r}.")
    try:
        return float(value)  # type: ignore[arg-type]
    except OverflowError as cause:
        raise error(f"{name}: expected a number within the range of float64, got one beyond it.") from cause
    except (TypeError, ValueError, RuntimeError) as cause:
        raise error(f"{name}: expected a number, got {value!r}.") from cause


def integer(name: str, value: object, *, least: int, most: int = LONGEST) -> int:
    """`value` as an int in [least, most]; ArgumentError otherwise."""
    wrong = ArgumentError(f"{name}: expected an integer, got {value!r}.")
    if isinstance(value, bool):
        raise wrong
    try:
        number = operator.index(value)  # type: ignore[arg-type]
    except (TypeError, RuntimeError) as cause:
        raise wrong from cause
    if not least <= number <= most:
        upper = "" if most == LONGEST and number < least else f" and <= {most}"
        raise ArgumentError(f"{name}: expected an integer >= {least}{upper}, got {number}.")
    return number


def flag(name: str, value: object) -> bool:
    """`value` when it is True or False; ArgumentError otherwise (a bias vector, say, where a switch is meant)."""
    if not isinstance(value, bool):
        raise ArgumentError(f"{name}: expected True or False, got {type(value).__name__}.")
    return value


def choice(name: str, value: object, allowed: Sequence[str]) -> str:
    """`value` when it is one of the allowed words; ArgumentError otherwise."""
    if not isinstance(value, str) or value not in allowed:
        raise ArgumentError(f"{name}: expected one of {', '.join(map(repr, allowed))}, got {value!r}.")
    return value


def instance(name: str, value: object, kind: type[T]) -> T:
    """`value` when it is of a class that `ntkla` exports; ArgumentError otherwise."""
    if not isinstance(value, kind):
        raise ArgumentError(
            f"{name}: expected an ntkla.{kind.__name__}, got {type(value).__name__}. help(ntkla.{kind.__name__}) says "
            "how to make one."
        )
    return value


def progress(value: T, told: str) -> T:
    """`value` when it is None or a function, of what the words in `told` say; DtypeError otherwise."""
    if value is not None and not callable(value):
        raise DtypeError(f"progress: expected a function of {told}, or None, got {type(value).__name__}.")
    return value


def memory(what: str, bytes_needed: int, device: torch.device) -> None:
    """Raises MemoryEstimateError when `bytes_needed` is more than `device` has free."""
    free = available_memory(device)
    if bytes_needed > free:
        raise MemoryEstimateError(
            f"{what} needs about {bytes_needed / 1e9:.3g} GB ({bytes_needed} bytes) on {device}, "
            f"and {free / 1e9:.3g} GB are free. "
            "Use fewer samples, features or outputs, or a larger machine.",
            bytes_needed,
        )
