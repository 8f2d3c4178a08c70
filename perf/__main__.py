"""`python -m perf [SUITE ...] [--output DIR] [--size small|full] [--device cpu|cuda] [--only TEXT ...] [--minutes M]`.

Exit code 1 when an answer of ours was wrong or failed; a contender's fault is its own and only shows in its row.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from perf import ceilings, crossover, harness, machine, memory, results, suites, tables


def main(arguments: list[str] | None = None) -> int:
    parser = _parser()
    options = parser.parse_args(arguments)
    unknown = set(options.suites) - set(suites.NAMES)
    if unknown:
        parser.error(f"no suite {', '.join(sorted(unknown))}: choose from {', '.join(suites.NAMES)}")
    directory = options.output or results.DIRECTORY
    if options.tables:
        _say(*(f"wrote {page}" for page in tables.regenerate(machine.ROOT, directory)))
        return 0
    if options.choices:
        print(*crossover.suggestions(results.latest(results.load(directory))), sep="\n")
        return 0
    device = torch.device(options.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        _say("no CUDA device here: run with --device cpu")
        return 2
    wrong = False
    end = math.inf if options.minutes is None else time.perf_counter() + 60.0 * options.minutes
    for suite in options.suites or suites.NAMES:
        request = Request(suite, options.size, device, not options.no_memory, tuple(options.only), end)
        rows = run_suite(request, directory)
        wrong |= any(row.ours and row.status != harness.TIMED for row in rows)
    if options.output is None:
        _say(*(f"wrote {page}" for page in tables.regenerate(machine.ROOT, directory)))
    else:
        (directory / "tables.md").write_text(tables.long(results.latest(results.load(directory))) + "\n")
    return int(wrong)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m perf", description="Benchmarks of ntkla beside its peers.")
    parser.add_argument("suites", nargs="*", metavar="SUITE", help=f"of {', '.join(suites.NAMES)}; default: all")
    parser.add_argument(
        "--output", type=Path, help="folder for the JSON and the tables; default: perf/results and the READMEs"
    )
    parser.add_argument("--size", choices=suites.SIZES, default="full")
    parser.add_argument("--only", nargs="+", default=[""], metavar="TEXT", help="only cases whose name contains a TEXT")
    here = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--device", choices=("cpu", "cuda"), default=here, help="default: cuda where torch finds one")
    parser.add_argument("--minutes", type=float, help="begin no further case after so long; the tables keep older ones")
    parser.add_argument(
        "--no-memory", action="store_true", help="do not measure peak memory (a fresh process for each)"
    )
    parser.add_argument("--choices", action="store_true", help="only say where recorded Triton kernels beat torch")
    parser.add_argument("--tables", action="store_true", help="only make the tables again from the recorded runs")
    return parser


@dataclass(frozen=True)
class Request:
    """One suite to run: its size, where, with peak memory or not, which cases, and until when cases may begin."""

    suite: str
    size: str
    device: torch.device
    with_memory: bool = True
    only: tuple[str, ...] = ("",)
    end: float = math.inf


def run_suite(request: Request, directory: Path) -> list[harness.Row]:
    """Runs one suite (only the cases whose name contains one of `only`), records it and returns its rows."""
    suite, size, device = request.suite, request.size, request.device
    described = machine.describe(device)
    _say(machine.line(described), f"load average {described['load']}")
    limits = ceilings.measure(size, device)
    module = suites.load(suite)
    rows: list[harness.Row] = []
    left_out: list[str] = []
    for specification in module.specifications(size, device):
        if time.perf_counter() > request.end or not any(text in specification.name for text in request.only):
            left_out.append(specification.name)
            continue
        start = time.perf_counter()
        found = harness.run(specification, limits, device, harness.PACES[size])
        if request.with_memory and module.MEMORY:
            _add_memory(suite, size, device, found)
        rows += found
        _say(f"{specification.name}: {time.perf_counter() - start:.0f} s", *(f"  {_brief(row)}" for row in found))
    record = {
        "suite": suite,
        "size": size,
        "device": device.type,
        "baseline": module.BASELINE,
        "machine": described,
        "ceilings": limits,
        "left_out": left_out,
        "rows": [row.to_dict() for row in rows],
    }
    path = results.append(record, directory)
    _say(f"wrote {path}", *(f"not run: {name}" for name in left_out))
    return rows


def _add_memory(suite: str, size: str, device: torch.device, rows: list[harness.Row]) -> None:
    for row in rows:
        if row.status == harness.TIMED:
            row.facts["peak_memory"] = memory.measure(suite, size, device.type, row.case, row.contender)


def _brief(row: harness.Row) -> str:
    if row.seconds is None:
        return f"{row.contender}: {row.status}: {row.reason}"
    bound = "" if row.bound is None else f", bound {row.bound:.1e}"
    used: Any = row.facts.get("peak_memory", {}).get("bytes")
    return f"{row.contender}: {row.seconds:.4g} s, error {row.error:.1e}{bound}" + (
        f", {used / 1e6:.0f} MB" if used else ""
    )


def _say(*lines: str) -> None:
    for line in lines:
        print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
