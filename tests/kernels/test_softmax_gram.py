"""The kernels of `softmax_gram`: every entry right, in the order of their model, and nothing beside it read.

With probabilities that are powers of four over their sum, integer roots over a power of two and small integers, every
product and sum is exact in both modes, so every entry must be the exact one.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ntkla.linalg.arithmetic.products import pairwise_depth, pieced_gamma
from ntkla.linalg.design import DesignMatrix
from ntkla.linalg.precision import gamma
from ntkla.linalg.softmax_root import SoftmaxRoot
from ntkla.testing.spectra import LAYOUTS, laid_out
from tests.kernels import models_softmax
from tests.kernels.draws import DEVICE, normal, whole
from tests.kernels.softmax_problems import as_written, exact_roots, tops

pytest.importorskip("triton", reason="the kernels need Triton, which is made for Linux only")

from csrc_triton import softmax_tiles as module
from csrc_triton.softmax_gram import softmax_gram
from csrc_triton.softmax_tiles import MODES, WORKING, roundings

CASES = [(mode, dtype) for mode, dtypes in MODES.items() for dtype in dtypes]
interpreter = pytest.mark.skipif(DEVICE == "cuda", reason="the order inside a block is numpy's in the interpreter only")


def assert_exact(x: torch.Tensor, roots: torch.Tensor, v: torch.Tensor, bias: bool, mode: str) -> None:
    computed = softmax_gram(x, roots, tops(roots), v, bias=bias, mode=mode)
    assert computed.dtype == WORKING[mode]
    assert computed.is_contiguous()
    assert torch.equal(computed.cpu().double(), as_written(x, roots, v, bias))


SIZES = [
    (1, 1, 1, 1),
    (5, 3, 2, 2),
    (17, 0, 5, 1),
    (15, 15, 16, 1),
    (17, 33, 17, 2),  # one more than a tile each way, and than a block of outputs that is taken whole
    (70, 17, 5, 1),  # several parts, and spans
    (3, 70, 40, 1),  # several pieces of features and blocks of outputs
    (4, 3, 6, 0),
]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("sizes", SIZES)
def test_every_size_has_the_exact_entries(mode, sizes):
    n, features, outputs, columns = sizes
    kind = MODES[mode][0]
    x, v = whole(n, features, dtype=kind, most=3), whole(n, outputs, columns, seed=1, dtype=kind, most=3)
    assert_exact(x, exact_roots(n, outputs), v, columns % 2 == 1, mode)


@pytest.mark.parametrize(("mode", "dtype"), CASES)
def test_every_dtype_has_the_exact_entries(mode, dtype):
    x, v = whole(9, 5, dtype=dtype, most=3), whole(9, 6, 2, seed=1, dtype=dtype, most=3)
    assert_exact(x, exact_roots(9, 6), v, True, mode)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("mode", MODES)
def test_every_layout_has_the_exact_entries_and_nothing_beside_it_is_read(mode, layout):
    """Also an array that repeats one entry: v and x only, for the roots must have norm 1."""
    x, v, roots = whole(9, 5, most=3), whole(9, 18, seed=1, most=3), exact_roots(9, 18)
    spread = laid_out(roots, layout)
    roots = spread if torch.equal(spread, roots) else roots
    assert_exact(laid_out(x, layout), roots, laid_out(v, layout)[:, :, None], True, mode)
    assert_exact(x, roots, v[:, :, None].expand(-1, -1, 2), True, mode)


def test_every_entry_of_results_and_workspaces_is_written(monkeypatch):
    """New memory holds NaN: an entry that is read must have been written, and every one of the result."""
    empty = torch.empty
    monkeypatch.setattr(torch, "empty", lambda *size, **options: empty(*size, **options).fill_(torch.nan))
    for sizes in ((37, 3, 5, 2), (5, 17, 35, 1), (9, 0, 3, 1)):
        n, features, outputs, columns = sizes
        x, v = whole(n, features, most=3), whole(n, outputs, columns, seed=1, most=3)
        assert_exact(x, exact_roots(n, outputs), v, True, "ieee")


@pytest.mark.parametrize("strides", [(2**26, 1), (1, 2**26)])
def test_offsets_pass_two_to_the_31(strides):
    x = torch.empty_strided((64, 64), strides, dtype=torch.float32, device=DEVICE)[40:, :7]
    x.copy_(whole(24, 7, most=3))
    v = torch.empty_strided((64, 64), strides, dtype=torch.float32, device=DEVICE)[40:, :5]
    v.copy_(whole(24, 5, seed=1, most=3))
    assert_exact(x, exact_roots(24, 5), v[:, :, None], True, "ieee")


def test_what_is_not_finite_stays_in_its_column():
    x, v = normal(9, 5), normal(9, 4, 3, seed=1)
    roots = torch.softmax(normal(9, 4, seed=2).double(), 1).sqrt()
    clean = softmax_gram(x, roots, tops(roots), v, mode="ieee")
    v[3, 2, 1] = torch.inf
    found = softmax_gram(x, roots, tops(roots), v, mode="ieee")
    assert not found[:, :, 1].isfinite().any()
    assert torch.equal(found[:, :, ::2], clean[:, :, ::2])


# --- order ----------------------------------------------------------------------------------------------------------


@interpreter
@pytest.mark.parametrize(("mode", "dtype"), CASES)
@pytest.mark.parametrize("sizes", [(37, 35, 7, 1), (70, 9, 7, 1), (9, 5, 35, 2)])
def test_it_computes_in_the_order_of_its_model(mode, dtype, sizes):
    n, features, outputs, columns = sizes
    x, v = normal(n, features, dtype=dtype), normal(n, outputs, columns, seed=1, dtype=WORKING[mode])
    roots = torch.softmax(3 * normal(n, outputs, seed=2, dtype=torch.float64), 1).sqrt()
    top, tile = tops(roots), module.pinned_tile(mode, outputs)
    assert (top >= 0).any()
    assert (top < 0).any()
    share = module.row_share(n, features, outputs, columns, mode)
    assert (share < n) == (sizes == (70, 9, 7, 1))
    held = models_softmax.SoftmaxSizes(
        1 << module.levels(outputs),
        outputs <= module.LONGEST,
        tile.rows,
        tile.columns,
        tile.depth,
        share,
        module.SPAN,
        module.PIECE,
    )
    arrays = (x.to(WORKING[mode]), roots.to(WORKING[mode]), top, v)
    expected = models_softmax.softmax_gram(*(t.numpy() for t in arrays), True, held)
    computed = softmax_gram(x, roots, top, v, bias=True, mode=mode)
    assert np.array_equal(computed.numpy(), expected)
    assert torch.equal(computed, softmax_gram(x, roots, top, v, bias=True, mode=mode))


def test_no_term_meets_more_roundings_than_in_torch(monkeypatch):
    """In float64: so the bounds of `SoftmaxGram` hold for the kernel, with a device's sizes and the interpreter's."""
    for at_size in (False, True):
        if at_size:
            for name, value in {"LONGEST": 32, "SPAN": 1024, "LEAST_SHARE": 256, "PIECE": 128}.items():
                monkeypatch.setattr(module, name, value)
        for n in (*range(1, 400), 1023, 1024, 1025, 5000, 50_001, 10**6, 10**7):
            counts = roundings(n, 7, 3, "float64", root=4)
            if at_size:
                assert gamma(counts.inner) <= gamma(DesignMatrix(torch.zeros(1, 7).expand(n, 7)).summands)
        for features in (*range(1, 300), 768, 4096, 10**5) if at_size else ():
            for bias in (False, True):
                assert gamma(roundings(5, features, 3, "float64", root=4, bias=bias).outer) <= pieced_gamma(features)
        for outputs in (*range(1, 200), 1000, 50_000):
            assert roundings(5, 7, outputs, "float64", root=4).local <= 28 + pairwise_depth(outputs)
            assert roundings(5, 7, outputs, "ieee", root=4).local <= 23


# --- what is pinned, what is refused --------------------------------------------------------------------------------


X, Q, TOP, V = (torch.zeros(shape, device=DEVICE) for shape in ((2, 3), (2, 4), (2,), (2, 4, 1)))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: softmax_gram(X, Q, TOP, V, mode="tf32"), ValueError, "'float64', 'ieee'.*got 'tf32'"),
        (lambda: softmax_gram(X.double(), Q, TOP, V, mode="ieee"), TypeError, "got torch.float64"),
        (lambda: softmax_gram(X[0], Q, TOP, V, mode="ieee"), ValueError, r"got \[\(3,\)"),
        (lambda: softmax_gram(X, Q, TOP, V[:, :3], mode="ieee"), ValueError, r"\(2, 4\), \(2,\), \(2, 3, 1\)"),
        (lambda: softmax_gram(X, Q, TOP[:1], V, mode="ieee"), ValueError, r"\(1,\)"),
        (lambda: softmax_gram(X, Q, TOP, V.to("meta"), mode="ieee"), ValueError, "meta"),
    ],
)
def test_bad_input_is_named(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_roots_of_probabilities_are_those_of_the_class():
    """The launcher takes what `SoftmaxRoot` makes: the places of confident rows, and -1."""
    p = torch.tensor([[0.2, 0.8, 0.0], [0.4, 0.3, 0.3], [0.0, 3.0, 0.0]], dtype=torch.float64, device=DEVICE)
    assert SoftmaxRoot(p).confident_place().tolist() == [1, -1, 1]
