"""From which size on a Triton kernel was faster than torch, for the rows of `ntkla/linalg/backends/choices.py`.

`python -m perf --choices [--output DIR]` prints it from the recorded GPU runs; a person writes the rows.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

TRITON, TORCH = "ntkla triton, ", "ntkla torch, "
# In torch these sums are those of float32.
SAME_BODY = {"bf16": "ieee", "split": "ieee"}


def suggestions(records: list[dict[str, Any]]) -> list[str]:
    """One line for each primitive, element type and mode that was timed in both implementations."""
    found: dict[tuple[str, str, str, str], list[tuple[float, float]]] = defaultdict(list)
    for record in records:
        for row in record["rows"]:
            mode = row["contender"].removeprefix(TRITON)
            ratio = row["ratios"].get(TORCH + SAME_BODY.get(mode, mode))
            if row["contender"].startswith(TRITON) and ratio is not None:
                place = (
                    record["suite"],
                    record["machine"].get("gpu", record["device"]),
                    row["parameters"]["dtype"],
                    mode,
                )
                found[place].append((row["parameters"]["multiplications"], ratio))
    return [_line(place, sorted(measured)) for place, measured in sorted(found.items())] or ["No GPU run recorded."]


def least_work(measured: list[tuple[float, float]]) -> float | None:
    """The fewest multiplications from which on every measured case was faster, of (multiplications, ratio) pairs."""
    faster: float | None = None
    for work, ratio in sorted(measured, reverse=True):
        if ratio >= 1.0:
            break
        faster = work
    return faster


def _line(place: tuple[str, str, str, str], measured: list[tuple[float, float]]) -> str:
    least = least_work(measured)
    said = "NEVER" if least is None else f"{least:.3g}"
    cases = ", ".join(f"{ratio:.2f} at {work:.2g}" for work, ratio in measured)
    return f"{' | '.join(place)} | least_work {said} | triton / torch: {cases}"
