"""One rounding of an exact number to float64: Python's own, for every tie, carry and end of the range."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from ntkla.linalg.arithmetic.fixed_point import FixedPoint
from ntkla.linalg.arithmetic.integer_slices import cut_slices, exponent_of
from ntkla.linalg.arithmetic.nearest import fixed_point, nearest
from ntkla.linalg.errors import ScaleError
from ntkla.testing import hostile_states
from tests.linalg.exact_reference import exactly, value

CPU = torch.device("cpu")
ENDS = [1, 2**52, 2**53 - 1, 2**53, 2**53 + 1, 2**54 - 1]
integers = st.one_of(st.sampled_from(ENDS), st.integers(1, 2**54 - 1)).flatmap(lambda m: st.sampled_from([m, -m]))
near = st.sampled_from([0, 1, -1, 53, -52, -53, -54, -105, -106, -107, -300])
bases = st.sampled_from([0, 900, -1021, -1022, -1060, -1074, -1075, -1127, -1180])
numbers = bases.flatmap(
    lambda base: st.lists(st.tuples(integers, near.map(lambda e: base + e)), min_size=1, max_size=4)
)


def of(pairs: list[tuple[int, int]]) -> FixedPoint:
    terms = [(torch.tensor([[m]], dtype=torch.int64), e) for m, e in pairs]
    return FixedPoint.of_terms(terms, [e for _, e in pairs], FixedPoint.zeros(1, 1, CPU))


def rounded(pairs: list[tuple[int, int]]) -> float | None:
    """By Python's division of integers, which rounds once; None beyond the range."""
    try:
        return float(sum((m * Fraction(2) ** e for m, e in pairs), Fraction(0)))
    except OverflowError:
        return None


@given(numbers)
@example([(2**53 + 1, 0)])  # ties: down to even, up to even, and either way with something far below
@example([(2**53 + 3, 0)])
@example([(2**53 + 1, 0), (1, -300)])
@example([(2**53 + 3, 0), (-1, -300)])
@example([(2**54 - 1, 0)])  # carries into the next power of two
@example([(1, -1075)])  # half of the smallest number, a little more, and three halves
@example([(1, -1075), (1, -1300)])
@example([(3, -1075)])
@example([(2**53 - 1, -1075)])  # up to the smallest normal number
@example([(2**53 - 1, 971)])  # the largest, and one half of its last place below the end
@example([(2**54 - 2, 970), (1, 969)])
@example([(2**54 - 1, 970)])
@example([(1, 1024), (-1, -900)])
@example([(-(2**43), 0), (2**43, 44), (1, -44)])  # digits that meet their limits
def test_every_number_rounds_as_python_rounds(pairs):
    expected = rounded(pairs)
    if expected is None:
        with pytest.raises(ScaleError, match="1 entries are beyond"):
            nearest(of(pairs))
    else:
        assert float(nearest(of(pairs))) == expected


@pytest.mark.parametrize("name", hostile_states())
def test_no_state_of_the_process_changes_a_bit(name):
    some = [[(2**53 + 1, 0), (1, -300)], [(3, -1075)], [(2**53 - 1, -1075)], [(-5, 900), (1, 0)]]
    expected = torch.tensor([rounded(pairs) for pairs in some], dtype=torch.float64).view(torch.int64)
    exact = [of(pairs) for pairs in some]
    with hostile_states()[name]():
        found = [nearest(x) for x in exact]
        back = [fixed_point(x) for x in found]
    assert torch.equal(torch.cat(found).flatten().view(torch.int64), expected)
    assert [value(x) for x in back] == [exactly(x) for x in found]


def test_what_is_taken_from_an_exact_number_is_gone():
    exact = of([(2**53 + 1, 0), (-(2**43), -88)])
    assert value(exact - of([(2**53 + 1, 0)])) == value(of([(-(2**43), -88)]))
    assert (exact - exact).equals(FixedPoint.zeros(1, 1, CPU))
    assert float(nearest(FixedPoint.zeros(1, 1, CPU) - exact)) == -float(nearest(exact))


SPREAD = [1.7e308, -(2.0**1000), 2.0**400 + 2.0**348, 3.3, 1.0, 1 - 2.0**-53, 2.0**-500, -1e-310, 5e-324, 0.0]


@pytest.mark.parametrize("bits", [7, 20])
@pytest.mark.parametrize("numbers", [SPREAD, SPREAD[1:], SPREAD[3:7], SPREAD[7:], [0.0], [1e-40, 2.0]])
@pytest.mark.parametrize("flushed", [False, True])
def test_slices_of_numbers_of_any_size_add_up_to_them(bits, numbers, flushed):
    """On one grid, from the top down, no part empty and none too large; also where arithmetic flushes."""
    x = torch.tensor([numbers], dtype=torch.float64)
    with hostile_states()["flush denormal"]() if flushed else torch.no_grad():
        slices = list(cut_slices(x, exponent_of(x), bits, flushed))
    total = [Fraction(0)] * len(numbers)
    for part, exponent in slices:
        assert bool(part.any())
        assert bool((part.abs() <= 2 ** (bits - 1)).all())
        total = [a + int(b) * Fraction(2) ** exponent for a, b in zip(total, part[0].tolist(), strict=True)]
    assert [total] == exactly(x)
    exponents = [exponent for _, exponent in slices]
    assert exponents == sorted(set(exponents), reverse=True)
    assert all((exponents[0] - exponent) % bits == 0 for exponent in exponents)
