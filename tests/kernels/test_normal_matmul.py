"""The one-pass normal product: every entry right in every size, dtype and layout, within a bound that is not loose.

Where the kernel runs: on the GPU if there is one, else in Triton's interpreter.  Small integers have exact sums in
every mode, so with them every entry must be the exact one.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ntkla.linalg.precision import UNIT_ROUNDOFF, gamma
from ntkla.testing.balls import Exact, ball_matrix, design_matrix, times_weights
from ntkla.testing.specs import FeatureSpec
from ntkla.testing.spectra import LAYOUTS, laid_out
from ntkla.testing.strategies import feature_specs
from ntkla.testing.violations import Comparison, compare

pytest.importorskip("triton", reason="the kernels need Triton, which is made for Linux only")

from csrc_triton import normal_blocks, tiles
from csrc_triton.normal_blocks import MODES, MOST_FEATURES, chosen_block, columns_per_pass, pinned, row_share
from csrc_triton.normal_matmul import normal_matmul, normal_matmul_error, variants

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
CASES = [(mode, dtype) for mode in MODES for dtype in DTYPES if (mode, dtype) != ("ieee", torch.float64)]
Problem = tuple[torch.Tensor, torch.Tensor, "torch.Tensor | None", bool]


def whole(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Integers of at most 2 bits."""
    generator = torch.Generator(device="cpu").manual_seed(seed)
    return torch.randint(-3, 4, shape, generator=generator, device="cpu").to(dtype).to(DEVICE)


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    generator = torch.Generator(device="cpu").manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64, device="cpu").to(dtype).to(DEVICE)


def drawn(draw, n: int, features: int, columns: int, *, weighted: bool, bias: bool, dtype: torch.dtype) -> Problem:
    """x, w, weights and bias; `draw` makes the numbers."""
    weights = draw(n, seed=2, dtype=dtype).abs() if weighted else None
    return draw(n, features, dtype=dtype), draw(features + bias, columns, seed=1, dtype=dtype), weights, bias


def run(problem: Problem, mode: str) -> torch.Tensor:
    x, w, weights, bias = problem
    return normal_matmul(x, w, weights=weights, bias=bias, mode=mode)


def twice_in_torch(problem: Problem, magnitudes: bool = False) -> torch.Tensor:
    """The two products in float64 on the CPU, of the magnitudes if asked."""
    x, w, weights, bias = (t.cpu().double() if isinstance(t, torch.Tensor) else t for t in problem)
    design = torch.cat([x, torch.ones(x.shape[0], int(bias), dtype=torch.float64, device="cpu")], dim=1)
    factors = torch.ones(x.shape[0], dtype=torch.float64, device="cpu") if weights is None else weights
    if magnitudes:
        design, w, factors = design.abs(), w.abs(), factors.abs()
    return design.T @ (factors[:, None] * (design @ w))


def assert_exact(problem: Problem, mode: str) -> None:
    computed = run(problem, mode)
    assert computed.dtype == MODES[mode]
    assert computed.is_contiguous()
    assert torch.equal(computed.cpu().double(), twice_in_torch(problem))


def judge(computed: torch.Tensor, problem: Problem, mode: str, scale: float = 1.0) -> Comparison:
    """The result against the exact one, under `scale` times the bound of `normal_matmul_error`."""
    x, w, weights, bias = (t.cpu() if isinstance(t, torch.Tensor) else t for t in problem)
    (n, features), tiny = x.shape, torch.finfo(computed.dtype).tiny
    above = twice_in_torch(problem, magnitudes=True) * (1 + gamma(2 * (n + features + 4)))
    bound = scale * normal_matmul_error(n, features, mode, bias=bias) * above
    # What underflows in x w passes through a weight and an entry of x, both of order one here, and a sum over n.
    bound = bound + 2 * (n + 1) * (features + 2) * tiny * (1 + x.abs().double().max() ** 2)

    def product():
        design = design_matrix(x, bias)
        return times_weights(design, weights).transpose() * (design * ball_matrix(w))

    return compare(computed.cpu(), bound, Exact(product))


# --- every entry ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("sizes", [(0, 3, 2), (5, 0, 2), (3, 4, 0), (0, 0, 1), (1, 1, 1), (2, 255, 2), (31, 256, 1)])
def test_every_size_has_the_exact_entries(mode, sizes):
    for bias in (False, True):
        assert_exact(drawn(whole, *sizes, weighted=bias, bias=bias, dtype=torch.float32), mode)


@pytest.mark.parametrize("mode", MODES)
def test_blocks_parts_and_groups_have_ragged_ends(mode):
    """One more than a block of rows, than the rows of a part, than a power of two of features, than the columns."""
    rows = chosen_block(7, 1, mode).rows
    for n in (rows - 1, rows, rows + 1, 4 * rows + 1, 9 * rows - 1):
        assert_exact(drawn(whole, n, 7, 1, weighted=True, bias=True, dtype=torch.float32), mode)
    for features, columns in ((257, 17), (7, 33), (2049, 3)):
        assert -(-columns // chosen_block(features, columns, mode).columns) > 1 or columns == 3
        assert_exact(drawn(whole, 3, features, columns, weighted=False, bias=True, dtype=torch.float32), mode)


@pytest.mark.parametrize(("mode", "dtype"), CASES)
@pytest.mark.parametrize("weighted", [False, True])
def test_every_dtype_has_the_exact_entries(mode, dtype, weighted):
    assert_exact(drawn(whole, 19, 18, 3, weighted=weighted, bias=not weighted, dtype=dtype), mode)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_has_the_exact_entries_and_nothing_beside_it_is_read(layout):
    for mode, dtype in CASES:
        x, w, weights, _ = drawn(whole, 18, 11, 3, weighted=True, bias=True, dtype=dtype)
        spread = laid_out(weights[:, None].expand(-1, 2), layout)[:, 1]
        assert_exact((laid_out(x, layout), laid_out(w, layout), spread, True), mode)


def test_a_lazy_negation_is_seen():
    x, w, weights, bias = drawn(whole, 5, 4, 2, weighted=True, bias=True, dtype=torch.float32)
    negated = torch.imag(torch.complex(x, -x).conj())
    assert negated.is_neg()
    assert_exact((negated, w, weights, bias), "ieee")


def test_every_entry_of_results_and_parts_is_written(monkeypatch):
    """New memory holds NaN: an entry of a part that is read must have been written, and every one of the result."""
    empty = torch.empty
    monkeypatch.setattr(torch, "empty", lambda *size, **options: empty(*size, **options).fill_(torch.nan))
    for sizes in ((0, 3, 2), (37, 9, 3), (3, 300, 40)):
        assert_exact(drawn(whole, *sizes, weighted=False, bias=True, dtype=torch.float32), "ieee")


@pytest.mark.parametrize("strides", [(2**26, 1), (1, 2**26)])
def test_offsets_pass_two_to_the_31(strides):
    x, w, weights, bias = drawn(whole, 64, 64, 2, weighted=True, bias=True, dtype=torch.bfloat16)
    far = torch.empty_strided((64, 64), strides, dtype=torch.bfloat16, device=DEVICE)
    far.copy_(x)
    assert_exact((far, w, weights, bias), "ieee")


def test_what_is_not_finite_goes_where_it_goes_in_torch():
    x, w, weights, bias = drawn(normal, 17, 18, 4, weighted=True, bias=True, dtype=torch.float32)
    x[3, 4], w[0, 1], w[18, 2] = 3e38, torch.nan, torch.inf
    x[:, 5] = x[:, 5].abs() + 1
    computed, expected = run((x, w, weights, bias), "float64").cpu(), twice_in_torch((x, w, weights, bias))
    assert torch.equal(computed.isnan(), expected.isnan())
    assert torch.equal(computed.isinf(), expected.isinf())
    one = torch.ones(1, 1, device=DEVICE)
    assert run((one, one * torch.inf, None, False), "ieee").tolist() == [[math.inf]]


# --- order ----------------------------------------------------------------------------------------------------------


def model(problem: Problem, mode: str) -> np.ndarray:
    """The kernel's order in numpy, which also sums the interpreter's blocks: parts of blocks of rows."""
    x, w, weights, bias = (t.to(MODES[mode]).numpy() if isinstance(t, torch.Tensor) else t for t in problem)
    (n, features), columns = x.shape, w.shape[1]
    block = chosen_block(features, columns, mode)
    groups = -(-columns // block.columns)
    share = row_share(n, groups, block)
    factor = np.zeros((block.features, groups * block.columns), dtype=x.dtype)
    factor[:features, :columns] = w[:features]
    constant = np.zeros(groups * block.columns, dtype=x.dtype)
    constant[:columns] = w[features] if bias else 0.0
    parts = np.zeros((-(-n // share), features + 1, groups * block.columns))
    for start in (first for part in range(0, n, share) for first in range(part, min(part + share, n), block.rows)):
        inside = slice(start, min(start + block.rows, start // share * share + share, n))
        rows, height = np.zeros((block.rows, block.features), dtype=x.dtype), inside.stop - inside.start
        rows[:height, :features] = x[inside]
        for group in range(groups):
            taken = slice(group * block.columns, (group + 1) * block.columns)
            outputs = (rows[:, :, None] * factor[None, :, taken]).sum(1) + constant[taken]
            outputs[:height] *= 1.0 if weights is None else weights[inside, None]
            outputs[height:] = 0.0
            parts[start // share, :features, taken] += (rows[:, :, None] * outputs[:, None, :]).sum(0)[:features]
            parts[start // share, features, taken] += outputs.sum(0)
    assert len(parts) <= 32
    return parts.sum(0)[: features + bias, :columns].astype(x.dtype)


@pytest.mark.skipif(DEVICE == "cuda", reason="the order within a block is numpy's in the interpreter only")
@pytest.mark.parametrize(("mode", "dtype"), CASES)
def test_blocks_are_added_in_the_order_of_the_model(mode, dtype):
    for sizes in ((150, 21, 3), (9, 300, 35)):
        problem = drawn(normal, *sizes, weighted=True, bias=True, dtype=dtype)
        assert np.array_equal(run(problem, mode).numpy(), model(problem, mode))


def test_columns_do_not_meet_and_bits_repeat():
    """A column that is computed beside others of its group has the bits it has beside any others."""
    x, w, weights, bias = drawn(normal, 70, 21, 16, weighted=True, bias=True, dtype=torch.float32)
    together = run((x, w, weights, bias), "ieee")
    assert torch.equal(together, run((x, w, weights, bias), "ieee"))
    other = torch.cat([w[:, :9], normal(22, 7, seed=5)], dim=1)
    assert torch.equal(together[:, :9], run((x, other, weights, bias), "ieee")[:, :9])


# --- the bound ------------------------------------------------------------------------------------------------------


@settings(max_examples=12)
@given(feature_specs(), st.integers(1, 5), st.booleans(), st.booleans(), st.booleans())
def test_the_error_is_within_its_bound(spec: FeatureSpec, columns, weighted, bias, widened):
    x = spec.tensor.to(DEVICE)
    mode = "float64" if widened or x.dtype == torch.float64 else "ieee"
    _, w, weights, _ = drawn(normal, *x.shape, columns, weighted=weighted, bias=bias, dtype=x.dtype)
    problem = (x, w, weights, bias)
    verdict = judge(run(problem, mode), problem, mode)
    assert verdict.sound, str(verdict)


@pytest.mark.parametrize(("mode", "dtype"), CASES)
def test_the_error_of_long_sums_is_within_its_bound(mode, dtype):
    problem = drawn(normal, 150, 40, 2, weighted=True, bias=True, dtype=dtype)
    problem[0].add_(4)
    problem[1].sub_(4)
    verdict = judge(run(problem, mode), problem, mode)
    assert verdict.sound, str(verdict)


@pytest.mark.parametrize(("mode", "dtype"), [("ieee", torch.float32), ("float64", torch.float64)])
def test_the_bound_is_reached_within_a_factor(mode, dtype):
    """One product after another, of numbers just above powers of two, where a rounding weighs most."""
    x, w = 1 + normal(1, 1, dtype=dtype).abs() / 64, 1 + normal(1, 500, seed=1, dtype=dtype).abs() / 64
    problem = (x, w, x[0], False)
    computed = run(problem, mode)
    assert judge(computed, problem, mode).sound
    assert not judge(computed, problem, mode, scale=1 / 3).sound


def test_the_error_of_ieee_does_not_grow_with_the_rows():
    """After a one come blocks whose sums, 2^-26, a float32 accumulator would lose one by one."""
    rows = chosen_block(1, 1, "ieee").rows
    x = torch.full((33 * rows, 1), 2.0**-13 / math.sqrt(rows), device=DEVICE)
    x[:rows] = 0.0
    x[0] = 1.0
    assert run((x, torch.ones(1, 1, device=DEVICE), None, False), "ieee").item() == 1.0 + 2.0**-21
    at_most_rows = [normal_matmul_error(rows, 768, "ieee") for rows in (10**3, 10**6)]
    assert at_most_rows[1] - at_most_rows[0] <= gamma(10**6) * (1 + at_most_rows[1])


def test_the_bound_catches_a_planted_error():
    problem = drawn(normal, 40, 6, 3, weighted=True, bias=True, dtype=torch.float32)
    computed = run(problem, "ieee")
    assert judge(computed, problem, "ieee").sound
    computed[4, 2] *= 1 + 1e-3
    assert not judge(computed, problem, "ieee").sound
    rounded = tuple(t.bfloat16() if isinstance(t, torch.Tensor) else t for t in problem)
    assert not judge(run(rounded, "ieee"), problem, "ieee").sound
    assert not judge(run(problem, "ieee").double(), problem, "float64").sound


def test_the_bound_at_the_ends_of_its_range():
    assert normal_matmul_error(0, 0, "float64") >= UNIT_ROUNDOFF[torch.float64]
    assert normal_matmul_error(1, 2**24, "ieee") == math.inf
    assert normal_matmul_error(2**54, 1, "ieee") == math.inf
    assert normal_matmul_error(5, 7, "ieee", bias=True) > normal_matmul_error(5, 7, "ieee")


# --- what is pinned, what is refused --------------------------------------------------------------------------------


def test_the_columns_of_a_pass():
    assert [columns_per_pass(f) for f in (0, 1, 256, 257, 768, 2048, 4096)] == [32, 32, 32, 16, 8, 4, 2]
    assert columns_per_pass(MOST_FEATURES + 1) == 0
    for mode in MODES:
        for features, columns in ((1, 1), (300, 5), (768, 100), (4096, 7)):
            block = chosen_block(features, columns, mode)
            assert block in pinned(mode)
            assert block.features >= features
            assert block.columns >= min(columns, columns_per_pass(features))


def test_shares_cover_the_rows_with_few_enough_programs(monkeypatch):
    monkeypatch.setattr(normal_blocks, "INTERPRETED", tiles.tl.constexpr(False))
    for mode in MODES:
        for rows, features, columns in (
            (1, 5, 1),
            (10**6, 768, 1),
            (10**6 + 1, 4096, 32),
            (50, 768, 9000),
            (2**36, 1, 1),
        ):
            block = chosen_block(features, columns, mode)
            groups = -(-columns // block.columns)
            share = row_share(rows, groups, block)
            assert share % block.rows == 0
            assert share < 2**31
            assert -(-rows // share) * groups <= max(normal_blocks.PROGRAMS, groups)


@pytest.mark.parametrize("architecture", ["sm_75", "sm_80", "sm_90", "sm_100", "gfx942"])
def test_every_variant_is_named_complete_and_fits(architecture):
    made = variants(architecture)
    assert len({variant.name for variant in made}) == len(made)
    for variant in made:
        assert {*variant.signature, *variant.constexprs} == set(variant.kernel.arg_names)
        assert set(variant.divisible) <= set(variant.signature)
    for mode in MODES:
        for block in pinned(mode):
            assert tiles.legal(block.fitted(8, architecture).shared_bytes(8), architecture)


X, W = torch.zeros(2, 3, device=DEVICE), torch.zeros(3, 1, device=DEVICE)
WIDE = torch.zeros(1, MOST_FEATURES + 1, device=DEVICE)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: normal_matmul(X, W, mode="tf32"), ValueError, "'float64', 'ieee'.*got 'tf32'"),
        (lambda: normal_matmul(X.double(), W.double(), mode="ieee"), TypeError, "mode 'ieee' takes one of"),
        (lambda: normal_matmul(X, W.double(), mode="float64"), TypeError, "torch.float32, torch.float64"),
        (lambda: normal_matmul(X, W, weights=X[:, 0].double(), mode="ieee"), TypeError, "torch.float64"),
        (lambda: normal_matmul(X[0], W, mode="ieee"), ValueError, r"got \[\(3,\), \(3, 1\)\]"),
        (lambda: normal_matmul(X, W[:, 0], mode="ieee"), ValueError, r"got \[\(2, 3\), \(3,\)\]"),
        (lambda: normal_matmul(X, W, bias=True, mode="ieee"), ValueError, r"\[F \+ 1, m\]"),
        (lambda: normal_matmul(X, W, weights=W[:, 0], mode="ieee"), ValueError, r"\(3,\)\]"),
        (lambda: normal_matmul(X, W, weights=X, mode="ieee"), ValueError, r"\(2, 3\)\]"),
        (lambda: normal_matmul(WIDE, WIDE.T, mode="ieee"), ValueError, "at most 4096 features, got 4097"),
        (lambda: normal_matmul(X, W.to("meta"), mode="ieee"), ValueError, "meta"),
    ],
)
def test_bad_input_is_named(call, error, message):
    with pytest.raises(error, match=message):
        call()


# --- on the device, at the size of its own blocks -------------------------------------------------------------------


@pytest.mark.gpu
@pytest.mark.parametrize(("mode", "dtype"), CASES)
@pytest.mark.parametrize(("features", "columns"), [(200, 32), (768, 1), (1000, 8), (4096, 3), (2049, 1)])
def test_large_products_agree_on_the_device(mode, dtype, features, columns):
    """Against float64 products in torch, within both bounds; and the same bits again."""
    problem = drawn(normal, 20011, features, columns, weighted=True, bias=True, dtype=dtype)
    computed = run(problem, mode)
    assert torch.equal(computed, run(problem, mode))
    above = twice_in_torch(problem, magnitudes=True)
    error = normal_matmul_error(20011, features, mode, bias=True) + 2 * gamma(20011 + features + 4)
    assert bool(((computed.cpu().double() - twice_in_torch(problem)).abs() <= error * above).all())
