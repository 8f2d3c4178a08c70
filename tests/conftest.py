"""What every test run shares: the interpreter switch, the thread count, the hypothesis profiles, and the honest skips.

Environment:
    NTKLA_HYPOTHESIS_PROFILE: "ci" (the default: the same draws every time) or "search" (new draws, many more of them).
    NTKLA_SLOW=1: also runs the tests marked `slow`.
"""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

_WORKERS = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
_THREADS = max(1, (os.cpu_count() or 1) // _WORKERS)
if _WORKERS > 1:
    # Read when numpy and scipy load their BLAS, so before any other import: two workers must not share two cores twice.
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(variable, str(_THREADS))

import pytest
import torch
from hypothesis import HealthCheck, settings

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # read when triton is imported; torch does not import it by itself

if _WORKERS > 1:
    torch.set_num_threads(_THREADS)

# How long a draw takes says more about a busy machine than about the code, so no profile judges it.
_SHARED = {"deadline": None, "print_blob": True, "suppress_health_check": [HealthCheck.too_slow]}
settings.register_profile("ci", derandomize=True, **_SHARED)
settings.register_profile("search", max_examples=1000, **_SHARED)
settings.load_profile(os.environ.get("NTKLA_HYPOTHESIS_PROFILE", "ci"))


# What a bare machine may lack, such as one that is lent for its GPU, and the tests that cannot even be read without it.
_HERE = Path(__file__).parent
_NEEDED = {
    _HERE / "app": ("typer", "rich", "safetensors", "platformdirs", "matplotlib", "PIL", "threadpoolctl", "mlxtend"),
    _HERE / "examples": ("mlxtend",),
    _HERE / "test_readme.py": ("typer", "rich", "safetensors"),
    _HERE / "test_shapes.py": ("jaxtyping", "beartype"),
    _HERE / "testing" / "test_violations.py": ("flint",),
}
_MISSING = {
    path: absent for path, names in _NEEDED.items() if (absent := [n for n in names if not importlib.util.find_spec(n)])
}


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    """Leaves out what cannot be imported here; the summary says so."""
    return True if collection_path in _MISSING else None


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Names what was left out, and the packages that it needs."""
    for path, absent in _MISSING.items():
        terminalreporter.write_line(f"LEFT OUT {path.relative_to(_HERE.parent)}: not installed: {', '.join(absent)}")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skips, with its reason, what this machine or this run cannot do."""
    no_gpu = pytest.mark.skip(reason="needs a CUDA device, and there is none here")
    not_asked = pytest.mark.skip(reason="slow: set NTKLA_SLOW=1 (or use .ci/run --full)")
    for item in items:
        if "gpu" in item.keywords and not torch.cuda.is_available():
            item.add_marker(no_gpu)
        if "slow" in item.keywords and os.environ.get("NTKLA_SLOW") != "1":
            item.add_marker(not_asked)
