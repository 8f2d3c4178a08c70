"""Stored bits are read exactly, in every dtype, whatever the process does with subnormals."""

from __future__ import annotations

import math

import pytest
import torch

from ntkla.linalg.errors import DtypeError, NonFiniteError
from ntkla.testing import dyadic, dyadic_number, hostile_states
from ntkla.testing.exact import integers

VALUES = [0.0, -0.0, 1.0, -1.5, 1 / 3, 65504.0, 6e-8, -1e-40, 1e-41, 1e-310, 5e-324, -(2.0**-1030), 1e300]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_pairs_rebuild_the_entries(dtype):
    x = torch.tensor([v for v in VALUES if abs(v) <= torch.finfo(dtype).max], dtype=torch.float64).to(dtype)
    assert [math.ldexp(m, e) for m, e in dyadic(x)] == x.to(torch.float64).tolist()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_subnormals_survive_flushed_arithmetic(dtype):
    x = torch.full((3,), torch.finfo(dtype).tiny, dtype=dtype) / 4
    expected = dyadic(x)
    assert expected[0][0] != 0
    with hostile_states()["flush denormal"]():
        assert dyadic(x) == expected
        assert dyadic_number(5e-324) == (1, -1074)


def test_strided_views_are_read_row_by_row():
    x = torch.arange(12, dtype=torch.float32).reshape(3, 4).T[::2]
    assert [math.ldexp(m, e) for m, e in dyadic(x)] == x.flatten().tolist()


def test_integers_share_one_shift():
    pairs = [(3, -2), (0, -50), (-1, 4)]
    values, shift = integers(pairs)
    assert [math.ldexp(v, shift) for v in values] == [math.ldexp(m, e) for m, e in pairs]
    assert integers([(0, 7)]) == ([0], 0)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_a_number_is_refused(value):
    with pytest.raises(NonFiniteError, match="finite"):
        dyadic(torch.tensor([1.0, value]))


def test_integer_tensors_are_refused():
    with pytest.raises(DtypeError, match="int64"):
        dyadic(torch.tensor([1]))
