"""The layer kernel as an operator: products, bounds, orders, and what it refuses."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import ntkla
from ntkla.linalg import checks, errors
from ntkla.linalg.layers import layer_operator
from ntkla.linalg.precision import U64
from ntkla.testing import ambient_state, hostile_states
from ntkla.testing.balls import Exact, ball_matrix
from ntkla.testing.spectra import DTYPES
from ntkla.testing.violations import compare_columns
from tests.linalg.layer_reference import exact_jacobian, factors, formula, normal

PAIRS = [factors(6, 3, 4, 5, 2), factors(6, 3, 1, 9, 7, seed=2), factors(6, 3, 40, 3, 4, seed=4)]
KERNEL = sum(formula(pair, pair) for pair in PAIRS)


def exact_product(pairs, v: torch.Tensor, mask: torch.Tensor | None = None) -> Exact:
    def compute():
        jacobian = exact_jacobian(pairs, mask)
        return jacobian * (jacobian.transpose() * ball_matrix(v))

    return Exact(compute)


@pytest.mark.parametrize("order", ["class", "sample"])
def test_it_is_its_dense_form(order):
    operator = ntkla.LayerNTK(PAIRS, order=order)
    with ntkla.backend("torch"):  # the interpreter would take minutes for all pairs of positions
        formed = operator.to_dense()
    dense = (KERNEL.permute(1, 0, 3, 2) if order == "class" else KERNEL).reshape(18, 18)
    slack = operator.error_bound(torch.eye(18, dtype=torch.float64))
    assert operator.shape == (18, 18)
    assert operator.psd
    assert operator.T is operator
    assert ((formed - dense).norm(dim=0) <= 2 * slack).all()
    assert torch.equal(formed, formed.T)
    assert ((operator.diagonal() - dense.diagonal()).abs() <= 2 * slack).all()
    assert abs(operator.trace() - float(dense.trace())) <= 2 * float(slack.sum())
    v = normal(18, 3)
    assert ((operator @ v - dense @ v).norm(dim=0) <= 2 * operator.error_bound(v)).all()
    assert abs(operator @ v[:, 0] - (operator @ v)[:, 0]).norm() <= 2 * operator.error_bound(v[:, 0])
    assert operator.to_scipy().matvec(v[:, 0].numpy()).shape == (18,)


sizes = st.tuples(*(st.integers(1, most) for most in (3, 3, 5, 4, 4)))


@given(sizes, st.sampled_from(sorted(DTYPES)), st.sampled_from([1e-12, 1.0, 1e7]), st.integers(0, 9))
def test_products_are_within_their_bound(shape, dtype, scale, seed):
    a, d = factors(*shape, seed=seed)
    pairs = [((a * scale).to(DTYPES[dtype]), d.to(DTYPES[dtype]))]
    v = normal(shape[0] * shape[1], 2, seed=seed)
    operator = ntkla.LayerNTK(pairs, order="sample")
    verdict = compare_columns(operator @ v, operator.error_bound(v), exact_product(pairs, v))
    assert verdict.sound, str(verdict)


def test_the_bound_is_tight_somewhere_and_catches_a_planted_error():
    v, ratios = torch.ones(1, 1, dtype=torch.float64), []
    for seed in range(40):
        pairs = [factors(1, 1, 1, 1, 1, seed=seed)]
        operator = ntkla.LayerNTK(pairs)
        verdict = compare_columns(operator @ v, operator.error_bound(v), exact_product(pairs, v))
        ratios.append(verdict.largest_ratio)
    assert max(ratios) > 1 / 8
    planted = compare_columns((operator @ v) * (1 + 64 * U64), operator.error_bound(v), exact_product(pairs, v))
    assert not planted.sound


def test_blocks_of_samples_positions_and_columns_change_nothing(monkeypatch):
    pairs = [factors(9, 2, 11, 4, 3), factors(9, 2, 1, 3, 5, seed=2)]
    v = normal(18, 7)
    whole = ntkla.LayerNTK(pairs)
    expected, bound = whole @ v, whole.error_bound(v)
    for name, value in (("_BLOCK_ENTRIES", 140), ("_SUMMED", 6), ("SLICE_ENTRIES", 100)):
        monkeypatch.setattr(layer_operator, name, value)
    cut = ntkla.LayerNTK(pairs)
    assert cut._columns_at_once() < 7
    assert not torch.equal(cut.error_bound(v), bound)
    assert ((cut @ v - expected).norm(dim=0) <= cut.error_bound(v) + bound).all()


def test_positions_that_do_not_count_are_never_used():
    a, d = factors(4, 2, 3, 5, 2)
    mask = torch.arange(3) < torch.tensor([3, 2, 1, 1])[:, None]
    operator = ntkla.LayerNTK([(a.masked_fill(~mask[..., None], math.nan), d)], mask=mask, order="sample")
    v = normal(8, 2)
    verdict = compare_columns(operator @ v, operator.error_bound(v), exact_product([(a, d)], v, mask))
    assert verdict.sound, str(verdict)
    assert torch.isfinite(operator.diagonal()).all()
    assert torch.isfinite(operator.to_dense()).all()


@pytest.mark.parametrize("state", hostile_states())
def test_ambient_state_breaks_no_bound_and_is_left_alone(state):
    pairs = [factors(3, 2, 3, 5, 4, dtype=torch.float32)]
    v = normal(6, 2)
    with hostile_states()[state]():
        before = ambient_state()
        operator = ntkla.LayerNTK(pairs, order="sample")
        product, bound = operator @ v, operator.error_bound(v)
        assert ambient_state() == before
    verdict = compare_columns(product, bound, exact_product(pairs, v))
    assert verdict.sound, str(verdict)


A, D = PAIRS[0]


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: ntkla.LayerNTK(A), errors.DtypeError, r"factors: expected a sequence of pairs \(a, d\), got Tensor"),
        (lambda: ntkla.LayerNTK((A, D)), errors.DtypeError, "pairs.*got Tensor in it"),
        (lambda: ntkla.LayerNTK([(A, D, D)]), errors.DtypeError, "got tuple in it"),
        (lambda: ntkla.LayerNTK([(A, None)]), errors.DtypeError, "d: expected a torch.Tensor, got NoneType"),
        (lambda: ntkla.LayerNTK([]), errors.ShapeError, "at least one"),
        (lambda: ntkla.LayerNTK([(A[:0], D[:0])]), errors.ShapeError, "a: expected at least one of everything"),
        (lambda: ntkla.LayerNTK([(A, D[:2])]), errors.ShapeError, "d: expected shape"),
        (lambda: ntkla.LayerNTK([(A * math.inf, D)]), errors.NonFiniteError, "a: expected finite"),
        (lambda: ntkla.LayerNTK([(A * 2.0**200, D * 2.0**200)]), errors.ScaleError, "a gradient's norm reaches"),
        (lambda: ntkla.LayerNTK([(A.to("meta"), D.to("meta"))]), errors.DeviceError, "meta"),
        (lambda: ntkla.LayerNTK([(A, D)], order="row"), errors.ArgumentError, "order: .*got 'row'"),
        (lambda: ntkla.LayerNTK([(A, D)]) @ normal(17), errors.ShapeError, "expected 18 rows"),
    ],
)
def test_bad_input_is_named(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_a_dense_form_that_does_not_fit_is_refused(monkeypatch):
    operator = ntkla.LayerNTK(PAIRS)
    monkeypatch.setattr(checks, "available_memory", lambda device: 1000)
    with pytest.raises(errors.MemoryEstimateError, match="to_dense"):
        operator.to_dense()
