"""What the kernels do to memory, watched by NVIDIA's compute-sanitizer: reads and writes out of bounds, and races.

The interpreter sees none of these.  The launches themselves run here in the interpreter too, unwatched.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="the kernels need Triton, which is made for Linux only")

from tests.kernels import small_launches

ROOT = Path(__file__).resolve().parents[2]
FOUND = 9  # what the sanitizer exits with when it found something
LAUNCHED = 29

watched = pytest.mark.skipif(
    shutil.which("compute-sanitizer") is None,
    reason="compute-sanitizer is not on the PATH: it comes with the CUDA toolkit",
)


def sanitized(tool: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    # Torch's cache of memory would hide an access beyond the end of a tensor.
    environment = {**os.environ, "PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    watcher = ["compute-sanitizer", "--tool", tool, "--error-exitcode", str(FOUND), "--target-processes", "all"]
    command = [*watcher, sys.executable, "-m", "tests.kernels.small_launches", *arguments]
    return subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=1800)


def test_the_small_launches_are_exact():
    assert small_launches.launch_all() == LAUNCHED


@watched
@pytest.mark.gpu
@pytest.mark.parametrize("tool", ["memcheck", "racecheck", "synccheck"])
def test_nothing_is_found(tool):
    done = sanitized(tool)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert f"{LAUNCHED} results" in done.stdout


@watched
@pytest.mark.gpu
def test_a_write_out_of_bounds_is_found():
    assert sanitized("memcheck", "--planted").returncode == FOUND
