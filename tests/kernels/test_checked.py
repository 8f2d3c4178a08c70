"""Kernels checked on request: a right result is never flagged, a planted fault is named, and nothing else changes."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import ntkla
from ntkla.linalg import errors
from ntkla.linalg.backends import checked, choices, kernels
from ntkla.testing import FeatureSpec, RidgeProblem, hostile_states
from ntkla.testing.strategies import feature_specs
from tests.kernels.draws import DEVICE, factors, normal
from tests.linalg.fake_cublas import stand_in
from tests.soundness.judge import judge_ridge, solve

pytest.importorskip("triton", reason="the kernels need Triton, which is made for Linux only")

DTYPES = (torch.float64, torch.float32, torch.bfloat16)
dtypes = pytest.mark.parametrize("dtype", DTYPES)


def by_kernels(dtype: torch.dtype, scale: float = 1.0) -> dict[str, object]:
    """Calls of every primitive on small ragged shapes: gram, with itself and another, and so on."""
    x, y = normal(18, 17, dtype=dtype) * scale, normal(5, 17, seed=1, dtype=dtype) + 1
    w, weights = normal(18, 3, seed=2, dtype=dtype), normal(18, seed=3, dtype=dtype).abs()
    a, d = factors(5, 2, 3, 7, 4, dtype=dtype, draw=normal)
    p = torch.softmax(3 * normal(18, 3, seed=4), 1)
    mask = torch.arange(3, device=DEVICE) < 1 + torch.arange(5, device=DEVICE)[:, None] % 3
    return {
        "gram": lambda: ntkla.gram(x, bias=True),
        "gram float64": lambda: ntkla.gram(x.T, precision="float64"),
        "gram cross": lambda: ntkla.gram(x, y),
        "gram split": lambda: ntkla.gram(x, y, bias=True, precision="split" if dtype == torch.float32 else "auto"),
        "normal_matmul": lambda: ntkla.normal_matmul(x, w[:17]),
        "normal_matmul weighted": lambda: ntkla.normal_matmul(x, w, weights=weights, bias=True),
        "softmax_gram": lambda: ntkla.softmax_gram(x, p, w[:, :, None], bias=True),
        "layer_ntk": lambda: ntkla.layer_ntk(a * scale, d, mask=mask),
        "layer_ntk cross": lambda: ntkla.layer_ntk([a, a], [d, d], [a[:2] * 2] * 2, [d[:2]] * 2),
    }


CALLS = list(by_kernels(torch.float32))


# --- right results ----------------------------------------------------------------------------------------------------


@dtypes
@pytest.mark.parametrize("name", CALLS)
def test_a_right_result_passes_and_is_not_changed(name, dtype):
    call = by_kernels(dtype)[name]
    before = torch.get_rng_state()
    with ntkla.backend("triton"):
        plain = call()
        with ntkla.checked_products(vectors=20):
            assert torch.equal(call(), plain)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("scale", [2.0**-140, 2.0**-70, 2.0**120])
@pytest.mark.parametrize("name", CALLS)
def test_results_that_underflow_or_overflow_are_not_flagged(name, scale):
    with ntkla.backend("triton"), ntkla.checked_products():
        by_kernels(torch.float32, scale)[name]()


@pytest.mark.parametrize("name", ["gram", "normal_matmul", "layer_ntk"])
def test_what_is_no_number_passes_through(name):
    for value in (math.nan, math.inf):
        with ntkla.backend("triton"), ntkla.checked_products():
            by_kernels(torch.float32, value)[name]()


@settings(max_examples=15)
@given(feature_specs(extreme=True), st.integers(1, 3))
def test_drawn_features_are_never_flagged(spec, columns):
    x = spec.tensor[:20, :20]
    w = torch.ones((x.shape[1], columns), dtype=x.dtype)
    with ntkla.backend("triton"), ntkla.checked_products(vectors=3):
        ntkla.gram(x, bias=True)
        ntkla.normal_matmul(x, w)


@pytest.mark.parametrize("state", hostile_states())
def test_ambient_states_do_not_flag_anything(state):
    calls = by_kernels(torch.float32, 2.0**-60).values()
    with hostile_states()[state](), ntkla.backend("triton"), ntkla.checked_products():
        for call in calls:
            call()


@pytest.mark.parametrize(("inputs", "deltas"), [(0, 2), (2, 0)])
def test_layers_without_inputs_or_outputs_pass(inputs, deltas):
    a, d = (torch.ones(shape, device=DEVICE) for shape in ((3, inputs), (3, 1, deltas)))
    with ntkla.backend("triton"), ntkla.checked_products():
        assert not ntkla.layer_ntk([a], [d]).any()


@pytest.mark.parametrize("part", range(1, 4))
def test_bounds_and_norms_of_a_drift_that_are_too_small_are_named(part, monkeypatch):
    """Its value is checked as every product's; the rest of what the kernel returns enters certified bounds too."""
    x, y, old = normal(20, 6), normal(20, 2, seed=1).double(), normal(9, 6, seed=2)
    right = kernels.drift

    def wrong(*arguments):
        found = list(right(*arguments))
        found[part] = found[part] * (1.0 - 1e-3)
        return tuple(found)

    with ntkla.backend("triton"), ntkla.checked_products():
        assert ntkla.predict_forgetting(old, x, y, ridge=0.1).status.certified
        monkeypatch.setattr(kernels, "drift", wrong)
        with pytest.raises(ntkla.KernelFaultError, match="too small in 9 of 9 rows"):
            ntkla.predict_forgetting(old, x, y, ridge=0.1)


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (0, 0)])
def test_empty_products_pass(shape):
    x = torch.empty(shape, device=DEVICE)
    with ntkla.backend("triton"), ntkla.checked_products():
        ntkla.gram(x)
        ntkla.gram(x, bias=True)
        ntkla.normal_matmul(x, torch.ones((shape[1], 2), device=DEVICE))


# --- faults -----------------------------------------------------------------------------------------------------------


FAULTS = {
    "a row swapped with the next": lambda k: k[[1, 0, *range(2, len(k))]],
    "an entry": lambda k: k.index_put([torch.tensor(0, device=k.device)] * k.ndim, k.abs().max() * 8 + 1),
    "not a number": lambda k: k.index_put([torch.tensor(0, device=k.device)] * k.ndim, k.new_tensor(math.nan)),
    "errors that cancel": lambda k: k + torch.tensor([1.0, -1.0], device=k.device).repeat(k.shape[-1])[: k.shape[-1]],
    "a lower precision": lambda k: (k.float().view(torch.int32) & ~0xFFF).view(torch.float32).to(k.dtype),
}


def plant(monkeypatch: pytest.MonkeyPatch, fault: str, *primitives: str) -> None:
    for primitive in primitives or ("gram", "normal_matmul", "softmax_gram", "layer_ntk"):
        right = getattr(kernels, primitive)
        monkeypatch.setattr(kernels, primitive, lambda *args, right=right: FAULTS[fault](right(*args)))


PLANTED = [("gram", fault) for fault in FAULTS] + [(name, "an entry") for name in CALLS[1:]]


@pytest.mark.parametrize(("name", "fault"), [*PLANTED, ("layer_ntk", "errors that cancel")])
def test_a_planted_fault_is_named(name, fault, monkeypatch):
    plant(monkeypatch, fault)
    call = by_kernels(torch.float64)[name]
    with ntkla.backend("triton"):
        wrong = call()
        with ntkla.checked_products(vectors=20), pytest.raises(errors.KernelFaultError) as caught:
            call()
    primitive = name.split()[0]
    assert (caught.value.ran, isinstance(caught.value, errors.NtklaError)) == (f"triton:{primitive}:float64", True)
    assert caught.value.rows[0] == 0
    said = str(caught.value)
    rows = math.prod(wrong.shape[: wrong.ndim // 2])
    assert f"{primitive}: triton in mode 'float64' returned a wrong {rows} x" in said
    assert "backend('torch')" in said
    assert f"torch {torch.__version__}, triton " in said


@pytest.mark.parametrize("entry", range(6))
def test_every_entry_of_a_thin_result_is_looked_at(entry, monkeypatch):
    """No more columns than vectors: nothing is left to chance."""
    right, x = kernels.normal_matmul, normal(40, 3, dtype=torch.float64)

    def wrong(*args: object) -> torch.Tensor:
        found = right(*args)
        found.view(-1)[entry] *= 1 + 2.0**-40
        return found

    with ntkla.backend("triton"), ntkla.checked_products(vectors=2):
        ntkla.normal_matmul(x, x[:3, :2])
        monkeypatch.setattr(kernels, "normal_matmul", wrong)
        for _ in range(3):
            with pytest.raises(errors.KernelFaultError) as caught:
                ntkla.normal_matmul(x, x[:3, :2])
            assert caught.value.rows == (entry // 2,)


def test_a_fault_of_cublas_is_named(monkeypatch):
    stand_in(monkeypatch)
    right = checked.compared
    with ntkla.backend("cublas"), ntkla.checked_products():
        ntkla.gram(FeatureSpec(6, 4).tensor)
        monkeypatch.setattr(checked, "compared", lambda product, *rest: right(product * (1 + 2.0**-30), *rest))
        with pytest.raises(errors.KernelFaultError, match="gram: cublas in mode 'float64'"):
            ntkla.gram(FeatureSpec(6, 4).tensor)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_solve_stops_at_a_fault_and_is_certified_without_the_check(fault, monkeypatch):
    """Wrong matrices and wrong corrections cost time, or a stronger factor, and never truth."""
    problem = RidgeProblem(FeatureSpec(50, 7, "geometric", condition=1e4), 2, ridge_relative=1e-2)
    plant(monkeypatch, fault)
    with ntkla.backend("triton"):
        found = solve(problem)
        judge_ridge(problem, found)
        assert found.status.certified, found.status
        with ntkla.checked_products(), pytest.raises(errors.KernelFaultError):
            solve(problem)


# --- asked for --------------------------------------------------------------------------------------------------------


def test_the_environment_asks_for_it_and_the_nearest_block_decides(monkeypatch):
    plant(monkeypatch, "an entry")
    call = by_kernels(torch.float32)["gram"]
    monkeypatch.setenv("NTKLA_CHECK", "1")
    with ntkla.backend("triton"):
        with pytest.raises(errors.KernelFaultError):
            call()
        with ntkla.checked_products(vectors=0):
            call()
    with ntkla.backend("torch"):
        call()
    monkeypatch.setenv("NTKLA_CHECK", "yes")
    with ntkla.backend("triton"), pytest.raises(errors.ArgumentError, match=r"NTKLA_CHECK: .*'yes'"):
        call()
    with pytest.raises(errors.ArgumentError, match="vectors"), ntkla.checked_products(vectors=-1):
        call()


def test_signs_differ_from_check_to_check_and_repeat_from_process_to_process():
    first, again, other = (checked.signs(64, 8, seed, torch.device("cpu")) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert bool((first.abs() == 1).all())


def test_a_kernel_without_a_check_is_refused():
    with pytest.raises(errors.BackendError, match="no check is known"):
        checked.require_product("triton:new:ieee", torch.ones(2, 2), None, 8)


def test_every_primitive_of_the_table_can_be_checked():
    """A new one has to be added to the calls above; test_drift and test_exact_products have the others."""
    elsewhere = {choices.ANY, "drift", "exact_normal"}
    assert {row.primitive for row in choices.CHOICES} - elsewhere == {name.split()[0] for name in CALLS}
