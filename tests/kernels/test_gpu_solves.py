"""Solves at the size of a device: cuBLAS's Gram matrix, how often the host waits, the same answers as on the processor.

The bodies run without a GPU too: there cuBLAS is a stand-in, and readings are counted instead of synchronisations.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import pytest
import torch

import ntkla
from ntkla.linalg import host
from ntkla.linalg.precision import SHORT_CHAIN
from tests.kernels.draws import normal, whole
from tests.kernels.places import GPU, places
from tests.linalg.fake_cublas import stand_in
from tests.linalg.host_reads import HostReads


@places
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_cublas_has_the_exact_entries(place, dtype, monkeypatch):
    if place != GPU:
        stand_in(monkeypatch)
    n, features = (2049, 777) if place == GPU else (33, 18)
    x = whole(n, features, dtype=dtype)
    for given in (x, x.T.contiguous().T, x[:, 1:], x[::2]):
        with ntkla.backend("cublas"), ntkla.checked_products():
            found = ntkla.gram(given, bias=True)
        assert ntkla.last_dispatch() == f"cublas:gram:{'float64' if dtype == torch.float64 else 'ieee'}"
        assert torch.equal(found.double(), given.double() @ given.double().T + 1)
        assert torch.equal(found, found.T)


def waits(place: str, call: Callable[[], object]) -> int:
    """How often the host waited for the device."""
    call()  # what is tried or compiled once a process
    if place != GPU:
        with HostReads() as counted:
            call()
        return counted.total
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            call()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return sum("synchronizing CUDA operation" in str(one.message) for one in seen)


@places
@pytest.mark.parametrize("backend", ["torch", "auto"])
def test_the_host_waits_no_more_for_more_samples_or_outputs(place, backend, monkeypatch):
    monkeypatch.setattr(host, "reads_are_free", lambda _: False)
    sizes = ((2000, 10), (60_000, 10), (2000, 300)) if place == GPU else ((300, 2), (3000, 2), (300, 40))
    features = 256 if place == GPU else 20

    def solve(n: int, outputs: int) -> Callable[[], object]:
        x, y = normal(n, features), normal(n, outputs, seed=1, dtype=torch.float64)
        return lambda: ntkla.ridge_solve(x, y, ridge=n / 10)

    with ntkla.backend(backend):
        found = [waits(place, solve(*size)) for size in sizes]
    # A residual at a higher level reads the scales of its rows once.
    assert max(found) <= min(found) + 1, found


@places
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_a_device_and_the_processor_agree_within_their_bounds(place, dtype, monkeypatch):
    monkeypatch.setattr(host, "reads_are_free", lambda device: place == GPU and device.type == "cpu")
    n, features = (20_000, 512) if place == GPU else (300, 20)
    x, y = normal(n, features, dtype=dtype), normal(n, 5, seed=1, dtype=torch.float64)
    here = ntkla.ridge_solve(x, y, ridge=1.0, bias=True)
    monkeypatch.setattr(host, "reads_are_free", lambda device: device.type == "cpu")
    there = ntkla.ridge_solve(x.cpu(), y.cpu(), ridge=1.0, bias=True)
    assert here.status.certified, here.status
    allowed = (here.error_bound.cpu() + there.error_bound) * SHORT_CHAIN
    assert bool(((here.solution.cpu() - there.solution).abs() <= allowed).all())
