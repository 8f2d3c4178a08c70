"""Where the eigensolvers of others went wrong while they reported success: every case a test, with what was measured.

The spectra are exact: `H diag(s) H^T / n` with a Hadamard matrix H and dyadic s rounds nowhere, so a copy too many or
too few is seen without a tolerance.
"""

from __future__ import annotations

import math

import pytest
import torch

from ntkla.linalg.eigen.leading_enclosures import LeadingPairs
from ntkla.linalg.eigenmodes import eigenmodes
from ntkla.linalg.kronecker import KroneckerGram
from ntkla.linalg.operators import FunctionOperator, GramOperator
from ntkla.linalg.precision import UNIT_ROUNDOFF, gamma, norm_upper
from ntkla.linalg.softmax import SoftmaxGram
from ntkla.testing import hostile_states, planted_features
from ntkla.testing.planted import hadamard_basis
from ntkla.testing.spectra import generator, normal

COPIES = 10
# rank(G) = 24; three values lead.
FACTOR = [4.0, 2.0, 1.0] + [2.0**-j for j in range(3, 24)]
LEADING = torch.tensor(FACTOR[:3], dtype=torch.float64).repeat_interleave(COPIES)
NARROW = [torch.float32, torch.bfloat16]


def planted_matrix(n, values):
    """The matrix [n, n] with these eigenvalues and zeros; exact for dyadic values and n a power of two."""
    basis = hadamard_basis(n)[:, : len(values)]
    return (basis * torch.tensor(values, dtype=torch.float64)) @ basis.T / n


def operator_of(matrix, dtype=torch.float64, copies=1, **known):
    """`I_copies (x) matrix` as somebody else's operator: nobody knows that it is a Kronecker product."""
    stored = matrix.to(dtype)
    assert torch.equal(stored.double(), matrix), "the planted spectrum must be exact in this type"
    n = matrix.shape[0]

    def matmul(v):
        return (
            (stored @ v.reshape(copies, n, -1).transpose(0, 1).reshape(n, -1))
            .reshape(n, copies, -1)
            .transpose(0, 1)
            .reshape(copies * n, -1)
        )

    error = gamma(n + 2, UNIT_ROUNDOFF[dtype]) * float(norm_upper(matrix))
    known = {"matmul_error": error, "trace": copies * float(matrix.diagonal().sum()), **known}
    return FunctionOperator(matmul, (copies * n, copies * n), dtype, "cpu", psd=True, **known)


def assert_are(modes, exact):
    """The values are the exact ones, each copy counted, within the error that is proved."""
    assert (modes.values + modes.value_error >= exact).all(), str(modes)
    assert (modes.values - modes.value_error <= exact).all(), str(modes)


@pytest.mark.parametrize("block", [1, 8, 12])
@pytest.mark.parametrize("tol", [None, 1e-3])
def test_ten_copies_of_each_eigenvalue(block, tol):
    """hessian-eigenthings 1.0.0a5 finds 7 copies or 11, error 0.86 and 1.21; cola 0.86 and 0.47; eigsh(tol=1e-3) 0.86.

    All of them call most or all of the 30 pairs converged.
    """
    operator = operator_of(planted_matrix(128, FACTOR), copies=COPIES)
    modes = eigenmodes(operator, 3 * COPIES, block_size=block, tol=tol)
    assert modes.passes > 2, "the direct way would find them all"
    assert modes.converged
    assert_are(modes, LEADING)
    assert float(modes.value_error.max()) <= modes.tolerance * FACTOR[0]


@pytest.mark.parametrize("block", [1, 8, 12])
def test_ten_copies_in_single_precision(block):
    """hessian-eigenthings, float32, reorthogonalised: all converged, residual 0 reported and 0.71 true; eigsh 0.43."""
    matrix = planted_matrix(128, FACTOR[:8])
    modes = eigenmodes(operator_of(matrix, torch.float32, COPIES), 3 * COPIES, block_size=block)
    assert_are(modes, LEADING)
    assert 2 * float(modes.value_error.max()) < FACTOR[2], "the three are told apart, and from the fourth"
    vectors = modes.vectors.reshape(COPIES, 128, -1)
    residuals = torch.linalg.vector_norm(matrix @ vectors - vectors * modes.values, dim=(0, 1))
    assert (residuals <= modes.residual_norms).all()
    assert not modes.converged, "what float32 rounds off is more than the tolerance, and that is said"


@pytest.mark.parametrize("block", [1, 3, 12])
def test_ten_copies_of_features_are_proved(block):
    """The same as features, where the proof that there is no eleventh is one of them all."""
    features = torch.block_diag(*[planted_features(32, 32, [2.0, 1.0, 0.5, 0.25]) for _ in range(COPIES)])
    modes = eigenmodes(features, 3 * COPIES, route="lanczos", block_size=block, prove="inertia")
    assert modes.status.certified
    assert_are(modes, 1024.0 * torch.tensor([4.0, 1.0, 0.25], dtype=torch.float64).repeat_interleave(COPIES))
    assert modes.next_value_bound >= 64.0
    assert [c.start for c in modes.clusters] == [0, 10, 20]


def test_an_operator_of_small_norm():
    """linear_operator's `lanczos_tridiag` stops at 1e-6, absolutely: 1 of 8 eigenvalues of an operator of norm 2e-8."""
    values = [2.0**-26 * 2.0**-j for j in range(8)]
    modes = eigenmodes(operator_of(planted_matrix(256, values)), 8, block_size=1)
    assert modes.passes > 2
    assert_are(modes, torch.tensor(values, dtype=torch.float64))
    assert float(modes.value_error.max()) <= modes.tolerance * values[0]
    assert modes.status.certified


@pytest.mark.parametrize("scale", [2.0**-33, 2.0**-700, 2.0**200])
def test_no_fourth_eigenvalue_of_rank_three(scale):
    """hessian-eigenthings certifies a spurious fourth eigenvalue of a rank-3 operator scaled by 1e-10."""
    values = [3.0 * scale, 2.0 * scale, scale, 0.0]
    modes = eigenmodes(operator_of(planted_matrix(256, values)), 4, block_size=2)
    assert modes.status.certified
    assert_are(modes, torch.tensor(values, dtype=torch.float64))
    assert float(modes.values[3]) <= float(modes.value_error[3]) <= modes.tolerance * scale


@pytest.mark.parametrize("block", [1, 2])
def test_the_zero_operator(block):
    """linear_operator's `lanczos_tridiag` gives NaN."""
    modes = eigenmodes(operator_of(torch.zeros(256, 256, dtype=torch.float64)), 6, block_size=block)
    assert modes.status.certified
    assert modes.complete
    assert not modes.values.any()
    assert modes.next_value_bound == 0.0
    assert modes.orthogonality < modes.tolerance


def test_zero_features_and_a_head_without_doubt():
    features = torch.zeros(40, 50)
    confident = torch.eye(4, dtype=torch.float64).repeat(10, 1)
    for modes in (
        eigenmodes(features, 3, route="lanczos", block_size=2),
        eigenmodes(SoftmaxGram(GramOperator(normal(40, 50, 0)), confident), 3, block_size=1),
    ):
        assert modes.status.certified
        assert modes.complete
        assert not modes.values.any()


@pytest.mark.parametrize("dtype", [torch.float64, *NARROW])
def test_one_by_one(dtype):
    """linear_operator's `lanczos_tridiag` ends in an IndexError for n = 1."""
    modes = eigenmodes(FunctionOperator(lambda v: 3 * v, (1, 1), dtype, "cpu", psd=True, matmul_error=0.0), 1)
    assert_are(modes, torch.tensor([3.0], dtype=torch.float64))
    assert modes.status.certified
    assert modes.next_value_bound == 0.0


@pytest.mark.parametrize("rank", [1, 3, 31])
@pytest.mark.parametrize("route", ["full", "lanczos"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_low_rank_gram_matrices(rank, route, dtype):
    """cupy `eigsh`: low-rank Gram wrong (#5001), ghosts up to 1e306 (#10098); torch's `eigh` fails (#105359)."""
    features = planted_features(32, 64, [1.0 + j % 3 for j in range(rank)][::-1]).to(dtype)
    modes = eigenmodes(features, 5, route=route, **({"block_size": 2} if route == "lanczos" else {}))
    exact = 2048.0 * torch.tensor(sorted([1.0 + j % 3 for j in range(rank)] + [0.0] * 5), dtype=torch.float64) ** 2
    assert_are(modes, exact.flip(0)[:5])
    assert modes.converged
    assert modes.next_value_bound <= 2048.0 * 9.0 * rank


@pytest.mark.parametrize("seed", range(5))
def test_no_member_of_a_cluster_is_missed(seed):
    """scipy's ARPACK misses one while "converged" (#26112): here pairs that differ by 2^-46, and a close cluster."""
    split = 1.0 - 2.0**-46
    values = [1.0, split, 0.5, 0.5 * split, *[0.25 * (1 - 2.0**-10 * j) for j in range(6)], 2.0**-8]
    features = planted_matrix(64, values)
    modes = eigenmodes(features, 10, route="lanczos", block_size=1, prove="inertia", seed=seed)
    assert modes.status.certified
    assert_are(modes, torch.tensor(values[:10], dtype=torch.float64) ** 2)


@pytest.mark.parametrize("seed", [0, 300703, 543923])
@pytest.mark.parametrize("block", [1, 2])
def test_an_exact_multiple_of_the_identity(block, seed):
    """Every product leaves nothing: a basis that QR completes by one direction again and again is not orthogonal."""
    for features in (planted_features(64, 32, [1.0] * 32), planted_features(32, 64, [1.0] * 32)):
        modes = eigenmodes(features, (32 - 9 * block) // 2, route="lanczos", block_size=block, seed=seed)
        assert modes.converged
        assert_are(modes, torch.full_like(modes.values, float(features.shape[0] * features.shape[1])))


@pytest.mark.parametrize("seed", [0, 1, 604044])
def test_a_new_block_of_one_column_is_given_time(seed):
    """A random vector may have next to nothing of the copy that was missed and look settled after one product."""
    singular = [2.0 ** -(j // 3) for j in range(64)]
    modes = eigenmodes(planted_features(64, 64, singular), 7, route="lanczos", block_size=1, seed=seed, tol=1e-6)
    assert_are(modes, 4096.0 * torch.tensor(singular[:7], dtype=torch.float64) ** 2)


@pytest.mark.parametrize("noise", [1e-8, 1.0])
def test_a_product_that_is_never_twice_the_same_ends(noise):
    draws, columns = generator(0), []
    matrix = planted_matrix(512, FACTOR)

    def matmul(v):
        columns.append(v.shape[1])
        return (matrix @ v) * (1 + noise * torch.randn(v.shape, generator=draws, dtype=torch.float64))

    modes = eigenmodes(FunctionOperator(matmul, (512, 512), torch.float64, "cpu", psd=True), 4, block_size=2)
    assert sum(columns) <= 4 * 40 * (2 * 4 + 8 * 2), "four times the patience of one search"
    assert not modes.status.certified
    assert "as evaluated" in modes.status.message
    assert modes.complete is None


def test_products_beneath_the_range_end():
    """Products of subnormal size hold few bits, and no iteration makes more of them."""
    features = planted_features(64, 64, [2.0**-540] * 10 + [2.0**-541] * 54)
    modes = eigenmodes(features, 6, route="lanczos", block_size=2)
    assert not modes.complete
    assert modes.next_value_bound >= 0.0
    assert (modes.values + modes.value_error >= 2.0**-1068).all()


def test_many_outputs_cost_nothing():
    """n = 100, F = 768, C = 1000: the dense kernel takes 40 GB, the dense Jacobian 307 GB; G takes 0.08 MB."""
    modes = eigenmodes(KroneckerGram(GramOperator(normal(100, 768, 1)), 1000), 2500)
    assert modes.basis.shape == (100, 3)
    assert modes.status.certified
    assert modes.cut
    assert modes.clusters[-1].stop == 3000
    assert modes.next_value_bound >= float(modes.values[-1])
    assert torch.equal(modes.values[::1000], modes.factor.values)


@pytest.mark.parametrize("state", hostile_states())
def test_ambient_state_does_not_reach_lanczos(state):
    features, matrix = normal(40, 60, 2), planted_matrix(256, FACTOR)

    def both():
        on_features = eigenmodes(features, 4, route="lanczos", block_size=2, prove="inertia")
        return on_features, eigenmodes(operator_of(matrix), 4, block_size=2)

    plain = both()
    with hostile_states()[state]():
        inside = both()
    for before, within in zip(plain, inside, strict=True):
        assert within.passes > 2
        assert within.status.certified == before.status.certified
        assert ((within.values - before.values).abs() <= within.value_error + before.value_error).all()


def test_vectors_that_may_be_dependent_bound_nothing_from_above():
    ones = torch.ones(2, dtype=torch.float64)
    vectors = torch.zeros((4, 2), dtype=torch.float64)
    vectors[0] = 1.0
    pairs = LeadingPairs(vectors, ones, 0 * ones, 1.0, torch.ones(2, 2, dtype=torch.float64).fill_diagonal_(0.0), 0.0)
    assert pairs.outside(1, 0.0) == math.inf
    assert pairs.outside(2, 0.0) == math.inf
    assert torch.isinf(pairs.upper(1, 0.0)).all()
    assert (pairs.lower(2) <= torch.tensor([1.0, 0.0], dtype=torch.float64)).all()
