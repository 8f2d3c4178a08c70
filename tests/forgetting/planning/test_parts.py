"""The parts of a plan: the fast filter against the exact one, the basis of the filters, the matrices it starts from."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import ntkla
from ntkla.forgetting.descent.filters import filter_values
from ntkla.forgetting.descent.training import GradientDescent
from ntkla.forgetting.planning.decomposed import decomposed
from ntkla.forgetting.planning.filter_bank import filters, plain_filter
from ntkla.forgetting.planning.leading_modes import leading_modes, penalty_matrix
from ntkla.forgetting.planning.updates import Gradient, updates
from ntkla.linalg.arithmetic.accurate import accurate_normal_matrix
from ntkla.linalg.design import DesignMatrix
from ntkla.linalg.precision import U64, norm_upper
from ntkla.linalg.solve.normal import normal_matrix
from ntkla.testing import FeatureSpec, feature_specs
from tests.forgetting.planning.problems import problem, stable_lr


@given(
    st.lists(
        st.one_of(
            st.sampled_from([0.0, 1e-300, 1e-17, 0.5, 1.0, 1.5, math.nextafter(2.0, 0.0)]), st.floats(0.0, 1.999)
        ),
        min_size=1,
    ),
    st.one_of(st.integers(1, 40), st.sampled_from([1000, 1001, 10**6])),
    st.sampled_from([1.0, 0.3, 1e-5]),
)
def test_the_fast_filter_is_within_its_error(ws: list[float], steps: int, lr: float) -> None:
    a = torch.tensor([w / lr * (1 - 4 * U64) for w in ws], dtype=torch.float64, device="cpu")
    training = GradientDescent(lr, steps)
    fast, slow = plain_filter(training, a), filter_values(training, a)
    assert bool(((fast.value - slow.value).abs() <= fast.error + slow.error).all())
    gentle = lr * a <= 0.5
    assert bool((fast.error[gentle] <= 20 * U64 * fast.value[gentle] + 1e-300).all())


@given(feature_specs(most=8))
def test_matrices_are_within_their_errors(spec: FeatureSpec) -> None:
    """Both levels of a penalty's matrix, and the rows that it is made of, against each other."""
    design = DesignMatrix(spec.tensor)
    held = leading_modes(design, 3, 4)
    if held.kept(4) == 0:
        return
    plain, sharp = (penalty_matrix([held, held], 4, accurate) for accurate in (False, True))
    assert float(torch.linalg.matrix_norm(plain.matrix - sharp.matrix, 2)) <= plain.error + sharp.error
    both = held.rows.T @ held.rows * (4.0 / (3 * held.kept(4)))
    assert float(torch.linalg.matrix_norm(plain.matrix - both, 2)) <= 2 * plain.error
    found = decomposed(normal_matrix(design))
    exact = accurate_normal_matrix(design)
    sharper = found.sharpened(exact)
    assert found.smallest <= sharper.largest
    assert abs(found.largest - sharper.largest) <= (found.value_error + sharper.value_error) * 2


def test_rows_are_those_of_a_spectral_penalty() -> None:
    """`weight / (C k) ||U^T Phi (W - W_A)^T||^2` of the module is `weight / (C k) ||Z (W - W_A)^T||^2` of the rows."""
    for n in (8, 40):
        features = FeatureSpec(n, 12, seed=n).tensor
        held = leading_modes(DesignMatrix(features), 3, 4)
        generator = torch.Generator("cpu").manual_seed(1)
        change = torch.randn((12, 3), dtype=torch.float64, device="cpu", generator=generator)
        reference = torch.zeros((n, 3), dtype=torch.float64, device="cpu")
        module = ntkla.SpectralPenalty(ntkla.eigenmodes(features, 4), reference, 5.0)
        rows = held.scaled(4) @ change
        expected = 5.0 / 2 * float(rows.square().sum())
        assert float(module(features @ change)) == pytest.approx(
            expected, rel=1000 * ntkla.eigenmodes(features, 4).tolerance
        )


def test_the_basis_is_smaller_than_the_grid_and_loses_nothing() -> None:
    dense = problem(features=40, n=200)
    design = DesignMatrix(dense.new.features, True)
    found = decomposed(normal_matrix(design))
    generator = torch.Generator("cpu").manual_seed(0)
    g = torch.randn((41, 3), dtype=torch.float64, device="cpu", generator=generator)
    none = torch.zeros(3, dtype=torch.float64, device="cpu")
    lr = stable_lr(dense, 0.05)
    points = [(10.0 ** (i / 5), t) for i in range(20) for t in (None, *(GradientDescent(lr, 4**e) for e in range(5)))]
    bank = filters(found, points)
    made = updates(found, bank, Gradient(g, none, none), 1e-6)
    assert made.mix.shape[0] < len(points) / 4
    for number in (0, 7, 50, 119):
        direct = -found.vectors @ (bank.values[number][:, None] * (found.vectors.T @ g))
        off = norm_upper(made.whole(number) - direct, dim=0)
        assert bool((off <= made.errors[number] * 2).all())
        assert bool((off > 0).any())
    assert bool((made.errors <= 1e-6 * made.norms).all())
