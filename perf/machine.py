"""What the figures were taken on: processor, graphics card, versions, threads, commit."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import torch

ROOT = Path(__file__).resolve().parent.parent
CODE = ("ntkla", "csrc_triton", "perf")
PACKAGES = ("numpy", "scipy", "triton", "curvlinops-for-pytorch", "linear-operator")


def describe(device: torch.device) -> dict[str, Any]:
    """The machine line, as data."""
    found: dict[str, Any] = {
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        **{name: _version(name) for name in PACKAGES},
        "blas_numpy": _blas_of_numpy(),
        "blas_torch": "MKL" if torch.backends.mkl.is_available() else "other",
        "load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "commit": commit(),
    }
    if device.type == "cuda":
        found["gpu"] = torch.cuda.get_device_name(device)
        found["gpu_state"] = _said_by(
            ["nvidia-smi", "--query-gpu=driver_version,clocks.sm,clocks.mem,clocks.max.sm", "--format=csv,noheader"]
        )
    return found


def line(machine: dict[str, Any]) -> str:
    """The machine line, for people."""
    place = f"{machine['gpu']} ({machine['gpu_state']}), " if "gpu" in machine else ""
    versions = ", ".join(
        f"{name} {machine[name]}" for name in ("python", "torch", *PACKAGES) if machine.get(name) is not None
    )
    return (
        f"{place}{machine['cpu']}, {machine['cores']} cores, {machine['threads']} threads; {versions}; "
        f"BLAS: numpy {machine['blas_numpy']}, torch {machine['blas_torch']}; commit {machine['commit']}"
    )


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        pairs = (entry.split(":", 1) for entry in info.read_text().splitlines() if ":" in entry)
        fields = {name.strip(): value.strip() for name, value in pairs}
        name = fields.get("model name", platform.processor())
        return f"{name} (family {fields.get('cpu family', '?')}, model {fields.get('model', '?')})"
    return platform.processor() or platform.machine()


def _blas_of_numpy() -> str:
    try:
        blas = np.show_config(mode="dicts")["Build Dependencies"]["blas"]
    except (TypeError, KeyError, ModuleNotFoundError):
        return "unknown"
    return f"{blas.get('name', '?')} {blas.get('version', '')}".strip()


def commit() -> str:
    """The commit of the checkout, and whether the code that is measured differs from it."""
    name = _said_by(["git", "-C", str(ROOT), "rev-parse", "--short=12", "HEAD"])
    changed = _said_by(["git", "-C", str(ROOT), "status", "--porcelain", "--untracked-files=no", "--", *CODE])
    return (name or "unknown") + (" with changes" if changed else "")


def _said_by(command: list[str]) -> str:
    """The standard output of a command; empty when it is not there or fails."""
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""
