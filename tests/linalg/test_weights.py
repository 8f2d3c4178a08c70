"""Sample weights: what is refused, the exact pieces that the bounds rest on, and what weights mean."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from ntkla.forgetting.heads import LinearHead
from ntkla.linalg.arithmetic.doubled import two_sum
from ntkla.linalg.checks import LARGEST_ENTRY
from ntkla.linalg.design import DesignMatrix
from ntkla.linalg.errors import ArgumentError, DeviceError, DtypeError, NonFiniteError, ScaleError, ShapeError
from ntkla.linalg.precision import NEGLIGIBLE, SHORT_CHAIN, TINY64, U64, UNIT_ROUNDOFF
from ntkla.linalg.ridge import RidgeSolution, ridge_solve
from ntkla.linalg.solve.normal import float32_normal_matrix, normal_matrix
from ntkla.linalg.solve.weights import SampleWeights, sample_weights
from ntkla.testing import features_with_spectrum, hostile_states
from ntkla.testing.samples import WEIGHTINGS
from ntkla.testing.samples import sample_weights as drawn_weights
from ntkla.testing.spectra import normal

N, F, C = 7, 4, 2
PHI, Y = normal(N, F, 1), normal(N, C, 2)
ONES = torch.ones(N, dtype=torch.float64)


def changed(index: int, value: float) -> torch.Tensor:
    weights = ONES.clone()
    weights[index] = value
    return weights


@pytest.mark.parametrize(
    ("weights", "error"),
    [
        ([1.0] * N, ShapeError),
        (1.0, ShapeError),
        (ONES[:-1], ShapeError),
        (ONES[:, None], ShapeError),
        (ONES.to(torch.int64), DtypeError),
        (ONES.to(torch.complex128), DtypeError),
        (changed(2, math.nan), NonFiniteError),
        (changed(2, math.inf), NonFiniteError),
        (changed(2, 2 * LARGEST_ENTRY), ScaleError),
        (changed(2, -1e-30), ArgumentError),
        (changed(2, NEGLIGIBLE / 2), ArgumentError),
        (changed(2, 5e-324), ArgumentError),
        (torch.zeros_like(ONES), ArgumentError),
        (-torch.zeros_like(ONES), ArgumentError),
        (ONES.to("meta"), DeviceError),
    ],
    ids=str,
)
def test_what_is_no_weight_is_refused_by_name(weights: object, error: type[Exception]) -> None:
    with pytest.raises(error, match="weights"):
        ridge_solve(PHI, Y, ridge=1.0, weights=weights)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize("layout", [torch.strided, torch.jagged])
def test_nested_vectors_are_refused(layout: torch.layout) -> None:
    nested = torch.nested.nested_tensor([ONES, ONES[:-1]], layout=layout)
    with pytest.raises(DtypeError, match="weights: expected a dense tensor"):
        ridge_solve(PHI, Y, ridge=1.0, weights=nested)
    with pytest.raises(DtypeError, match="bias: expected a dense tensor"):
        LinearHead(PHI, nested)


def test_weighted_rows_whose_products_overflow_are_refused() -> None:
    with pytest.raises(ScaleError, match="root of their weight"):
        ridge_solve(PHI * 2.0**200, Y, ridge=1.0, weights=ONES * 2.0**120)
    with pytest.raises(ScaleError, match="root of their weight"):
        ridge_solve(PHI, Y * 2.0**200, ridge=1.0, weights=ONES * 2.0**120)


def test_a_subnormal_weight_is_no_zero_where_arithmetic_flushes() -> None:
    with hostile_states()["flush denormal"](), pytest.raises(ArgumentError, match="weights"):
        sample_weights("weights", changed(2, 5e-324), N)


# float32 subnormals are ordinary float64 numbers, and narrow types are taken as they are stored.
@pytest.mark.parametrize("state", hostile_states())
def test_narrow_weights_are_exact_in_any_state(state: str) -> None:
    stored = torch.tensor([1e-40, 0.0, 3.0], dtype=torch.float32, device="cpu")
    with hostile_states()[state]():
        values = sample_weights("weights", stored, 3)
    assert values.dtype == torch.float64
    assert values.tolist() == [Fraction(x) for x in stored.tolist()]


@given(st.sampled_from(WEIGHTINGS[1:]), st.integers(0, 2**20), st.integers(1, 9))
@example("wide", 219, 9)
def test_roots_norms_and_totals_are_bounds(kind: str, seed: int, n: int) -> None:
    values = drawn_weights(kind, n, seed=seed)
    phi = normal(n, 3, seed)
    weights = SampleWeights.of(values, DesignMatrix(phi), phi)
    exact = [Fraction(w) for w in values.tolist()]
    assert all(Fraction(r) ** 2 >= w for r, w in zip(weights.upper_roots.tolist(), exact, strict=True))
    assert Fraction(weights.largest_root) ** 2 >= max(exact)
    assert abs(Fraction(weights.total) - sum(exact)) <= 2 * Fraction(U64) * sum(exact)
    assert Fraction(weights.least_total) <= sum(exact) <= Fraction(weights.root_total) ** 2
    squares = [sum(Fraction(v) ** 2 for v in row) for row in phi.tolist()]
    assert Fraction(weights.frobenius) ** 2 >= sum(w * s for w, s in zip(exact, squares, strict=True))
    assert Fraction(weights.plain_frobenius) ** 2 >= sum(squares)
    scale, rest = (part[:, 0].tolist() for part in weights.split(slice(0, n)))
    for s, r, w in zip(scale, rest, exact, strict=True):
        assert Fraction(s) ** 2 * Fraction(r) == w
        assert math.frexp(s)[0] == 0.5
        assert r == 0 or 0.5 <= r < 2


@given(st.sampled_from(WEIGHTINGS[1:]), st.integers(0, 2**20), st.sampled_from([1.0, 1e-150, 1e150]))
def test_outputs_times_weights_are_exact_but_for_five_squared_roundings(kind: str, seed: int, size: float) -> None:
    values, phi = drawn_weights(kind, 9, seed=seed), normal(9, 2, seed)
    weights = SampleWeights.of(values, DesignMatrix(phi), phi)
    outputs = two_sum(phi * size, normal(9, 2, seed + 1) * size * U64)
    found = weights.times(slice(0, 9), outputs)
    parts = (*outputs, *found)
    for w, row in zip(values.tolist(), zip(*(part.tolist() for part in parts), strict=True), strict=True):
        for high, low, computed, rest in zip(*row, strict=True):
            exact = Fraction(w) * (Fraction(high) + Fraction(low))
            allowed = 5 * Fraction(U64) ** 2 * abs(exact) + 16 * Fraction(TINY64) * (1 + Fraction(w))
            assert abs(Fraction(computed) + Fraction(rest) - exact) <= allowed


def solved(features: torch.Tensor, targets: torch.Tensor, **options: object) -> RidgeSolution:
    return ridge_solve(features, targets, **{"ridge": 0.3, **options})


def agree(left: RidgeSolution, right: RidgeSolution) -> None:
    """Two solutions of one problem: no further apart than their bounds, which are worth something."""
    assert left.status.certified
    assert right.status.certified
    assert bool(((left.solution - right.solution).abs() <= left.error_bound + right.error_bound).all())
    if left.bias is not None:
        assert bool(((left.bias - right.bias).abs() <= left.bias_error_bound + right.bias_error_bound).all())


OPTIONS = [
    {},
    {"route": "dual"},
    {"bias": True},
    {"bias": True, "penalize_bias": False, "route": "primal"},
    {"bias": True, "penalize_bias": False, "route": "dual"},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_what_weights_mean(options: dict) -> None:
    counts = torch.tensor([1, 3, 2, 0, 1, 4, 0])
    weights = counts.to(torch.float32)
    repeated = torch.repeat_interleave(torch.arange(N), counts)
    weighted = solved(PHI, Y, weights=weights, **options)
    agree(weighted, solved(PHI[repeated], Y[repeated], **options))
    counted = counts > 0
    agree(weighted, solved(PHI[counted], Y[counted], weights=weights[counted], **options))
    agree(solved(PHI, Y, weights=ONES, **options), solved(PHI, Y, **options))
    other = Y + 1e6 * (~counted)[:, None]
    assert torch.equal(weighted.solution, solved(PHI, other, weights=weights, **options).solution)


@pytest.mark.parametrize("exponent", [-400, -3, 1, 2, 200])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_a_common_factor_of_weights_and_ridge_changes_nothing(options: dict, exponent: int) -> None:
    weights, factor = torch.linspace(0.1, 3.0, N, dtype=torch.float64), 2.0**exponent
    plain = solved(PHI, Y, weights=weights, **options)
    agree(plain, solved(PHI, Y, weights=weights * factor, **{**options, "ridge": 0.3 * factor}))


@pytest.mark.parametrize("kind", ["uniform", "wide", "zeros", "one_huge"])
@pytest.mark.parametrize("n", [3, 4, 9])
def test_without_a_ridge_full_rank_is_certified(n: int, kind: str) -> None:
    """Independent samples are fitted whatever their weights; more of them, when the weights are of one range."""
    phi, y, weights = normal(n, F, 3), normal(n, C, 4), drawn_weights(kind, n, seed=1)
    solution = ridge_solve(phi, y, ridge=0.0, weights=weights)
    counted = weights > 0
    if int(counted.sum()) <= F:
        agree(solution, ridge_solve(phi[counted], y[counted], ridge=0.0))
    else:
        assert solution.status.code == ("rank_deficient" if kind == "one_huge" else "certified")


def test_the_float32_factor_is_of_the_weighted_matrix() -> None:
    """It is off by float32's roundings of the weighted norms, bias included, and by no more."""
    weights = drawn_weights("uniform", N, seed=3)
    for bias in (False, True):
        design = DesignMatrix(PHI.to(torch.float32), bias)
        counted = SampleWeights.of(weights, design, Y)
        exact = normal_matrix(design, counted).matrix
        difference = (float32_normal_matrix(design, counted).to(torch.float64) - exact).abs().max()
        assert float(difference) <= 2 * (N + 6) * UNIT_ROUNDOFF[torch.float32] * float(exact.trace()) * SHORT_CHAIN


def test_a_float32_factor_carries_weighted_problems() -> None:
    features = features_with_spectrum(n=300, features=20, spectrum="flat", condition=1.0, seed=1, dtype="float32")
    solution = ridge_solve(features, normal(300, C, 5), ridge=10.0, weights=drawn_weights("uniform", 300, seed=2))
    assert solution.status.certified
    assert solution.diagnostics.factor == "cholesky:float32"
    assert not solution.diagnostics.escalations
