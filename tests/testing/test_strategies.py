"""The strategies draw what they promise, and what they draw can be rebuilt from its repr."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from hypothesis import find, given, settings
from hypothesis.errors import NoSuchExample

import ntkla.testing as testing
from ntkla.linalg.errors import ArgumentError
from ntkla.testing import (
    DTYPES,
    LAYOUTS,
    SPECTRUM_NAMES,
    TWISTS,
    FeatureSpec,
    Problem,
    RidgeProblem,
    ambient_state,
    feature_specs,
    features_with_spectrum,
    laid_out,
    mean_eigenvalue,
    problems,
    ridge_problems,
    targets,
)
from ntkla.testing.samples import RESIDUALS
from ntkla.testing.spectra import SPECTRA

SEARCH = settings(max_examples=4000, database=None, derandomize=True)


@given(problems(extreme=True))
def test_problems_are_rebuilt_from_their_repr(problem):
    again = eval(repr(problem), {"Problem": Problem, "FeatureSpec": FeatureSpec})
    assert again == problem
    for mine, other in [(problem.features_old, again.features_old), (problem.residual_new, again.residual_new)]:
        assert mine.stride() == other.stride()
        assert torch.equal(mine, other)
    assert (problem.ridge, problem.weight_decay) == (again.ridge, again.weight_decay)


@given(problems(extreme=True))
def test_problems_are_finite_and_fit_together(problem):
    old, new, residual = problem.features_old, problem.features_new, problem.residual_new
    assert old.shape[1] == new.shape[1]
    assert residual.shape == (new.shape[0], problem.outputs)
    assert old.dtype == new.dtype == DTYPES[problem.new.dtype]
    assert all(bool(torch.isfinite(x).all()) for x in (old, new, residual))
    assert problem.ridge > 0


@given(ridge_problems())
def test_ridge_problems_fit_together(problem):
    arguments = problem.arguments()
    assert arguments["targets"].shape == (problem.design.n, problem.outputs)
    assert eval(repr(problem), {"RidgeProblem": RidgeProblem, "FeatureSpec": FeatureSpec}) == problem


WANTED = {
    **{f"spectrum {name}": lambda s, name=name: s.spectrum == name for name in SPECTRUM_NAMES},
    **{f"layout {name}": lambda s, name=name: s.layout == name for name in LAYOUTS},
    **{f"twist {name}": lambda s, name=name: s.twist == name for name in TWISTS},
    **{f"dtype {name}": lambda s, name=name: s.dtype == name for name in DTYPES},
    "n = 1": lambda s: s.n == 1,
    "F = 1": lambda s: s.features == 1,
    "n < F": lambda s: s.n < s.features,
    "n > F": lambda s: s.n > s.features,
    "scale 1e-12": lambda s: s.scale == 1e-12,
    "scale 1e12": lambda s: s.scale == 1e12,
    "zero matrix": lambda s: not s.tensor.any(),
}


@pytest.mark.parametrize("name", WANTED)
def test_every_promised_case_is_in_the_pool(name):
    assert WANTED[name](find(feature_specs(), WANTED[name], settings=SEARCH))


def test_the_pool_is_not_everything():
    with pytest.raises(NoSuchExample):
        find(feature_specs(), lambda s: s.n > 9, settings=settings(max_examples=200, database=None, derandomize=True))


@pytest.mark.parametrize("kind", RESIDUALS)
def test_right_hand_sides_are_what_they_are_called(kind):
    features = FeatureSpec(8, 3).tensor
    t = targets(features, 2, kind, scale=4.0)
    basis = torch.linalg.qr(features)[0]
    inside, outside = basis @ (basis.T @ t), t - basis @ (basis.T @ t)
    small = 1e-12 * float(t.abs().max() + 1)
    assert (inside.abs().max() < small) == (kind in ("orthogonal", "zero"))
    assert (outside.abs().max() < small) == (kind in ("in_span", "zero"))
    assert bool(t[:, 1].any()) == (kind not in ("one_output", "zero"))


@pytest.mark.parametrize("name", SPECTRA)
def test_features_have_the_spectrum_they_are_named_after(name):
    x = features_with_spectrum(8, 5, name, condition=1e4, scale=3.0)
    expected = SPECTRA[name](5, 1e4) * 9.0
    computed = torch.linalg.svdvals(x).square()
    torch.testing.assert_close(computed, expected.sort(descending=True).values)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_change_the_storage_and_not_the_values(layout):
    x = FeatureSpec(4, 3).tensor
    y = laid_out(x, layout)
    assert torch.equal(y, x[:1].expand(4, 3) if layout == "expanded" else x)
    storage = (y.stride(), y.storage_offset(), y.is_contiguous())
    expected = {
        "contiguous": ((3, 1), 0, True),
        "transposed": ((1, 4), 0, False),
        "strided": ((18, 3), 0, False),
        "offset": ((5, 1), 6, False),
        "expanded": ((0, 1), 0, False),
    }
    assert storage == expected[layout]


def test_drawing_leaves_the_process_alone():
    before = ambient_state()
    Problem(FeatureSpec(3, 2), FeatureSpec(4, 2), 2, weight_decay_relative=1.0, bias=True).arguments()
    assert ambient_state() == before


def test_mean_eigenvalue_counts_the_bias_and_is_never_zero():
    x = torch.tensor([[3.0, 0.0], [0.0, 4.0]])
    assert mean_eigenvalue(x) == 12.5
    assert mean_eigenvalue(x, bias=True) == 9.0
    assert mean_eigenvalue(torch.zeros(2, 2)) == 1.0


@pytest.mark.parametrize("field", ["spectrum", "dtype", "layout", "twist"])
def test_unknown_names_are_refused(field):
    with pytest.raises(ArgumentError, match=field):
        features_with_spectrum(**{"n": 2, "features": 2, "spectrum": "flat", field: "no such thing"})


def test_every_public_name_exists():
    assert sorted(testing.__all__) == sorted(set(testing.__all__))
    assert all(hasattr(testing, name) for name in testing.__all__)
    with pytest.raises(AttributeError, match="no attribute"):
        testing.no_such_name  # noqa: B018


def test_import_needs_neither_hypothesis_nor_flint_and_loads_no_profile():
    code = """
import sys
sys.modules["flint"] = sys.modules["hypothesis"] = None
import ntkla.testing
try:
    ntkla.testing.problems
except ntkla.linalg.errors.MissingPackageError as error:
    print(error)
del sys.modules["hypothesis"]
import hypothesis
before = hypothesis.settings.default
ntkla.testing.problems()
assert hypothesis.settings.default is before
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "pip install hypothesis" in done.stdout
