"""The README's code and figures are run, so that they cannot go stale."""

import doctest
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.sparse.linalg import LinearOperator, eigsh
from typer.testing import CliRunner

import ntkla
from ntkla.app.command_line.commands import app
from ntkla.linalg import errors, status

README = Path(__file__).parents[1] / "README.md"


def test_the_library_example_runs_as_written():
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf8"), re.DOTALL)
    sessions = [block for block in blocks if ">>>" in block]
    assert sessions, "the README has no Python session"
    known: dict[str, object] = {}
    for block in sessions:  # read in order: a later one may use what an earlier one made
        test = doctest.DocTestParser().get_doctest(block, known, "README", str(README), 0)
        assert test.examples
        assert doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(test, clear_globs=False).failed == 0
        known = test.globs


def test_the_files_and_the_command_work_as_written(tmp_path, monkeypatch):
    """The block that saves files, run on arrays of the shapes it names; then the command beneath it, and with `fit`."""
    text = README.read_text(encoding="utf8")
    (saving,) = [block for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "numpy.save" in block]
    (asking,) = [block.strip() for block in re.findall(r"```bash\n(.*?)```", text, re.DOTALL) if "forecast" in block]
    draw = np.random.default_rng(0)
    given = {f"features_{task}": draw.standard_normal((30, 5)).astype(np.float32) for task in ("old", "new")}
    given |= {f"labels_{task}": draw.integers(3, size=30) for task in ("old", "new")}
    layer = torch.nn.Linear(5, 3)
    monkeypatch.chdir(tmp_path)
    exec(saving, {**given, "layer": layer})
    command = asking.split()
    assert command[0] == "ntkla"
    others = [line for line in re.findall(r"`(ntkla (?:plan|forecast) [^`]*\.npy[^`]*)`", text)]
    assert others
    for line in [*others, f"{asking} --cross-entropy", f"{asking} --protect 3", "ntkla modes old_x.npy -k 4"]:
        result = CliRunner().invoke(app, line.split()[1:])
        assert result.exit_code == 0, result.output
    for head in ("weight.npy,bias.npy", "fit"):
        result = CliRunner().invoke(app, [head if part == "weight.npy,bias.npy" else part for part in command[1:]])
        assert result.exit_code == 0, result.output
        assert "Training on new_x would" in result.stdout


def test_the_errors_and_statuses_are_all_in_the_table():
    rows = "\n".join(line for line in README.read_text(encoding="utf8").splitlines() if line.startswith("| "))
    known = [
        value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, errors.NtklaError)
    ]
    for error in known:
        assert error is errors.NtklaError or f"`{error.__name__}`" in rows, error
    codes = [value for name, value in vars(status).items() if name.isupper() and isinstance(value, str)]
    assert len(codes) > 5
    for code in codes:
        assert code == status.CERTIFIED or f"`{code}`" in rows, code


def test_every_precision_of_a_gram_matrix_is_in_the_table():
    with pytest.raises(errors.ArgumentError) as said:
        ntkla.gram(torch.ones(2, 2), precision="?")
    known = set(re.findall(r"'(\w+)'", str(said.value))) - {"auto"}
    table = README.read_text(encoding="utf8").split("| `precision` |")[1].split("\n\n")[0]
    assert known == set(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE))


def test_the_folders_named_are_the_folders_there():
    text = README.read_text(encoding="utf8").split("## Working on it")[1]
    for floor in ("linalg", "forgetting"):
        for folder in (README.parent / "ntkla" / floor).iterdir():
            assert not (folder / "__init__.py").exists() or f"`{folder.name}`" in text, folder


def test_exactly_two_set_up_commands_each_in_a_block_of_its_own():
    blocks = re.findall(r"```bash\n(.*?)```", README.read_text(encoding="utf8"), re.DOTALL)
    commands = [block.strip() for block in blocks if "venv" in block]
    assert len(commands) == 2
    assert all("\n" not in command and command.startswith("python3 -m venv .venv && ") for command in commands)


def test_the_peer_that_misses_copies_and_the_modes_that_do_not():
    """The table of the first screen: K = I_10 (x) G, G of rank 24, the 30 largest eigenvalues."""
    draw = np.random.default_rng(0)
    n, rank, outputs = 60, 24, 10
    basis, _ = np.linalg.qr(draw.standard_normal((n, rank)))
    values = np.geomspace(100, 1, rank)
    features = basis * np.sqrt(values)
    gram = features @ features.T
    expected = np.repeat(values[:3], outputs)
    kernel = LinearOperator(
        (n * outputs, n * outputs), matvec=lambda v: (v.reshape(outputs, n) @ gram).ravel(), dtype=np.float64
    )
    for seed, copies in enumerate([(7, 6, 5), (10, 9, 8), (10, 9, 8)]):
        start = np.random.default_rng(seed).standard_normal(n * outputs)
        found = eigsh(kernel, k=30, which="LA", tol=1e-3, v0=start, return_eigenvectors=False)
        near = [int((np.abs(found - value) < 1e-3 * value).sum()) for value in values[:3]]
        assert sum(near) < 30, f"this SciPy finds every copy from start {seed}: {near}, the README says {copies}"

    modes = ntkla.eigenmodes(ntkla.KroneckerGram(ntkla.GramOperator(torch.from_numpy(features)), outputs), 30)
    assert modes.complete
    assert modes.clusters is not None
    # `features` is rounded, so its spectrum is off by about u ||G||; the rest of the allowance is the proved bound.
    allowance = modes.value_error.numpy() + rank * np.finfo(np.float64).eps * values[0]
    assert (np.abs(modes.values.numpy() - expected) <= allowance).all()
