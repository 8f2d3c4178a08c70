"""Free memory: the machine's, or what the limit of a container leaves."""

from __future__ import annotations

import pytest
import torch

from ntkla.linalg import free_memory
from ntkla.linalg.free_memory import available_memory, container_limit

CPU = torch.device("cpu")


@pytest.fixture
def group(monkeypatch, tmp_path):
    """A machine with 10 GB free and one control group, whose files a test writes."""
    (tmp_path / "meminfo").write_text("MemTotal: 20000000 kB\nMemAvailable: 10000000 kB\n")
    monkeypatch.setattr(free_memory, "_MEMINFO", tmp_path / "meminfo")
    found = free_memory._Group(*(tmp_path / name for name in ("limit", "used", "stat")))
    monkeypatch.setattr(free_memory, "_GROUPS", (found,))
    return found


def test_without_a_limit_it_is_what_the_machine_has_free(group):
    assert available_memory(CPU) == 10_000_000 * 1024
    assert container_limit() is None


@pytest.mark.parametrize("none", ["max\n", str(2**63 - 4096)])
def test_the_ways_of_saying_no_limit(group, none):
    group.limit.write_text(none)
    group.used.write_text("5000")
    assert available_memory(CPU) == 10_000_000 * 1024
    assert container_limit() is None


def test_a_limit_leaves_what_is_not_used_for_good(group):
    group.limit.write_text("8000000\n")
    assert container_limit() == 8_000_000
    assert available_memory(CPU) == 8_000_000
    group.used.write_text("5000000\n")
    assert available_memory(CPU) == 3_000_000
    group.stat.write_text("anon 1\ninactive_file 1500000\nactive_file 7\n")
    assert available_memory(CPU) == 4_500_000
    group.used.write_text("9000000\n")
    group.stat.write_text("")
    assert available_memory(CPU) == 0


def test_a_generous_limit_does_not_make_memory(group):
    group.limit.write_text(str(10**15))
    assert available_memory(CPU) == 10_000_000 * 1024


def test_without_proc_it_is_the_physical_size(monkeypatch, tmp_path):
    measured = available_memory(CPU)
    monkeypatch.setattr(free_memory, "_MEMINFO", tmp_path / "meminfo")
    assert available_memory(CPU) >= measured > 0
