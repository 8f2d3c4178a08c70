"""Operators against their dense forms, their rounding bounds against ball arithmetic, and what they refuse."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import assume, example, given
from hypothesis import strategies as st
from scipy.sparse.linalg import eigsh

from ntkla.linalg import checks, errors
from ntkla.linalg.design import widened
from ntkla.linalg.kronecker import KroneckerGram
from ntkla.linalg.linear_operator import LinearOperator
from ntkla.linalg.operators import CrossGram, FunctionOperator, GramOperator
from ntkla.linalg.precision import U64, norm_upper
from ntkla.testing import FeatureSpec, ambient_state, hostile_states
from ntkla.testing.balls import Exact, ball_matrix, design_matrix
from ntkla.testing.strategies import feature_specs, lengths
from ntkla.testing.violations import compare_columns


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    generator = torch.Generator(device="cpu").manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64, device="cpu").to(dtype)


def dense(left: torch.Tensor, right: torch.Tensor, bias: bool = False) -> torch.Tensor:
    return widened(left) @ widened(right).T + float(bias)


def function_operator(matrix: torch.Tensor, **known: object) -> FunctionOperator:
    return FunctionOperator(lambda v: matrix @ v, matrix.shape, matrix.dtype, matrix.device, **known)


FEATURES = normal(7, 4)
OTHERS = normal(5, 4, seed=1)
SYMMETRIC = FEATURES @ FEATURES.T
KRONECKERS = {
    f"kronecker {order} {outputs}": (
        KroneckerGram(GramOperator(FEATURES, bias=True), outputs, order),
        torch.kron(
            *(
                (torch.eye(outputs, dtype=torch.float64), dense(FEATURES, FEATURES, True))[
                    :: 1 if order == "class" else -1
                ]
            )
        ),
    )
    for order in ("class", "sample")
    for outputs in (1, 3)
}
REGISTRY: dict[str, tuple[LinearOperator, torch.Tensor]] = {
    "gram": (GramOperator(FEATURES), dense(FEATURES, FEATURES)),
    "gram bias": (GramOperator(FEATURES, bias=True), dense(FEATURES, FEATURES, True)),
    "gram bfloat16": (GramOperator(FEATURES.bfloat16()), dense(FEATURES.bfloat16(), FEATURES.bfloat16())),
    "gram transposed": (GramOperator(FEATURES.T), dense(FEATURES.T, FEATURES.T)),
    "gram one by one": (GramOperator(FEATURES[:1, :1]), dense(FEATURES[:1, :1], FEATURES[:1, :1])),
    "gram of many blocks": (
        GramOperator(normal(3000, 2).float()),
        dense(normal(3000, 2).float(), normal(3000, 2).float()),
    ),
    "cross": (CrossGram(FEATURES, OTHERS), dense(FEATURES, OTHERS)),
    "cross bias float32": (
        CrossGram(FEATURES.float(), OTHERS.float(), True),
        dense(FEATURES.float(), OTHERS.float(), True),
    ),
    "cross transposed": (CrossGram(FEATURES, OTHERS, True).T, dense(OTHERS, FEATURES, True)),
    "function": (function_operator(SYMMETRIC, psd=True, matmul_error=float(U64 * 100)), SYMMETRIC),
    "function wide": (function_operator(OTHERS), OTHERS),
    **KRONECKERS,
}


@pytest.mark.parametrize("name", REGISTRY)
def test_an_operator_is_its_dense_form(name):
    operator, matrix = REGISTRY[name]
    slack = norm_upper(matrix) * matrix.shape[1] * 16 * U64  # of the dense reference and of what is compared with it
    assert operator.shape == matrix.shape
    assert (operator.dtype, operator.device.type) == (torch.float64, "cpu")
    assert_close(operator.to_dense(), matrix, slack)
    for v in (
        normal(matrix.shape[1]),
        normal(matrix.shape[1], 1),
        normal(matrix.shape[1], 3),
        normal(3, matrix.shape[1]).T,
    ):
        product = operator @ v
        assert product.shape == (matrix.shape[0], *v.shape[1:])
        assert product.dtype == torch.float64
        assert_close(product, matrix @ v, slack * norm_upper(v))
        narrow = operator @ v.bfloat16()
        assert_close(narrow, matrix @ v.bfloat16().double(), slack * norm_upper(v))
    assert f"{matrix.shape[0]} x {matrix.shape[1]}" in repr(operator)


def assert_close(computed: torch.Tensor, reference: torch.Tensor, slack: torch.Tensor) -> None:
    assert float((computed - reference).abs().max()) <= float(slack)


@pytest.mark.parametrize("name", [name for name in REGISTRY if name != "function wide"])
def test_transpose_adjoint_and_trace(name):
    operator, matrix = REGISTRY[name]
    slack = norm_upper(matrix) * matrix.shape[1] * 16 * U64
    assert_close(operator.T.to_dense(), matrix.T, slack)
    assert_close(
        operator.mH @ normal(matrix.shape[0]),
        matrix.T @ normal(matrix.shape[0]),
        slack * norm_upper(normal(matrix.shape[0])),
    )
    if matrix.shape[0] == matrix.shape[1] and name != "function":
        assert abs(operator.trace() - float(matrix.trace())) <= float(slack)


@pytest.mark.parametrize("name", [name for name in REGISTRY if "gram" in name or "kronecker" in name])
def test_symmetric_operators_are_exactly_symmetric(name):
    operator, _ = REGISTRY[name]
    assert operator.psd
    assert operator.T is operator
    whole = operator.to_dense()
    assert torch.equal(whole, whole.T)


def test_kronecker_orders_differ_by_a_permutation_only():
    gram = GramOperator(FEATURES)
    v = normal(7 * 3, 2)
    by_class = KroneckerGram(gram, 3, "class") @ v.reshape(7, 3, 2).transpose(0, 1).reshape(21, 2)
    by_sample = KroneckerGram(gram, 3, "sample") @ v
    assert_close(
        by_class.reshape(3, 7, 2).transpose(0, 1).reshape(21, 2),
        by_sample,
        norm_upper(SYMMETRIC) * norm_upper(v) * 64 * U64,
    )


def test_kronecker_never_forms_the_gram_matrix():
    # 200,000 samples: G alone would take 320 GB, the kernel for 5 outputs 8 TB.
    operator = KroneckerGram(GramOperator(normal(200_000, 2).float()), 5)
    assert operator.shape == (1_000_000, 1_000_000)
    assert torch.isfinite(operator @ torch.ones(1_000_000, dtype=torch.float64)).all()
    assert operator.trace() > 0


def test_trace_is_unknown_where_nobody_said_it():
    assert function_operator(SYMMETRIC).trace() is None
    assert KroneckerGram(function_operator(SYMMETRIC), 4).trace() is None
    assert KroneckerGram(function_operator(SYMMETRIC, trace=2.5), 4).trace() == 10.0


def test_kronecker_of_an_operator_that_is_not_symmetric():
    square = normal(4, 4)
    operator = KroneckerGram(CrossGram(square, OTHERS[:4]), 2)
    assert not operator.psd
    assert torch.equal(operator.T.to_dense(), torch.kron(torch.eye(2, dtype=torch.float64), OTHERS[:4] @ square.T))


# --- rounding -------------------------------------------------------------------------------------------------------


def exact_product(left: torch.Tensor, right: torch.Tensor, v: torch.Tensor, bias: bool) -> Exact:
    return Exact(lambda: design_matrix(left, bias) * (design_matrix(right, bias).transpose() * ball_matrix(v)))


@given(feature_specs(extreme=True), st.booleans(), st.integers(0, 3), st.sampled_from((1.0, 1e-300, 1e30)))
@example(FeatureSpec(9, 9, dtype="float32", scale=1e-40), False, 0, 1e-300)
def test_gram_error_bound_is_never_exceeded(spec, bias, seed, scale):
    assume(bool(torch.isfinite(spec.tensor).all()))  # the largest scale overflows float32 in some twists
    v = normal(spec.n, 2, seed=seed) * scale
    operator = GramOperator(spec.tensor, bias=bias)
    verdict = compare_columns(operator @ v, operator.error_bound(v), exact_product(spec.tensor, spec.tensor, v, bias))
    assert verdict.sound, str(verdict)


@given(feature_specs(features=5), feature_specs(features=5), st.booleans())
def test_cross_error_bound_is_never_exceeded(left, right, bias):
    x, y = left.tensor, right.tensor.to(left.tensor.dtype)
    v = normal(y.shape[0], 3)
    operator = CrossGram(x, y, bias)
    verdict = compare_columns(operator @ v, operator.error_bound(v), exact_product(x, y, v, bias))
    assert verdict.sound, str(verdict)


@given(feature_specs(most=5), lengths(3), st.sampled_from(("class", "sample")))
def test_kronecker_error_bound_is_never_exceeded(spec, outputs, order):
    operator = KroneckerGram(GramOperator(spec.tensor), outputs, order)
    v = normal(operator.shape[1], 2)
    samples = v.reshape(outputs, spec.n, 2).transpose(0, 1) if order == "class" else v.reshape(spec.n, outputs, 2)
    exact = exact_product(spec.tensor, spec.tensor, samples.reshape(spec.n, -1), False)
    product = operator @ v
    shaped = product.reshape(outputs, spec.n, 2).transpose(0, 1) if order == "class" else product
    bounds = operator.error_bound(v).repeat(outputs)  # the whole column's bound holds for the part of each output
    verdict = compare_columns(shaped.reshape(spec.n, -1), bounds, exact)
    assert verdict.sound, str(verdict)


def test_the_error_bound_is_tight_within_a_stated_factor():
    # Entries of one sign and rank one leave Cauchy-Schwarz nothing to lose: what remains is the gap between
    # worst-case and actual rounding, at most the number of summands.
    x = normal(40, 1).abs() @ normal(1, 30).abs()
    v = normal(40, 1).abs()
    operator = GramOperator(x)
    verdict = compare_columns(operator @ v, operator.error_bound(v), exact_product(x, x, v, False))
    assert verdict.sound
    assert verdict.largest_ratio > 1 / (40 * 30)


def test_a_bound_scaled_down_is_caught():
    x, v = normal(40, 30), normal(40, 1)
    operator = GramOperator(x)
    exact = exact_product(x, x, v, False)
    assert not compare_columns(operator @ v, operator.error_bound(v) * 1e-3, exact).sound
    assert not compare_columns((operator @ v) * (1 + 1e-8), operator.error_bound(v), exact).sound


@pytest.mark.parametrize("state", hostile_states())
def test_ambient_state_breaks_no_bound_and_is_left_alone(state):
    spec = FeatureSpec(300, 5, dtype="float32", scale=1e-40)
    v = normal(300, 2)
    with hostile_states()[state]():
        before = ambient_state()
        operator = GramOperator(spec.tensor, bias=True)
        product, bound, whole = operator @ v, operator.error_bound(v), operator.to_dense()
        assert ambient_state() == before
    assert whole.dtype == torch.float64
    verdict = compare_columns(product, bound, exact_product(spec.tensor, spec.tensor, v, True))
    assert verdict.sound, str(verdict)


def test_function_operator_bounds_are_its_owners_word():
    v = normal(7, 2)
    told = function_operator(SYMMETRIC, matmul_error=0.5).error_bound(v)
    assert (told >= 0.5 * torch.linalg.vector_norm(v, dim=0)).all()
    assert (told <= 0.5 * norm_upper(v, dim=0) * (1 + 128 * U64)).all()
    assert torch.isinf(function_operator(SYMMETRIC).error_bound(v[:, 0]))


# --- scipy ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", REGISTRY)
def test_scipy_sees_the_same_matrix(name):
    operator, matrix = REGISTRY[name]
    foreign = operator.to_scipy()
    slack = float(norm_upper(matrix) * matrix.shape[1] * 64 * U64)
    block = normal(matrix.shape[1], 2).numpy()
    assert foreign.shape == tuple(matrix.shape)
    assert foreign.dtype == np.float64
    assert np.abs(foreign @ block - matrix.numpy() @ block).max() <= slack * np.linalg.norm(block)
    backwards = block[::-1, 0]
    assert np.abs(foreign @ backwards - matrix.numpy() @ backwards).max() <= slack * np.linalg.norm(block)
    if name != "function wide":
        w = normal(matrix.shape[0]).numpy()
        assert np.abs(foreign.H @ w - matrix.numpy().T @ w).max() <= slack * np.linalg.norm(w)


def test_scipy_finds_the_eigenvalues_of_a_gram_operator():
    values = eigsh(GramOperator(normal(60, 4)).to_scipy(), k=4, return_eigenvectors=False, v0=np.ones(60))
    exact = torch.linalg.svdvals(normal(60, 4)) ** 2
    assert np.abs(np.sort(values)[::-1] - exact.numpy()).max() <= float(exact[0]) * 60**2 * U64


def test_scipy_gets_the_operators_own_dtype():
    operator = FunctionOperator(lambda v: 2 * v, (3, 3), torch.float32, "cpu", psd=True)
    assert (operator.to_scipy() @ np.ones(3)).dtype == np.float32
    with pytest.raises(errors.DtypeError, match="numpy has no bfloat16"):
        FunctionOperator(lambda v: v, (3, 3), torch.bfloat16, "cpu").to_scipy()


# --- what is refused ------------------------------------------------------------------------------------------------

META = torch.empty(4, device="meta", dtype=torch.float64)


@pytest.mark.parametrize(
    ("v", "error", "message"),
    [
        (torch.ones(3, dtype=torch.float64), errors.ShapeError, "expected 7 rows, got 3"),
        (torch.ones(7, 2, 2, dtype=torch.float64), errors.ShapeError, r"\[7\] or \[7, m\]"),
        (torch.ones(7, 0, dtype=torch.float64), errors.ShapeError, "at least one row and one column"),
        (torch.tensor(1.0), errors.ShapeError, r"got \(\)"),
        (torch.ones(7, dtype=torch.int64), errors.DtypeError, "int64"),
        (torch.ones(7, dtype=torch.complex128), errors.DtypeError, "complex128"),
        (np.ones(7), errors.DtypeError, "expected a torch.Tensor, got ndarray"),
        (torch.full((7,), torch.nan), errors.NonFiniteError, "7 NaN or infinite of 7"),
        (torch.full((7,), torch.inf), errors.NonFiniteError, "NaN or infinite"),
        (torch.full((7,), 1e200, dtype=torch.float64), errors.ScaleError, "power of two"),
        (torch.ones(7, dtype=torch.float64, device="meta"), errors.DeviceError, "meta"),
        (torch.ones(7).to_sparse(), errors.DtypeError, "to_dense"),
    ],
)
@pytest.mark.parametrize("use", ["product", "error_bound"])
def test_vectors_that_do_not_fit(v, error, message, use):
    operator = GramOperator(FEATURES)
    with pytest.raises(error, match=message):
        operator @ v if use == "product" else operator.error_bound(v)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: GramOperator(FEATURES.tolist()), errors.DtypeError, "features: expected a torch.Tensor"),
        (lambda: GramOperator(FEATURES[0]), errors.ShapeError, "two dimensions"),
        (lambda: GramOperator(FEATURES[:0]), errors.ShapeError, "at least one row"),
        (lambda: GramOperator(FEATURES * torch.nan), errors.NonFiniteError, "features"),
        (lambda: GramOperator(FEATURES, bias=torch.ones(3)), errors.ArgumentError, "bias: expected True or False"),
        (lambda: CrossGram(FEATURES, OTHERS[:, :3]), errors.ShapeError, "features_right: expected 4 columns, got 3"),
        (lambda: CrossGram(FEATURES, OTHERS.float()), errors.DtypeError, "features_right torch.float32"),
        (lambda: CrossGram(FEATURES, OTHERS.to("meta")), errors.DeviceError, "meta"),
        (lambda: CrossGram(FEATURES, OTHERS).trace(), errors.ShapeError, "expected a square operator"),
        (lambda: KroneckerGram(FEATURES, 3), errors.DtypeError, "Wrap it"),
        (lambda: KroneckerGram(CrossGram(FEATURES, OTHERS), 3), errors.ShapeError, "square"),
        (lambda: KroneckerGram(GramOperator(FEATURES), 0), errors.ArgumentError, "outputs: expected an integer >= 1"),
        (lambda: KroneckerGram(GramOperator(FEATURES), 2.0), errors.ArgumentError, "outputs: expected an integer"),
        (lambda: KroneckerGram(GramOperator(FEATURES), 2, "C"), errors.ArgumentError, "order: expected one of"),
        (lambda: FunctionOperator(FEATURES, (7, 4), torch.float64, "cpu"), errors.DtypeError, "expected a function"),
        (lambda: FunctionOperator(abs, 7, torch.float64, "cpu"), errors.ShapeError, "two lengths"),
        (lambda: FunctionOperator(abs, (7, 0), torch.float64, "cpu"), errors.ArgumentError, "shape"),
        (lambda: FunctionOperator(abs, (7, 7), torch.int32, "cpu"), errors.DtypeError, "int32"),
        (lambda: FunctionOperator(abs, (7, 7), torch.float64, "abacus"), errors.DeviceError, "device.*'abacus'"),
        (lambda: FunctionOperator(abs, (7, 7), torch.float64, None), errors.DeviceError, "device.*None"),
        (lambda: FunctionOperator(abs, (7, 4), torch.float64, "cpu", psd=True), errors.ShapeError, "square"),
        (lambda: FunctionOperator(abs, (7, 7), torch.float64, "cpu", trace=torch.nan), errors.ArgumentError, "trace"),
        (
            lambda: FunctionOperator(abs, (7, 7), torch.float64, "cpu", psd=True, trace=-1),
            errors.ArgumentError,
            "trace",
        ),
        (lambda: FunctionOperator(abs, (7, 7), torch.float64, "cpu", matmul_error=-1), errors.ArgumentError, ">= 0"),
        (lambda: function_operator(SYMMETRIC).T, errors.ArgumentError, "the transpose is not known"),
    ],
)
def test_operators_that_cannot_be_built(make, error, message):
    with pytest.raises(error, match=message):
        make()


@pytest.mark.parametrize(
    ("matmul", "error", "message"),
    [
        (lambda v: v[:2], errors.ShapeError, "expected 3 rows, got 2"),
        (lambda v: v[:, :1], errors.ShapeError, "expected 2 columns, got 1"),
        (lambda v: v.double(), errors.DtypeError, "to return torch.float32, got torch.float64"),
        (lambda v: v / 0, errors.NonFiniteError, "matmul"),
        (lambda v: v.numpy(), errors.DtypeError, "expected a torch.Tensor"),
        (lambda v: v.to("meta"), errors.DeviceError, "meta"),
    ],
)
def test_a_foreign_function_that_breaks_its_contract(matmul, error, message):
    operator = FunctionOperator(matmul, (3, 3), torch.float32, "cpu")
    with pytest.raises(error, match=message):
        operator @ torch.ones(3, 2, dtype=torch.float32)


def test_a_vector_that_would_be_rounded_is_refused():
    operator = FunctionOperator(lambda v: v, (3, 3), torch.float32, "cpu")
    with pytest.raises(errors.DtypeError, match="would be rounded"):
        operator @ torch.ones(3, dtype=torch.float64)


@pytest.mark.parametrize(
    ("operator", "bytes_at_least"),
    [
        (GramOperator(torch.ones(1, 1).expand(10_000_000, 1)), 8 * 10**14),
        (CrossGram(torch.ones(1, 1).expand(10_000_000, 1), torch.ones(1, 1).expand(1_000_000, 1)), 8 * 10**13),
        (KroneckerGram(GramOperator(torch.ones(1, 1).expand(1000, 1)), 10_000), 8 * 10**14),
        (FunctionOperator(lambda v: v, (10_000_000, 10_000_000), torch.float64, "cpu"), 8 * 10**14),
    ],
)
def test_a_dense_form_that_cannot_fit_is_refused_before_it_is_tried(operator, bytes_at_least):
    with pytest.raises(errors.MemoryEstimateError, match="GB") as caught:
        operator.to_dense()
    assert caught.value.bytes_needed >= bytes_at_least
    assert isinstance(caught.value, MemoryError)


def test_the_memory_check_uses_what_is_free(monkeypatch):
    monkeypatch.setattr(checks, "available_memory", lambda device: 7 * 7 * 8)
    with pytest.raises(errors.MemoryEstimateError):
        GramOperator(FEATURES).to_dense()


def test_gradients_end_at_the_door():
    features = FEATURES.clone().requires_grad_()
    v = normal(7).requires_grad_()
    operator = GramOperator(features)
    assert not (operator @ v).requires_grad
    assert not operator.to_dense().requires_grad
    assert not (function_operator(SYMMETRIC.clone().requires_grad_()) @ v).requires_grad
