"""The Gram kernel: every entry right in every mode, size, dtype and layout.

Sums of small integers are exact in every mode, so with them every entry must be the exact one.
"""

from __future__ import annotations

import pytest
import torch

from tests.kernels.draws import DEVICE, normal, whole

pytest.importorskip("triton", reason="the kernels need Triton, which is made for Linux only")

from csrc_triton import tiles
from csrc_triton.gram import MODES, TILES, gram, pinned_tile

CASES = [(mode, dtype) for mode, dtypes in MODES.items() for dtype in dtypes]


def assert_exact(x: torch.Tensor, y: torch.Tensor | None, bias: bool, mode: str) -> None:
    """The kernel's result is that of integer arithmetic, in the dtype that the mode returns."""
    computed = gram(x, y, bias=bias, mode=mode)
    right = x if y is None else y
    exact = x.cpu().long() @ right.cpu().long().T + int(bias)
    assert computed.dtype == (torch.float64 if mode == "float64" else torch.float32)
    assert computed.is_contiguous()
    assert torch.equal(computed.cpu().double(), exact.double())


# --- every entry ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
def test_every_size_has_the_exact_entries(mode):
    tile = pinned_tile(mode)
    dtype, n, depth = MODES[mode][0], tile.rows, tile.depth
    for rows, features in ((0, 3), (3, 0), (1, 1), (n - 1, depth + 1), (n, depth), (n + 1, 2 * depth - 1), (37, 7)):
        assert_exact(whole(rows, features, dtype=dtype), None, rows % 2 == 1, mode)
    for rows, columns, features in ((0, 2, 3), (2, 0, 3), (2, 3, 0), (1, n + 1, 1), (2 * n + 1, 1, depth), (23, 17, 5)):
        x, y = whole(rows, features, dtype=dtype), whole(columns, features, seed=1, dtype=dtype)
        assert_exact(x, y, columns % 2 == 1, mode)


@pytest.mark.parametrize(("mode", "dtype"), CASES)
def test_every_dtype_has_the_exact_entries(mode, dtype):
    assert_exact(whole(19, 18, dtype=dtype), None, True, mode)
    assert_exact(whole(19, 18, dtype=dtype), whole(3, 18, seed=1, dtype=dtype), False, mode)


def halo(x: torch.Tensor) -> torch.Tensor:
    """The same matrix as a window of a buffer that is NaN elsewhere."""
    buffer = torch.full((x.shape[0] + 20, x.shape[1] + 37), torch.nan, dtype=x.dtype, device=x.device)
    window = buffer[3 : 3 + x.shape[0], 5 : 5 + x.shape[1]]
    window.copy_(x)
    return window


def spread(x: torch.Tensor) -> torch.Tensor:
    """The same matrix as every third column of every second row of a buffer that is NaN elsewhere."""
    buffer = torch.full((2 * x.shape[0], 3 * x.shape[1]), torch.nan, dtype=x.dtype, device=x.device)
    buffer[::2, ::3] = x
    return buffer[::2, ::3]


LAYOUTS = {
    "transposed": lambda x: x.T.contiguous().T,
    "halo": halo,
    "spread": spread,
    "one row": lambda x: x[:1].expand(x.shape),
    "one column": lambda x: x[:, :1].expand(x.shape),
    "one number": lambda x: x[:1, :1].expand(x.shape),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("mode", MODES)
def test_every_layout_has_the_exact_entries_and_nothing_beside_it_is_read(mode, layout):
    dtype, tile = MODES[mode][-1], pinned_tile(mode)
    x, y = (whole(n, tile.depth + 1, seed=n, dtype=dtype) for n in (tile.rows + 2, 5))
    x = LAYOUTS[layout](x)
    assert_exact(x, None, True, mode)
    assert_exact(y, x, False, mode)


def test_a_lazy_negation_is_not_lost():
    x = whole(5, 3)
    lazy = torch.imag(torch.complex(x, -x).conj())
    assert lazy.is_neg()
    assert_exact(lazy, x, False, "ieee")


@pytest.mark.parametrize("symmetric", [True, False])
def test_every_entry_is_written(symmetric, monkeypatch):
    x, y = whole(33, 5), whole(18, 5, seed=1)
    empty, made = torch.empty, []

    def poisoned(*shape, **options):
        made.append(empty(*shape, **options).fill_(torch.nan))
        return made[-1]

    with monkeypatch.context() as patched:
        patched.setattr(torch, "empty", poisoned)
        computed = gram(x, None if symmetric else y, mode="ieee")
    assert len(made) == 1
    assert torch.equal(computed, gram(x, None if symmetric else y, mode="ieee"))
    assert not computed.isnan().any()


@pytest.mark.parametrize("strides", [(2**26, 1), (1, 2**26)])
def test_offsets_pass_two_to_the_31(strides):
    small = whole(64, 64, dtype=torch.bfloat16)
    x = torch.empty_strided((64, 64), strides, dtype=torch.bfloat16, device=DEVICE)
    x.copy_(small)
    x, small = (x[40:], small[40:]) if strides[1] == 1 else (x[:17], small[:17])
    assert_exact(x, small, False, "bf16")
    assert_exact(small, x, False, "bf16")


def test_what_is_not_finite_goes_where_it_goes_in_torch():
    x = normal(17, 18)
    x[3, 4], x[5, 17], x[16, 0] = torch.nan, torch.inf, 3e38
    computed, expected = gram(x, mode="ieee"), x @ x.T
    assert torch.equal(computed.isnan(), expected.isnan())
    assert torch.equal(computed.isinf(), expected.isinf())


# --- symmetry and order ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
def test_the_symmetric_result_is_symmetric_in_every_bit_and_agrees_with_the_cross_one(mode):
    x = normal(35, 40, dtype=MODES[mode][0])
    symmetric, cross = gram(x, bias=True, mode=mode), gram(x, x.clone(), bias=True, mode=mode)
    assert torch.equal(symmetric, symmetric.T)
    assert torch.equal(symmetric.tril(), cross.tril())
    assert torch.equal(symmetric, gram(x, bias=True, mode=mode))


# --- what is pinned, what is refused --------------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", ["sm_80", "sm_90", "sm_100", "gfx942"])
def test_every_tile_is_square_and_fits(architecture):
    for mode, tile in TILES.items():
        fitted = tile.fitted(MODES[mode][0].itemsize, architecture)
        assert tile.rows == tile.columns
        assert tiles.legal(fitted.shared_bytes(MODES[mode][0].itemsize, architecture), architecture)


X = torch.zeros(2, 3, device=DEVICE)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: gram(X, mode="tf32"), ValueError, "'bf16', 'float64', 'ieee'.*got 'tf32'"),
        (lambda: gram(X, mode="bf16"), TypeError, "mode 'bf16' takes one dtype"),
        (lambda: gram(X, X.double(), mode="float64"), TypeError, "torch.float32 and torch.float64"),
        (lambda: gram(X[0], mode="ieee"), ValueError, r"expected \[n, F\] and \[m, F\], got \(3,\)"),
        (lambda: gram(X, X[:, :2], mode="ieee"), ValueError, r"\(2, 3\) and \(2, 2\)"),
        (lambda: gram(X, X.to("meta"), mode="ieee"), ValueError, "and meta"),
    ],
)
def test_bad_input_is_named(call, error, message):
    with pytest.raises(error, match=message):
        call()
