"""Peak memory of one call, measured in a fresh process: `python -m perf.memory SUITE SIZE DEVICE CASE CONTENDER`.

CPU: the resident set's high-water mark during the call less the resident set before it, with the inputs in place,
freed memory handed back, and the libraries' own buffers warmed by a small case.  CUDA: what the allocator held.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from perf import suites
from perf.harness import Contender, Specification
from perf.machine import ROOT

PROCESS = Path("/proc/self")
SECONDS = 600.0
MARK = "perf.memory: "


def measure(suite: str, size: str, device: str, case: str, contender: str) -> dict[str, Any]:
    """`{"bytes": ..., "method": ...}` of one contender in a process of its own, or `{"reason": ...}`."""
    command = [sys.executable, "-m", "perf.memory", suite, size, device, case, contender]
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    try:
        done = subprocess.run(
            command, cwd=ROOT, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, timeout=SECONDS
        )
    except subprocess.TimeoutExpired:
        return {"reason": f"no answer in {SECONDS:.0f} s"}
    answers = [line for line in done.stdout.splitlines() if line.startswith(MARK)]
    if done.returncode != 0 or not answers:
        said = done.stderr.strip().splitlines()
        return {"reason": f"exit code {done.returncode}: {said[-1] if said else 'nothing said'}"}
    return dict(json.loads(answers[-1].removeprefix(MARK)))


def peak(call: Callable[[], Any], device: torch.device) -> dict[str, Any]:
    """Bytes that a call needs beyond what is held when it begins, its answer included."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        answer = call()
        torch.cuda.synchronize(device)
        return {"bytes": torch.cuda.max_memory_allocated(device) - before, "method": "torch.cuda.max_memory_allocated"}
    if not _reset_high_water():
        before = _unix_peak()
        answer = call()
        return {"bytes": _unix_peak() - before, "method": "ru_maxrss, a lower bound"}
    before = _status("VmRSS")
    answer = call()
    peak_bytes = _status("VmHWM") - before
    del answer
    return {"bytes": peak_bytes, "method": "VmHWM"}


def _reset_high_water() -> bool:
    """Hands freed memory back and resets the high-water mark; False where the system has no such thing."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
        (PROCESS / "clear_refs").write_text("5")
        _status("VmHWM")
    except (OSError, AttributeError, KeyError):
        return False
    return True


def _status(name: str) -> int:
    fields = dict(line.split(":", 1) for line in (PROCESS / "status").read_text().splitlines() if ":" in line)
    return int(fields[name].split()[0]) * 1024


def _unix_peak() -> int:
    """Largest resident set so far; macOS counts in bytes, everyone else in KiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _find(specification: Specification, name: str) -> Contender | None:
    return next((c for c in specification.build().contenders if c.name == name), None)


def _main(suite: str, size: str, device_name: str, case: str, name: str) -> None:
    device = torch.device(device_name)
    module = suites.load(suite)
    warm = _find(module.specifications("small", device)[0], name)
    if warm is not None:
        warm.call()
    del warm
    contender = _find(next(s for s in module.specifications(size, device) if s.name == case), name)
    assert contender is not None
    print(MARK + json.dumps(peak(contender.call, device)))


if __name__ == "__main__":
    _main(*sys.argv[1:])
