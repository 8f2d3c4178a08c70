"""The suites of single primitives: their judges see planted faults, and what runs on a GPU is listed without one."""

from __future__ import annotations

import json
from dataclasses import replace
from fractions import Fraction
from types import SimpleNamespace

import pytest
import torch

from ntkla.linalg.backends import cublas as backend
from ntkla.linalg.backends import kernels
from perf import __main__ as command
from perf import crossover, harness, pairs, precisions, results
from perf.harness import Contender, Skip, Work
from perf.judges import BLOCK, Triangle
from perf.suites import (
    cublas,
    gram,
    gram_contenders,
    layer_contenders,
    layer_ntk,
    normal_contenders,
    normal_matmul,
    primitives,
)
from tests.linalg.fake_cublas import stand_in

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
SUITES = (gram, normal_matmul, layer_ntk)


def contender(call, digits: float, ours: bool = True) -> Contender:
    return Contender("planted", call, Work(1.0, 1.0), ours=ours, digits=digits)


@pytest.fixture(scope="module")
def problem() -> gram_contenders.Problem:
    return gram.make(gram.Setting(2 * BLOCK + 40, 20, "float64", True), CPU)


@pytest.fixture(scope="module")
def judge(problem):
    return gram.judge(problem)


def exact_sum(x: torch.Tensor, y: torch.Tensor) -> Fraction:
    return sum((Fraction(a) * Fraction(b) for a, b in zip(x.tolist(), y.tolist(), strict=True)), Fraction(0))


def value(pair: pairs.Pair, place: int) -> Fraction:
    return Fraction(pair.high[place].item()) + Fraction(pair.low[place].item())


def test_double_double_agrees_with_rational_arithmetic():
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randn(5, 33, generator=generator, dtype=torch.float64) for _ in range(2))
    found = pairs.dots(x, y)
    squares = pairs.times(found, found)
    for row in range(5):
        exact = exact_sum(x[row], y[row])
        allowed = exact_sum(x[row].abs(), y[row].abs()) / 2**95
        assert abs(value(found, row) - exact) <= allowed
        assert abs(value(squares, row) - exact**2) <= 3 * allowed * abs(exact) + allowed**2


def test_the_judge_accepts_what_rounding_explains(problem, judge):
    digits = problem.explained("float64")
    verdict = judge(contender(None, digits), problem.x @ problem.x.T)
    assert verdict.right, verdict.reason
    assert verdict.error <= verdict.bound


@pytest.mark.parametrize("fault", ["entry", "tile", "shape", "nan", "symmetry"])
def test_the_judge_sees_planted_faults(problem, judge, fault):
    digits = problem.explained("float32")
    wrong = (problem.x @ problem.x.T).clone()
    row, column = int(judge.sample.rows[7]), int(judge.sample.columns[7])
    if fault == "entry":
        wrong[row, column] += 3 * digits * judge.left[row] * judge.right[column]
    if fault == "tile":  # too small to be sampled for certain, and never sampled here
        judge = replace(judge, sample=replace(judge.sample, **_kept(judge.sample, wrong.shape[0] // 2)))
        wrong[-16:, -16:] *= 1.5
    if fault == "shape":
        wrong = wrong[:-1]
    if fault == "nan":
        wrong[-1, -3] = float("nan")
    if fault == "symmetry":
        wrong[5, 6] += 1e-3 * digits
    assert judge(contender(None, digits), problem.x @ problem.x.T).right
    assert not judge(contender(None, digits), wrong).right


def _kept(sample, limit: int) -> dict:
    inside = (sample.rows < limit) & (sample.columns < limit)
    exact = pairs.Pair(sample.exact.high[inside], sample.exact.low[inside])
    return {"rows": sample.rows[inside], "columns": sample.columns[inside], "exact": exact,
            "magnitude": sample.magnitude[inside]}  # fmt: skip


@pytest.mark.parametrize("lower", [True, False])
def test_one_triangle_counts_as_the_whole(problem, judge, lower):
    product = problem.x @ problem.x.T
    half = torch.where(torch.ones_like(product).tril().bool() == lower, product, float("nan")).fill_diagonal_(0.0)
    half += torch.diag(product.diagonal())
    assert judge(contender(None, problem.explained("float64"), ours=False), Triangle(half, lower)).right


@pytest.mark.parametrize("suite", SUITES)
@pytest.mark.parametrize("dtype", list(primitives.DTYPES))
def test_the_kernels_pass_the_gate_in_the_interpreter(suite, dtype):
    """What a GPU's gate does: the same contenders and the same judge, the kernels interpreted."""
    if kernels.why_not("gram", CPU, 1) is not None:
        pytest.skip("Triton's interpreter is not there")
    setting = next(s for s in suite.settings("small", "cpu") if s.dtype == dtype)
    problem = suite.make(setting, CPU)
    found = [c for c in _on_cuda(suite, problem)[0] if c.name.startswith("ntkla triton")]
    modes = primitives.precisions(suite.__name__.rpartition(".")[2], primitives.DTYPES[dtype], "triton")
    kept = ["split, planes kept"] if suite is gram and "split" in modes else []
    assert [c.name for c in found] == [f"ntkla triton, {mode}" for mode in (*modes, *kept)]
    judged = suite.judge(problem)
    for each in found:
        verdict = judged(each, each.call())
        assert verdict.right, f"{each.name}: {verdict.reason}"
        assert verdict.error <= verdict.bound


def _on_cuda(suite, problem) -> tuple[list[Contender], dict[str, str]]:
    """The contenders of a GPU, over inputs that lie on the CPU."""
    if suite is gram:
        return gram_contenders.contenders(problem, "cuda", False)
    if suite is normal_matmul:
        return normal_contenders.contenders(problem, "cuda", False)
    return layer_contenders.contenders(problem, CUDA, False)


@pytest.fixture(autouse=True)
def card(monkeypatch):
    """A graphics card's memory, for where there is none."""
    if not torch.cuda.is_available():
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(total_memory=80e9))


@pytest.mark.parametrize(
    ("suite", "wanted"),
    [
        (gram, {"torch.mm, tf32", "torch.mm, bfloat16", "cublasSsyrk", "cupy.cublas.syrk", "ntkla torch, ieee"}),
        (normal_matmul, {"torch, two products, tf32", "cupy, two products, float32", "normal matrix formed"}),
        (layer_ntk, {"torch, Gram products, tf32", "torch.func jacrev", "per-sample gradients, einsum"}),
    ],
)
def test_a_gpu_has_its_own_contenders(suite, wanted):
    setting = next(s for s in suite.settings("small", "cuda") if s.dtype == "float32")
    found, skipped = _on_cuda(suite, suite.make(setting, CPU))
    assert wanted <= {c.name for c in found}
    assert all(c.compiles for c in found if c.name.startswith("ntkla triton"))
    assert not wanted & set(skipped)


def test_double_is_cublas_dsyrk_and_halves_are_widened():
    names = {}
    for setting in gram.settings("small", "cuda"):
        problem = gram.make(replace(setting, rows=9), CPU)
        names[setting.dtype, setting.symmetric] = {
            c.name for c in gram_contenders.contenders(problem, "cuda", False)[0]
        }
    assert "cublasDsyrk" in names["float64", True]
    assert "cublasSsyrk" in names["bfloat16", True]
    assert "torch.mm, bfloat16, float32 result" in names["bfloat16", True]
    assert "cublasSsyrk" not in names["float32", False]


def test_cublas_as_a_contender_writes_one_triangle(monkeypatch):
    """tests/linalg/test_cublas.py looks at the call itself."""
    monkeypatch.setattr(backend, "_library", lambda: None)
    with pytest.raises(Skip, match="libcublas"):
        cublas.syrk(torch.ones(2, 3))
    stand_in(monkeypatch)
    problem = gram.make(replace(gram.settings("small", "cpu")[0], rows=11, features=3), CPU)
    answer = cublas.syrk(problem.x)
    assert gram.judge(problem)(contender(None, problem.explained("float64"), ours=False), answer).right


def test_code_that_does_not_compile_is_skipped_with_the_reason(monkeypatch):
    def compile_(function, **_):
        def refused(*_):
            raise RuntimeError("no C++ compiler\nat great length")

        return refused

    monkeypatch.setattr(torch, "compile", compile_)
    with pytest.raises(Skip, match=r"no C\+\+ compiler$"):
        primitives.compiled(torch.add, (), Work(1.0, 1.0), 1.0).call()


def test_tf32_is_allowed_inside_only():
    before = torch.get_float32_matmul_precision()
    with precisions.allowing("tf32"):
        assert torch.get_float32_matmul_precision() == "high"
    assert torch.get_float32_matmul_precision() == before


def test_rounding_explains_more_in_coarser_arithmetic():
    explained = [precisions.explained(torch.float64, a, inputs=2, sums=9, results=1) for a in precisions.ARITHMETICS]
    assert explained == sorted(explained, reverse=True)
    assert precisions.explained(torch.bfloat16, "tf32", inputs=2, sums=9) < precisions.explained(
        torch.float32, "tf32", inputs=2, sums=9
    )


def test_what_does_not_fit_is_skipped_with_its_size():
    a, d = torch.empty(512, 1, 768, device="meta"), torch.empty(512, 100, 1, 768, device="meta")
    problem = layer_contenders.Problem(a, d)
    found, skipped = layer_contenders._materialised(problem, "cuda", limit=26.0)
    assert not found
    assert skipped[layer_contenders.JACOBIAN] == "the Jacobian needs 121 GB"


def test_floors_count_symmetric_work_once():
    x = torch.empty(100, 40)
    cross, symmetric = (gram_contenders.Problem(x, y).work("float32") for y in (x, None))
    assert symmetric.operations == 100 * 101 * 40
    assert cross.operations == 2 * 100 * 100 * 40


@pytest.mark.parametrize("suite", ["gram", "normal_matmul", "layer_ntk"])
def test_one_command_records_every_contender(tmp_path, suite):
    arguments = [suite, "--size", "small", "--device", "cpu", "--output", str(tmp_path), "--only", "float32"]
    assert command.main(arguments) == 0
    (path,) = tmp_path.glob("*.json")
    record = json.loads(path.read_text())
    assert record["left_out"]
    assert {"ntkla torch, ieee", "ntkla triton, ieee", record["baseline"]} <= {r["contender"] for r in record["rows"]}
    for row in record["rows"]:
        assert row["status"] == (harness.SKIPPED if "triton" in row["contender"] else harness.TIMED), row["reason"]
    assert "ntkla torch, ieee / it" in (tmp_path / "tables.md").read_text()


def test_no_case_begins_after_the_last_minute(tmp_path):
    arguments = ["gram", "--size", "small", "--device", "cpu", "--output", str(tmp_path), "--minutes", "0"]
    assert command.main(arguments) == 0
    (record,) = results.load(tmp_path)
    assert record["rows"] == []
    assert len(record["left_out"]) == len(gram.settings("small", "cpu"))


def test_a_partial_run_replaces_its_own_cases_only():
    def record(time: str, left_out: list[str], *cases: str) -> dict:
        rows = [{"case": case, "from": time} for case in cases]
        return {"suite": "gram", "device": "cpu", "size": "full", "time": time, "left_out": left_out, "rows": rows}

    runs = [record("1", [], "old"), record("2", [], "a", "b"), record("3", ["a"], "b"), record("4", ["a", "b"], "c")]
    shown = {row["case"]: row["from"] for run in results.latest(runs) for row in run["rows"]}
    assert shown == {"a": "2", "b": "3", "c": "4"}


def test_the_table_of_choices_is_read_off_the_record():
    def row(name: str, work: float, ratios: dict[str, float]) -> dict:
        return {"contender": name, "ratios": ratios, "parameters": {"dtype": "bfloat16", "multiplications": work}}

    torchs = "ntkla torch, ieee"
    rows = [
        row("ntkla triton, bf16", work, {torchs: r}) for work, r in ((1e6, 0.9), (1e7, 2.0), (1e9, 0.5), (1e8, 0.9))
    ]
    record = {"suite": "gram", "device": "cuda", "machine": {"gpu": "NVIDIA H100"}, "rows": rows}
    (line,) = crossover.suggestions([record])
    assert line.startswith("gram | NVIDIA H100 | bfloat16 | bf16 | least_work 1e+08 |")
    assert crossover.least_work([(1e6, 0.5), (1e7, 1.0)]) is None


@pytest.mark.gpu
@pytest.mark.parametrize("suite", ["gram", "normal_matmul", "layer_ntk"])
def test_the_gate_is_green_on_the_device(tmp_path, suite):
    assert command.main([suite, "--size", "small", "--device", "cuda", "--output", str(tmp_path)]) == 0
    (record,) = results.load(tmp_path)
    kept = {row["contender"]: row["reason"] for row in record["rows"] if row["status"] != harness.TIMED}
    assert all("cupy" in name or "cublas" in name for name in kept), kept
