"""Runs one case: judges every contender first, then times, interleaved, those whose answer was right.

A wrong answer has no time.  If one of ours is wrong the gate is red: nothing of the case is timed.
A contender that cannot run here stays in the table with its reason.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

LEAST_RUNS = 5  # fewer only for a run longer than LONG seconds, or than a case's patience
SECONDS, LONG = 10.0, 10.0
ONCE = 20.0  # a run longer than this is not repeated: the one that was judged is timed


@dataclass(frozen=True)
class Pace:
    """How patiently a case is timed: the most runs of one contender, and the pause before each in seconds.

    Idle threads of one BLAS spin for some milliseconds after a call: the next contender waits until they sleep.
    """

    most_runs: int
    settle: float


PACES = {"small": Pace(LEAST_RUNS, 0.0), "full": Pace(15, 0.06)}
# Written before each call on a GPU, so that no input is still in its second-level cache (50 MB on an H100).
COLD_BYTES = 2**28
TIMED, WRONG, SKIPPED, FAILED, NOT_TIMED = "timed", "wrong", "skipped", "failed", "not timed"


class Skip(Exception):
    """Raised by a contender that cannot run here, with the reason."""


@dataclass(frozen=True)
class Work:
    """What a method must do at least: operations at a precision's rate, and bytes read once and written once."""

    operations: float
    bytes: float
    rate: str = "float64"


@dataclass(frozen=True)
class Verdict:
    """What a judge found in an answer: right or not, its error, the bound it came with, and other numbers."""

    right: bool
    error: float
    bound: float | None = None
    reason: str = ""
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Contender:
    """One way to compute the answer.

    Attributes:
        name: how the tables call it; unique in its case.
        call: computes the answer from inputs that lie ready; this is what is timed.
        work: the least work of this method, for the fraction of the roofline.
        ours: whether it is ntkla.
        digits: unit roundoff, or relative residual of an iteration, that its answer may be judged by.
        parts: runs it once more and gives seconds by part, or None.
        note: what a reader must know, such as where it runs.
        compiles: its first call compiles, so the second one tells how long it takes.
    """

    name: str
    call: Callable[[], Any]
    work: Work
    ours: bool = False
    digits: float = 2.0**-53
    parts: Callable[[], dict[str, float]] | None = None
    note: str = ""
    compiles: bool = False


@dataclass(frozen=True)
class Case:
    """Contenders on the same inputs, and the judge of their answers."""

    contenders: list[Contender]
    skipped: dict[str, str]
    judge: Callable[[Contender, Any], Verdict]


@dataclass(frozen=True)
class Specification:
    """A case by name, built only when it runs so that its inputs do not outlive it.

    Attributes:
        seconds: about how long one contender may be timed for.
    """

    name: str
    parameters: dict[str, Any]
    build: Callable[[], Case]
    seconds: float = SECONDS


@dataclass
class Row:
    """One contender in one case, as it is stored."""

    case: str
    contender: str
    ours: bool
    status: str
    reason: str = ""
    note: str = ""
    seconds: float | None = None
    fastest: float | None = None
    slowest: float | None = None
    runs: int = 0
    error: float | None = None
    bound: float | None = None
    operations: float | None = None
    bytes: float | None = None
    roofline: float | None = None
    ratios: dict[str, float] = field(default_factory=dict)
    parts: dict[str, float] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    parameters: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def run(specification: Specification, ceilings: dict[str, float], device: torch.device, pace: Pace) -> list[Row]:
    """The rows of one case: judged, then timed when the gate is green."""
    if device.type == "cuda":
        torch.cuda.empty_cache()  # other libraries need what the last case left to torch
    case = specification.build()
    rows = {c.name: Row(specification.name, c.name, c.ours, NOT_TIMED, note=c.note) for c in case.contenders}
    first = {c.name: _judge(case, c, rows[c.name], device) for c in case.contenders}
    red = [row.contender for row in rows.values() if row.ours and row.status != NOT_TIMED]
    if red:
        for row in rows.values():
            if row.status == NOT_TIMED:
                row.reason = f"the gate is red: {', '.join(red)}"
    else:
        gc.collect()
        right = [c for c in case.contenders if rows[c.name].status == NOT_TIMED]
        warm = {c.name: _clocked(c, device)[0] if c.compiles else first[c.name] for c in right}
        planned = {name: planned_runs(seconds, pace, specification.seconds) for name, seconds in warm.items()}
        _time(right, rows, planned, pace, device, {name: s for name, s in warm.items() if s > ONCE})
        _derive(case.contenders, rows, ceilings)
    for name, reason in case.skipped.items():
        rows[name] = Row(specification.name, name, False, SKIPPED, reason)
    for row in rows.values():
        row.parameters = specification.parameters
    return list(rows.values())


def _judge(case: Case, contender: Contender, row: Row, device: torch.device) -> float:
    """Runs once (which also warms up) and writes the verdict into the row; returns the seconds of that run."""
    try:
        seconds, answer = _clocked(contender, device)
        verdict = case.judge(contender, answer)
    except Skip as skip:
        row.status, row.reason = SKIPPED, str(skip)
        return 0.0
    except Exception as error:  # a contender may fail in any way; its row says how
        row.status, row.reason = FAILED, f"{type(error).__name__}: {error}"
        return 0.0
    row.error, row.bound, row.facts = verdict.error, verdict.bound, verdict.facts
    if not verdict.right:
        row.status, row.reason = WRONG, verdict.reason
    return seconds


def _clocked(contender: Contender, device: torch.device) -> tuple[float, Any]:
    """Seconds of one call, and its answer.

    On a GPU events stand around the call, on an idle device and a cold cache: its launches are in the time.
    """
    if device.type != "cuda":
        start = time.perf_counter()
        answer = contender.call()
        return time.perf_counter() - start, answer
    with torch.cuda.device(device):
        torch.empty(COLD_BYTES, dtype=torch.uint8, device=device).fill_(1)
        torch.cuda.synchronize(device)
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        answer = contender.call()
        end.record()
        torch.cuda.synchronize(device)
        return begin.elapsed_time(end) * 1e-3, answer


def planned_runs(seconds: float, pace: Pace, patience: float = SECONDS) -> int:
    """How often a contender that takes this long is run, in about `patience` seconds."""
    longest = min(LONG, patience)
    if seconds > longest:
        return max(1, min(LEAST_RUNS, int(LEAST_RUNS * longest / seconds)))
    return max(LEAST_RUNS, min(pace.most_runs, int(patience / max(seconds, 1e-9))))


def _time(
    contenders: list[Contender],
    rows: dict[str, Row],
    planned: dict[str, int],
    pace: Pace,
    device: torch.device,
    done: dict[str, float],
) -> None:
    """Interleaved rounds; who begins changes from round to round, so no one always runs after the same one.

    What is `done` has its seconds already.
    """
    samples: dict[str, list[float]] = {c.name: [done[c.name]] if c.name in done else [] for c in contenders}
    planned = {name: 0 if name in done else runs for name, runs in planned.items()}
    for turn in range(max(planned.values(), default=0)):
        shift = turn % len(contenders)
        for contender in contenders[shift:] + contenders[:shift]:
            if turn < planned[contender.name]:
                time.sleep(pace.settle if device.type == "cpu" else 0.0)
                samples[contender.name].append(_clocked(contender, device)[0])
    for contender in contenders:
        row, times = rows[contender.name], samples[contender.name]
        row.status, row.runs = TIMED, len(times)
        row.seconds, row.fastest, row.slowest = statistics.median(times), min(times), max(times)
        if contender.parts is not None:
            row.parts = contender.parts()


def _derive(contenders: list[Contender], rows: dict[str, Row], ceilings: dict[str, float]) -> None:
    """Ratios of ours to every other row, and the fraction of the roofline that each reached."""
    for contender in contenders:
        row = rows[contender.name]
        row.operations, row.bytes = contender.work.operations, contender.work.bytes
        if row.seconds is None:
            continue
        floor = max(row.operations / ceilings[contender.work.rate], row.bytes / ceilings["copy"])
        row.roofline = floor / row.seconds
        if row.ours:
            row.ratios = {r.contender: row.seconds / r.seconds for r in rows.values() if r is not row and r.seconds}
