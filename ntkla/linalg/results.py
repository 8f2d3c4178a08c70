"""What every result type shares: frozen, readable, and convertible to plain Python values."""

from __future__ import annotations

import dataclasses
import textwrap
from typing import Any

import torch


class Result:
    """Base of the frozen result dataclasses; gives them `to_dict`.

    A result that holds tensors equals itself only (`eq=False`): tensors have no truth value to compare by.
    """

    def to_dict(self) -> dict[str, Any]:
        """Every field as plain Python values: tensors become nested lists, nested results dictionaries.

        An infinite bound stays `float("inf")`; `json.dumps` writes it as `Infinity`.
        """
        assert dataclasses.is_dataclass(self)
        return {f.name: _plain(getattr(self, f.name)) for f in dataclasses.fields(self)}


def _plain(value: Any) -> Any:
    if isinstance(value, Result):
        return value.to_dict()
    if isinstance(value, torch.Tensor):
        return value.tolist()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value


def wrapped(name: str, text: str) -> list[str]:
    """The lines of one entry of a result's text: the name, and beside it the text, at most 100 columns wide."""
    return textwrap.wrap(text, 100, initial_indent=f"  {name:<14}", subsequent_indent=" " * 16)
