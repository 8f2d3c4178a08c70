"""The suites, by name.

A suite is a module with `specifications(size, device) -> list[perf.harness.Specification]` and with `BASELINE`, the
name of the contender that the tables compare with.
"""

from __future__ import annotations

import importlib
from types import ModuleType

NAMES = ("forecast",)
SIZES = ("small", "full")


def load(name: str) -> ModuleType:
    """The module of one suite."""
    return importlib.import_module(f"perf.suites.{name}")
