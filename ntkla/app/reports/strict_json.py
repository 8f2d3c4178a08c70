"""Results as strictly valid JSON, for programs: what every command with `--json` writes.

A bound that is infinite is the string "inf"; there is no NaN.  What the bounds may leave open (an accuracy, a number of
flips, a rank, a place) is an object {"low": .., "high": ..}, with equal ends when it is decided.  Numbers are written
so that reading them gives the same float64.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import torch

from ntkla.forgetting.spectrum.ranks import Rank
from ntkla.linalg.decisions import Decision
from ntkla.linalg.status import Status


def text(content: Mapping[str, Any]) -> str:
    """The document as JSON: what holds no other object is one line, however long its arrays are."""
    return _lines(content, "\n") + "\n"


def _lines(value: Any, start: str) -> str:
    inner = f"{start} "
    if isinstance(value, Mapping) and any(map(_holds_objects, value.values())):
        parts = [f"{_line(key)}: {_lines(item, inner)}" for key, item in value.items()]
        return f"{{{inner}{f',{inner}'.join(parts)}{start}}}"
    if isinstance(value, list) and _holds_objects(value):
        return f"[{inner}{f',{inner}'.join(_lines(item, inner) for item in value)}{start}]"
    return _line(value)


def _holds_objects(value: Any) -> bool:
    return isinstance(value, Mapping) or (isinstance(value, list) and any(map(_holds_objects, value)))


def _line(value: Any) -> str:
    return json.dumps(value, allow_nan=False)


def plain(value: Any) -> Any:
    """Any result as values that JSON has: see the module's docstring."""
    if isinstance(value, Status):
        return {"code": value.code, "message": value.message, "certified": value.certified}
    if isinstance(value, (Decision, Rank)):
        return {"low": plain(value.low), "high": plain(value.high)}
    if isinstance(value, torch.Tensor):
        return plain(value.tolist())
    if isinstance(value, float) and math.isinf(value):
        return "inf" if value > 0 else "-inf"
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, (list, tuple)) else value
