"""The one-pass normal product: every entry right in every size, dtype and layout.

Where the kernel runs: on the GPU if there is one, else in Triton's interpreter.  Small integers have exact sums in
every mode, so with them every entry must be the exact one.
"""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from ntkla.testing.spectra import LAYOUTS, laid_out
from tests.kernels.draws import DEVICE, normal

pytest.importorskip("triton", reason="the kernels need Triton, which is made for Linux only")

from csrc_triton import normal_blocks, tiles
from csrc_triton.normal_blocks import MODES, MOST_FEATURES, chosen_block, columns_per_pass, pinned, row_share
from csrc_triton.normal_matmul import normal_matmul
from tests.kernels.normal_problems import CASES, Problem, drawn, run, small, twice_in_torch


def assert_exact(problem: Problem, mode: str) -> None:
    computed = run(problem, mode)
    assert computed.dtype == MODES[mode]
    assert computed.is_contiguous()
    assert torch.equal(computed.cpu().double(), twice_in_torch(problem))


# --- every entry ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("sizes", [(0, 3, 2), (5, 0, 2), (3, 4, 0), (0, 0, 1), (1, 1, 1), (2, 255, 2), (31, 256, 1)])
def test_every_size_has_the_exact_entries(mode, sizes):
    for bias in (False, True):
        assert_exact(drawn(small, *sizes, weighted=bias, bias=bias, dtype=torch.float32), mode)


@pytest.mark.parametrize("mode", MODES)
def test_blocks_parts_and_groups_have_ragged_ends(mode):
    """One more than a block of rows, than the rows of a part, than a power of two of features, than the columns."""
    rows = chosen_block(7, 1, mode).rows
    for n in (rows - 1, rows, rows + 1, 4 * rows + 1, 9 * rows - 1):
        assert_exact(drawn(small, n, 7, 1, weighted=True, bias=True, dtype=torch.float32), mode)
    for features, columns in ((257, 17), (7, 33), (2049, 3)):
        assert -(-columns // chosen_block(features, columns, mode).columns) > 1 or columns == 3
        assert_exact(drawn(small, 3, features, columns, weighted=False, bias=True, dtype=torch.float32), mode)


@pytest.mark.parametrize(("mode", "dtype"), CASES)
@pytest.mark.parametrize("weighted", [False, True])
def test_every_dtype_has_the_exact_entries(mode, dtype, weighted):
    assert_exact(drawn(small, 19, 18, 3, weighted=weighted, bias=not weighted, dtype=dtype), mode)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_has_the_exact_entries_and_nothing_beside_it_is_read(layout):
    for mode, dtype in CASES:
        x, w, weights, _ = drawn(small, 18, 11, 3, weighted=True, bias=True, dtype=dtype)
        spread = laid_out(weights[:, None].expand(-1, 2), layout)[:, 1]
        assert_exact((laid_out(x, layout), laid_out(w, layout), spread, True), mode)


def test_a_lazy_negation_is_seen():
    x, w, weights, bias = drawn(small, 5, 4, 2, weighted=True, bias=True, dtype=torch.float32)
    negated = torch.imag(torch.complex(x, -x).conj())
    assert negated.is_neg()
    assert_exact((negated, w, weights, bias), "ieee")


def test_every_entry_of_results_and_parts_is_written(monkeypatch):
    """New memory holds NaN: an entry of a part that is read must have been written, and every one of the result."""
    empty = torch.empty
    monkeypatch.setattr(torch, "empty", lambda *size, **options: empty(*size, **options).fill_(torch.nan))
    for sizes in ((0, 3, 2), (37, 9, 3), (3, 300, 40)):
        assert_exact(drawn(small, *sizes, weighted=False, bias=True, dtype=torch.float32), "ieee")


@pytest.mark.parametrize("strides", [(2**26, 1), (1, 2**26)])
def test_offsets_pass_two_to_the_31(strides):
    x, w, weights, bias = drawn(small, 64, 64, 2, weighted=True, bias=True, dtype=torch.bfloat16)
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


# --- order and repetition -------------------------------------------------------------------------------------------


def test_columns_do_not_meet_and_bits_repeat():
    """A column that is computed beside others of its group has the bits it has beside any others."""
    x, w, weights, bias = drawn(normal, 70, 21, 16, weighted=True, bias=True, dtype=torch.float32)
    together = run((x, w, weights, bias), "ieee")
    assert torch.equal(together, run((x, w, weights, bias), "ieee"))
    other = torch.cat([w[:, :9], normal(22, 7, seed=5)], dim=1)
    assert torch.equal(together[:, :9], run((x, other, weights, bias), "ieee")[:, :9])


# --- what is pinned, what is refused --------------------------------------------------------------------------------


def test_the_columns_of_a_pass():
    assert [columns_per_pass(f) for f in (0, 1, 256, 257, 768, 2048, 4096)] == [32, 32, 32, 16, 8, 4, 2]
    assert [columns_per_pass(f, "float64", 2) for f in (1, 256, 257, 4096)] == [16, 16, 8, 1]
    assert columns_per_pass(MOST_FEATURES + 1) == 0
    for mode, element_bytes in itertools.product(MODES, (2, 4, 8)):
        for features, columns in ((1, 1), (300, 5), (768, 100), (4096, 7)):
            block = chosen_block(features, columns, mode, element_bytes)
            assert block in pinned(mode, element_bytes)
            assert block.features >= features
            assert block.columns >= min(columns, columns_per_pass(features, mode, element_bytes))


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
def test_every_block_fits(architecture):
    for mode, element_bytes in itertools.product(MODES, (2, 4, 8)):
        for block in pinned(mode, element_bytes):
            fitted = block.fitted(element_bytes, architecture)
            assert tiles.legal(fitted.shared_bytes(element_bytes), architecture)


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
