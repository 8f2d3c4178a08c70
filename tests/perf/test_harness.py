"""The benchmark's own honesty: a wrong answer has no time, nothing vanishes, and the judge sees planted errors."""

from __future__ import annotations

import json
from fractions import Fraction
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from perf import __main__ as command
from perf import harness, memory, parts, reference, results, tables
from perf.harness import Case, Contender, Skip, Specification, Verdict, Work
from perf.suites import forecast, forecast_experts, forecast_ours, forecast_peers
from perf.suites.forecast_problem import make

CPU = torch.device("cpu")
CEILINGS = {"float64": 1e9, "float32": 2e9, "copy": 1e9}


class Answering:
    """A contender's call that counts how often it runs."""

    def __init__(self, value: float) -> None:
        self.value, self.calls = value, 0

    def __call__(self) -> float:
        self.calls += 1
        return self.value


def contender(name: str, call, ours: bool = False) -> Contender:
    return Contender(name, call, Work(1e6, 1e6), ours=ours)


def rows_of(*contenders: Contender, skipped: dict[str, str] | None = None) -> dict[str, harness.Row]:
    def judge(_: Contender, answer: float) -> Verdict:
        return Verdict(answer == 1.0, abs(answer - 1.0), reason="" if answer == 1.0 else "not one")

    case = Case(list(contenders), skipped or {}, judge)
    found = harness.run(Specification("case", {"n": 1}, lambda: case), CEILINGS, CPU, harness.PACES["small"])
    return {row.contender: row for row in found}


def test_a_red_gate_prevents_timing():
    ours, peer = Answering(1.5), Answering(1.0)
    rows = rows_of(contender("ours", ours, ours=True), contender("peer", peer))
    assert (ours.calls, peer.calls) == (1, 1)
    assert rows["ours"].status == harness.WRONG
    assert rows["peer"].status == harness.NOT_TIMED
    assert "ours" in rows["peer"].reason
    assert rows["ours"].seconds is None
    assert rows["peer"].seconds is None


def test_a_wrong_contender_is_flagged_and_not_timed():
    ours, wrong, right = Answering(1.0), Answering(2.0), Answering(1.0)
    rows = rows_of(contender("ours", ours, ours=True), contender("wrong", wrong), contender("right", right))
    assert (rows["wrong"].status, rows["wrong"].reason, rows["wrong"].error) == (harness.WRONG, "not one", 1.0)
    assert wrong.calls == 1
    assert rows["right"].runs == right.calls - 1 == harness.LEAST_RUNS
    assert list(rows["ours"].ratios) == ["right"]
    assert rows["ours"].roofline == pytest.approx(1e-3 / rows["ours"].seconds)


def test_failures_and_absences_stay_with_their_reason():
    def missing() -> None:
        raise Skip("not installed")

    def broken() -> None:
        raise MemoryError("2 TB")

    calls = contender("ours", Answering(1.0), ours=True), contender("missing", missing), contender("broken", broken)
    rows = rows_of(*calls, skipped={"large": "needs 3 TB"})
    assert (rows["missing"].status, rows["missing"].reason) == (harness.SKIPPED, "not installed")
    assert (rows["broken"].status, rows["broken"].reason) == (harness.FAILED, "MemoryError: 2 TB")
    assert (rows["large"].status, rows["large"].reason) == (harness.SKIPPED, "needs 3 TB")
    assert rows["ours"].status == harness.TIMED


@pytest.mark.parametrize("seconds", [1e-4, 1.0, 30.0, 1000.0])
def test_long_calls_run_less_often(seconds):
    runs = harness.planned_runs(seconds, harness.PACES["full"])
    assert 1 <= runs <= harness.PACES["full"].most_runs
    assert runs >= harness.LEAST_RUNS or seconds > harness.LONG


def _exact_drift(old, new, residual, ridge) -> list[Fraction]:
    """The drift of one output in rational arithmetic, by Gauss's elimination."""
    b = [[Fraction(float(v)) for v in row] for row in new]
    r = [Fraction(float(v)) for v in residual]
    edge = range(new.shape[1])
    table = [[sum(row[i] * row[j] for row in b) + (Fraction(ridge) if i == j else 0) for j in edge] for i in edge]
    for i in edge:
        table[i].append(sum(row[i] * v for row, v in zip(b, r, strict=True)))
    for i in edge:
        for k in edge:
            if k != i:
                factor = table[k][i] / table[i][i]
                table[k] = [x - factor * y for x, y in zip(table[k], table[i], strict=True)]
    update = [table[i][-1] / table[i][i] for i in edge]
    return [-sum(Fraction(float(a)) * x for a, x in zip(row, update, strict=True)) for row in old]


@pytest.mark.parametrize("ridge", [1.0, 1e-9])
def test_the_reference_agrees_with_rational_arithmetic(ridge):
    generator = np.random.default_rng(3)
    old, new = generator.standard_normal((4, 5)), generator.standard_normal((9, 5)) * 10.0 ** -np.arange(5)
    residual = generator.standard_normal((9, 1))
    found = reference.drift(old, new, residual, ridge)
    for i, exact in enumerate(_exact_drift(old, new, residual[:, 0], ridge)):
        computed = Fraction(float(found.drift.high[i, 0])) + Fraction(float(found.drift.low[i, 0]))
        assert abs(computed - exact) <= Fraction(float(found.error[i, 0])) + abs(exact) / 2**90


@pytest.fixture(scope="module")
def problem():
    return make(30, 40, 12, 5, "float64", 1e-2)


def _verdict(problem, drift, bound=None) -> Verdict:
    """The judge's word on a drift: of a peer, or of ours when it comes with a bound."""
    judge = forecast.Judge(problem)
    if bound is None:
        return judge(contender("peer", None), drift)
    ours = forecast_ours.contenders(problem, CPU)[0].call()
    answer = SimpleNamespace(drift=drift, error_bound=bound, status=ours.status, route="", diagnostics=ours.diagnostics)
    return judge(contender("ours", None, ours=True), answer)


def test_the_judge_accepts_right_answers(problem):
    ours = forecast_ours.contenders(problem, CPU)[0].call()
    assert _verdict(problem, ours.drift, ours.error_bound).right
    for peer in forecast_experts.contenders(problem, CPU):
        assert _verdict(problem, peer.call()).right, peer.name


@pytest.mark.parametrize("output", [0, 2, 4])  # 0 and 4 are checked in double-double, 2 against the expert
def test_the_judge_sees_a_moved_drift(problem, output):
    drift = forecast_experts.numpy_forecast(problem, "float64")
    moved = drift.copy()
    moved[7, output] += 1e-8 * np.abs(drift).max()
    assert not _verdict(problem, moved).right
    assert not _verdict(problem, moved, np.full_like(drift, 1e-12 * np.abs(drift).max())).right
    assert _verdict(problem, moved, np.full_like(drift, 1e-7 * np.abs(drift).max())).right


def test_the_judge_sees_a_bound_that_is_too_small(problem):
    ours = forecast_ours.contenders(problem, CPU)[0].call()
    assert not _verdict(problem, ours.drift + ours.error_bound, ours.error_bound * 1e-3).right


@pytest.mark.parametrize("name", [forecast_peers.DENSE, forecast_peers.JACOBIAN])
@pytest.mark.parametrize("sizes", [(12, 10, 6, 3), (10, 6, 20, 3)])
def test_the_kernel_forming_routes_are_right(name, sizes):
    problem = make(*sizes, "float64", 1e-1)
    assert forecast.Judge(problem)(contender(name, None), forecast_peers.contender(name, problem, CPU).call()).right


def test_parts_add_up_and_name_functions_that_exist(problem):
    call = partial(forecast_ours.predict_forgetting, *_tensors(problem), ridge=problem.ridge)
    found = parts.split(call, forecast_ours.PARTS, CPU)
    assert {"checks", "Gram", "factor", "first solve", "residual", "certificate", "drift", "other"} <= found.keys()
    assert all(seconds >= 0 for seconds in found.values())
    assert forecast_ours.predict_forgetting.__module__ == "ntkla.forgetting.predict"


def _tensors(problem) -> list[torch.Tensor]:
    return [torch.from_numpy(a) for a in (problem.old, problem.new, problem.residual)]


def test_peak_memory_counts_what_is_freed_before_the_call_ends():
    size = 2**26

    def call() -> float:
        return float(np.ones(size // 8).sum())

    found = memory.peak(call, CPU)
    if found["method"] == "VmHWM":
        assert 0.9 * size < found["bytes"] < 1.3 * size


def test_results_are_append_only_and_the_newest_full_run_is_shown(tmp_path, monkeypatch):
    record = {"suite": "forecast", "size": "full", "device": "cpu", "rows": [{"case": "one"}]}
    path = results.append(record, tmp_path)
    monkeypatch.setattr(
        results, "datetime", SimpleNamespace(now=lambda _: SimpleNamespace(strftime=lambda _: _stamp(path)))
    )
    with pytest.raises(FileExistsError):
        results.append(record, tmp_path)
    older = {**record, "time": "1"}
    newer, small = {**older, "time": "2"}, {**older, "time": "3", "size": "small"}
    assert results.latest([newer, small, older]) == [newer]


def _stamp(path) -> str:
    return path.name.split("-")[0]


_SMALL = ["forecast", "--size", "small", "--device", "cpu"]


def test_one_command_records_every_contender_and_makes_the_tables(tmp_path):
    assert command.main([*_SMALL, "--no-memory", "--output", str(tmp_path)]) == 0
    (path,) = tmp_path.glob("*.json")
    record = json.loads(path.read_text())
    names = {"ntkla", "ntkla, tol=1e-6", forecast.BASELINE, "torch, float64", *forecast_peers.NAMES}
    for case in {row["case"] for row in record["rows"]}:
        rows = [row for row in record["rows"] if row["case"] == case]
        assert names <= {row["contender"] for row in rows}
        assert all(row["seconds"] or row["reason"] for row in rows)
    page = tmp_path / "README.md"
    page.write_text(f"before\n{tables.BEGIN}\nold\n{tables.END}\nafter\n")
    assert tables.regenerate(tmp_path, tmp_path) == [page]
    text = page.read_text()
    assert text.startswith("before\n")
    assert text.endswith("\nafter\n")
    assert "old" not in text
    assert forecast.BASELINE in text
    assert tables.regenerate(tmp_path, tmp_path) == []
