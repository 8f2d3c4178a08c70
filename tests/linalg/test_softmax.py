"""`SoftmaxGram` against dense forms, ball arithmetic and torch's own Hessian of the cross-entropy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import assume, example, given
from hypothesis import strategies as st
from scipy.sparse.linalg import eigsh

import ntkla
from ntkla.linalg import checks, errors, softmax_root
from ntkla.linalg.design import widened
from ntkla.linalg.operators import FunctionOperator, GramOperator
from ntkla.linalg.precision import NEGLIGIBLE, U64, norm_upper
from ntkla.linalg.softmax import SoftmaxGram
from ntkla.testing import Exact, ambient_state, ball_matrix, compare, compare_columns, design_matrix, hostile_states
from ntkla.testing.balls import flint
from ntkla.testing.spectra import DTYPES
from ntkla.testing.strategies import feature_specs, lengths

N, C = 7, 4


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=generator(seed), dtype=torch.float64, device="cpu")


def generator(seed: int) -> torch.Generator:
    return torch.Generator(device="cpu").manual_seed(seed)


FEATURES = normal(N, 5)


def probabilities(n: int, outputs: int, kind: str, seed: int = 0) -> torch.Tensor:
    """Rows of every kind that a softmax can leave, and some that it cannot; float64 [n, C]."""
    logits = normal(n, outputs, seed=seed)
    one_hot = torch.nn.functional.one_hot(logits.argmax(1), outputs).to(torch.float64)
    mixed = logits * 4.0 ** torch.arange(n, dtype=torch.float64)[:, None].clamp(max=4)
    rows = {
        "soft": torch.softmax(logits, 1),
        "uniform": torch.ones_like(logits),
        "confident": torch.softmax(30.0 * logits, 1),
        "mixed": torch.softmax(mixed, 1),
        "one-hot": one_hot,
        "zeros": torch.softmax(logits, 1) * (logits >= logits.median(1, keepdim=True).values),
        "nearly one-hot": one_hot + 1e-300 * torch.rand(n, outputs, generator=generator(seed), dtype=torch.float64),
        "subnormal": 5e-324 * torch.randint(1, 9, (n, outputs), generator=generator(seed)).to(torch.float64),
        "tiny": 1e-300 * torch.softmax(logits, 1),
        "huge": 1e70 * torch.softmax(logits, 1),
        "half": torch.nn.functional.one_hot(logits.argmax(1), outputs)
        + torch.eye(outputs).roll(1, 0)[logits.argmax(1)],
    }
    return rows[kind].to(torch.float64)


KINDS = (
    "soft", "uniform", "confident", "mixed", "one-hot", "zeros", "nearly one-hot", "subnormal", "tiny", "huge", "half"
)  # fmt: skip


def exact_root(p: torch.Tensor, order: str):
    """B [nC, nC] in balls: of each stored row over its exact sum."""
    n, outputs = p.shape
    rows, root = ball_matrix(p).tolist(), flint().arb_mat(n * outputs, n * outputs)
    for i, row in enumerate(rows):
        share = [entry / sum(row, flint().arb(0)) for entry in row]
        q = [entry.nonnegative_part().sqrt() for entry in share]
        for c in range(outputs):
            for e in range(outputs):
                at = (c * n + i, e * n + i) if order == "class" else (i * outputs + c, i * outputs + e)
                root[at] = (q[c] if c == e else 0) - share[c] * q[e]
    return root


def expanded(matrix, outputs: int, order: str):
    """I_C (x) matrix, or matrix (x) I_C, in balls."""
    rows, columns = matrix.nrows(), matrix.ncols()
    out = flint().arb_mat(rows * outputs, columns * outputs)
    for c in range(outputs):
        for i in range(rows):
            for j in range(columns):
                at = (c * rows + i, c * columns + j) if order == "class" else (i * outputs + c, j * outputs + c)
                out[at] = matrix[i, j]
    return out


def exact_factor(features: torch.Tensor, p: torch.Tensor, order: str, bias: bool = False):
    """H = B^T (I (x) Phi) in balls: the kernel is H H^T."""
    return exact_root(p, order).transpose() * expanded(design_matrix(features, bias), p.shape[1], order)


def exact_product(features, p, v, order, bias=False) -> Exact:
    def compute():
        factor = exact_factor(features, p, order, bias)
        return factor * (factor.transpose() * ball_matrix(v))

    return Exact(compute)


def exact_half(p: torch.Tensor, drift: torch.Tensor) -> Exact:
    def compute():
        balls = (exact_root(p, "sample").transpose() * ball_matrix(drift.reshape(-1))).entries()
        return flint().arb_mat(*drift.shape, balls)

    return Exact(compute)


def dense_root(p: torch.Tensor) -> torch.Tensor:
    """B, [n, C, C]."""
    q = p / p.sum(1, keepdim=True)
    return torch.diag_embed(q.sqrt()) - q[:, :, None] * q.sqrt()[:, None]


def dense(features: torch.Tensor, p: torch.Tensor, order: str) -> torch.Tensor:
    root, size = dense_root(p), p.numel()
    matrix = torch.einsum("icd,ij,jce->idje", root, features @ features.T, root)
    return (matrix.permute(1, 0, 3, 2) if order == "class" else matrix).reshape(size, size)


# --- what it is -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", ["class", "sample"])
@pytest.mark.parametrize("kind", KINDS[:6])
def test_it_is_its_dense_form(kind, order):
    p = probabilities(N, C, kind)
    operator, matrix = SoftmaxGram(GramOperator(FEATURES), p, order), dense(FEATURES, p, order)
    slack = operator.error_bound(torch.eye(N * C, dtype=torch.float64)) + 64 * U64 * norm_upper(FEATURES) ** 2
    assert operator.shape == (N * C, N * C)
    assert operator.dtype == torch.float64
    assert operator.psd
    assert operator.T is operator
    formed = operator.to_dense()
    assert torch.equal(formed, formed.T)
    assert ((formed - matrix).norm(dim=0) <= slack).all()
    assert ((operator @ torch.eye(N * C, dtype=torch.float64) - matrix).norm(dim=0) <= slack).all()
    v = normal(N * C, 3)
    assert torch.equal((operator @ v[:, 1].clone())[:, None], operator @ v[:, 1:2])
    assert (torch.linalg.eigvalsh(formed) >= -slack.norm()).all()


def test_orders_differ_by_a_permutation_only():
    p, v = probabilities(N, C, "mixed"), normal(N, C)
    by_class, by_sample = (SoftmaxGram(GramOperator(FEATURES), p, order) for order in ("class", "sample"))
    product = (by_class @ by_class.flattened(v)).reshape(C, N).T
    other = (by_sample @ by_sample.flattened(v)).reshape(N, C)
    assert (product - other).norm() <= 2 * by_sample.error_bound(by_sample.flattened(v))


@pytest.mark.parametrize("kind", ["soft", "confident", "zeros", "uniform"])
def test_it_has_the_spectrum_of_the_symmetric_root(kind):
    p = probabilities(N, C, kind)
    operator = SoftmaxGram(GramOperator(FEATURES), p, "sample")
    root = dense_root(p)
    values, vectors = torch.linalg.eigh(root @ root.mT)
    symmetric = vectors * values.clamp(min=0.0).sqrt()[:, None] @ vectors.mT
    gram = torch.kron(FEATURES @ FEATURES.T, torch.eye(C, dtype=torch.float64))
    whole = torch.block_diag(*symmetric)
    expected = torch.linalg.eigvalsh(whole @ gram @ whole)
    # The symmetric root of a matrix of rank C - 1 takes the root of a rounding.
    slack = (N * C) ** 2 * math.sqrt(U64) * float(norm_upper(FEATURES)) ** 2
    assert (torch.linalg.eigvalsh(operator.to_dense()) - expected).abs().max() <= slack


def test_it_is_the_gauss_newton_matrix_of_torchs_cross_entropy():
    """J B B^T J^T, of the same non-zero spectrum, is the Hessian in the head's weights."""
    features, weight, labels = FEATURES, normal(C, 5, seed=3), torch.arange(N) % C

    def loss(w: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.cross_entropy(features @ w.T, labels, reduction="sum")

    hessian = torch.func.hessian(loss)(weight).reshape(C * 5, C * 5)
    operator = SoftmaxGram(GramOperator(features), torch.softmax(features @ weight.T, 1), "class")
    slack = (N * C) ** 2 * U64 * float(norm_upper(features)) ** 2
    values = torch.linalg.eigvalsh(operator.to_dense()).flip(0)
    expected = torch.linalg.eigvalsh(hessian).flip(0)
    assert (values[: C * 5] - expected).abs().max() <= slack
    jacobian = torch.func.jacrev(lambda w: operator.flattened(features @ w.T))(weight).reshape(N * C, C * 5)
    halved = torch.stack([operator.flattened(operator.half(j)[0]) for j in jacobian.T.reshape(-1, C, N).mT], 1)
    assert (halved.T @ halved - hessian).abs().max() <= slack
    assert (halved @ halved.T - operator.to_dense()).abs().max() <= slack


def test_scipy_finds_its_eigenvalues():
    operator = SoftmaxGram(GramOperator(FEATURES), probabilities(N, C, "soft"))
    values = eigsh(operator.to_scipy(), k=5, return_eigenvectors=False, v0=np.ones(N * C) + np.arange(N * C))
    expected = torch.linalg.eigvalsh(operator.to_dense())[-5:].numpy()
    assert np.abs(np.sort(values) - expected).max() <= (N * C) ** 2 * U64 * expected.max()


def test_scaled_rows_are_the_same_operator():
    p, scale = probabilities(N, C, "soft"), 2.0 ** torch.tensor([0, 1, -3, 200, -900, 30, 7], dtype=torch.float64)
    operators = [SoftmaxGram(GramOperator(FEATURES), rows) for rows in (p, p * scale[:, None])]
    assert torch.equal(operators[0].root.roots ** 2 > 0.25, operators[1].root.roots ** 2 > 0.25)
    first, second = (operator @ normal(N * C) for operator in operators)
    assert (first - second).norm() <= 2 * operators[0].error_bound(normal(N * C))


# --- bounds ---------------------------------------------------------------------------------------------------------


@given(
    feature_specs(most=4), lengths(4), st.sampled_from(KINDS), st.sampled_from(("class", "sample")), st.integers(0, 99)
)
@example(ntkla.testing.FeatureSpec(3, 2), 3, "nearly one-hot", "class", 0)
@example(ntkla.testing.FeatureSpec(1, 1), 1, "soft", "class", 0)
def test_products_are_within_their_bound(spec, outputs, kind, order, seed):
    p = probabilities(spec.n, outputs, kind, seed)
    operator = SoftmaxGram(GramOperator(spec.tensor, bias=bool(seed % 2)), p, order)
    v = normal(operator.shape[1], 2, seed=seed)
    exact = exact_product(spec.tensor, p, v, order, bias=bool(seed % 2))
    verdict = compare_columns(operator @ v, operator.error_bound(v), exact)
    assert verdict.sound, str(verdict)


@given(lengths(5), lengths(5), st.sampled_from(KINDS), st.integers(0, 99), st.sampled_from((1.0, 1e-300, 1e70)))
def test_half_is_within_its_bound(n, outputs, kind, seed, scale):
    p, drift = probabilities(n, outputs, kind, seed), normal(n, outputs, seed=seed) * scale
    error = drift.abs() * 10.0 ** -(seed % 7)
    operator = SoftmaxGram(GramOperator(normal(n, 1)), p)
    value, bound = operator.half(drift)
    verdict = compare(value, bound, exact_half(p, drift))
    assert verdict.sound, str(verdict)
    moved = drift + error * (1 - 4 * U64) * torch.sign(normal(n, outputs, seed=seed + 1))
    verdict = compare(value, operator.half(drift, error)[1], exact_half(p, moved))
    assert verdict.sound, str(verdict)


@given(feature_specs(most=5, extreme=True), lengths(4), st.sampled_from(KINDS), st.integers(0, 9))
def test_the_trace_is_enclosed(spec, outputs, kind, seed):
    assume(bool(torch.isfinite(spec.tensor).all()))  # the largest scale overflows float32 in some twists
    p = probabilities(spec.n, outputs, kind, seed)
    operator = SoftmaxGram(GramOperator(spec.tensor), p)
    low, high = operator.trace_bounds()

    def compute():
        entries = exact_factor(spec.tensor, p, "class").entries()
        return flint().arb_mat([[sum((entry * entry for entry in entries), flint().arb(0))]])

    middle = torch.tensor([[operator.trace()]], dtype=torch.float64)
    verdict = compare(
        middle, torch.full_like(middle, max(high - operator.trace(), operator.trace() - low)), Exact(compute)
    )
    assert verdict.sound, str(verdict)
    assert 0.0 <= low <= operator.trace() <= high
    # A thousand roundings, and what tiny probabilities and the squares of tiny features lose to underflow.
    assert high - low <= 1024 * U64 * high + NEGLIGIBLE * (1.0 + float(norm_upper(widened(spec.tensor)))) ** 2


def test_bounds_are_tight_within_a_stated_factor():
    """Bounds count every rounding and use Cauchy-Schwarz: the true error is within a factor of 2000 somewhere."""
    products, halves = 0.0, 0.0
    for seed in range(10):
        p, features = probabilities(3, 2, "soft", seed), normal(3, 1, seed=seed)
        operator, v = SoftmaxGram(GramOperator(features), p), normal(6, 4, seed=seed)
        verdict = compare_columns(operator @ v, operator.error_bound(v), exact_product(features, p, v, "class"))
        products = max(products, verdict.largest_ratio)
        value, bound = operator.half(normal(3, 2, seed=seed))
        halves = max(halves, compare(value, bound, exact_half(p, normal(3, 2, seed=seed))).largest_ratio)
    assert products > 1 / 2000
    assert halves > 1 / 200


def test_a_planted_error_is_caught():
    p, v = probabilities(3, 2, "soft"), normal(6, 1)
    operator, exact = SoftmaxGram(GramOperator(FEATURES[:3]), p), exact_product(FEATURES[:3], p, v, "class")
    assert not compare_columns(operator @ v, operator.error_bound(v) * 1e-4, exact).sound
    assert not compare_columns((operator @ v) * (1 + 1e-8), operator.error_bound(v), exact).sound
    value, bound = operator.half(v.reshape(3, 2))
    assert not compare(value * (1 + 1e-8), bound, exact_half(p, v.reshape(3, 2))).sound


@pytest.mark.parametrize("distance", [1e-3, 1e-8, 1e-12, 1e-15, 1e-100])
def test_confident_predictions_lose_nothing(distance):
    """The bound of a product shrinks with the operator, as the distance of p from one-hot does."""
    p = torch.full((N, C), distance, dtype=torch.float64)
    p[torch.arange(N), torch.arange(N) % C] = 1.0
    operator, v = SoftmaxGram(GramOperator(FEATURES), p), normal(N * C)
    trace = operator.trace()
    assert trace <= 2 * C * distance * float(norm_upper(FEATURES)) ** 2
    assert operator.error_bound(v) <= 2**13 * U64 * trace * norm_upper(v)
    verdict = compare_columns(
        (operator @ v)[:, None], operator.error_bound(v)[None], exact_product(FEATURES, p, v, "class")
    )
    assert verdict.sound, str(verdict)


@pytest.mark.parametrize(("n", "outputs", "kind"), [(1, 1, "soft"), (5, 1, "soft"), (4, 3, "one-hot")])
def test_where_no_probability_can_move_it_is_zero(n, outputs, kind):
    operator, drift = SoftmaxGram(GramOperator(normal(n, 2)), probabilities(n, outputs, kind)), normal(n, outputs)
    v = operator.flattened(drift)
    assert not (operator @ v).any()
    assert operator.error_bound(v) <= NEGLIGIBLE
    assert operator.trace_bounds() == (0.0, 0.0)
    assert not any(part.any() for part in operator.half(drift, drift.abs()))


def test_many_outputs_and_blocks_of_samples(monkeypatch):
    p, v = probabilities(6, 1000, "soft"), normal(6000, 2)
    operator = SoftmaxGram(GramOperator(normal(6, 3)), p)
    whole, bound = operator @ v, operator.error_bound(v)
    assert (bound <= 2**12 * U64 * operator.trace() * norm_upper(v)).all()
    monkeypatch.setattr(softmax_root, "_BLOCK_ENTRIES", 4000)
    assert torch.equal(operator @ v, whole)


@pytest.mark.parametrize("state", hostile_states())
@pytest.mark.parametrize("kind", ["soft", "subnormal", "nearly one-hot"])
def test_ambient_state_breaks_no_bound_and_is_left_alone(state, kind):
    p, features, v = probabilities(3, 3, kind), normal(3, 2).float(), normal(9, 2)
    drift = v[:, 0].reshape(3, 3).clone()
    with hostile_states()[state]():
        before = ambient_state()
        operator = SoftmaxGram(GramOperator(features), p, "sample")
        product, bound, formed, (value, error) = (
            operator @ v,
            operator.error_bound(v),
            operator.to_dense(),
            operator.half(drift),
        )
        bounds = operator.trace_bounds()
        assert ambient_state() == before
    verdict = compare_columns(product, bound, exact_product(features, p, v, "sample"))
    assert verdict.sound, str(verdict)
    verdict = compare(value, error, exact_half(p, drift))
    assert verdict.sound, str(verdict)
    assert abs(float(formed.trace()) - bounds[0]) <= 1024 * U64 * bounds[1] + NEGLIGIBLE


@pytest.mark.parametrize("dtype", sorted(DTYPES))
def test_probabilities_of_any_type_are_taken_as_stored(dtype):
    p = probabilities(N, C, "soft").to(DTYPES[dtype])
    operator, wide = (SoftmaxGram(GramOperator(FEATURES), rows) for rows in (p, widened(p)))
    assert torch.equal(operator @ normal(N * C), wide @ normal(N * C))


def test_a_gram_matrix_that_somebody_else_brings():
    matrix, p, v = FEATURES @ FEATURES.T, probabilities(N, C, "soft"), normal(N * C)
    foreign = FunctionOperator(lambda x: matrix @ x, (N, N), torch.float64, "cpu", psd=True, trace=1.0)
    operator, own = SoftmaxGram(foreign, p), SoftmaxGram(GramOperator(FEATURES), p)
    assert (operator @ v - own @ v).norm() <= 2 * own.error_bound(v) + N * U64 * matrix.norm() * v.norm()
    assert torch.isinf(operator.error_bound(v))
    assert operator.trace() is None
    assert operator.trace_bounds() is None


def test_an_infinite_bound_of_a_drift_stays_where_it_can_matter():
    p = torch.tensor([[0.5, 0.5, 0.0], [1.0, 0.0, 0.0], [0.25, 0.5, 0.25]])
    error = torch.zeros(3, 3, dtype=torch.float64)
    error[0, 2] = error[1, 1] = error[2, 0] = math.inf
    value, bound = SoftmaxGram(GramOperator(FEATURES[:3]), p).half(normal(3, 3), error)
    assert torch.isfinite(value).all()
    assert not bound.isnan().any()
    assert torch.isfinite(bound[:2]).all()
    assert torch.isinf(bound[2]).all()


# --- what is refused ------------------------------------------------------------------------------------------------

GRAM, P = GramOperator(FEATURES), probabilities(N, C, "soft")
INDEFINITE = FunctionOperator(lambda v: v, (N, N), torch.float64, "cpu")
NARROW = FunctionOperator(lambda v: v, (N, N), torch.float32, "cpu", psd=True)
OPERATOR = SoftmaxGram(GRAM, P)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: SoftmaxGram(FEATURES, P), errors.DtypeError, "gram: expected an operator, got Tensor. Wrap it"),
        (lambda: SoftmaxGram(INDEFINITE, P), errors.ArgumentError, "positive semidefinite"),
        (lambda: SoftmaxGram(NARROW, P), errors.DtypeError, "gram: expected an operator in float64, got torch.float32"),
        (lambda: SoftmaxGram(GRAM, P[:3]), errors.ShapeError, "probabilities: expected 7 rows, got 3"),
        (lambda: SoftmaxGram(GRAM, P[:, 0]), errors.ShapeError, "probabilities: expected two dimensions"),
        (lambda: SoftmaxGram(GRAM, P[:, :0]), errors.ShapeError, "at least one row and one column"),
        (lambda: SoftmaxGram(GRAM, P.numpy()), errors.DtypeError, "probabilities: expected a torch.Tensor"),
        (lambda: SoftmaxGram(GRAM, P.to(torch.int64)), errors.DtypeError, "probabilities: .*int64"),
        (lambda: SoftmaxGram(GRAM, P * math.nan), errors.NonFiniteError, "probabilities: expected finite"),
        (lambda: SoftmaxGram(GRAM, P / 0), errors.NonFiniteError, "probabilities: expected finite"),
        (lambda: SoftmaxGram(GRAM, P * 1e200), errors.ScaleError, "probabilities: .*power of two"),
        (lambda: SoftmaxGram(GRAM, P - 0.5), errors.ArgumentError, "probabilities: .*negative one in row 0. Logits?"),
        (lambda: SoftmaxGram(GRAM, -5e-324 * P.ceil()), errors.ArgumentError, "probabilities: .*negative"),
        (lambda: SoftmaxGram(GRAM, P * (torch.arange(N) != 2)[:, None]), errors.ArgumentError, "zeros in row 2"),
        (lambda: SoftmaxGram(GRAM, P.to("meta")), errors.DeviceError, "meta"),
        (lambda: SoftmaxGram(GRAM, P, "row"), errors.ArgumentError, "order: expected one of"),
        (lambda: OPERATOR @ normal(N), errors.ShapeError, "expected 28 rows, got 7"),
        (lambda: OPERATOR.half(P.T), errors.ShapeError, "drift: expected 7 rows, got 4"),
        (lambda: OPERATOR.half(P[:, :2]), errors.ShapeError, "drift: expected 4 columns, got 2"),
        (lambda: OPERATOR.half(P, P[:, :2]), errors.ShapeError, r"error_bound: expected \(7, 4\), as the drift"),
        (lambda: OPERATOR.half(P, -P), errors.ArgumentError, "error_bound: expected bounds >= 0"),
        (lambda: OPERATOR.half(P, P * math.nan), errors.NonFiniteError, "error_bound: expected bounds, got NaN"),
        (lambda: OPERATOR.half(P, 0.0), errors.DtypeError, "error_bound: expected a float64"),
    ],
)
def test_bad_input_is_named(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_a_dense_form_that_does_not_fit_is_refused(monkeypatch):
    monkeypatch.setattr(checks, "available_memory", lambda device: 8 * 28 * 28)
    with pytest.raises(errors.MemoryEstimateError, match="to_dense"):
        OPERATOR.to_dense()


def test_gradients_end_at_the_door():
    operator = SoftmaxGram(GRAM, P.clone().requires_grad_())
    assert not (operator @ normal(N * C).requires_grad_()).requires_grad
    assert not operator.half(normal(N, C).requires_grad_())[0].requires_grad
