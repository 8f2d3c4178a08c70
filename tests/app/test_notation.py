"""The small languages of the options, and how percentages and counts are said."""

from __future__ import annotations

import pytest

from ntkla.app.command_line import notation
from ntkla.app.reports import words
from ntkla.linalg.decisions import Decision
from ntkla.linalg.errors import ArgumentError


@pytest.mark.parametrize(
    ("text", "found"), [("3", [3]), ("0-4,7", [0, 1, 2, 3, 4, 7]), (" 7 , 1-2", [7, 1, 2]), ("5-5", [5]), ("007", [7])]
)
def test_numbers(text, found):
    assert notation.numbers("--x", text, 8) == found


@pytest.mark.parametrize("text", ["", ",", "1,", "-1", "1-", "a", "1-2-3", "1.5", "1_0", "²", "٣", "9" * 30, "8"])
def test_what_names_no_output_is_refused(text):
    with pytest.raises(ArgumentError, match=r"^--x: "):
        notation.numbers("--x", text, 8)


def test_a_range_of_any_length_costs_nothing():
    with pytest.raises(ArgumentError, match="outputs 0 to 7"):
        notation.numbers("--x", "0-999999999", 8)


@pytest.mark.parametrize("text", ["", "1", "1,2,3,4", "1,2,0.9,nesterov,1", "x,2", "1,2.5", "1,2,y"])
def test_what_is_no_sgd_is_refused(text):
    with pytest.raises(ArgumentError, match=r"--sgd: expected lr,steps\[,momentum\[,nesterov\]\]"):
        notation.sgd(text)


def test_sgd():
    assert notation.sgd("1e-3,50") == notation.Sgd(1e-3, 50)
    assert notation.sgd("1e-3, 50, 0.9, Nesterov") == notation.Sgd(1e-3, 50, 0.9, True)


def test_one_value_for_each():
    assert notation.for_each("--x", [], 2) == [None, None]
    assert notation.for_each("--x", ["a"], 2) == ["a", "a"]
    assert notation.for_each("--x", ["a", "b"], 2) == ["a", "b"]
    with pytest.raises(ArgumentError, match="got it 3 times"):
        notation.for_each("--x", ["a", "b", "c"], 2)
    with pytest.raises(ArgumentError, match="expected it once, got it 2 times"):
        notation.for_each("--x", ["a", "b"], 1)


def test_percent_and_counts():
    assert words.percent(None) == "-"
    assert words.percent(Decision(0.97, 0.97), " %") == "97.0 %"
    assert words.percent(Decision(0.4, 0.425)) == "40.0-42.5"
    assert words.count(Decision(11, 13)) == "11-13"
    assert words.count(Decision(12, 12)) == "12"
