"""`ntkla modes`: its numbers against the library, its table, notes, errors and files."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import ntkla
from ntkla.app.command_line.commands import app
from ntkla.app.failures import EXIT_ERROR, EXIT_NOT_CERTIFIED

SAMPLES, FEATURES = 60, 40


@pytest.fixture(scope="module")
def features():
    """Float32, [60, 40], with one eigenvalue twice."""
    basis = torch.linalg.qr(torch.randn((SAMPLES, FEATURES), generator=torch.Generator().manual_seed(1)))[0]
    basis *= torch.linspace(5.0, 0.5, FEATURES)
    basis[:, 1] = 0.0
    basis[0] = 0.0
    basis[0, 1] = torch.linalg.vector_norm(basis[:, 2])
    return basis


@pytest.fixture(scope="module")
def path(features, tmp_path_factory):
    file = tmp_path_factory.mktemp("features") / "x.npy"
    np.save(file, features.numpy())
    return file


def run(*arguments: object):
    return CliRunner().invoke(app, ["modes", *map(str, arguments)])


def test_the_json_is_what_the_library_says(path, features):
    result = run(path, "-k", 7, "--outputs", 3, "--bias", "--share", "0.5", "--json")
    assert result.exit_code == 0, result.output
    found, modes = json.loads(result.stdout), ntkla.eigenmodes(features, 7, bias=True)
    for name in ("values", "value_error", "residual_norms"):
        assert found[name] == getattr(modes, name).tolist()
    assert found["clusters"] == [[c.start, c.stop] for c in modes.clusters]
    assert (found["complete"], found["next_value_bound"]) == (modes.complete, modes.next_value_bound)
    k_gram, k_star = ntkla.effective_rank(modes, q=0.5), ntkla.vulnerable_rank(modes, 3, 0.5)
    assert found["ranks"]["k_G"] == {"low": k_gram.low, "high": k_gram.high}
    assert found["ranks"]["k_star"] == {"low": k_star.low, "high": k_star.high}
    assert found["ranks"]["entropy"]["low"] == ntkla.effective_rank(modes, "entropy").low
    assert found["settings"]["k"] == 7
    assert found["cumulative"][-1] <= 1


def test_modes_beyond_the_rank_are_said_to_name_no_direction(features, tmp_path):
    file = tmp_path / "x.npy"
    np.save(file, features[:, [3, 4, 5, 3]].numpy())
    said = " ".join(run(file, "-k", 4).stdout.split())
    assert "only 3 eigenvalues are certainly above 0: the other 1 that are listed name no direction" in said
    assert "name no direction" not in run(file, "-k", 3).stdout


def test_the_table_has_at_most_30_rows(path):
    result = run(path, "-k", 35)
    assert result.exit_code == 0, result.output
    assert max(map(len, result.stdout.splitlines())) <= 100
    assert "the first 30 of 35" in result.stdout
    numbered = [line.split()[0] for line in result.stdout.splitlines() if line[:4].strip().isdecimal()]
    assert numbered == [str(j) for j in range(1, 31)]
    assert "proved: none larger was missed" in result.stdout


def test_equal_eigenvalues_are_shown_as_a_cluster(tmp_path):
    np.save(tmp_path / "x.npy", np.diag([3.0, 2.0, 2.0, 1.0]))
    lines = run(tmp_path / "x.npy").stdout.splitlines()
    assert [line.split()[-1] for line in lines if line.strip().startswith(("2 ", "3 "))] == ["2-3", "2-3"]


def test_without_k_there_are_20_or_all(path, tmp_path):
    assert json.loads(run(path, "--json").stdout)["settings"]["k"] == 20
    np.save(tmp_path / "x.npy", np.ones((9, 2)))
    assert json.loads(run(tmp_path / "x.npy", "--json", "--bias").stdout)["settings"]["k"] == 3


def test_zero_features_have_no_shares(tmp_path):
    np.save(tmp_path / "x.npy", np.zeros((4, 2)))
    found = json.loads(run(tmp_path / "x.npy", "--json").stdout)
    assert found["cumulative"] == [0.0, 0.0]
    assert found["ranks"]["k_G"] == {"low": 0, "high": 0}


def test_every_rank_is_explained(path):
    said = " ".join(run(path).stdout.split())
    for wanted in (
        "k*: the same count",
        "participation: T^2 / sum s^2",
        "intrinsic: T / s_1",
        "entropy: exp(-sum p log p)",
    ):
        assert wanted in said


def test_labels_are_noted(path):
    labels = path.with_name("y.npy")
    np.save(labels, np.zeros(SAMPLES, dtype=np.int64))
    result = run(f"{path},{labels}")
    assert result.exit_code == 0
    assert "only the features are used, not labels" in result.stderr


def test_files(path, tmp_path):
    result = run(path, "--output", tmp_path / "there", "-k", 5)
    assert result.exit_code == 0, result.output
    assert sorted(p.name for p in (tmp_path / "there").iterdir()) == ["modes.json", "modes.png"]
    assert json.loads((tmp_path / "there" / "modes.json").read_text())["command"] == "modes"


def test_strict_is_exit_code_3(path):
    assert run(path, "--tol", "1e-300").exit_code == 0
    assert run(path, "--tol", "1e-300").stderr.startswith("ntkla: warning: above_tolerance: ")
    assert run(path, "--tol", "1e-300", "--strict").exit_code == EXIT_NOT_CERTIFIED


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        (["-k", "0"], "-k: expected an integer >= 1"),
        (["-k", str(SAMPLES + 1)], f"<= {SAMPLES}"),
        (["--outputs", "0"], "--outputs: expected"),
        (["--share", "0"], "--share: expected"),
        (["--tol", "-1"], "--tol: expected"),
        (["--device", "abacus"], "--device: 'abacus'"),
    ],
)
def test_an_error_is_one_line(path, options, wanted):
    result = run(path, *options)
    assert result.exit_code == EXIT_ERROR
    assert wanted in result.stderr
    assert result.stderr.count("\n") == 1


def test_features_that_are_not_finite_are_named(tmp_path):
    np.save(tmp_path / "x.npy", np.full((3, 2), np.inf))
    assert f"{tmp_path / 'x.npy'}: features: expected finite entries" in run(tmp_path / "x.npy").stderr


@pytest.mark.parametrize(("package", "options"), [("rich", []), ("matplotlib", ["--output", "x"])])
def test_a_missing_package_is_named(path, package, options, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, package, None)
    result = run(path, *options)
    assert result.exit_code == EXIT_ERROR
    assert "pip install 'ntkla[cli]'" in result.stderr
