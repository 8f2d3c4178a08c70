"""Suite `modes`: known spectra, a judge that sees missed copies, ghosts and broken bounds, and one command for all."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from perf import __main__ as command
from perf import harness, tables
from perf.harness import Contender
from perf.suites import modes, modes_ours
from perf.suites.modes_peers import TOLERANCE, Pairs
from perf.suites.modes_problem import CLUSTERED, DECAYING, GEOMETRIC, STEEP, Setting, make

CPU = torch.device("cpu")
CLUSTER = Setting(90, 40, "float64", CLUSTERED, 12)


def contender(ours: bool = False, digits: float = TOLERANCE) -> Contender:
    return Contender("any", lambda: None, harness.Work(1.0, 1.0), ours=ours, digits=digits)


def exact(setting: Setting, count: int) -> Pairs:
    """The `count` leading pairs of the Gram matrix, from numpy."""
    left, singular, _ = np.linalg.svd(make(setting, CPU).x.double().numpy(), full_matrices=False)
    return Pairs(torch.from_numpy(singular[:count] ** 2), torch.from_numpy(left[:, :count].copy()))


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("spectrum", [DECAYING, STEEP, GEOMETRIC, CLUSTERED])
def test_the_features_have_the_spectrum_that_is_said(spectrum, dtype):
    problem = make(Setting(90, 40, dtype, spectrum, 5), CPU)
    singular = np.linalg.svd(problem.x.double().numpy(), compute_uv=False)
    assert np.abs(singular**2 - problem.spectrum).max() <= problem.slack


def test_the_judge_accepts_exact_pairs_in_any_basis_of_a_cluster():
    judge, pairs = modes.Judge(make(CLUSTER, CPU)), exact(CLUSTER, 12)
    assert judge(contender(), pairs).right
    turn = torch.linalg.qr(torch.randn((10, 10), dtype=torch.float64, generator=torch.Generator().manual_seed(0)))[0]
    pairs.vectors[:, :10] = pairs.vectors[:, :10] @ turn
    assert judge(contender(), pairs).right


@pytest.mark.parametrize("fault", ["missed", "ghost", "vector", "value", "nan"])
def test_the_judge_sees_planted_faults(fault):
    judge, (values, vectors) = modes.Judge(make(CLUSTER, CPU)), exact(CLUSTER, 13)
    if fault == "missed":  # one of ten copies
        values, vectors = values[1:], vectors[:, 1:]
    if fault == "ghost":  # ten copies, two of them the same
        vectors[:, 9] = vectors[:, 0]
    if fault == "vector":
        vectors[:, 3] += 1e-7 * vectors[:, 12]
    if fault == "value":
        values[2] += 1e-8
    if fault == "nan":
        vectors[4, 4] = float("nan")
    verdict = judge(contender(), Pairs(values[:12], vectors[:, :12]))
    assert not verdict.right
    assert verdict.facts["missed"] == int(fault == "missed")


def test_one_that_approximates_is_shown_with_its_error_but_not_with_copies_missed():
    judge, pairs = modes.Judge(make(CLUSTER, CPU)), exact(CLUSTER, 13)
    pairs.vectors[:, 3] += 1e-4 * pairs.vectors[:, 12]
    verdict = judge(contender(digits=float("inf")), Pairs(pairs.values[:12], pairs.vectors[:, :12]))
    assert verdict.right
    assert verdict.error > TOLERANCE


def test_ours_must_keep_its_own_bounds():
    problem = make(CLUSTER, CPU)
    judge, found = modes.Judge(problem), modes_ours.contenders(problem, (modes_ours.DEFAULT,))[0].call()
    assert judge(contender(ours=True), found).right
    for broken in (
        replace(found, residual_norms=found.residual_norms * 1e-9),
        replace(found, values=found.values + 1e-11, value_error=found.value_error * 1e-9),
    ):
        assert not judge(contender(ours=True), broken).right


def test_several_outputs_are_judged_copy_by_copy():
    setting = Setting(90, 40, "float64", GEOMETRIC, 7, 3)
    problem = make(setting, CPU)
    found = modes_ours.contenders(problem, (modes_ours.DEFAULT,))[0].call()
    verdict = modes.Judge(problem)(contender(ours=True), found)
    assert verdict.right, verdict.reason
    vectors = found.vectors
    vectors[:, 2] = vectors[:, 1]
    assert not modes.Judge(problem)(contender(), Pairs(found.values, vectors)).right


def test_every_case_says_who_does_not_run_in_it():
    for setting in (*modes._FULL, *modes._SMALL):
        ours, peers, skipped = modes.chosen(setting)
        assert modes_ours.DEFAULT in ours
        assert {*peers, *skipped} == set(modes._PEERS)


def test_one_command_records_every_contender(tmp_path):
    assert command.main(["modes", "--size", "small", "--device", "cpu", "--output", str(tmp_path)]) == 0
    (path,) = tmp_path.glob("*.json")
    record = json.loads(path.read_text())
    for setting in modes._SMALL:
        rows = [row for row in record["rows"] if row["case"] == setting.name]
        assert {row["contender"] for row in rows} >= {modes_ours.DEFAULT, *modes._PEERS}
        assert all(row["seconds"] or row["reason"] for row in rows)
        mine = [row for row in rows if row["ours"]]
        assert all("certificate" in row["parts"] and row["facts"]["missed"] == 0 for row in mine)
    assert "passes, complete by trace" in tables.long([record])
