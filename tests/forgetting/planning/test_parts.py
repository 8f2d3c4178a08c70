"""The parts of a plan: the fast filter against the exact one, the basis of the filters, the matrices it starts from."""

from __future__ import annotations

import math

import torch
from hypothesis import given
from hypothesis import strategies as st

import ntkla
from ntkla.forgetting.descent.filters import filter_values
from ntkla.forgetting.descent.training import GradientDescent
from ntkla.forgetting.planning.decomposed import decomposed
from ntkla.forgetting.planning.filter_bank import filters, plain_filter
from ntkla.forgetting.planning.grid import Setting
from ntkla.forgetting.planning.leading_modes import leading_modes, penalty_matrix
from ntkla.forgetting.planning.updates import Gradient, updates
from ntkla.linalg.arithmetic.accurate import accurate_normal_matrix
from ntkla.linalg.design import DesignMatrix
from ntkla.linalg.precision import NEGLIGIBLE, PLAN_TOLERANCE, U64, gamma, norm_upper
from ntkla.linalg.solve.normal import normal_matrix
from ntkla.testing import FeatureSpec, feature_specs, gram_eigenvalues
from ntkla.testing.balls import ball
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
    plain, sharp = (penalty_matrix([held, held], Setting(1.0, 4), accurate) for accurate in (False, True))
    assert float(torch.linalg.matrix_norm(plain.matrix - sharp.matrix, 2)) <= plain.error + sharp.error
    both = held.rows.T @ held.rows * (4.0 / (3 * held.kept(4)))
    assert float(torch.linalg.matrix_norm(plain.matrix - both, 2)) <= 2 * plain.error


@given(feature_specs(most=8))
def test_the_eigenvalues_are_where_both_certificates_say(spec: FeatureSpec) -> None:
    """Of the exact matrix, each in its place; and what is judged beyond float64 is judged no worse."""
    design = DesignMatrix(spec.tensor)
    found = decomposed(normal_matrix(design))
    sharper = found.sharpened(accurate_normal_matrix(design))
    exact = gram_eigenvalues(spec.tensor.T.contiguous(), radius=sharper.value_error / 16)
    for one in (found, sharper):
        error = ball(one.value_error)
        for value, enclosed in zip(one.values.sort(descending=True).values.tolist(), exact, strict=True):
            assert not abs(enclosed - ball(value)) > error
        assert not exact[-1] < ball(one.smallest)
        assert not exact[0] > ball(one.largest)
    assert sharper.value_error <= max(found.value_error, NEGLIGIBLE)


def test_rows_are_those_of_a_spectral_penalty() -> None:
    """`weight / (C k) ||U^T Phi (W - W_A)^T||^2` of the module is `weight / (C k) ||Z (W - W_A)^T||^2` of the rows.

    By Davis and Kahan either span is off by at most residual over gap; an energy then by twice that of what is moved.
    """
    for n in (8, 40):
        features = FeatureSpec(n, 12, seed=n).tensor
        held = leading_modes(DesignMatrix(features), 3, 4)
        generator = torch.Generator("cpu").manual_seed(1)
        change = torch.randn((12, 3), dtype=torch.float64, device="cpu", generator=generator)
        reference = torch.zeros((n, 3), dtype=torch.float64, device="cpu")
        modes = ntkla.eigenmodes(features, 4)
        module = ntkla.SpectralPenalty(modes, reference, 5.0)
        moved = features @ change
        expected = 5.0 / 2 * float((held.scaled(Setting(1.0, 4)) @ change).square().sum())
        sizes = torch.linalg.svdvals(features).square()
        residual = modes.tolerance * float(sizes[0]) * 2.0 + gamma(n * 12) * float(sizes[0])
        off = 2.0 * residual / float(sizes[3] - sizes[4] - residual)
        assert abs(float(module(moved)) - expected) <= off * 5.0 / 12 * float(moved.square().sum())
        assert off < expected / (5.0 / 12 * float(moved.square().sum()))


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
    made = updates(found, bank, Gradient(g, none, none), PLAN_TOLERANCE)
    assert made.mix.shape[0] < len(points) / 4
    for number in (0, 7, 50, 119):
        direct = -found.vectors @ (bank.values[number][:, None] * (found.vectors.T @ g))
        off = norm_upper(made.whole(number) - direct, dim=0)
        assert bool((off <= made.errors[number] * 2).all())
        assert bool((off > 0).any())
    assert bool((made.errors <= PLAN_TOLERANCE * made.norms).all())
