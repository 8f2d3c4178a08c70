"""The suites, by name.

A suite is a module with `specifications(size, device) -> list[perf.harness.Specification]`, with `BASELINE`, the name
of the contender that the short table compares with, and with `MEMORY`: whether peak memory is worth a process for each.
A suite of one primitive names, in the parameters of a case, the `multiplications` that ntkla's table of choices counts.
"""

from __future__ import annotations

import importlib
from types import ModuleType

NAMES = (
    "gram", "normal_matmul", "layer_ntk", "softmax_gram",
    "modes", "forecast", "ridge", "plan", "penalty", "softmax_regression",
)  # fmt: skip
SIZES = ("small", "full")


def load(name: str) -> ModuleType:
    """The module of one suite."""
    return importlib.import_module(f"perf.suites.{name}")
