"""Compiles every pinned kernel variant for GPUs that need not be here, and judges what the compiler made of it.

`python -m tests.kernels.ahead_of_time [--target sm_90 ...] [--one-per-mode] [--write]` prints a table and exits with
1 when a variant does not compile in time, spills, needs more shared memory than the target has, or multiplies with
another instruction than its author expects (float32 products must never fall onto the tensor cores' TF32).
`--write` keeps the result in perf/results/compiled and puts the table into perf/README.md.

The compiler runs in processes of its own (`compile_worker`): Triton's interpreter is off there, its cache is fresh, and
one that hangs or dies takes a variant with it and not the run.
"""

from __future__ import annotations

import argparse
import importlib.util
import math
import os
import pkgutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from queue import Empty, SimpleQueue
from typing import Any

from tests.kernels import compiled
from tests.kernels.compile_process import ROOT, Worker
from tests.kernels.compiled import Compiled

TARGETS = ("sm_80", "sm_90", "sm_100", "gfx942")
TIMEOUT = 120.0


def kernel_modules() -> tuple[str, ...]:
    """The modules of csrc_triton that state their variants."""
    folder = ROOT / "csrc_triton"
    names = [module.name for module in pkgutil.iter_modules([str(folder)])]
    return tuple(f"csrc_triton.{n}" for n in names if "def variants(" in (folder / f"{n}.py").read_text("utf-8"))


def telling(variants: Iterable[dict[str, Any]], target: str) -> list[dict[str, Any]]:
    """For each kernel and mode the variant that asks most of the compiler, where one is judged on the target.

    That is the one with the largest tile; of those with the most switches on, then with the most arguments that are no
    known multiples of 16; then the first.
    """
    chosen: dict[tuple[str, str, str], tuple[tuple[bool, int, int, int], dict[str, Any]]] = {}
    for variant in variants:
        tile = math.prod(max(1, length) for length in variant["tile"])
        rank = (target in variant["instruction"], tile, variant["switches"], variant["arguments"])
        name = (variant["module"], variant["kernel"], variant["mode"])
        if name not in chosen or rank > chosen[name][0]:
            chosen[name] = (rank, variant)
    return [variant for _, variant in chosen.values()]


def compile_all(
    modules: Sequence[str],
    targets: Sequence[str],
    *,
    one_per_mode: bool = False,
    timeout: float = TIMEOUT,
    workers: int | None = None,
) -> list[Compiled]:
    """Compiles the variants of the modules for the targets, on every processor; results in a fixed order.

    Raises:
        RuntimeError: if the variants cannot even be listed.
    """
    with tempfile.TemporaryDirectory() as cache, Worker(modules, cache) as first:
        listing = first.listing
        if "error" in listing:
            raise RuntimeError(f"{', '.join(modules)}: {listing['error']}")
        variants = listing["variants"]
        jobs = [(v, t) for t in targets for v in (telling(variants, t) if one_per_mode else variants)]
        waiting: SimpleQueue[int] = SimpleQueue()
        for number in range(len(jobs)):
            waiting.put(number)

        def work(worker: Worker) -> dict[int, dict[str, Any]]:
            return _work(lambda: Worker(modules, cache), worker, jobs, waiting, timeout)

        count = max(1, min(workers or os.cpu_count() or 1, len(jobs)))
        with ThreadPoolExecutor(count) as pool:
            others = [pool.submit(lambda: work(Worker(modules, cache))) for _ in range(count - 1)]
            made = work(first)
            for other in others:
                made |= other.result()
    return [_compiled(*job, listing["triton"], made[number]) for number, job in enumerate(jobs)]


def _compiled(variant: dict[str, Any], target: str, version: str, made: dict[str, Any]) -> Compiled:
    """A variant that names no matrix instruction for any target must have none."""
    expected = variant["instruction"].get(target, None if variant["instruction"] else "")
    return Compiled(
        variant["module"], variant["kernel"], variant["variant"], target, version, expected, made, variant["mode"]
    )


def _work(
    start: Callable[[], Worker],
    worker: Worker,
    jobs: Sequence[tuple[dict[str, Any], str]],
    waiting: SimpleQueue[int],
    timeout: float,
) -> dict[int, dict[str, Any]]:
    """Compiles jobs until none waits, in a fresh process after every one that hung or died."""
    made: dict[int, dict[str, Any]] = {}
    try:
        while True:
            try:
                number = waiting.get_nowait()
            except Empty:
                return made
            if worker.dead:
                worker = start()
            made[number] = worker.listing if "error" in worker.listing else worker.ask(*jobs[number], timeout)
    finally:
        worker.end()


def main(arguments: list[str] | None = None) -> int:
    """Compiles, prints the table and the problems, and returns 1 when there are any."""
    parser = argparse.ArgumentParser(prog="python -m tests.kernels.ahead_of_time", description=__doc__.split("\n")[0])
    parser.add_argument("--target", action="append", choices=TARGETS, help="default: sm_90; repeatable")
    parser.add_argument("--one-per-mode", action="store_true", help="of each only the variant that asks most")
    parser.add_argument("--timeout", type=float, default=TIMEOUT, help="seconds for each variant")
    parser.add_argument("--brief", action="store_true", help="only the problems and a summary, no table")
    parser.add_argument("--write", action="store_true", help="record the result and renew the table in perf/README.md")
    options = parser.parse_args(arguments)
    missing = why_not()
    if missing:
        print(f"skipped: {missing}")
        return 0
    start = time.perf_counter()
    results = compile_all(
        kernel_modules(), options.target or ["sm_90"], one_per_mode=options.one_per_mode, timeout=options.timeout
    )
    if not options.brief:
        print(compiled.text(results))
    problems = [f"{r.variant} for {r.target}: {problem}" for r in results for problem in r.problems]
    print(*problems, sep="\n", end="\n" if problems else "")
    print(
        f"Triton {results[0].triton if results else '(nothing to compile)'}: {len(results)} compiled "
        f"in {time.perf_counter() - start:.0f} s, {len(problems)} problems"
    )
    if options.write:
        print(f"wrote {compiled.write(results)}")
    return int(bool(problems) or not results)


def why_not() -> str | None:
    """Why nothing can be compiled on this machine; None when it can."""
    if sys.platform != "linux":
        return f"Triton's compiler runs on Linux only, and this is {sys.platform}"
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed (pip install 'triton>=3.6')"
    return None


if __name__ == "__main__":
    sys.exit(main())
