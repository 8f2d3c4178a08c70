"""How much memory a new allocation can get: what the machine has free, or what a container's limit leaves."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

import torch

_MEMINFO = Path("/proc/meminfo")
# Beyond this a limit is the kernel's way of saying none.
_NO_LIMIT = 2**60


class _Group(NamedTuple):
    """Where a version of Linux' control groups keeps the limit, the use, and the part of it that can be taken back."""

    limit: Path
    used: Path
    stat: Path


_GROUPS = (
    _Group(*(Path("/sys/fs/cgroup") / name for name in ("memory.max", "memory.current", "memory.stat"))),
    _Group(
        *(
            Path("/sys/fs/cgroup/memory") / name
            for name in ("memory.limit_in_bytes", "memory.usage_in_bytes", "memory.stat")
        )
    ),
)


def available_memory(device: torch.device) -> int:
    """Bytes that a new allocation on `device` can expect to get."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return min([_free(), *(max(0, limit - used) for limit, used in map(_group, _GROUPS) if limit is not None)])


def container_limit() -> int | None:
    """The limit in bytes that the container sets for its memory; None without one."""
    return min((limit for limit, _ in map(_group, _GROUPS) if limit is not None), default=None)


def _free() -> int:
    lines = _MEMINFO.read_text(encoding="ascii").splitlines() if _MEMINFO.exists() else []
    for line in lines:
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    # Not Linux: the physical size is the best that the standard library knows.
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _group(group: _Group) -> tuple[int | None, int]:
    """The limit, None without one, and what is used of it for good: pages of files are given back when needed."""
    limit, used = _number(group.limit), _number(group.used)
    if limit is None or limit >= _NO_LIMIT:
        return None, 0
    lines = group.stat.read_text(encoding="ascii").splitlines() if group.stat.exists() else []
    files = sum(int(line.split()[1]) for line in lines if line.startswith("inactive_file "))
    return limit, max(0, (used or 0) - files)


def _number(path: Path) -> int | None:
    text = path.read_text(encoding="ascii").strip() if path.exists() else ""
    return int(text) if text.isdecimal() else None
