"""Operators of other libraries: ours through theirs, theirs through ours, and the same eigenpairs either way."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse
import scipy.sparse.linalg
import torch

from ntkla import ArgumentError, DtypeError, NonFiniteError, ShapeError
from ntkla.linalg.eigenmodes import eigenmodes
from ntkla.linalg.kronecker import KroneckerGram
from ntkla.linalg.operators import FunctionOperator, GramOperator
from ntkla.linalg.softmax import SoftmaxGram
from ntkla.testing.spectra import normal, orthonormal_columns

K = 4


def decaying(rows, columns, ratio=0.7):
    rank = min(rows, columns)
    singular = ratio ** torch.arange(rank, dtype=torch.float64)
    return (orthonormal_columns(rows, rank, 1) * singular) @ orthonormal_columns(columns, rank, 2).T


FEATURES = decaying(300, 40)
PROBABILITIES = torch.softmax(4 * normal(60, 5, 3), 1)
OPERATORS = {
    "features": GramOperator(FEATURES),
    "bias": GramOperator(FEATURES, bias=True),
    "outputs": KroneckerGram(GramOperator(decaying(40, 30)), 3),
    "samples first": KroneckerGram(GramOperator(decaying(40, 30)), 3, "sample"),
    "cross-entropy": SoftmaxGram(GramOperator(decaying(60, 30)), PROBABILITIES),
}


def apart(residual, k, gap):
    """Davis and Kahan for two computed spans of k vectors, with half of the gap to spare for values and rounding."""
    return k * residual / (gap / 2)


def sine(one, other):
    """The sine of the largest principal angle between the spans of orthonormal columns."""
    return float(torch.linalg.matrix_norm(one - other @ (other.T @ one), 2))


@pytest.mark.parametrize("name", OPERATORS)
def test_eigsh_on_our_operator_agrees(name):
    operator = OPERATORS[name]
    k = 3 * K  # whole eigenspaces where every eigenvalue counts three times
    start = normal(operator.shape[0], 1, 5)[:, 0].numpy()
    values, vectors = scipy.sparse.linalg.eigsh(operator.to_scipy(), k=k, tol=0, v0=start)
    modes = eigenmodes(operator, k, prove=None)
    theirs, basis = torch.from_numpy(values).flip(0), torch.from_numpy(np.ascontiguousarray(vectors))
    residuals = torch.linalg.vector_norm(operator @ basis - basis * torch.from_numpy(values), dim=0)
    allowed = modes.value_error + residuals.max() + operator.error_bound(basis).max()
    assert ((modes.values - theirs).abs() <= allowed).all()
    following = eigenmodes(operator, k + 1)
    gap = float(theirs[-1] - following.values[-1] - following.value_error[-1])
    assert sine(modes.vectors, basis) <= apart(float(residuals.max() + modes.residual_norms.max()), k, gap)


FORMS = {
    "operator": scipy.sparse.linalg.aslinearoperator,
    "sparse matrix": scipy.sparse.csr_matrix,
    "integers": lambda gram: scipy.sparse.csr_matrix(np.diag(np.arange(len(gram), dtype=np.int64))),
    "float32": lambda gram: scipy.sparse.linalg.aslinearoperator(gram.astype(np.float32)),
}


@pytest.mark.parametrize("size", [60, 500])
@pytest.mark.parametrize("form", FORMS)
def test_an_operator_of_scipy(form, size):
    """By all of its products where it is small, by Lanczos where it is not."""
    gram = (decaying(size, 40) @ decaying(size, 40).T).numpy()
    operator = FORMS[form](gram)
    modes = eigenmodes(operator, K, block_size=2)
    dense = torch.from_numpy(np.array(operator @ np.eye(size), dtype=np.float64))
    exact = torch.linalg.eigvalsh((dense + dense.T) / 2).flip(0)[:K]
    slack = size * torch.finfo(torch.float32 if form == "float32" else torch.float64).eps * float(exact[0])
    assert ((modes.values - exact).abs() <= modes.value_error + slack).all()
    assert "as evaluated" in modes.status.message, "nothing is known of its rounding"
    assert not modes.status.certified
    assert (modes.proof == "full") == (size == 60)


def scipy_operator(matmat, dtype=np.float64):
    return scipy.sparse.linalg.LinearOperator((50, 50), matvec=matmat, matmat=matmat, dtype=dtype)


HABITS = {
    "writes into its argument": lambda x: np.multiply(x, 2.0, out=x),
    "returns its argument": lambda x: x,
    "returns a view that runs backwards": lambda x: np.array(x)[::-1].copy()[::-1],
    "returns what cannot be written": lambda x: np.broadcast_to(x, x.shape),
    "returns lists": lambda x: x.tolist(),
    "returns float32": lambda x: x.astype(np.float32).astype(np.float16),
}


@pytest.mark.parametrize("habit", HABITS)
def test_habits_of_scipy_operators_do_no_harm(habit):
    """Multiples of the identity, whatever happens to the arrays on the way."""
    modes = eigenmodes(scipy_operator(HABITS[habit]), K)
    factor = 2.0 if "writes" in habit else 1.0
    assert ((modes.values - factor).abs() <= modes.value_error).all()
    assert float(modes.value_error.max()) < 2.0**-10


@pytest.mark.parametrize(
    ("error", "operator"),
    [
        (DtypeError, scipy_operator(lambda x: x, complex)),
        (DtypeError, scipy.sparse.csr_matrix(1j * np.eye(50))),
        (DtypeError, scipy_operator(lambda x: None)),
        (DtypeError, scipy_operator(lambda x: x * 1j)),
        (ShapeError, scipy_operator(lambda x: x[:3])),
        (ShapeError, scipy.sparse.csr_matrix(np.ones((50, 3)))),
        (NonFiniteError, scipy_operator(lambda x: x * np.nan)),
    ],
)
def test_what_scipy_operators_do_wrong_is_named(error, operator):
    with pytest.raises(error):
        eigenmodes(operator, K)


def test_an_operator_of_linear_operator():
    """`I (x) G` as gpytorch's library writes it, at its own word of being positive semidefinite."""
    library = pytest.importorskip("linear_operator", reason="linear_operator is not installed")
    features = decaying(60, 40)
    gram = library.to_linear_operator(features @ features.T)
    unit = library.to_linear_operator(torch.eye(3, dtype=torch.float64))
    theirs = library.operators.KroneckerProductLinearOperator(unit, gram)
    operator = FunctionOperator(theirs.matmul, tuple(theirs.shape), torch.float64, "cpu", psd=True)
    ours = eigenmodes(KroneckerGram(GramOperator(features), 3), 9)
    for block in (1, 4):
        modes = eigenmodes(operator, 9, block_size=block)
        assert ((modes.values - ours.values).abs() <= modes.value_error + ours.value_error).all()
        gap = float(ours.values[-1] - ours.spectrum.upper[3])
        residual = float(modes.residual_norms.max() + ours.residual_norms.max())
        assert sine(modes.vectors, ours.vectors) <= apart(residual, 9, gap)


def test_an_operator_of_curvlinops():
    """Its Gauss-Newton matrix of a linear head under squared loss: the eigenvalues of G, once for each output."""
    library = pytest.importorskip("curvlinops", reason="curvlinops is not installed")
    features, outputs = decaying(50, 12), 3
    head = torch.nn.Linear(12, outputs, bias=False, dtype=torch.float64)
    data = [(features, normal(50, outputs, 6))]
    theirs = library.GGNLinearOperator(head, torch.nn.MSELoss(reduction="sum"), list(head.parameters()), data)
    operator = FunctionOperator(theirs.__matmul__, tuple(theirs.shape), torch.float64, "cpu", psd=True)
    modes = eigenmodes(operator, 6)
    # The squared loss without its half has twice the Hessian.
    ours = eigenmodes(KroneckerGram(GramOperator(features), outputs), 6)
    assert ((modes.values - 2 * ours.values).abs() <= modes.value_error + 2 * ours.value_error).all()
    assert [(c.start, c.stop) for c in modes.clusters] == [(0, 3), (3, 6)]


def test_a_sparse_matrix_tells_its_trace_and_must_be_symmetric():
    diagonal = np.array([4.0, 2.0, 1.0] + [1e-3] * 297)
    modes = eigenmodes(scipy.sparse.diags_array(diagonal), 3, block_size=2)
    assert modes.complete
    assert modes.proof == "trace"
    skew = scipy.sparse.csr_array((np.array([1.0]), (np.array([0]), np.array([1]))), shape=(300, 300))
    with pytest.raises(ArgumentError, match="differs from its transpose by 1"):
        eigenmodes(scipy.sparse.diags_array(diagonal) + skew, 3)
    with pytest.raises(NonFiniteError, match="expected finite entries"):
        eigenmodes(scipy.sparse.diags_array(np.array([1.0, np.inf])), 1)
    with pytest.raises(ShapeError, match="expected a sparse matrix"):
        eigenmodes(scipy.sparse.coo_array(np.ones(5)), 1)
    with pytest.raises(ShapeError, match="Sparse features are not taken"):
        eigenmodes(scipy.sparse.csr_array((100, 30)), 3)
