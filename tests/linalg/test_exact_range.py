"""`exact_gram` at the ends of the range and where arithmetic flushes subnormal numbers: the same bits, sound bounds."""

from __future__ import annotations

import pytest
import torch

from ntkla import exact_gram, gram
from ntkla.linalg.arithmetic.integer_slices import exponent_of, least_exponent
from ntkla.linalg.errors import ScaleError
from ntkla.testing import hostile_states

ONES = torch.ones(1, 2, dtype=torch.float64, device="cpu")


@pytest.mark.parametrize("top", [*range(355, 404, 3), 378, 390, 391, 392, 500, 900, 1000])
def test_flushing_changes_nothing_beside_zeros_and_subnormal_numbers(top):
    """A zero makes the numbers be lifted, and a lifted number is rounded to grids close to the end of the range."""
    x = torch.tensor([[1.1 * 2.0 ** (top - 1), 0.0]], dtype=torch.float64, device="cpu")
    expected = [exact_gram(x, ONES), exact_gram(x, ONES, slices=3)]
    assert torch.equal(expected[0].high, x[:, :1])
    with hostile_states()["flush denormal"]():
        found = [exact_gram(x, ONES), exact_gram(x, ONES, slices=3)]
        assert torch.equal(gram(x, ONES, precision="exact"), expected[0].high)
    for one, other in zip(expected, found, strict=True):
        for part in ("high", "low", "error_bound"):
            assert torch.equal(getattr(one, part), getattr(other, part))


def test_second_words_far_below_the_first_ones_survive_flushing():
    x = torch.tensor([[1.1 * 2.0**196], [0.0]], dtype=torch.float64, device="cpu")
    expected = exact_gram(x)
    with hostile_states()["flush denormal"]():
        found = exact_gram(x)
    assert torch.equal(found.low, expected.low)
    assert not found.error_bound.any()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_the_exponent_of_subnormal_numbers_does_not_depend_on_flushing(dtype):
    smallest = torch.finfo(dtype).smallest_normal
    cases = [[[smallest, 0.0]], [[smallest / 2, -smallest / 4]], [[0.0, -3 * smallest / 4]], [[0.0, 0.0]]]
    arrays = [torch.tensor(rows, dtype=torch.float64, device="cpu").to(dtype) for rows in cases]
    expected = [least_exponent(x) for x in arrays]
    least = expected[0]
    assert expected == [least, least - 1, least, None]
    assert 2.0**least == smallest
    with hostile_states()["flush denormal"]():
        assert [least_exponent(x) for x in arrays] == expected
        assert exponent_of(arrays[-1]) == 0


def test_parts_of_zeros_take_any_exponent():
    x = torch.tensor([[0.0, 0.0], [2.0**-9, 2.0**-10]], device="cpu")
    whole = exact_gram(x, slices=2, exponent=-8)
    for rows in (slice(0, 1), slice(0, 0), slice(1, 2)):
        assert torch.equal(exact_gram(x[rows], x, slices=2, exponent=-8).high, whole.high[rows])


def test_a_row_that_moved_is_not_excused_by_one_that_is_too_large_for_a_sum():
    """0 times an overflow is no bound: the row of y moved, that of x did not, and its 1-norm is infinite."""
    x = torch.full((1, 2**24 + 8), 2.0**1000, dtype=torch.float64, device="cpu")
    x[0, ::2] *= -1
    x[0, 0] = -(2.0**1000) * (1 - 2.0**-30)
    y = torch.full_like(x, 2.0**-990)
    found = exact_gram(x, y, slices=1)
    assert float(found.error_bound) >= 2.0**-20  # the exact value; what was kept cancels


@pytest.mark.parametrize("exponent", [None, 1000])
def test_entries_beyond_the_grids_are_named(exponent):
    x = torch.full((1, 1), 2.0**1010, dtype=torch.float64, device="cpu")
    with pytest.raises(ScaleError, match=r"up to 2\^1010"):
        exact_gram(x, x.clone().fill_(2.0**-900), slices=2, exponent=exponent)
