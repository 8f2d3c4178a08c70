"""Exact Gram matrices against fractions: every bit of both words, and a bound that is zero only where it may be."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch
from hypothesis import example, given, settings

import ntkla
from ntkla import ExactGram, exact_gram, gram
from ntkla.linalg import checks
from ntkla.linalg.errors import (
    ArgumentError,
    BackendError,
    DeviceError,
    DtypeError,
    MemoryEstimateError,
    NonFiniteError,
    ScaleError,
    ShapeError,
)
from ntkla.linalg.exact_products import Tiling
from ntkla.linalg.precision import U64, UNIT_ROUNDOFF, gamma
from ntkla.testing import FeatureSpec, hostile_states
from ntkla.testing.spectra import normal
from ntkla.testing.strategies import feature_specs
from tests.linalg.exact_reference import Rows, exactly

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]


def product(x: torch.Tensor, y: torch.Tensor, bias: bool = False) -> Rows:
    """`x y^T + bias` of the stored numbers."""
    left, right = exactly(x), exactly(y)
    return [[sum((a * b for a, b in zip(p, q, strict=True)), Fraction(int(bias))) for q in right] for p in left]


def rounded(values: Rows) -> torch.Tensor:
    """By Python's division of integers, to nearest and even; zeros without a sign."""
    return torch.tensor([[float(v) for v in row] for row in values], dtype=torch.float64) + 0.0


def same(computed: torch.Tensor, values: Rows) -> bool:
    """Bit by bit, but for the sign of a zero."""
    return torch.equal((computed + 0.0).view(torch.int64), rounded(values).view(torch.int64))


def errors(found: ExactGram, values: Rows) -> list[tuple[Fraction, Fraction]]:
    """How far each entry is off, and its bound."""
    arrays = [exactly(part) for part in (found.high, found.low, found.error_bound)]
    rows = zip(*arrays, values, strict=True)
    return [(abs(high + low - v), bound) for row in rows for high, low, bound, v in zip(*row, strict=True)]


def spread(rows: int, features: int, lowest: int, highest: int, seed: int = 0) -> torch.Tensor:
    """Numbers whose exponents are drawn from a range."""
    generator = torch.Generator("cpu").manual_seed(seed)
    exponents = torch.randint(lowest, highest, (rows, features), generator=generator, device="cpu")
    return torch.ldexp(normal(rows, features, seed), exponents.to(torch.float64))


@settings(max_examples=25)
@given(feature_specs())
@example(FeatureSpec(3, 2, scale=1e-320))
@example(FeatureSpec(4, 3, scale=1e150))
def test_every_entry_is_the_exact_one_rounded_once(spec):
    x = spec.tensor
    assert same(gram(x, bias=spec.n % 2 == 1, precision="exact"), product(x, x, spec.n % 2 == 1))
    assert ntkla.last_dispatch() == "torch:gram:exact"
    assert same(gram(x, x[:2] * 2, precision="exact"), product(x, x[:2] * 2))


HOSTILE = {
    "subnormal": (normal(4, 7, 1) * 1e-310, normal(3, 7, 2)),
    "from 2^-500 to 2^500": (spread(4, 7, -500, 500), spread(3, 7, -500, 500, seed=1)),
    "one huge among tiny ones": (torch.eye(4, 7, dtype=torch.float64) * 2.0**900 + 2.0**-900 * normal(4, 7, 1), None),
    "huge times tiny": (normal(4, 7, 1) * 1e307, normal(3, 7, 2) * 1e-307),
    "float32 subnormals": ((normal(4, 7, 1) * 1e-40).float(), normal(3, 7, 2).float()),
    "bfloat16": (spread(4, 7, -100, 60).bfloat16(), None),
    "zeros": (torch.zeros(4, 7, dtype=torch.float64), normal(3, 7, 2)),
    "what cancels": (torch.cat([normal(4, 7, 1), -normal(4, 7, 1)], 1), normal(3, 7, 2).repeat(1, 2)),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_numbers_of_hostile_sizes_are_exact(name):
    x, y = HOSTILE[name]
    right = x if y is None else y
    if name == "one huge among tiny ones":
        with pytest.raises(ScaleError, match="beyond the largest float64"):
            gram(x, precision="exact")
        x, right = x * 2.0**-500, right * 2.0**-500
        y = None
    values = product(x, right)
    found = exact_gram(x, y)
    assert same(gram(x, y, precision="exact"), values)
    assert same(found.high, values)
    for off, bound in errors(found, values):
        assert off <= bound
        assert bound == 0 or off > 0, "the bound is zero where high + low is exact"


@pytest.mark.parametrize("name", hostile_states())
def test_no_state_of_the_process_changes_a_bit(name):
    for x, y in (HOSTILE["subnormal"], HOSTILE["float32 subnormals"], HOSTILE["from 2^-500 to 2^500"]):
        plain, part = exact_gram(x, y, bias=True), exact_gram(x * 1, y, slices=2) if x.amax() > 1 else None
        with hostile_states()[name]():
            under = exact_gram(x, y, bias=True)
            again = gram(x, y, bias=True, precision="exact")
            other = exact_gram(x, y, slices=2) if part is not None else None
        for before, after in ((plain.high, under.high), (plain.low, under.low), (plain.high, again)):
            assert torch.equal(before.view(torch.int64), after.view(torch.int64))
        assert part is None or torch.equal(part.high.view(torch.int64), other.high.view(torch.int64))


@pytest.mark.parametrize("dtype", DTYPES)
def test_orders_layouts_and_tiles_have_the_same_bits(dtype, monkeypatch):
    x, y = (spread(9, 30, -6, 6, seed).to(dtype) for seed in (1, 2))
    whole, cross = gram(x, precision="exact"), gram(x, y, precision="exact")
    order = torch.randperm(30, generator=torch.Generator().manual_seed(0))
    assert torch.equal(gram(x[:, order], precision="exact"), whole)
    assert torch.equal(gram(x.T.contiguous().T, y.repeat(2, 1)[::2][:4], precision="exact")[:, 0], cross[:, 0])
    assert torch.equal(torch.cat([gram(rows, y, precision="exact") for rows in x.split(2)]), cross)
    of = Tiling.of
    monkeypatch.setattr(Tiling, "of", lambda *some: (Tiling(False, 4), of(*some)[1]))
    assert torch.equal(gram(x, precision="exact"), whole)
    assert torch.equal(exact_gram(x, y).high, cross)


# --- two words and their bound --------------------------------------------------------------------------------------


def test_both_words_are_the_nearest_and_the_bound_is_half_a_unit_of_the_second():
    x = spread(6, 9, -40, 40)
    values, found = product(x, x), exact_gram(x)
    assert same(found.high, values)
    rests = [[v - h for v, h in zip(*rows, strict=True)] for rows in zip(values, exactly(found.high), strict=True)]
    assert same(found.low, rests)
    pairs = errors(found, values)
    assert all(off <= bound for off, bound in pairs)
    assert any(off > bound / 2 for off, bound in pairs), "reached within a factor of two"
    assert any(off > bound * Fraction(1, 1000) for off, bound in pairs), "a bound scaled by 1e-3 is caught"
    assert bool((found.error_bound <= 2 * U64 * found.low.abs()).all())


def test_what_two_words_hold_has_no_error():
    found = exact_gram(normal(5, 3, 1).bfloat16(), bias=True)
    assert not bool(found.error_bound.any())
    assert "25 of 25 entries exact" in str(found)
    assert found.to_dict()["slices"] is None


# --- fewer slices ---------------------------------------------------------------------------------------------------


@settings(max_examples=15)
@given(feature_specs())
def test_fewer_slices_stay_within_their_bound(spec):
    x = spec.tensor
    for count in (1, 3):
        for off, bound in errors(exact_gram(x, x[:3], slices=count), product(x, x[:3])):
            assert off <= bound


@pytest.mark.parametrize("count", [1, 2, 4, 7])
def test_the_bound_of_fewer_slices_is_reached_within_a_factor(count):
    """Entries half a grid off, all to one side: the bound allows for no more."""
    grid = 2.0 ** (1 - 7 * count)
    x = torch.full((2, 5), 1 - grid / 2 + grid / 64, dtype=torch.float64)
    x[1, 0] = 1.0
    pairs = errors(exact_gram(x, slices=count), product(x, x))
    assert all(off <= bound for off, bound in pairs)
    assert any(off > Fraction(9, 10) * bound for off, bound in pairs)


def test_slices_that_hold_everything_lose_nothing():
    x = (spread(4, 6, -4, 4).bfloat16()).double()
    enough, whole = exact_gram(x, slices=4), exact_gram(x)
    assert torch.equal(enough.high, whole.high)
    assert torch.equal(enough.error_bound, whole.error_bound)


def test_rows_that_the_grid_holds_add_nothing_to_the_bound():
    x = torch.tensor([[1.0, 2.0], [1.0, 3 + 2.0**-30]], dtype=torch.float64)
    bound = exact_gram(x, slices=2).error_bound
    assert (bound > 0).tolist() == [[False, True], [True, True]]


def test_a_bound_that_underflows_is_not_zero():
    """What is dropped is 2^-1150, and so is the product of its bound."""
    x = torch.tensor([[2.0**-900, 2.0**-950]], dtype=torch.float64)
    y = torch.tensor([[0.0, 2.0**-200]], dtype=torch.float64)
    ((off, bound),) = errors(exact_gram(x, y, slices=2), product(x, y))
    assert 0 < off <= bound


def test_parts_that_name_one_exponent_have_the_bits_of_the_whole():
    x, y = spread(8, 12, -9, 3, seed=1), spread(3, 12, -9, 3, seed=2)
    whole = exact_gram(x, y, slices=2, exponent=6)
    parts = [exact_gram(rows, y, slices=2, exponent=6) for rows in x.split(3)]
    assert torch.equal(torch.cat([part.high for part in parts]), whole.high)
    assert torch.equal(torch.cat([part.low for part in parts]), whole.low)
    assert whole.exponents == (6, 6)
    assert not torch.equal(exact_gram(x, y, slices=2).high, whole.high)


# --- differentiated, traced, empty ----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("cross", [False, True])
def test_it_is_differentiated_and_traced_as_every_other(dtype, cross):
    x = normal(4, 3, 1).to(dtype).requires_grad_()
    y = normal(2, 3, 2).to(dtype).requires_grad_() if cross else None
    inputs = [z for z in (x, y) if z is not None]
    grads = [torch.autograd.grad(gram(x, y, precision=p).sin().sum(), inputs) for p in ("exact", "float64")]
    for exact, plain in zip(*grads, strict=True):
        assert exact.dtype == dtype
        # sin' of entries that differ by a rounding, and the products with them.
        size = torch.linalg.vector_norm(plain.double())
        assert torch.linalg.vector_norm(exact.double() - plain.double()) <= gamma(64, UNIT_ROUNDOFF[dtype]) * size
    torch.library.opcheck(torch.ops.ntkla.gram.default, (x, y, True, "exact"))
    traced = torch.compile(lambda a: gram(a, precision="exact"), backend="aot_eager")(x)
    assert torch.equal(traced, gram(x, precision="exact"))
    assert not exact_gram(x).high.requires_grad


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (0, 0)])
def test_nothing_times_nothing(shape):
    x = torch.zeros(shape)
    assert torch.equal(gram(x, bias=True, precision="exact"), torch.ones(shape[0], shape[0], dtype=torch.float64))
    assert exact_gram(x, torch.zeros(2, shape[1])).high.shape == (shape[0], 2)


def test_a_lazy_negation_is_not_lost():
    x = normal(3, 4, 1)
    lazy = torch.imag(torch.complex(x, -x).conj())
    assert lazy.is_neg()
    assert torch.equal(gram(lazy, normal(2, 4, 2), precision="exact"), gram(x, normal(2, 4, 2), precision="exact"))


# --- bad input ------------------------------------------------------------------------------------------------------

X = normal(3, 4, 1)
BAD = X.clone()
BAD[1, 2] = torch.nan


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: gram(BAD, precision="exact"),
            NonFiniteError,
            "x: expected finite entries, got 1 NaN or infinite of 12",
        ),
        (lambda: exact_gram(X, BAD), NonFiniteError, "y: expected finite"),
        (lambda: gram(X * 1e200, precision="exact"), ScaleError, "9 entries are beyond the largest float64 number"),
        (lambda: exact_gram([1.0]), DtypeError, "x: expected a float64"),
        (lambda: exact_gram(X, X[:, :2]), ShapeError, "got 4 and 2"),
        (lambda: exact_gram(X[0]), ShapeError, "x: expected 2 dimensions"),
        (lambda: exact_gram(X, X.float()), DtypeError, "one dtype"),
        (lambda: exact_gram(X.to("meta")), DeviceError, "meta device"),
        (lambda: exact_gram(X, slices=0), ArgumentError, "slices: expected an integer >= 1"),
        (lambda: exact_gram(X, exponent=3), ArgumentError, "fixes the grid of slices"),
        (lambda: exact_gram(X, slices=2, exponent=-9), ArgumentError, "exponent: expected an integer >= "),
        (lambda: exact_gram(X * 1e-300, slices=3), ScaleError, "3 slices below 2"),
        (lambda: exact_gram(X * 1e305, slices=3), ScaleError, "Divide the inputs"),
        (lambda: exact_gram(X, bias=1), ArgumentError, "bias: expected True or False"),
        (lambda: ntkla.normal_matmul(X, X.T, precision="exact"), ArgumentError, "got 'exact'"),
    ],
)
def test_bad_input_is_named(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_memory_is_told_before_it_is_needed(monkeypatch):
    monkeypatch.setattr(checks, "available_memory", lambda device: 1000)
    with pytest.raises(MemoryEstimateError, match="the exact Gram matrix"):
        gram(X, precision="exact")


def test_tiles_shrink_where_numbers_lie_far_apart():
    """Slices by the dozen, and limbs by the hundred: what a tile takes stays what it is allowed."""
    far = spread(2000, 3, -500, 500)
    (near, _), (apart, needed) = Tiling.of(X, X, False), Tiling.of(far, far, False)
    assert near.edge == len(X)
    assert apart.edge < 300
    assert needed < 2**31


def test_a_library_that_is_forced_and_has_none_is_an_error():
    with ntkla.backend("cublas"), pytest.raises(BackendError, match="cublas"):
        gram(X, precision="exact")
