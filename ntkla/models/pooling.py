"""From what a module returns to one row of features a sample."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch

from ntkla.linalg import checks
from ntkla.linalg.errors import ArgumentError, DtypeError, ShapeError

Pooling = Callable[[Any], torch.Tensor]
POOLINGS = ("auto", "mean", "first", "last", "flatten")
# The field of Hugging Face base models that holds a vector for every token.
_TOKENS = "last_hidden_state"


def rows(what: str, output: Any, pooling: str | Pooling, mask: torch.Tensor | None) -> torch.Tensor:
    """The features [n, F] in an output, floating point; means are float64.

    Args:
        what: how messages call the output.
        output: what the module or the layer returned.
        pooling: one of `POOLINGS`, or a function of the output.
        mask: [n, T], zero where a token counts for nothing; or None.

    Raises:
        ArgumentError, DtypeError, ShapeError: the output is not one tensor of features, or does not fit the pooling.
    """
    if callable(pooling):
        found = _floating(f"{what} after pooling", pooling(output))
        if found.ndim != 2:
            raise ShapeError(f"{what} after pooling: expected shape [n, F], got {tuple(found.shape)}.")
        return found
    x = _floating(what, _tensor_in(what, output))
    if x.ndim < 2:
        raise ShapeError(
            f"{what}: expected at least two dimensions, [n, F], got {tuple(x.shape)}. Name a layer whose output "
            "has one row a sample, or pass a function as pooling."
        )
    if x.ndim == 2:
        return x
    if pooling == "flatten":
        return x.flatten(1)
    if x.ndim == 3:
        return _tokens(what, x, pooling, mask)
    if pooling in ("first", "last"):
        raise ShapeError(f"{what}: pooling={pooling!r} expects tokens [n, T, D], got {tuple(x.shape)}. Use 'mean'.")
    return x.mean(tuple(range(2, x.ndim)), dtype=_wide(x))


def _tokens(what: str, x: torch.Tensor, pooling: str, mask: torch.Tensor | None) -> torch.Tensor:
    """One row for the tokens [n, T, D] of each sample, of those that the mask lets through."""
    if mask is None:
        if pooling in ("first", "last"):
            return x[:, 0 if pooling == "first" else -1]
        return x.mean(1, dtype=_wide(x))
    if mask.shape != x.shape[:2]:
        raise ShapeError(
            f"{what}: has tokens of shape {tuple(x.shape[:2])}, and attention_mask has shape {tuple(mask.shape)}. "
            "Pass a function as pooling."
        )
    kept = mask.to(x.device) != 0
    count = kept.sum(1)
    if not bool(count.all()):
        raise ArgumentError(
            f"{what}: expected attention_mask to leave a token in every sample, it leaves none in "
            f"{int((count == 0).sum())} of {len(count)}. Leave empty samples out."
        )
    if pooling in ("first", "last"):
        place = torch.arange(x.shape[1], dtype=torch.int64, device=x.device)
        position = (kept * (place if pooling == "last" else place.flip(0))).argmax(1)
        return x[torch.arange(x.shape[0], dtype=torch.int64, device=x.device), position]
    # Filled and not multiplied: what is masked may be infinite.
    return x.masked_fill(~kept[:, :, None], 0).sum(1, dtype=_wide(x)) / count[:, None]


def _wide(x: torch.Tensor) -> torch.dtype:
    """The type in which means are taken, so that only the final conversion rounds."""
    return torch.float32 if x.device.type == "mps" else torch.float64


def _floating(what: str, x: object) -> torch.Tensor:
    if not isinstance(x, torch.Tensor):
        raise DtypeError(f"{what}: expected a tensor, got {type(x).__name__}.")
    checks.dense(what, x)
    if not x.is_floating_point():
        raise DtypeError(f"{what}: expected real floating-point numbers, got {x.dtype}. Name another layer.")
    return x


def _tensor_in(what: str, output: Any) -> torch.Tensor:
    """The output itself, its `last_hidden_state`, or the only thing in it."""
    if isinstance(output, torch.Tensor):
        return output
    parts = {name: value for name, value in _parts(output) if value is not None}
    found = parts.get(_TOKENS) if _TOKENS in parts else next(iter(parts.values())) if len(parts) == 1 else None
    if isinstance(found, torch.Tensor):
        return found
    holds = ", ".join(f"{name}: {type(value).__name__}" for name, value in parts.items()) or "nothing to choose from"
    raise ArgumentError(
        f"{what}: expected a tensor, or one thing that is a tensor, got {type(output).__name__} ({holds}). "
        "Name a layer that returns a tensor, or choose with a function: pooling=lambda output: output[0].mean(1)."
    )


def _parts(output: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(output, Mapping):
        yield from ((str(name), value) for name, value in output.items())
    elif dataclasses.is_dataclass(output) and not isinstance(output, type):
        yield from ((field.name, getattr(output, field.name)) for field in dataclasses.fields(output))
    elif isinstance(output, (tuple, list)):
        yield from ((str(index), value) for index, value in enumerate(output))
