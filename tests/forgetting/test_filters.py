"""The spectral filters against ball arithmetic, which takes the optimiser's own steps."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from ntkla.forgetting.descent.filters import filter_values
from ntkla.forgetting.descent.training import GradientDescent, GradientFlow, Training
from ntkla.linalg.precision import U64
from ntkla.testing.balls import ball, flint, upper, working_precision

BITS = 700
# What one float64 rounding of h leaves, with the division and the product by lr: the bound may not be looser than this.
TIGHT = 8 * U64

W = st.one_of(
    st.sampled_from([0.0, 1e-300, 1e-40, 1e-17, 1e-9, 1.0, math.nextafter(1.0, 0.0), math.nextafter(1.0, 2.0)]),
    st.floats(0.0, 1.0),
    st.floats(-18.0, 0.0).map(lambda e: 10.0**e),
)
MOMENTA = st.one_of(st.sampled_from([0.0, 0.5, 0.9, 0.99, 0.999]), st.floats(0.0, 0.999))
STEPS = st.one_of(st.integers(1, 40), st.sampled_from([1000, 1023, 1024, 10**6, 10**6 + 1]))


def exact_filter(training: Training, a: float):
    """h_T(a) as a ball."""
    with working_precision(BITS):
        if isinstance(training, GradientFlow):
            t, a = ball(training.time), ball(a)
            return -(-t * a).expm1() / a if a != 0 else t
        lr, m, a = ball(training.lr), ball(training.momentum), ball(a)
        # One step on (x, v, 1): v' = m v + (1 - a x), x' = x + lr v', or with Nesterov x' = x + lr (1 - a x + m v').
        of_force, of_velocity = (1 + m, m * m) if training.nesterov else (1 + 0 * m, m)
        step = [[1 - lr * a * of_force, lr * of_velocity, lr * of_force], [-a, m, 1], [0, 0, 1]]
        return _power(flint().arb_mat(step), training.steps)[0, 2]


def _power(matrix, exponent: int):
    result = flint().arb_mat([[int(i == j) for j in range(3)] for i in range(3)])
    while exponent:
        if exponent & 1:
            result = result * matrix
        matrix = matrix * matrix
        exponent >>= 1
    return result


def error_of(value: float, exact) -> float:
    with working_precision(BITS):
        return upper(abs(exact - ball(value)))


def computed(training: Training, a: float) -> tuple[float, float]:
    values = filter_values(training, torch.tensor([a], dtype=torch.float64))
    return float(values.value), float(values.error)


@given(W, MOMENTA, st.booleans(), STEPS, st.sampled_from([1.0, 0.37, 1e12, 1e-12]))
@example(1.0, 0.9, False, 10**6, 1.0)
@example((1 - math.sqrt(0.9)) ** 2 / 3.8, 0.9, False, 10**6, 0.37)  # the double root
@example((0.1 / 1.9) ** 2 * 2.8 / 3.8, 0.9, True, 1000, 1.0)
def test_descent_within_its_bound(share: float, momentum: float, nesterov: bool, steps: int, lr: float) -> None:
    training = GradientDescent(lr, steps, momentum, nesterov and momentum > 0)
    a = share * training.largest_stable_lr(1.0) / lr
    value, bound = computed(training, a)
    exact = exact_filter(training, a)
    assert error_of(value, exact) <= bound
    # Relative to h, or to one step's length where h passes through zero.
    assert bound <= TIGHT * (abs(value) + lr)


@given(W, st.floats(-12.0, 12.0), st.sampled_from([1.0, 1e12, 1e-12]))
@example(1e-300, 0.0, 1.0)
def test_flow_within_its_bound(a: float, exponent: float, scale: float) -> None:
    training, a = GradientFlow(10.0**exponent / scale), a * scale
    value, bound = computed(training, a)
    assert error_of(value, exact_filter(training, a)) <= bound
    assert bound <= TIGHT * value


@pytest.mark.parametrize("nesterov", [False, True])
def test_zero_eigenvalue_is_the_limit(nesterov: bool) -> None:
    training = GradientDescent(0.25, 1000, 0.5, nesterov)
    at_zero, bound = computed(training, 0.0)
    near, near_bound = computed(training, 1e-30)
    assert abs(at_zero - near) <= bound + near_bound + 1e-30 * at_zero**2


def test_one_step_is_the_learning_rate() -> None:
    assert computed(GradientDescent(0.3, 1), 1.7)[0] == 0.3


def test_small_steps_approach_the_flow() -> None:
    flow, _ = computed(GradientFlow(2.0), 0.7)
    coarse, fine = (computed(GradientDescent(2.0 / n, n), 0.7)[0] for n in (1000, 10000))
    assert abs(fine - flow) < abs(coarse - flow) / 9


def test_a_planted_error_is_caught() -> None:
    training = GradientDescent(0.3, 1000, 0.9)
    value, bound = computed(training, 0.01)
    exact = exact_filter(training, 0.01)
    assert error_of(value, exact) <= bound
    assert error_of(value * (1 + 16 * U64), exact) > bound
