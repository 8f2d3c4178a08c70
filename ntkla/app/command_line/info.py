"""What `ntkla info` says: versions, devices, threads, linear algebra, and what each primitive runs here."""

from __future__ import annotations

import math
import os
import platform
import re
import textwrap
from importlib import metadata

import torch

import ntkla
from ntkla.app.files import cache
from ntkla.linalg.arithmetic.probe import conventional_products
from ntkla.linalg.backends import choices, cublas, kernels
from ntkla.linalg.checks import FLOATING
from ntkla.linalg.errors import MissingPackageError
from ntkla.linalg.free_memory import available_memory, container_limit
from ntkla.linalg.precision import flushes_subnormals

_NEEDED = ("torch", "numpy", "scipy")
_OPTIONAL = (
    "threadpoolctl",
    "triton",
    "typer",
    "rich",
    "safetensors",
    "platformdirs",
    "matplotlib",
    "pillow",
    "mlxtend",
    "efficientnet_lite_pytorch",
)


def describe() -> str:
    """The whole report, as lines of at most 100 columns; needs no optional package and no GPU."""
    sections = {
        "versions": _versions(),
        "devices": _devices(),
        "memory": _memory(),
        "threads": _threads(),
        "linear algebra": _linear_algebra(),
        "primitives": _primitives(),
        "cache": _cache(),
    }
    lines = []
    for title, entries in sections.items():
        lines += [title, *(_wrapped(f"  {name:<27}", value) for name, value in entries)]
    return "\n".join(lines)


def _wrapped(start: str, value: str) -> str:
    return textwrap.fill(value, 100, initial_indent=start, subsequent_indent=" " * len(start))


def describe_kernels() -> str:
    """The table by which kernels and cuBLAS are taken, and whether they run here; needs neither Triton nor a GPU."""
    header = ("primitive", "device", "inputs", "arithmetic", "by", "from", "because")
    rows = [header, *map(_choice, choices.CHOICES)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(header))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    here = {name: kernels.why_not("gram", torch.device(name), 1) for name in _device_names()}
    said = [_wrapped(f"Triton on {name}: ", reason or "runs the kernels") for name, reason in here.items()]
    there = {name: cublas.why_not(torch.device(name), torch.float64) for name in _device_names()}
    said += [_wrapped(f"cuBLAS on {name}: ", reason or "can be called") for name, reason in there.items()]
    return "\n".join([f"Chosen by the first row that fits, of each implementation ({_chosen()}):", *lines, *said])


def _choice(row: choices.Choice) -> tuple[str, ...]:
    names = ", ".join(str(dtype).removeprefix("torch.") for dtype in row.dtypes)
    start = "never" if row.least_work == choices.NEVER else f"{row.least_work:.0e} products"
    if math.isfinite(row.most_features):
        start += f", F <= {row.most_features}"
    inputs = "any" if len(row.dtypes) == len(FLOATING) else names
    return (row.primitive, row.device, inputs, row.mode, row.implementation, start, row.why)


Entries = list[tuple[str, str]]


def _versions() -> Entries:
    entries = [("ntkla", ntkla.__version__), ("python", f"{platform.python_version()} on {platform.platform()}")]
    for package in (*_NEEDED, *_OPTIONAL):
        try:
            entries.append((package, metadata.version(package)))
        except metadata.PackageNotFoundError:
            entries.append((package, "not installed"))
    return entries


def _devices() -> Entries:
    entries = [("cpu", f"{_processor()}, float64: yes")]
    if not torch.cuda.is_available():
        return [*entries, ("cuda", "none" if torch.version.cuda else "none (this PyTorch was built without it)")]
    for index in range(torch.cuda.device_count()):
        p = torch.cuda.get_device_properties(index)
        entries.append(
            (f"cuda:{index}", f"{p.name}, {p.total_memory / 1e9:.1f} GB, sm_{p.major}{p.minor}, float64: yes")
        )
    return entries


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            named = re.search(r"^model name\s*: (.+)$", file.read(), re.MULTILINE)
    except OSError:
        named = None
    return named.group(1) if named else platform.processor() or platform.machine()


def _memory() -> Entries:
    free = ("free now", f"{available_memory(torch.device('cpu')) / 1e9:.1f} GB")
    limit = container_limit()
    return [free, ("limit of the container", "none" if limit is None else f"{limit / 1e9:.1f} GB")]


def _threads() -> Entries:
    count = os.cpu_count() or 1
    set_by = [f"{name}={os.environ[name]}" for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS") if name in os.environ]
    return [
        ("torch", f"{torch.get_num_threads()} of {count} processors" + (f" ({', '.join(set_by)})" if set_by else ""))
    ]


def _linear_algebra() -> Entries:
    built = torch.__config__.show()
    blas = re.search(r"BLAS_INFO=(\w+)", built)
    lapack = re.search(r"LAPACK_INFO=(\w+)", built)
    probed = [(f"float64 products {device}", _rounding(device)) for device in _device_names()]
    return [
        ("torch BLAS, LAPACK", f"{blas.group(1) if blas else 'unknown'}, {lapack.group(1) if lapack else 'unknown'}"),
        *probed,
        ("float32 products", f"precision '{torch.get_float32_matmul_precision()}' (bounds do not depend on it)"),
        ("subnormal numbers", "flushed to zero (bounds allow for it)" if flushes_subnormals() else "kept"),
    ]


def _rounding(device: str) -> str:
    kept = conventional_products(torch.device(device))
    return "within their rounding bound (probed)" if kept else "BREAK their rounding bound: no result is certified here"


def _device_names() -> list[str]:
    return ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


def _primitives() -> Entries:
    """What each primitive ran on a tiny example, for each type of input, and why."""
    entries = [("implementation", f"{_implementation()} ({_chosen()})")]
    for device in _device_names():
        for dtype in (torch.float64, torch.float32, torch.bfloat16):
            x = torch.ones((2, 2), dtype=dtype, device=device)
            for name, call in (("gram", ntkla.gram), ("normal_matmul", lambda x: ntkla.normal_matmul(x, x))):
                try:
                    call(x)
                    ran = f"{ntkla.last_dispatch()} ({_why(dtype)})"
                except ntkla.NtklaError as error:
                    ran = f"refused ({_chosen()}): {error}"
                entries.append((f"{name} {device} {str(dtype).removeprefix('torch.')}", ran))
    return entries


def _implementation() -> str:
    """What runs where nothing is forced, in a line."""
    if all(row.least_work == choices.NEVER for row in choices.CHOICES):
        return "torch, on every device and for every size"
    return "torch, Triton or cuBLAS, by device, type and size (ntkla info --kernels)"


def _chosen() -> str:
    """What decides between implementations here."""
    forced = os.environ.get("NTKLA_BACKEND")
    return f"NTKLA_BACKEND={forced}" if forced else "NTKLA_BACKEND is not set"


def _why(dtype: torch.dtype) -> str:
    """Why the example was multiplied in the type that it was."""
    if dtype == torch.float64:
        return "float64 stays float64"
    if (ntkla.last_dispatch() or "").endswith("float64"):
        return "float32 products are lowered here, so float64 is taken"
    return "what is narrower than float64 is summed in float32"


def _cache() -> Entries:
    try:
        return [("folder", str(cache.folder()))]
    except MissingPackageError as error:
        return [("folder", str(error))]
