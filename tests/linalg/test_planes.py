"""`Planes` and the precision "split" behind the public door: what runs, how far off it is, and what is refused."""

from __future__ import annotations

import dataclasses
import importlib.util
import os
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

import ntkla
from ntkla.linalg import errors
from ntkla.linalg.backends import choices, dispatch, kernels
from ntkla.linalg.backends.primitive import gram_roundings
from ntkla.testing import hostile_states
from tests.kernels.draws import DEVICE, normal

TINY = torch.finfo(torch.float32).tiny
WITHOUT_TRITON = importlib.util.find_spec("triton") is None
runs_kernels = pytest.mark.skipif(
    WITHOUT_TRITON or (DEVICE == "cpu" and os.environ.get("TRITON_INTERPRET") != "1"),
    reason="needs Triton, and on the CPU its interpreter",
)
backends = pytest.mark.parametrize("backend", ["torch", pytest.param("triton", marks=runs_kernels)])


def spoiled(n: int = 6, features: int = 5) -> torch.Tensor:
    """Features of which the second row has one huge number among tiny ones, the third zeros, the last a subnormal."""
    x = normal(n, features)
    x[1, 0], x[2], x[-1, 1] = 1e12, 0.0, TINY / 2
    return x


# --- what runs ------------------------------------------------------------------------------------------------------


@backends
def test_rows_that_fall_back_are_counted_and_told(backend):
    x, y = spoiled(), normal(4, 5, seed=1)
    planes, other = ntkla.Planes(x), ntkla.Planes(y)
    assert (planes.rows_fallen_back, other.rows_fallen_back) == (2, 0)
    with ntkla.backend(backend):
        for call, mode in (
            (lambda: ntkla.gram(planes), "split+ieee"),
            (lambda: ntkla.gram(other, planes), "split+ieee"),
            (lambda: ntkla.gram(other, bias=True), "split"),
            (lambda: ntkla.gram(x, precision="split"), "split+ieee"),
            (lambda: ntkla.gram(y, x, precision="split"), "split+ieee"),
            (lambda: ntkla.gram(y, precision="split"), "split"),
        ):
            call()
            assert ntkla.last_dispatch() == (f"triton:gram:{mode}" if backend == "triton" else "torch:gram:float32")


@runs_kernels
def test_planes_have_the_bits_of_the_features_they_were_made_of():
    x, y = spoiled(), normal(4, 5, seed=1)
    planes, other = ntkla.Planes(x.T.contiguous().T), ntkla.Planes(y)
    with ntkla.backend("triton"):
        for bias in (False, True):
            assert torch.equal(ntkla.gram(planes, bias=bias), ntkla.gram(x, bias=bias, precision="split"))
            assert torch.equal(ntkla.gram(planes, other, bias=bias), ntkla.gram(x, y, bias=bias, precision="split"))


@pytest.fixture
def taken(monkeypatch):
    """The table as it would be were "split" measured to be faster from 50 multiplications on."""
    monkeypatch.setattr(dispatch, "_given_up", set())
    rows = [replace(row, device="cpu", least_work=50.0) for row in choices.CHOICES if row.mode == "split"]
    monkeypatch.setattr(choices, "CHOICES", (*rows, *choices.CHOICES))


@runs_kernels
@pytest.mark.skipif(DEVICE != "cpu", reason="the row names the processor")
@pytest.mark.usefixtures("taken")
def test_auto_takes_it_for_float32_where_the_table_says_so():
    small, large = normal(3, 4), normal(6, 4)
    for x, precision, ran in (
        (small, "auto", "torch:gram:float32"),
        (large, "auto", "triton:gram:split"),
        (large, "ieee", "torch:gram:float32"),
        (large.double(), "auto", "torch:gram:float64"),
        (large.bfloat16(), "auto", "torch:gram:float32"),
    ):
        ntkla.gram(x, precision=precision)
        assert ntkla.last_dispatch() == ran
    with ntkla.backend("torch"):
        ntkla.gram(large)
    assert ntkla.last_dispatch() == "torch:gram:float32"
    with ntkla.backend("triton"):
        ntkla.gram(large)
    assert ntkla.last_dispatch() == "triton:gram:ieee"


def test_the_roundings_of_auto_are_those_of_split_only_once_the_table_takes_it(request):
    single, wide = torch.float32, torch.float64
    assert gram_roundings(100, single, "auto") == 101
    request.getfixturevalue("taken")
    assert gram_roundings(100, single, "auto") == gram_roundings(100, single, "split") > 101
    assert gram_roundings(100, single, "ieee") == 101
    assert gram_roundings(100, wide, "auto") == 101


# --- a snapshot -----------------------------------------------------------------------------------------------------


def test_planes_are_a_snapshot_that_knows_what_it_was_made_of():
    x = spoiled()
    x[0, 0] = torch.nan
    planes = ntkla.Planes(x)
    before = ntkla.gram(planes)
    planes.require(x)
    planes.require(x.T.contiguous().T)
    x[3, 3] *= 2
    after = ntkla.gram(planes)
    assert torch.equal(before.view(torch.int32), after.view(torch.int32))
    with pytest.raises(errors.ArgumentError, match="made for other values"):
        planes.require(x)
    with pytest.raises(errors.ShapeError, match=r"shape \(6, 5\), got \(5, 5\)"):
        planes.require(x[1:])
    with pytest.raises(errors.DtypeError, match=r"expected float32, got torch\.float64"):
        planes.require(x.double())
    with pytest.raises(errors.DeviceError, match="lie on meta"):
        planes.require(x.to("meta"))
    x = spoiled()
    x[1] *= 1 + 2.0**-20
    with pytest.raises(errors.ArgumentError):
        ntkla.Planes(spoiled()).require(x)


def test_planes_are_frozen_readable_and_of_the_size_of_the_features():
    x = normal(8, 128)
    planes = ntkla.Planes(x)
    assert (planes.shape, planes.device) == ((8, 128), x.device)
    assert x.nbytes < planes.nbytes < 1.1 * x.nbytes
    assert str(planes) == f"Planes: 8 x 128 on {x.device}, no row fallen back to float32, 0.00413 MB"
    assert "1 row fallen back" in str(ntkla.Planes(spoiled()[:2]))
    with pytest.raises(dataclasses.FrozenInstanceError):
        planes._parts = ()
    assert bool(((planes.to_dense() - x).abs() <= 2.0**-23 * x.abs()).all())
    for empty in (normal(0, 3), normal(3, 0)):
        assert ntkla.gram(ntkla.Planes(empty)).shape == (len(empty), len(empty))


def test_flushed_arithmetic_makes_the_same_planes():
    x = spoiled(30, 20)
    x[:, ::3] *= 2.0**-20
    planes = ntkla.Planes(x)
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor flushes nothing")
    try:
        planes.require(x)
    finally:
        torch.set_flush_denormal(False)


@runs_kernels
@pytest.mark.parametrize("state", hostile_states())
def test_ambient_states_change_no_bit(state):
    x = spoiled()
    a, d = normal(3, 1, 4), normal(3, 2, 1, 3, seed=1)
    a[1, 0, 1] = TINY / 4

    def computed() -> list[torch.Tensor]:
        planes = ntkla.Planes(x)
        return [ntkla.gram(planes, bias=True), ntkla.gram(x[:3], x, precision="split"), planes.to_dense()]

    with ntkla.backend("triton"):
        expected = [*computed(), ntkla.layer_ntk(a, d, precision="split")]
        with hostile_states()[state]():
            found = [*computed(), ntkla.layer_ntk(a, d, precision="split")]
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one.view(torch.int32), other.view(torch.int32))


# --- gradients and graphs -------------------------------------------------------------------------------------------


@backends
def test_split_is_differentiable_in_the_features_and_planes_are_not(backend):
    x, y = normal(5, 3).requires_grad_(), normal(4, 3, seed=1).requires_grad_()
    weights = normal(5, 4, seed=2)
    with ntkla.backend(backend):
        (ntkla.gram(x, y, precision="split") * weights).sum().backward()
        assert not ntkla.gram(ntkla.Planes(x)).requires_grad
    assert torch.equal(x.grad, weights @ y.detach())
    assert torch.equal(y.grad, weights.T @ x.detach())


@backends
def test_the_operators_are_well_formed(backend):
    planes, other = ntkla.Planes(spoiled()), ntkla.Planes(normal(3, 5, seed=1))
    with ntkla.backend(backend):
        for operator, arguments in (
            (torch.ops.ntkla.gram_planes, (list(planes._parts), [], True)),
            (torch.ops.ntkla.gram_planes, (list(planes._parts), list(other._parts), False)),
            (torch.ops.ntkla.gram, (normal(3, 4).requires_grad_(), None, False, "split")),
        ):
            assert set(torch.library.opcheck(operator.default, arguments).values()) == {"SUCCESS"}


def test_planes_enter_a_compiled_graph():
    planes = ntkla.Planes(normal(6, 3))
    compiled = torch.compile(lambda scale: scale * ntkla.gram(planes), backend="aot_eager", fullgraph=True)
    scale = torch.tensor(2.0, device=DEVICE)
    assert torch.equal(compiled(scale), 2 * ntkla.gram(planes))


# --- checked and refused --------------------------------------------------------------------------------------------


@runs_kernels
def test_results_can_be_checked_and_a_fault_is_named(monkeypatch):
    planes, right = ntkla.Planes(spoiled()), kernels.split_gram
    with ntkla.backend("triton"), ntkla.checked_products(vectors=20):
        ntkla.gram(planes)
        ntkla.gram(spoiled(), precision="split")
        monkeypatch.setattr(kernels, "split_gram", lambda *given: right(*given).roll(1, 0))
        for call in (lambda: ntkla.gram(planes), lambda: ntkla.gram(spoiled(), precision="split")):
            with pytest.raises(errors.KernelFaultError, match="mode 'split' returned a wrong"):
                call()


@runs_kernels
def test_a_device_that_flushes_half_precision_is_refused(monkeypatch):
    from csrc_triton import tiles

    monkeypatch.setattr(tiles, "INTERPRETED", SimpleNamespace(value=False))
    monkeypatch.setattr(tiles, "architecture", lambda device: "gfx90a")
    said = kernels.why_not("gram", torch.device("cuda"), 8, "split")
    assert said == "the matrix units of gfx90a flush the small numbers of half-precision planes"
    assert kernels.why_not("gram", torch.device("cuda"), 8, "ieee") is None


X = normal(3, 2)
BAD = {
    "planes of half precision": (lambda: ntkla.Planes(X.half()), errors.DtypeError, "exact on tensor cores"),
    "planes of float64": (lambda: ntkla.Planes(X.double()), errors.DtypeError, "planes lose bits"),
    "planes of a list": (lambda: ntkla.Planes([[1.0]]), errors.DtypeError, "got list"),
    "planes of a vector": (lambda: ntkla.Planes(X[0]), errors.ShapeError, r"got shape \(2,\)"),
    "planes without values": (lambda: ntkla.Planes(X.to("meta")), errors.DeviceError, "meta"),
    "planes and features": (lambda: ntkla.gram(ntkla.Planes(X), X), errors.DtypeError, "got Planes and Tensor"),
    "features and planes": (lambda: ntkla.gram(X, ntkla.Planes(X)), errors.DtypeError, "got Tensor and Planes"),
    "other features": (lambda: ntkla.gram(ntkla.Planes(X), ntkla.Planes(X[:, :1])), errors.ShapeError, "got 2 and 1"),
    "another precision": (lambda: ntkla.gram(ntkla.Planes(X), precision="ieee"), errors.ArgumentError, "'split'"),
    "a word for bias": (lambda: ntkla.gram(ntkla.Planes(X), bias="yes"), errors.ArgumentError, "bias"),
    "split of float64": (lambda: ntkla.gram(X.double(), precision="split"), errors.DtypeError, "expected float32"),
    "split of bfloat16": (lambda: ntkla.gram(X.bfloat16(), precision="split"), errors.DtypeError, "Use 'auto'"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_named(name):
    call, error, message = BAD[name]
    with pytest.raises(error, match=message):
        call()


def test_planes_on_two_devices_are_named():
    planes = ntkla.Planes(X)
    elsewhere = ntkla.Planes(X)
    object.__setattr__(elsewhere, "_parts", tuple(part.to("meta") for part in elsewhere._parts))
    with pytest.raises(errors.DeviceError, match=r"on one device, got .* and meta"):
        ntkla.gram(planes, elsewhere)
