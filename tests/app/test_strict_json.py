"""Results as JSON: strictly valid, readable, and nothing that JSON has no word for."""

from __future__ import annotations

import json
import math

import pytest
import torch

from ntkla.app.reports.strict_json import plain, text
from ntkla.linalg.decisions import Decision


def test_plain_values():
    assert plain(math.inf) == "inf"
    assert plain((-math.inf, 0.5)) == ["-inf", 0.5]
    assert plain(torch.tensor([math.inf, 1.0])) == ["inf", 1.0]
    assert plain({"a": Decision(0, math.inf)}) == {"a": {"low": 0, "high": "inf"}}
    assert plain(None) is None


def test_text_breaks_objects_and_keeps_arrays_together():
    content = {"a": [[1.5, 2.0]], "b": {"c": {"d": 1}}, "e": [{"f": {}}, {"g": [1]}], "h": {}}
    assert json.loads(text(content)) == content
    assert text(content).splitlines() == [
        "{",
        ' "a": [[1.5, 2.0]],',
        ' "b": {',
        '  "c": {"d": 1}',
        " },",
        ' "e": [',
        "  {",
        '   "f": {}',
        "  },",
        '  {"g": [1]}',
        " ],",
        ' "h": {}',
        "}",
    ]


def test_any_name_of_a_file_can_be_written():
    name = b"caf\xc3\xa9 \xff".decode("utf-8", "surrogateescape")
    assert json.loads(text({"path": name}).encode("ascii")) == {"path": name}


def test_nan_is_never_written():
    with pytest.raises(ValueError, match="JSON"):
        text({"a": math.nan})
