"""cuBLAS's symmetric update, called in a stand-in: its arguments, the mirror, and every reason not to call it."""

from __future__ import annotations

import warnings
from dataclasses import replace

import pytest
import torch

import ntkla
from ntkla.linalg import errors
from ntkla.linalg.backends import choices, cublas, dispatch
from ntkla.linalg.backends.primitive import gram_roundings
from ntkla.linalg.precision import SHORT_CHAIN, UNIT_ROUNDOFF, gamma
from ntkla.testing import FeatureSpec, RidgeProblem
from tests.linalg.fake_cublas import stand_in
from tests.soundness.judge import judge_ridge, solve

CPU = torch.device("cpu")


def whole(*shape: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    """Small integers, whose products and sums are exact."""
    generator = torch.Generator(device="cpu").manual_seed(sum(shape))
    return torch.randint(-7, 8, shape, generator=generator, device="cpu").to(dtype)


LAYOUTS = {
    "rows": lambda x: x,
    "columns": lambda x: x.T.contiguous().T,
    "rows apart": lambda x: torch.cat([x, x, x], 1)[:, : x.shape[1]],
    "columns apart": lambda x: torch.cat([x, x]).T.contiguous().T[: x.shape[0]],
    "every other": lambda x: torch.stack([x, x], 2).flatten(1)[:, ::2],
    "reversed and shifted": lambda x: torch.cat([x[:1], x])[1:],
    "one row again and again": lambda x: x[:1].expand(x.shape[0], -1),
    "one column again and again": lambda x: x[:, :1].expand(-1, x.shape[1]),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", [(1, 1), (1, 5), (5, 1), (3, 7), (7, 3)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_every_layout_has_the_exact_entries_on_both_sides_of_the_diagonal(layout, shape, dtype, monkeypatch):
    calls = stand_in(monkeypatch)
    x = LAYOUTS[layout](whole(*shape, dtype=dtype))
    for bias in (False, True):
        found = cublas.gram(x, bias)
        assert torch.equal(found, x @ x.T + int(bias))
        assert torch.equal(found, found.T)
    assert [fill for fill, *_ in calls] == [cublas._LOWER, cublas._LOWER]
    if layout in ("rows", "columns") and 1 not in shape:
        assert calls[0][1:] == ((1, shape[1], shape[0]) if layout == "rows" else (0, shape[0], shape[0]))


def test_what_cublas_did_not_write_is_not_read(monkeypatch):
    stand_in(monkeypatch)
    monkeypatch.setattr(torch, "empty", lambda shape, **kind: torch.full(shape, torch.nan, **kind))
    x = whole(6, 4)
    assert torch.isnan(cublas.triangle(x).tril(-1)).any()
    assert torch.equal(cublas.gram(x), x @ x.T)


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (0, 0)])
def test_nothing_to_multiply(shape, monkeypatch):
    stand_in(monkeypatch)
    assert torch.equal(cublas.gram(torch.empty(shape), bias=True), torch.ones(shape[0], shape[0]))


def test_a_status_of_cublas_is_named(monkeypatch):
    stand_in(monkeypatch)
    monkeypatch.setattr(torch.cuda, "current_blas_handle", lambda: 1, raising=False)
    with pytest.raises(errors.BackendError, match=r"cublasDsyrk_v2_64 returned status 7 for 3 rows of 2\. Use"):
        cublas.gram(whole(3, 2))


# --- why not --------------------------------------------------------------------------------------------------------


def emulated(monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(monkeypatch)
    monkeypatch.setenv("CUBLAS_EMULATE_DOUBLE_PRECISION", "1")


def without_a_library(monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(monkeypatch)
    monkeypatch.setattr(cublas, "candidates", lambda: ["/nowhere/libcublas.so.13"])
    monkeypatch.setattr(cublas, "_library", lambda: UNCACHED())


UNCACHED = cublas._library.__wrapped__


def too_old(monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(monkeypatch)
    del cublas._library().cublasDsyrk_v2_64


OBSTACLES = {
    "no device": (lambda monkeypatch: None, "the arrays lie on 'cpu', and cuBLAS multiplies arrays on CUDA devices"),
    "no library": (without_a_library, "no libcublas is loaded"),
    "too old": (too_old, r"libcublas\.so\.stand-in has no cublasDsyrk_v2_64: it is older than cuBLAS 12"),
    "emulated by the environment": (emulated, "CUBLAS_EMULATE_DOUBLE_PRECISION=1 lets it emulate torch.float64"),
    "emulated by its mode": (
        lambda m: stand_in(m, mode=8),
        "its math mode is 8, which does not multiply torch.float64",
    ),
    "inaccurate": (
        lambda m: stand_in(m, wrong=1 + 2.0**-40),
        r"less accurate than float64 operations allow \(probed\)",
    ),
}
obstacles = pytest.mark.parametrize("obstacle", OBSTACLES)


@obstacles
def test_where_it_is_forced_and_cannot_run_the_reason_is_named(obstacle, monkeypatch):
    plant, reason = OBSTACLES[obstacle]
    plant(monkeypatch)
    wanted = rf"gram: the backend 'cublas' was forced, but .*{reason}.*\. Or use backend\('auto'\)"
    with ntkla.backend("cublas"), pytest.raises(errors.BackendError, match=wanted):
        ntkla.gram(whole(3, 2))


@pytest.fixture
def preferred(monkeypatch):
    """A table that prefers cuBLAS, on the processor, and a memory without failures."""
    rows = [row for row in choices.CHOICES if row.implementation == "cublas"]
    monkeypatch.setattr(choices, "CHOICES", tuple(replace(row, device="cpu", least_work=12) for row in rows))
    monkeypatch.setattr(dispatch, "_given_up", set())


@obstacles
def test_where_the_table_prefers_it_and_it_cannot_run_torch_does_after_one_warning(obstacle, monkeypatch, preferred):
    plant, reason = OBSTACLES[obstacle]
    plant(monkeypatch)
    x = whole(3, 2)
    x = torch.cat([x, x], 1)
    with pytest.warns(RuntimeWarning, match=f"gram runs in torch from now on, for cublas cannot run: .*{reason}"):
        assert torch.equal(ntkla.gram(x), x @ x.T)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ntkla.gram(x)
    assert ntkla.last_dispatch() == "torch:gram:float64"


def test_a_mode_that_only_sixteen_bits_see_does_not_hinder(monkeypatch):
    stand_in(monkeypatch, mode=16)
    assert cublas.why_not(CPU, torch.float64) is None
    stand_in(monkeypatch, mode=3)
    assert cublas.why_not(CPU, torch.float64) is None
    assert "its math mode is 3" in str(cublas.why_not(CPU, torch.float32))


# --- dispatched -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("lowered", [False, True])
def test_forced_it_multiplies_in_the_type_that_torch_would(dtype, lowered, monkeypatch):
    stand_in(monkeypatch)
    x = FeatureSpec(9, 5, dtype=str(dtype).removeprefix("torch.")).tensor
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if lowered else "highest")
    try:
        with ntkla.backend("cublas"):
            found = ntkla.gram(x, bias=True)
    finally:
        torch.set_float32_matmul_precision(before)
    mode = "float64" if dtype == torch.float64 or lowered else "ieee"
    wide = torch.promote_types(dtype, torch.float32)
    assert (found.dtype, ntkla.last_dispatch()) == (wide, f"cublas:gram:{mode}")
    magnitudes = x.double().abs() @ x.double().abs().T + 1
    exact = x.double() @ x.double().T + 1
    allowed = gamma(gram_roundings(5, dtype, "auto"), UNIT_ROUNDOFF[wide]) + gamma(7)
    assert bool(((found.double() - exact).abs() <= allowed * magnitudes).all())


def test_it_multiplies_an_array_by_its_own_transpose_only(monkeypatch, preferred):
    stand_in(monkeypatch)
    x = whole(4, 3)
    for call in (lambda: ntkla.gram(x, x), lambda: ntkla.normal_matmul(x, x.T), lambda: ntkla.layer_ntk(x, x[:, None])):
        with ntkla.backend("cublas"), pytest.raises(errors.BackendError, match="the backend 'cublas' was forced, but"):
            call()
        call()
        assert ntkla.last_dispatch().startswith("torch:")
    ntkla.gram(x)
    assert ntkla.last_dispatch() == "cublas:gram:float64"
    ntkla.gram(x[:1])
    assert ntkla.last_dispatch() == "torch:gram:float64"


def test_of_two_rows_that_say_yes_the_first_decides(monkeypatch):
    call = ("gram", torch.device("cuda"), torch.float64, "float64", 4)
    triton, library = (
        next(
            row for row in choices.CHOICES if (row.primitive, row.mode, row.implementation) == ("gram", "float64", name)
        )
        for name in ("triton", "cublas")
    )
    rows = replace(library, least_work=100), replace(triton, least_work=10)
    monkeypatch.setattr(choices, "CHOICES", rows)
    assert [choices.preferred(*call, work) for work in (1, 10, 100)] == ["torch", "triton", "cublas"]
    # A row for one device goes before that for any, of its implementation.
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H100")
    special = replace(library, device="NVIDIA H100", least_work=choices.NEVER)
    monkeypatch.setattr(choices, "CHOICES", (special, *rows))
    assert choices.preferred(*call, 100) == "triton"
    assert choices.preferred(*call, 100, without=("triton",)) == "torch"


PROBLEMS = {
    "primal": RidgeProblem(FeatureSpec(50, 7, "geometric", condition=1e10), 2, ridge_relative=1e-6),
    "float32": RidgeProblem(FeatureSpec(60, 9, "geometric", dtype="float32"), 2, ridge_relative=1.0, bias=True),
    "bfloat16": RidgeProblem(FeatureSpec(40, 12, dtype="bfloat16"), 3, ridge_relative=0.1),
    "dual": RidgeProblem(FeatureSpec(8, 60, condition=1e6), 2, ridge_relative=1e-6, bias=True),
    "weighted": RidgeProblem(FeatureSpec(30, 5), 2, ridge_relative=1.0, bias=True, weighting="uniform"),
}


@pytest.mark.parametrize("name", PROBLEMS)
def test_ridge_is_certified_with_the_matrix_of_its_factor_from_cublas(name, monkeypatch):
    stand_in(monkeypatch)
    problem = PROBLEMS[name]
    with ntkla.backend("cublas"):
        found = solve(problem)
    assert " of cublas:gram:" in found.diagnostics.factor
    judge_ridge(problem, found)
    assert found.status.certified, found.status
    in_torch = solve(problem)
    allowed = (found.error_bound + in_torch.error_bound) * SHORT_CHAIN
    assert bool(((found.solution - in_torch.solution).abs() <= allowed).all())
