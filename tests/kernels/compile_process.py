"""A process that compiles kernels: asked a variant at a time, and ended when it does not answer in time."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
_START = 120.0  # seconds to import torch and Triton on a busy machine


class Worker:
    """Runs `compile_worker` without the interpreter; use it in a `with` block."""

    def __init__(self, modules: Sequence[str], cache: str) -> None:
        environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
        environment |= {"TRITON_CACHE_DIR": cache, "TRITON_DEFAULT_FP_FUSION": "1", "OMP_NUM_THREADS": "1"}
        self._said = tempfile.TemporaryFile("w+")  # noqa: SIM115 (closed by `end`)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.kernels.compile_worker", *modules],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said,
            text=True,
            start_new_session=True,  # so that the assembler it started ends with it
        )
        self.listing = self._line(_START)

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.end()

    def ask(self, variant: dict[str, Any], target: str, timeout: float) -> dict[str, Any]:
        """What the compiler made of the variant; afterwards the worker may be `dead`."""
        assert self._process.stdin is not None
        request = {"module": variant["module"], "variant": variant["variant"], "target": target}
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            return {"error": self._death()}
        before = os.fstat(self._said.fileno()).st_size
        answer = self._line(timeout)
        if "error" in answer and not self.dead:
            answer["error"] += self._complaints(before)
        return answer

    @property
    def dead(self) -> bool:
        return self._process.returncode is not None

    def end(self) -> None:
        """Ends the process and what it started."""
        if not self.dead:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._said):
            if stream is not None and not stream.closed:
                stream.close()

    def _line(self, timeout: float) -> dict[str, Any]:
        assert self._process.stdout is not None
        ready, _, _ = select.select([self._process.stdout], [], [], timeout)
        if not ready:
            self.end()
            return {"error": f"no answer within {timeout:g} s", "seconds": timeout}
        line = self._process.stdout.readline()
        return json.loads(line) if line else {"error": self._death()}

    def _complaints(self, since: int) -> str:
        """The errors that the compiler printed since then, read without moving the place where it writes."""
        size = os.fstat(self._said.fileno()).st_size - since
        lines = os.pread(self._said.fileno(), size, since).decode(errors="replace").splitlines()
        return "".join(f"; {line.strip()}" for line in lines if "error:" in line)[:600]

    def _death(self) -> str:
        code = self._process.wait()
        self._said.seek(0)
        return f"the compiler's process ended with {code}: {' '.join(self._said.read().split())[-600:]}"
