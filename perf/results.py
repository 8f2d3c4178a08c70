"""The record of every run: one JSON file each, written once and never changed."""

from __future__ import annotations

import json
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

SCHEMA = 1
DIRECTORY = Path(__file__).resolve().parent / "results"


def append(record: dict[str, Any], directory: Path) -> Path:
    """Writes one run (suite, size, device, baseline, machine, ceilings, left_out, rows) under the moment it ended.

    A file that exists is never overwritten.
    """
    moment = datetime.now(timezone.utc).strftime("%Y%m%dT%H%M%SZ")
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"{moment}-{record['suite']}-{record['size']}-{record['device']}.json"
    with path.open("x") as file:
        json.dump({"schema": SCHEMA, "time": moment, **record}, file, indent=1)
        file.write("\n")
    return path


def load(directory: Path) -> list[dict[str, Any]]:
    """Every record in the directory, oldest first."""
    return [json.loads(path.read_text()) for path in sorted(directory.glob("*.json"))]


def latest(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The newest run of each suite and device, of full size if there is one, oldest first.

    A run that left cases out replaces its own cases only: what it left out is taken from the runs before it.
    """
    chosen: list[dict[str, Any]] = []
    shown: dict[tuple[str, str], set[str]] = {}
    whole: set[tuple[str, str]] = set()
    for record in sorted(records, key=lambda r: (r["size"] == "full", r["time"]), reverse=True):
        place = record["suite"], record["device"]
        others = [r for r in chosen if (r["suite"], r["device"]) == place]
        if place in whole or (others and record["size"] != others[0]["size"]):
            continue
        seen = shown.setdefault(place, set())
        rows = [row for row in record["rows"] if row["case"] not in seen]
        seen.update(row["case"] for row in rows)
        if not record.get("left_out"):
            whole.add(place)
        if rows:
            chosen.append({**record, "rows": rows})
    return chosen[::-1]
