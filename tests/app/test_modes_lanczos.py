"""`ntkla modes` where Lanczos knows the leading eigenvalues only: what it says of the others, and while it runs."""

from __future__ import annotations

import json
import math
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from rich.console import Console
from typer.testing import CliRunner

import ntkla
from ntkla.app.command_line.commands import app
from ntkla.app.command_line.modes_command import Proof, Route
from ntkla.app.failures import EXIT_ERROR, EXIT_NOT_CERTIFIED
from ntkla.app.reports import modes_run, modes_tables
from ntkla.app.reports.strict_json import plain
from ntkla.linalg.eigen.completeness import PROOFS
from ntkla.linalg.eigen.eigen_cost import ROUTES

SAMPLES, FEATURES, K, BLOCK = 90, 80, 4, 4


def with_spectrum(decay: float) -> torch.Tensor:
    """Float64, [90, 80], eigenvalues 1, decay, decay^2, ..."""
    draw = torch.Generator().manual_seed(4)
    left, right = (
        torch.linalg.qr(torch.randn((rows, FEATURES), generator=draw, dtype=torch.float64))[0]
        for rows in (SAMPLES, FEATURES)
    )
    return (left * decay ** (torch.arange(FEATURES, dtype=torch.float64) / 2)) @ right.T


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """steep.npy, of which the trace proves that nothing is missed, and flat.npy, of which it does not."""
    made = tmp_path_factory.mktemp("features")
    for name, decay in {"steep": 0.3, "flat": 0.98}.items():
        np.save(made / f"{name}.npy", with_spectrum(decay).numpy())
    return made


def run(path: object, *arguments: object):
    lanczos = ["--route", "lanczos", "--block-size", BLOCK, "-k", K]
    return CliRunner().invoke(app, ["modes", *map(str, [path, *lanczos, *arguments])])


def test_the_options_name_what_the_library_has():
    assert [proof.value for proof in Proof] == [*PROOFS, "none"]
    assert {route.value for route in Route} == set(ROUTES)


@pytest.mark.parametrize("prove", ["trace", "inertia", "none"])
@pytest.mark.parametrize("name", ["steep", "flat"])
def test_the_json_has_the_certificates(folder, name, prove):
    result = run(folder / f"{name}.npy", "--prove", prove, "--seed", 3, "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    proof = None if prove == "none" else prove
    modes = ntkla.eigenmodes(
        torch.from_numpy(np.load(folder / f"{name}.npy")), K, route="lanczos", block_size=BLOCK, prove=proof, seed=3
    )
    for field in ("values", "value_error", "residual_norms", "angle_bound"):
        assert found[field] == getattr(modes, field).tolist()
    for field in ("complete", "proof", "passes", "next_value_bound", "orthogonality", "converged", "cut"):
        assert found[field] == getattr(modes, field)
    assert found["complete"] is (None if prove == "none" or (name, prove) == ("flat", "trace") else True)
    assert found["passes"] > 0
    assert found["ceiling"] == (None if modes.complete else modes.spectrum.ceiling.tolist())
    assert found["clusters"] == [[c.start, c.stop] for c in modes.clusters]
    assert found["cluster_angle_bounds"] == [c.angle_bound for c in modes.clusters]
    assert found["cluster_gaps"] == plain([c.gap for c in modes.clusters])
    assert (found["trace"], found["trace_error"]) == (modes.spectrum.trace, modes.spectrum.trace_error)
    settings = {"prove": proof, "route": "lanczos", "block_size": BLOCK, "seed": 3}
    assert {key: found["settings"][key] for key in settings} == settings
    # What is left open of a rank is an interval, and the truth lies in it.
    whole = ntkla.effective_rank(torch.from_numpy(np.load(folder / f"{name}.npy")))
    assert found["ranks"]["k_G"]["low"] <= whole.low <= whole.high <= found["ranks"]["k_G"]["high"]


def test_the_direct_way_has_a_proof_and_no_passes(folder):
    found = json.loads(run(folder / "flat.npy", "--route", "full", "--json").stdout)
    assert (found["complete"], found["proof"], found["passes"], found["ceiling"]) == (True, "full", 0, None)


def test_the_table_says_what_is_proved(folder):
    said = " ".join(run(folder / "steep.npy").stdout.split())
    assert "complete: proved: none larger was missed (by trace)" in said
    assert "passes over the features" in said
    assert "1-?" not in said
    assert "(by the whole spectrum)" in run(folder / "steep.npy", "--route", "full").stdout


def test_the_table_says_what_is_not_proved_and_what_to_do(folder):
    result = run(folder / "flat.npy", "--outputs", 3)
    said = " ".join(result.stdout.split())
    assert "complete: not proved: a larger one may have been missed" in said
    assert "Pass --prove inertia, or --route full." in said
    assert f"the cut at {K} runs through modes that cannot be told apart" in said
    assert "(from 4 eigenvalues; --route full knows them all)" in said
    assert max(map(len, result.stdout.splitlines())) <= 100
    rows = [line.split() for line in result.stdout.splitlines() if line.split()[:1] in [[str(j + 1)] for j in range(K)]]
    # No angle is proved, and it is not known how far the cluster goes.
    assert [(row[4], row[-1]) for row in rows] == [("-", "1-?")] * K
    assert result.stderr.startswith("ntkla: warning: incomplete: ")


def test_zero_features_are_one_cluster_of_all(tmp_path):
    np.save(tmp_path / "x.npy", np.zeros((SAMPLES, FEATURES)))
    result = run(tmp_path / "x.npy")
    assert result.exit_code == 0, result.output
    assert f"1-{SAMPLES}" in result.stdout
    assert "1 pass over" in result.stdout
    assert "k_G = 0 modes" in result.stdout


def test_strict_wants_the_proof(folder):
    assert run(folder / "flat.npy").exit_code == 0
    assert run(folder / "flat.npy", "--strict").exit_code == EXIT_NOT_CERTIFIED
    assert run(folder / "flat.npy", "--prove", "inertia", "--strict").exit_code == 0


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        (["--block-size", "0"], "--block-size: expected an integer >= 1"),
        (["--seed", "-1"], "--seed: expected an integer >= 0"),
        (["--block-size", str(FEATURES)], "more than the 80 dimensions"),
    ],
)
def test_an_error_is_one_line(folder, options, wanted):
    result = run(folder / "flat.npy", *options)
    assert result.exit_code == EXIT_ERROR
    assert wanted in result.stderr
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize("option", ["--prove", "--route"])
def test_a_word_that_is_none_of_them_is_refused(folder, option):
    result = run(folder / "flat.npy", option, "guess")
    assert result.exit_code == EXIT_ERROR
    assert "guess" in result.stderr


def test_a_person_who_watches_sees_passes_and_the_worst_residual(folder, monkeypatch):
    told = []

    @contextmanager
    def watched(estimate, what):
        yield told.append

    monkeypatch.setattr(modes_run, "watched", watched)
    found = json.loads(run(folder / "steep.npy", "--json").stdout)
    assert len(told) == found["passes"]
    assert told[-1].startswith(f"pass {found['passes']:3d} over the features, worst residual ")
    assert float(told[-1].split()[-1]) <= found["settings"]["tolerance"]
    assert float(told[0].split()[-1]) > found["settings"]["tolerance"]
    told.clear()
    run(folder / "steep.npy", "--route", "full")
    assert told == []


def test_a_trace_that_is_not_known_has_no_shares():
    gram = with_spectrum(0.5) @ with_spectrum(0.5).T
    operator = ntkla.FunctionOperator(
        lambda v: gram @ v, (SAMPLES, SAMPLES), torch.float64, "cpu", psd=True, matmul_error=0.0
    )
    modes = ntkla.eigenmodes(operator, 1, block_size=1)
    assert math.isinf(modes.spectrum.trace_error)
    kinds = ("participation", "intrinsic", "entropy")
    ranks = {"k_G": ntkla.effective_rank(modes), "k_star": ntkla.vulnerable_rank(modes, 1)}
    found = modes_run.Found(modes, ranks | {kind: ntkla.effective_rank(modes, kind) for kind in kinds}, 0.0)
    assert found.cumulative is None
    console = Console(width=100)
    with console.capture() as shown:
        modes_tables.show(console, found, "an operator")
    assert shown.get().splitlines()[2].split()[-3:-1] == ["-", "-"]
    assert "trace not known" in " ".join(shown.get().split())
