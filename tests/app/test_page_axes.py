"""What the page makes of numbers and names: which samples and modes are drawn, ticks, intervals, plain text."""

from __future__ import annotations

import math

import numpy as np
import pytest

from ntkla.app.pictures.axes import evenly, evenly_in_logarithm, interval, plain, power_of_ten
from ntkla.linalg.decisions import Decision


def test_samples_that_are_drawn_do_not_follow_the_order_of_the_labels():
    chosen = evenly(100_000, 2000)
    assert len(np.unique(chosen)) == 2000
    assert chosen.max() < 100_000
    for period in (2, 3, 10, 50, 100):
        counts = np.bincount(chosen % period, minlength=period)
        assert counts.min() > 0.5 * 2000 / period
    assert evenly(7, 10).tolist() == list(range(7))


def test_modes_that_are_drawn_hold_the_first_ones_and_the_last():
    chosen = evenly_in_logarithm(20_000, 500)
    assert len(chosen) <= 500
    assert chosen[:20].tolist() == list(range(20))
    assert chosen[-1] == 19_999
    assert (np.diff(chosen) > 0).all()


@pytest.mark.parametrize(
    ("decision", "text"),
    [
        (Decision(0.25, 0.25), "0.250"),
        (Decision(0.99996, 0.99996), ">0.999"),
        (Decision(1.0, 1.0), "1.000"),
        (Decision(0.0001, 0.0001), "<0.001"),
        (Decision(0.0, 0.0), "0.000"),
        (Decision(0.12345, 0.98765), "0.123\N{EN DASH}0.988"),
    ],
)
def test_rounding_claims_nothing_that_is_not_so(decision, text):
    assert interval(decision) == text


def test_names_are_one_line_without_mathematics():
    assert plain("a $x$\nb", 20) == r"a \$x\$ b"
    assert plain("beginning and end", 9) == "begi\N{HORIZONTAL ELLIPSIS} end"
    assert plain("\N{CJK UNIFIED IDEOGRAPH-4E2D}", 20) == "?"


@pytest.mark.parametrize("largest", [5e-324, 1e-70, 1e-3, 0.5, 9999.0, 1e4, 1e300])
def test_ticks_stay_short(largest):
    unit, label = power_of_ten(np.array([0.0, -largest, math.inf]))
    assert math.isfinite(largest / unit)
    assert largest / unit < 1e4
    assert (unit == 1.0) == (label == "")
