"""Which columns of the outputs a penalty covers, checked."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ntkla.linalg import checks
from ntkla.linalg.errors import ArgumentError, DtypeError, ShapeError


def column_numbers(columns: object) -> list[int]:
    """The numbers as a list, at least one and each once; DtypeError or ArgumentError otherwise."""
    if not isinstance(columns, Sequence) or isinstance(columns, str):
        raise DtypeError(f"columns: expected a sequence of column numbers, got {type(columns).__name__}.")
    numbers = [checks.integer("columns", c, least=0) for c in columns]
    if not numbers or len(set(numbers)) != len(numbers):
        raise ArgumentError(f"columns: expected at least one, and each once, got {numbers}.")
    return numbers


def within(columns: list[int], outputs: torch.Tensor) -> list[int]:
    """The numbers when outputs [n, C] have those columns; ShapeError otherwise."""
    if max(columns) >= outputs.shape[1]:
        raise ShapeError(f"columns: expected numbers below {outputs.shape[1]}, the outputs there are, got {columns}.")
    return columns
