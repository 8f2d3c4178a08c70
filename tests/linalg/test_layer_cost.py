"""Which route a layer's kernel takes, how it is cut, and what it is said to need."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ntkla.linalg import errors
from ntkla.linalg.layers.layer_cost import (
    SLICE_COLUMNS,
    SLICE_ENTRIES,
    TILE_ROWS,
    LayerShape,
    column_slices,
    crossover,
    layer_cost,
    layer_memory,
    tile_edges,
)

MANY = 10**9  # samples: forming a gradient costs nothing beside its products


def square(samples: int, outputs: int, positions: int, inputs: int, deltas: int) -> LayerShape:
    return LayerShape(samples, outputs, positions, samples, outputs, positions, inputs, deltas)


@pytest.mark.parametrize(
    ("inputs", "outputs", "expected"), [(768, 1, 19.6), (4096, 1, 45.3), (768, 10, 27.6), (768, 10**6, 27.7)]
)
def test_the_crossover_has_the_published_values(inputs, outputs, expected):
    assert round(crossover(inputs, inputs, outputs), 1) == expected


lengths = st.integers(1, 5000)


@given(lengths, lengths, st.integers(1, 50), st.integers(1, 50))
def test_many_samples_switch_at_the_crossover(inputs, deltas, outputs, outputs2):
    limit = crossover(inputs, deltas, outputs, outputs2)
    for positions, route in ((math.floor(limit), "gram"), (math.ceil(limit) + 1, "materialised")):
        shape = LayerShape(MANY, outputs, positions, MANY, outputs2, positions, inputs, deltas)
        assert layer_cost(shape).route == route


def test_few_samples_switch_later_because_gradients_are_formed_for_each():
    longer = math.ceil(crossover(768, 768, 1)) + 1
    assert layer_cost(square(MANY, 1, longer, 768, 768)).route == "materialised"
    assert layer_cost(square(2, 1, longer, 768, 768)).route == "gram"
    assert layer_cost(square(2, 1, 768, 768, 768)).route == "materialised"
    assert layer_cost(square(MANY, 1, longer, 768, 768), "gram").route == "gram"


@pytest.mark.parametrize("wrong", [0, -1, 2.5, True])
def test_a_wrong_length_is_named(wrong):
    with pytest.raises(errors.ArgumentError, match="deltas: expected an integer"):
        crossover(3, wrong, 1)


@given(st.integers(0, 60), st.integers(1, 90), st.integers(0, 700))
def test_tiles_are_runs_of_rows_that_cover_each_row_once(samples, outputs, positions):
    following = 0
    for rows, columns in tile_edges(samples, outputs, positions):
        length = (rows.stop - rows.start) * (columns.stop - columns.start)
        assert rows.start * outputs + columns.start == following
        assert length * positions <= max(TILE_ROWS, positions)
        assert rows.stop - rows.start == 1 or columns == slice(0, outputs)
        following += length
    assert following == samples * outputs


@given(st.integers(0, 10**8), st.integers(0, 300), st.integers(0, 6000))
def test_slices_cover_each_column_once(rows, inputs, deltas):
    inputs = inputs if rows < 10**5 else min(inputs, 3)
    deltas = deltas if rows < 10**5 else min(deltas, 50)
    covered = torch.zeros(inputs, deltas, dtype=torch.int64)
    for f, g in column_slices(rows, inputs, deltas):
        covered[f, g] += 1
        columns = (f.stop - f.start) * (g.stop - g.start)
        assert columns <= SLICE_COLUMNS
        assert columns * rows <= max(SLICE_ENTRIES, rows)
    assert bool((covered == 1).all())


def test_the_memory_estimate_counts_the_result_and_what_is_beside_it():
    shape = square(100, 10, 1, 64, 64)
    narrow = layer_memory([shape], torch.float32, torch.float32, symmetric=True)
    assert narrow >= 1000 * 1000 * 4
    assert layer_memory([shape], torch.float64, torch.float64, symmetric=True) == 2 * narrow
    rounded = layer_memory([shape], torch.float64, torch.float32, symmetric=True)
    assert rounded == 2 * narrow + 1000 * 1000 * 4
    assert layer_memory([shape, square(100, 10, 2000, 9, 9)], torch.float32, torch.float32, symmetric=True) > narrow
