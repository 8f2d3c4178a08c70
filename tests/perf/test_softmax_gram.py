"""Suite `softmax_gram`: a judge that sees planted faults, peers that agree, kernels that pass it, one command."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch

from ntkla.linalg.backends import kernels
from perf import __main__ as command
from perf import harness
from perf.suites import primitives
from perf.suites import softmax_gram as suite

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def card(monkeypatch):
    """A graphics card's memory, for where there is none."""
    if not torch.cuda.is_available():
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(total_memory=80e9))


def made(dtype: str) -> tuple[suite.Problem, suite.Judge]:
    problem = suite.make(suite.Setting(40, 12, 3, 2, dtype), CPU)
    return problem, suite.Judge(problem)


def test_the_judge_multiplies_what_the_definition_says():
    """`B^T (I_C (x) x x^T) B`, dense, sample after sample."""
    problem, judge = made("float64")
    x, p, v = problem.x, problem.p / problem.p.sum(1, keepdim=True), problem.v
    roots = [torch.diag(row.sqrt()) - torch.outer(row, row.sqrt()) for row in p]
    u = torch.stack([root @ part for root, part in zip(roots, v, strict=True)])
    w = torch.einsum("ij,jcm->icm", x @ x.T, u)
    expected = torch.stack([root.T @ part for root, part in zip(roots, w, strict=True)])
    off = float(torch.linalg.vector_norm(judge.exact - expected))
    assert off <= judge.roundings * 2.0**-53 * judge.reach


@pytest.mark.parametrize("dtype", list(primitives.DTYPES))
def test_everybody_agrees_and_a_fault_is_seen(dtype):
    problem, judge = made(dtype)
    found, _ = suite.contenders(problem, CPU, False)
    for one in found:
        answer = one.call()
        verdict = judge(one, answer)
        assert verdict.right, f"{one.name}: {verdict.reason}"
        assert not judge(one, answer[:, [1, 0, 2]]).right
        assert not judge(one, answer * float("nan")).right
    assert any(one.ours for one in found)


@pytest.mark.parametrize("dtype", list(primitives.DTYPES))
def test_the_kernels_pass_the_gate_in_the_interpreter(dtype):
    if kernels.why_not("softmax_gram", CPU, 1) is not None:
        pytest.skip("Triton's interpreter is not there")
    problem, judge = made(dtype)
    found, _ = suite.contenders(problem, torch.device("cuda"), False)
    found = [one for one in found if one.name.startswith("ntkla triton")]
    assert found
    for one in found:
        verdict = judge(one, one.call())
        assert verdict.right, f"{one.name}: {verdict.reason}"
        assert verdict.error <= verdict.bound


def test_a_small_run_is_recorded(tmp_path):
    assert command.main(["softmax_gram", "--size", "small", "--device", "cpu", "--output", str(tmp_path)]) == 0
    (record,) = (json.loads(path.read_text()) for path in tmp_path.glob("*.json"))
    timed = [row for row in record["rows"] if row["ours"] and row["status"] == harness.TIMED]
    assert len(timed) == 5
