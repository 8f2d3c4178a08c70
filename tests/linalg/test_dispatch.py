"""Which implementation runs: forced, chosen by the table, or given up; and what is said then."""

from __future__ import annotations

import importlib.util
import math
import os
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import ntkla
from ntkla.linalg import errors
from ntkla.linalg.backends import choices, dispatch, kernels
from ntkla.linalg.backends.primitive import PRECISIONS, arithmetic, gram_roundings, normal_roundings
from ntkla.linalg.precision import UNIT_ROUNDOFF, gamma

ROOT = Path(__file__).resolve().parents[2]
WITHOUT_TRITON = importlib.util.find_spec("triton") is None
needs_triton = pytest.mark.skipif(WITHOUT_TRITON, reason="Triton is not installed (it exists on Linux only)")
interpreted = pytest.mark.skipif(
    WITHOUT_TRITON or os.environ.get("TRITON_INTERPRET") != "1",
    reason="needs Triton's interpreter, which a machine with a CUDA device does not use unless TRITON_INTERPRET=1",
)


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    generator = torch.Generator(device="cpu").manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64, device="cpu").to(dtype)


@pytest.fixture(autouse=True)
def _nothing_asked_for(monkeypatch):
    monkeypatch.delenv("NTKLA_BACKEND", raising=False)
    monkeypatch.setattr(dispatch, "_given_up", set())


@pytest.fixture
def preferring(monkeypatch):
    """Makes the table prefer the kernels from some work on, on the processor too."""

    def prefer(least_work: float, **changes: object) -> None:
        rows = [row for row in choices.CHOICES[1:] if row.mode != "split"]  # which "auto" would take before "ieee"
        table = tuple(replace(row, device="cpu", least_work=least_work, **changes) for row in rows)
        monkeypatch.setattr(choices, "CHOICES", table)

    return prefer


# --- what ran -------------------------------------------------------------------------------------------------------


def test_last_dispatch_tells_what_ran():
    ntkla.gram(normal(3, 2))
    assert ntkla.last_dispatch() == "torch:gram:float64"
    ntkla.normal_matmul(normal(3, 2, dtype=torch.bfloat16), normal(2, 1, dtype=torch.bfloat16))
    assert ntkla.last_dispatch() == "torch:normal_matmul:float32"
    with ntkla.backend("torch"):
        ntkla.gram(normal(3, 2).float(), precision="float64")
    assert ntkla.last_dispatch() == "torch:gram:float64"


def test_a_lowered_float32_precision_is_made_up_for_in_float64():
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        assert ntkla.gram(normal(3, 2).float()).dtype == torch.float32
        assert ntkla.last_dispatch() == "torch:gram:float64"
    finally:
        torch.set_float32_matmul_precision(before)
    ntkla.gram(normal(3, 2).float())
    assert ntkla.last_dispatch() == "torch:gram:float32"


MODES = [
    (torch.float64, "auto", "float64"),
    (torch.float64, "ieee", "float64"),
    (torch.float32, "auto", "ieee"),
    (torch.float32, "float64", "float64"),
    (torch.bfloat16, "auto", "bf16"),
    (torch.bfloat16, "bf16", "bf16"),
    (torch.float16, "ieee", "ieee"),
    (torch.float16, "float64", "float64"),
]


@interpreted
@pytest.mark.parametrize(("dtype", "precision", "mode"), MODES)
def test_the_kernels_run_when_forced(dtype, precision, mode):
    x, w = normal(5, 3, dtype=dtype), normal(4, 2, seed=1, dtype=dtype)
    with ntkla.backend("triton"):
        found, product = ntkla.gram(x, precision=precision), ntkla.normal_matmul(x, w, bias=True, precision=precision)
        assert ntkla.last_dispatch() == f"triton:normal_matmul:{mode.replace('bf16', 'ieee')}"
        ntkla.gram(x, x * 2, precision=precision)
    assert ntkla.last_dispatch() == f"triton:gram:{mode}"
    expected = ntkla.gram(x, precision=precision), ntkla.normal_matmul(x, w, bias=True, precision=precision)
    roundoff = UNIT_ROUNDOFF[found.dtype]
    wide = torch.cat([x.double().abs(), torch.ones((5, 1), dtype=torch.float64)], 1)
    scales = wide @ wide.T, wide.T @ (wide @ w.double().abs())
    roundings = gram_roundings(3, dtype, precision), normal_roundings(5, 3)
    for ours, theirs, scale, count in zip((found, product), expected, scales, roundings, strict=True):
        assert ours.dtype == theirs.dtype
        assert ((ours.double() - theirs.double()).abs() <= 2 * gamma(count, roundoff) * scale).all()


def test_sixteen_bit_products_are_for_sixteen_bits():
    assert {arithmetic(dtype, precision) for dtype, precision, _ in MODES} == {"float64", "ieee", "bf16"}
    assert all(arithmetic(dtype, precision) == mode for dtype, precision, mode in MODES)
    for dtype in (torch.float64, torch.float32):
        with pytest.raises(errors.DtypeError, match=f"'bf16': expected bfloat16 or float16 arrays, got {dtype}"):
            ntkla.gram(normal(2, 2, dtype=dtype), precision="bf16")


# --- forced ---------------------------------------------------------------------------------------------------------


@interpreted
@pytest.mark.parametrize("force", ["block", "environment"])
def test_what_is_nearest_decides(force, monkeypatch):
    if force == "environment":
        monkeypatch.setenv("NTKLA_BACKEND", "triton")
    with ntkla.backend("triton" if force == "block" else "torch"):
        ntkla.gram(normal(3, 2))
        assert ntkla.last_dispatch() == ("triton:gram:float64" if force == "block" else "torch:gram:float64")
    ntkla.gram(normal(3, 2))
    assert ntkla.last_dispatch() == ("triton:gram:float64" if force == "environment" else "torch:gram:float64")


def test_an_unknown_backend_is_named(monkeypatch):
    with pytest.raises(errors.ArgumentError, match="'auto', 'torch', 'triton'"), ntkla.backend("cuda"):
        ntkla.gram(normal(2, 2))
    monkeypatch.setenv("NTKLA_BACKEND", "trition")
    with pytest.raises(errors.ArgumentError, match=r"NTKLA_BACKEND: .*'trition'"):
        ntkla.gram(normal(2, 2))


def out_of_date(monkeypatch: pytest.MonkeyPatch) -> None:
    triton = pytest.importorskip("triton")
    monkeypatch.setattr(triton, "__version__", "3.5.1")


def compilation_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    def launch(*_: object) -> torch.Tensor:
        raise RuntimeError("PassManager::run failed")

    monkeypatch.setattr(kernels, "gram", launch)


OBSTACLES = {
    "missing": (
        lambda monkeypatch: monkeypatch.setitem(sys.modules, "csrc_triton.available", None),
        r"Triton cannot be imported \(.*pip install 'triton>=3.6'",
    ),
    "too old": (
        out_of_date,
        "Triton 3.5.1 is installed and the kernels need 3.6 or newer: pip install --upgrade triton",
    ),
    "does not compile": (compilation_fails, r"did not compile or start \(RuntimeError: PassManager::run failed\)"),
}
obstacles = pytest.mark.parametrize("obstacle", [pytest.param(name, marks=interpreted) for name in OBSTACLES])


@obstacles
def test_a_forced_backend_that_cannot_run_says_why(obstacle, monkeypatch):
    plant, reason = OBSTACLES[obstacle]
    plant(monkeypatch)
    wanted = rf"gram: the backend 'triton' was forced, but .*{reason}.*\. Or use backend\('auto'\)"
    with ntkla.backend("triton"), pytest.raises(errors.BackendError, match=wanted):
        ntkla.gram(normal(3, 2))
    ntkla.gram(normal(3, 2))
    assert ntkla.last_dispatch() == "torch:gram:float64"


@obstacles
def test_a_preferred_kernel_that_cannot_run_is_given_up_with_one_warning(obstacle, monkeypatch, preferring):
    plant, reason = OBSTACLES[obstacle]
    preferring(0)
    plant(monkeypatch)
    x = normal(3, 2)
    with pytest.warns(RuntimeWarning, match=f"gram runs in torch from now on.*{reason}"):
        assert torch.equal(ntkla.gram(x), x @ x.T)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ntkla.gram(x)
    assert ntkla.last_dispatch() == "torch:gram:float64"


@interpreted
@pytest.mark.parametrize("fault", [torch.OutOfMemoryError("no memory"), ValueError("a mistake of ours")])
def test_other_faults_of_a_kernel_are_not_hidden(fault, monkeypatch):
    def launch(*_: object) -> torch.Tensor:
        raise fault

    monkeypatch.setattr(kernels, "gram", launch)
    with ntkla.backend("triton"), pytest.raises(type(fault), match=str(fault)):
        ntkla.gram(normal(3, 2))


@needs_triton
def test_the_processor_needs_the_interpreter():
    code = """
import torch, ntkla
try:
    with ntkla.backend("triton"):
        ntkla.gram(torch.eye(2, dtype=torch.float64))
except ntkla.BackendError as error:
    print(error)
"""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, "-c", code]
    said = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert "the arrays lie on 'cpu', where Triton runs in its interpreter only: set TRITON_INTERPRET=1" in said


@interpreted
def test_a_limit_of_a_kernel_is_named_and_known_to_the_table(preferring):
    from csrc_triton.normal_blocks import MOST_FEATURES

    assert {row.most_features for row in choices.CHOICES if row.primitive == "normal_matmul"} == {MOST_FEATURES}
    x = torch.zeros((1, MOST_FEATURES + 1), dtype=torch.float64)
    with ntkla.backend("triton"), pytest.raises(errors.BackendError, match=f"at most {MOST_FEATURES} features, got"):
        ntkla.normal_matmul(x, x.T)
    preferring(0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ntkla.normal_matmul(x, x.T)
    assert ntkla.last_dispatch() == "torch:normal_matmul:float64"


# --- the table ------------------------------------------------------------------------------------------------------


@interpreted
def test_the_table_decides_by_size(preferring):
    preferring(24)
    for samples, ran in ((2, "torch"), (3, "triton")):
        ntkla.gram(normal(samples, 4, dtype=torch.float32), normal(2, 4, dtype=torch.float32))
        assert ntkla.last_dispatch() == f"{ran}:gram:{'float32' if ran == 'torch' else 'ieee'}"
    with ntkla.backend("torch"):
        ntkla.gram(normal(300, 4, dtype=torch.float32))
    assert ntkla.last_dispatch() == "torch:gram:float32"


def test_the_table_holds_nothing_that_was_not_measured():
    for row in choices.CHOICES:
        recorded = [path.name for path in (ROOT / "perf" / "results").glob("*-cuda.json")]
        assert row.least_work == choices.NEVER or any(name in row.why for name in recorded), row


def test_the_table_has_a_row_for_every_call_on_a_device():
    device = torch.device("cuda")
    assert not choices.takes_kernel("gram", torch.device("cpu"), torch.float64, "float64", 4, sys.float_info.max)
    assert not choices.takes_kernel("gram", device, torch.float64, "float64", 4, sys.float_info.max)
    for dtype in (torch.float64, torch.float32, torch.bfloat16, torch.float16):
        for precision in PRECISIONS:
            mode = arithmetic(dtype, precision)
            for primitive, used in (("gram", mode), ("normal_matmul", mode.replace("bf16", "ieee"))):
                # At infinite work a row that says NEVER answers yes, a call without a row does not.
                assert choices.takes_kernel(primitive, device, dtype, used, 4, math.inf), (primitive, dtype, mode)


def test_a_row_for_one_device_goes_before_that_for_any(monkeypatch):
    row = next(row for row in choices.CHOICES if row.primitive == "gram")
    special = replace(row, device="NVIDIA H100", least_work=1e6)
    monkeypatch.setattr(choices, "CHOICES", (special, *choices.CHOICES))
    for name, taken in (("NVIDIA H100 80GB HBM3", True), ("NVIDIA A100-SXM4-80GB", False)):
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device, name=name: name)
        call = ("gram", torch.device("cuda"), torch.float64, "float64", 64)
        assert choices.takes_kernel(*call, 1e6) == taken
        assert not choices.takes_kernel(*call, 1e5)


# --- the bounds cover the kernels -----------------------------------------------------------------------------------


@needs_triton
@pytest.mark.parametrize("precision", ["ieee", "bf16", "float64"])
@pytest.mark.parametrize("tiles", ["interpreted", "compiled"])
def test_the_documented_roundings_cover_those_of_the_kernels(precision, tiles, monkeypatch):
    import csrc_triton.gram as module
    from csrc_triton.normal_matmul import normal_matmul_error

    monkeypatch.setattr(module, "INTERPRETED", tiles == "interpreted")
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    roundoff = UNIT_ROUNDOFF[torch.float64 if precision == "float64" else torch.float32]
    for features in (*range(700), 1024, 4096, 8192, 100_003):
        allowed = gamma(gram_roundings(features, dtype, precision), roundoff)
        assert module.gram_error(features, precision) <= allowed, features
    mode = precision.replace("bf16", "ieee")
    for features in (*range(70), 8192):
        for samples in (*range(40), 5000):
            allowed = gamma(normal_roundings(samples, features), roundoff)
            assert normal_matmul_error(samples, features, mode, bias=True) <= allowed, (samples, features)


# --- the primitives' own tests --------------------------------------------------------------------------------------

# The others take a minute in the interpreter: .ci/run has a step for all of them.
FEW = "degenerate or planted or known_without or bad_input or blocks and 65 or well_formed and dtype2"


@interpreted
def test_the_primitives_pass_their_tests_with_the_kernels():
    environment = {**os.environ, "NTKLA_BACKEND": "triton"}
    command = [sys.executable, "-m", "pytest", "tests/linalg/test_ops.py", "-q", "-x", "-p", "no:cacheprovider"]
    done = subprocess.run([*command, "-k", FEW], env=environment, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:]
    assert " passed" in done.stdout
