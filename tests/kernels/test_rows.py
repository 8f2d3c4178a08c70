"""Rows reach the Gram kernel aligned, copied only where they are not, and a copy changes no bit."""

from __future__ import annotations

import pytest
import torch

from ntkla.testing.spectra import LAYOUTS, laid_out
from tests.kernels.draws import DEVICE, normal

pytest.importorskip("triton", reason="the kernels need Triton, which is made for Linux only")

from csrc_triton import gram as gram_module
from csrc_triton.gram import gram
from csrc_triton.rows import ALIGNED, aligned, padded


def test_a_padded_copy_is_aligned_and_has_zeros_behind_each_row():
    for rows, features in ((0, 3), (1, 1), (3, ALIGNED - 1), (2, ALIGNED), (5, ALIGNED + 1)):
        x = normal(rows, features)
        copy = padded(x)
        assert aligned(copy)
        assert copy.shape[1] - features < ALIGNED
        assert torch.equal(copy[:, :features], x)
        assert not copy[:, features:].any()


WIDE = torch.zeros(4, 4 * ALIGNED, device=DEVICE)


@pytest.mark.parametrize(
    ("x", "expected"),
    [
        (WIDE, True),
        (WIDE[:, ALIGNED : 2 * ALIGNED], True),
        (WIDE[1:].expand(3, -1), True),
        (WIDE[:1].expand(3, -1), True),
        (WIDE[:, : ALIGNED + 1], False),
        (WIDE[:, 1 : ALIGNED + 1], False),
        (WIDE[:, ::2], False),
        (WIDE.flatten()[:-4].reshape(7, -1)[:, :ALIGNED], False),
        (torch.empty_strided((1, ALIGNED), (2**31, 1), device=DEVICE), False),
        (torch.empty_strided((1, ALIGNED), (2**31 - ALIGNED, 1), device=DEVICE), True),
    ],
)
def test_what_is_aligned(x, expected):
    assert aligned(x) is expected


class Recorder:
    """Stands for the kernel and keeps what it was launched with."""

    def __init__(self, kernel):
        self.kernel, self.sides = kernel, []

    def __getitem__(self, grid):
        def launch(x, y, *rest, **options):
            self.sides.append((x, y))
            return self.kernel[grid](x, y, *rest, **options)

        return launch


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("mode", ["ieee", "bf16"])
def test_the_kernel_gets_aligned_rows_of_every_layout_and_returns_the_same_bits(mode, layout, monkeypatch):
    dtype = gram_module.MODES[mode][0]
    x, y = normal(9, 2 * ALIGNED, dtype=dtype), normal(5, 2 * ALIGNED, seed=1, dtype=dtype)
    x[:, -3:] = 0.0
    given = laid_out(x, layout)
    x = given.contiguous().clone()
    recorder = Recorder(gram_module.gram_kernel)
    monkeypatch.setattr(gram_module, "gram_kernel", recorder)
    expected = gram(x, y, mode=mode)
    left, right = recorder.sides.pop()
    assert (left.data_ptr(), right.data_ptr()) == (x.data_ptr(), y.data_ptr())
    assert torch.equal(gram(given, y, mode=mode), expected)
    assert torch.equal(gram(given[:, :-3], y[:, :-3], mode=mode), expected)
    assert torch.equal(gram(y, given, mode=mode), gram(y, x, mode=mode))
    assert torch.equal(gram(given, mode=mode), gram(x, mode=mode))
    assert len(recorder.sides) == 6
    assert all(aligned(side) for pair in recorder.sides for side in pair)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_float64_kernel_gets_dense_rows_of_every_layout(layout, monkeypatch):
    given = laid_out(normal(9, 7), layout)
    recorder = Recorder(gram_module.gram_kernel)
    monkeypatch.setattr(gram_module, "gram_kernel", recorder)
    assert torch.equal(gram(given, mode="float64"), gram(given.contiguous(), mode="float64"))
    assert all(side.stride(1) == 1 for pair in recorder.sides for side in pair)
