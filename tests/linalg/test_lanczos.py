"""Lanczos on spectra that other solvers get wrong, against the direct decomposition."""

from __future__ import annotations

import pytest
import torch

from ntkla.linalg.eigen.lanczos_search import LanczosSearch, basis_columns
from ntkla.linalg.eigenmodes import eigenmodes
from ntkla.linalg.errors import ArgumentError
from ntkla.linalg.kronecker import KroneckerGram
from ntkla.linalg.operators import FunctionOperator, GramOperator
from ntkla.linalg.precision import gamma
from ntkla.testing.spectra import orthonormal_columns

SIZE = 60
SPECTRA = {
    "all equal": [1.0] * SIZE,
    "ten copies": [4.0] * 10 + [2.0] * 10 + [0.5] * (SIZE - 20),
    "pairs split by 1e-14": [x for j in range(SIZE // 2) for x in (0.7**j, 0.7**j * (1 - 1e-14))],
    "decay to 1e-300": [10.0 ** (-300 * j / (SIZE - 1)) for j in range(SIZE)],
    "rank 1": [1.0],
    "rank n - 1": [1.0 / (1 + j) for j in range(SIZE - 1)],
    "one outlier": [1e12] + [1.0 / (1 + j) for j in range(SIZE - 1)],
    "noise at rounding": [1.0] + [1e-16] * (SIZE - 1),
    "power law": [1.0 / (1 + j) ** 2 for j in range(SIZE)],
}


def features(spectrum, rows=70, scale=1.0):
    values = torch.tensor(spectrum, dtype=torch.float64) * scale
    left = orthonormal_columns(rows, len(values), 1)
    return (left * values.sqrt()) @ orthonormal_columns(SIZE, len(values), 2).T


def assert_agree(modes, full):
    """The same eigenvalues, copy by copy, within both bounds; and enclosures that contain those of the other."""
    k = modes.values.shape[0]
    assert ((modes.values - full.values).abs() <= modes.value_error + full.value_error).all()
    assert (modes.spectrum.upper >= full.spectrum.lower[:k]).all()
    assert (modes.spectrum.lower <= full.spectrum.upper[:k]).all()
    following = full.spectrum.lower[k] if k < full.spectrum.values.shape[0] else 0.0
    assert modes.next_value_bound >= following


@pytest.mark.parametrize("prove", ["trace", "inertia", None])
@pytest.mark.parametrize("block", [1, 3])
@pytest.mark.parametrize("name", SPECTRA)
def test_no_copy_is_missed_or_invented(name, block, prove):
    x = features(SPECTRA[name])
    full = eigenmodes(x, 12, route="full")
    modes = eigenmodes(x, 12, route="lanczos", block_size=block, prove=prove)
    assert_agree(modes, full)
    assert modes.converged
    assert modes.passes > 0
    if prove == "inertia":
        assert modes.complete
        assert modes.status.certified
    if not modes.complete:
        assert modes.complete is None
        assert modes.proof is None
        assert modes.status.code == "incomplete"


@pytest.mark.parametrize("scale", [1e-24, 1e24, 1e-200])
def test_no_scale_changes_what_is_found(scale):
    x = features(SPECTRA["ten copies"], scale=scale)
    modes = eigenmodes(x, 20, route="lanczos", block_size=2, prove="inertia")
    assert modes.status.certified
    assert_agree(modes, eigenmodes(x, 20, route="full"))


def test_a_start_orthogonal_to_a_wanted_vector_finds_it():
    """The operator hides one eigenvector from the first block, which the seed makes known."""
    generator = torch.Generator("cpu").manual_seed(0)
    start = torch.linalg.qr(torch.randn((300, 2), generator=generator, dtype=torch.float64))[0]
    hidden = orthonormal_columns(300, 3, 5)
    hidden = torch.linalg.qr(torch.cat([start, hidden], 1))[0][:, 2:]
    values = torch.tensor([3.0, 2.0, 1.0], dtype=torch.float64)

    def matmul(v):
        inside = hidden.T @ v
        return hidden @ (values[:, None] * inside) + 1e-3 * (v - hidden @ inside)

    # Products with 3 orthonormal columns of 300 entries, whose absolute values have a Frobenius norm of sqrt(3).
    error = gamma(300 + 16) * (3 * float(values.max()) + 3 * 1e-3 + 1e-3)
    trace = (float(values.sum()) + 297 * 1e-3) * (1 + gamma(2 * 300))
    operator = FunctionOperator(matmul, (300, 300), torch.float64, "cpu", psd=True, matmul_error=error, trace=trace)
    modes = eigenmodes(operator, 3, block_size=2, seed=0)
    assert ((modes.values - values).abs() <= modes.value_error).all()
    assert modes.complete


def test_the_basis_stays_within_its_stated_size():
    diagonal = torch.linspace(1.0, 2.0, 500, dtype=torch.float64)[:, None]
    search = LanczosSearch(
        lambda v: diagonal * v, 500, 5, block=4, tolerance=1e-10, seed=0, device=torch.device("cpu"), most_columns=4000
    )
    assert search.converge()
    assert search.lanczos.columns > 2 * basis_columns(5, 4), "it never restarted"
    assert search.lanczos._basis.shape == (500, basis_columns(5, 4))


def test_the_same_seed_gives_the_same_bits_and_touches_no_generator():
    x = features(SPECTRA["power law"])
    state = torch.get_rng_state()
    first, second = (eigenmodes(x, 3, route="lanczos", block_size=3, seed=7) for _ in range(2))
    assert torch.equal(first.basis, second.basis)
    assert torch.equal(torch.get_rng_state(), state)


def test_progress_is_told_passes_and_the_worst_residual():
    seen = []
    modes = eigenmodes(
        features(SPECTRA["power law"]), 3, route="lanczos", block_size=3, progress=lambda *step: seen.append(step)
    )
    passes = [step[0] for step in seen]
    assert passes == sorted(passes)
    assert passes[-1] == modes.passes
    assert seen[-1][1] <= modes.tolerance


def test_operators_and_features_agree():
    x = features(SPECTRA["ten copies"], rows=SIZE)
    gram = GramOperator(x)
    foreign = FunctionOperator(gram._matmat, gram.shape, torch.float64, "cpu", psd=True, trace=gram.trace())
    modes = eigenmodes(foreign, 12, block_size=3, route="lanczos")
    assert modes.passes > 0
    assert modes.converged
    assert_agree(modes, eigenmodes(x, 12, route="full"))


@pytest.mark.parametrize("name", ["ten copies", "power law", "rank 1"])
def test_inertia_proves_what_the_trace_of_an_operator_cannot(name):
    x = torch.cat([features(SPECTRA[name], rows=SIZE), torch.zeros((40, SIZE), dtype=torch.float64)])
    gram = KroneckerGram(GramOperator(x), 2)
    foreign = FunctionOperator(
        gram._matmat, gram.shape, torch.float64, "cpu", psd=True, matmul_error=gamma(200) * float(gram.trace())
    )
    modes = eigenmodes(foreign, 4, block_size=4, prove="inertia")
    assert modes.complete
    assert modes.status.certified
    assert modes.proof == "inertia"
    expected = eigenmodes(gram, 4, route="full")
    assert ((modes.values - expected.values).abs() <= modes.value_error + expected.value_error).all()
    assert modes.next_value_bound >= expected.spectrum.lower[2]


def test_a_trace_that_the_products_contradict_is_refused():
    diagonal = torch.cat([torch.tensor([3.0, 2.0, 1.0]), torch.full((297,), 1e-3)]).to(torch.float64)[:, None]
    operator = FunctionOperator(lambda v: diagonal * v, (300, 300), torch.float64, "cpu", psd=True, trace=3.0)
    with pytest.raises(ArgumentError, match="expected a trace of at least"):
        eigenmodes(operator, 3)


def test_the_route_holds_for_operators_too():
    gram = GramOperator(features(SPECTRA["power law"], rows=200))
    foreign = FunctionOperator(gram._matmat, gram.shape, torch.float64, "cpu", psd=True)
    full, iterated = (eigenmodes(foreign, 2, block_size=3, route=route) for route in ("full", "lanczos"))
    assert (full.proof, full.passes) == ("full", 0)
    assert iterated.passes > 0
    assert_agree(iterated, full)
