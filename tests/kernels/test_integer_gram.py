"""The integer kernel: every entry that of Python's integers, and none lost where int32 ends."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch

from tests.kernels import models_integer
from tests.kernels.draws import DEVICE

pytest.importorskip("triton", reason="the kernels need Triton, which is made for Linux only")

from csrc_triton import integer_gram as module
from csrc_triton import tiles
from csrc_triton.integer_gram import LARGEST, LEVELS, MOST_SUMMANDS, PADDING, TILE, integer_gram, pinned_tile, variants

Levels = list[list[tuple[int, int]]]


def planes(count: int, rows: int, features: int, seed: int = 0) -> torch.Tensor:
    """Integers of at most 64 in magnitude, the rows padded with zeros."""
    generator = torch.Generator(device="cpu").manual_seed(seed)
    drawn = torch.randint(-LARGEST, LARGEST + 1, (count, rows, features), generator=generator, device="cpu")
    padded = torch.zeros((count, rows, -(-features // PADDING) * PADDING), dtype=torch.int8, device=DEVICE)
    padded[:, :, :features] = drawn
    return padded


def square_levels(count: int) -> Levels:
    """Those of `count` planes next to each other, cut off after six."""
    pairs = list(itertools.product(range(count), repeat=2))
    return [[pair for pair in pairs if sum(pair) == level] for level in range(min(LEVELS, 2 * count - 1))]


def assert_exact(x: torch.Tensor, y: torch.Tensor | None, levels: Levels, **options) -> None:
    computed = integer_gram(x, y, levels, **options)
    expected = models_integer.window(x.cpu().numpy(), (x if y is None else y).cpu().numpy(), levels)
    for found, truth in zip(computed, expected, strict=True):
        assert found.dtype == torch.int64
        assert torch.equal(found.cpu(), torch.from_numpy(truth))


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize(
    ("rows", "features"), [(0, 3), (1, 1), (15, PADDING + 1), (16, PADDING), (33, 2 * PADDING - 1)]
)
def test_every_size_has_the_exact_digits_and_carries(rows, features, symmetric):
    x, y = planes(2, rows, features), planes(2, 5, features, seed=1)
    assert_exact(x, None if symmetric else y, square_levels(2))


@pytest.mark.parametrize(
    "levels",
    [
        [],
        [[]],
        [[], [], [(2, 0)]],
        [[(0, 0), (1, 1), (2, 1)], [], [], [], [], [(2, 0), (0, 1)]],
        [[(p, q)] for p, q in itertools.product(range(3), range(2))],
    ],
)
def test_any_levels_of_any_pairs(levels):
    assert_exact(planes(3, 18, 20), planes(2, 3, 20, seed=1), levels)


def test_planes_in_the_midst_of_others_and_rows_apart():
    buffer = torch.full((5, 40, 3 * PADDING), 77, dtype=torch.int8, device=DEVICE)
    window = buffer[1:4, 3:20:2, PADDING : 2 * PADDING]
    window.copy_(planes(3, 9, PADDING))
    assert_exact(window, None, square_levels(3))
    assert_exact(window.expand(3, 9, PADDING)[:, :1].expand(-1, 9, -1), window[:2], square_levels(2))


def test_offsets_pass_two_to_the_31():
    x = torch.empty_strided((2, 34, PADDING), (34 * 2**26, 2**26, 1), dtype=torch.int8, device=DEVICE)
    x.copy_(planes(2, 34, PADDING))
    assert_exact(x[:, 31:], planes(1, 2, PADDING, seed=1), [[(0, 0)], [(1, 0)]])


@pytest.mark.parametrize("symmetric", [True, False])
def test_every_entry_is_written(symmetric, monkeypatch):
    x, y = planes(2, 33, 5), planes(2, 18, 5, seed=1)
    empty = torch.empty
    with monkeypatch.context() as patched:
        patched.setattr(torch, "empty", lambda *shape, **kind: empty(*shape, **kind).fill_(-(2**62) - 1))
        computed = integer_gram(x, None if symmetric else y, square_levels(2))
    again = integer_gram(x, None if symmetric else y, square_levels(2))
    assert all(map(torch.equal, computed, again))


# --- where int32 ends -----------------------------------------------------------------------------------------------

# So deep a tile walks 2^19 features in a few steps.
DEEP = replace(pinned_tile(), rows=16, columns=16, depth=2**15)


def longest(sign: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows of the largest entries, one block longer than int32 can add up."""
    features = 2**19 + DEEP.depth
    x = torch.full((1, 2, features), -LARGEST, dtype=torch.int8, device=DEVICE)
    x[0, 1] = LARGEST * sign
    return x, torch.full((1, 1, features), -LARGEST, dtype=torch.int8, device=DEVICE)


def test_the_limit_of_int32_is_as_far_as_it_goes():
    assert LARGEST**2 * MOST_SUMMANDS < 2**31 <= LARGEST**2 * (MOST_SUMMANDS + 1)


@pytest.mark.skipif(DEVICE == "cuda", reason="a tile so deep is for the interpreter; test_gpu.py has the device's own")
@pytest.mark.parametrize("sign", [1, -1])
def test_sums_beyond_int32_are_exact(sign):
    x, y = longest(sign)
    digits, carry = integer_gram(x, y, [[(0, 0)]], tile=DEEP)
    whole = LARGEST**2 * x.shape[2]
    assert (digits + (carry << 42)).flatten().tolist() == [whole, -sign * whole]


@pytest.mark.skipif(DEVICE == "cuda", reason="plants its fault in the interpreter")
def test_one_drain_too_late_is_noticed(monkeypatch):
    """The planted error: one product more than int32 holds."""
    monkeypatch.setattr(module, "MOST_SUMMANDS", MOST_SUMMANDS + 1)
    x, y = longest(1)
    digits, carry = integer_gram(x, y, [[(0, 0)]], tile=DEEP)
    assert (digits + (carry << 42)).flatten().tolist() != [LARGEST**2 * x.shape[2], -(LARGEST**2) * x.shape[2]]


def test_the_largest_carries_of_six_levels_are_exact():
    x = torch.full((1, 2, PADDING), -LARGEST, dtype=torch.int8, device=DEVICE)
    x[0, 1] = LARGEST
    assert_exact(x, None, [[(0, 0)] * 7] * LEVELS)


# --- what is pinned, what is refused --------------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", ["sm_80", "sm_90", "sm_100", "gfx942"])
def test_the_tile_is_square_and_fits_and_its_instruction_is_known(architecture):
    assert all(architecture in variant.instruction for variant in variants(architecture))
    assert tiles.legal(TILE.fitted(1, architecture).shared_bytes(1, architecture), architecture)
    assert TILE.rows == TILE.columns


X = torch.zeros((2, 3, PADDING), dtype=torch.int8, device=DEVICE)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: integer_gram(X.short(), None, []), TypeError, "int8 planes, got torch.int16"),
        (lambda: integer_gram(X[0], None, []), ValueError, r"expected \[S, n, F\]"),
        (lambda: integer_gram(X[:, :, 1:], None, []), ValueError, f"F a multiple of {pinned_tile().depth}"),
        (lambda: integer_gram(X.mT.contiguous().mT, None, []), ValueError, "dense rows"),
        (lambda: integer_gram(X, X.to("meta"), []), ValueError, "and meta"),
        (lambda: integer_gram(X, X, [[]] * 7), ValueError, "at most 6 levels"),
        (lambda: integer_gram(X, X, [[(0, 2)]]), ValueError, "pairs of 2 and 2 planes"),
        (lambda: integer_gram(X, None, [[(0, 1)]]), ValueError, r"both \(p, q\) and \(q, p\)"),
    ],
)
def test_bad_input_is_named(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_more_products_than_fit_are_refused():
    long = torch.empty((1, 1, 2**30), dtype=torch.int8, device=DEVICE)  # never touched
    with pytest.raises(ValueError, match="Cut the features"):
        integer_gram(long, None, [[(0, 0)] * 2**12])
