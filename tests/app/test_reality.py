"""The twins in extended precision against exact rational arithmetic, and the rounding that they measure."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from ntkla.app.demo.pairs import Pair
from ntkla.app.demo.reality import (
    Problem,
    design_of,
    optimum_exactly,
    rounding_of,
    sgd_exactly,
    solve_optimum,
    train_with_sgd,
)
from ntkla.linalg.precision import U64

SETTINGS = {"lr": 0.03, "steps": 12, "momentum": 0.9}
# A twin has at least 60 bits where float64 has 53; a test asks for 2^-5 of float64's roundoff.
TWIN_PRECISION = U64 * 2.0**-5


def problem(samples: int = 6, features: int = 3, outputs: int = 2) -> Problem:
    generator = np.random.default_rng(11)
    design = np.hstack([generator.standard_normal((samples, features)), np.ones((samples, 1))])
    targets = generator.standard_normal((samples, outputs))
    return Problem(design, targets, generator.standard_normal((features + 1, outputs)))


def rational(x: np.ndarray) -> np.ndarray:
    return np.array([[Fraction(float(entry)) for entry in row] for row in x], dtype=object)


def value(x: Pair) -> np.ndarray:
    return rational(x.high) + rational(x.low)


def sgd_in_rationals(given: Problem, *, lr: float, steps: int, momentum: float) -> np.ndarray:
    design, targets, head = rational(given.design), rational(given.targets), rational(given.start)
    buffer = rational(np.zeros_like(given.start))
    for _ in range(steps):
        buffer = Fraction(momentum) * buffer + design.T.dot(design.dot(head) - targets)
        head = head - Fraction(lr) * buffer
    return head


def optimum_in_rationals(given: Problem, ridge: float) -> np.ndarray:
    """Gaussian elimination on the normal equations."""
    design, targets, start = rational(given.design), rational(given.targets), rational(given.start)
    size = len(start)
    left = design.T.dot(design) + Fraction(ridge) * rational(np.eye(size))
    rows = np.hstack([left, design.T.dot(targets) + Fraction(ridge) * start])
    for pivot in range(size):
        rows[pivot] = rows[pivot] / rows[pivot, pivot]
        for other in range(size):
            if other != pivot:
                rows[other] = rows[other] - rows[other, pivot] * rows[pivot]
    return rows[:, size:]


def largest(x: np.ndarray) -> float:
    return float(max(abs(entry) for entry in x.ravel()))


def test_sgd_in_extended_precision_is_what_torch_documents():
    exact = sgd_in_rationals(problem(), **SETTINGS)
    assert largest(value(sgd_exactly(problem(), **SETTINGS)) - exact) <= TWIN_PRECISION * largest(exact)


def test_torch_trains_to_the_same_head():
    exact = sgd_in_rationals(problem(), **SETTINGS)
    found = train_with_sgd(problem(), **SETTINGS)
    # Each of the steps rounds a few sums of 6 products; none is amplified, because the training is stable.
    assert 0 < largest(rational(found.head) - exact) <= 100 * SETTINGS["steps"] * U64 * largest(exact)
    assert found.seconds > 0


@pytest.mark.parametrize("ridge", [1e-3, 0.7])
def test_the_optimum(ridge):
    exact = optimum_in_rationals(problem(), ridge)
    found = solve_optimum(problem(), ridge=ridge)
    twin = optimum_exactly(problem(), ridge=ridge, near=found.head)
    assert largest(value(twin) - exact) <= TWIN_PRECISION * largest(exact)
    condition = np.linalg.cond(problem().design)
    assert largest(rational(found.head) - exact) <= 100 * condition * U64 * largest(exact)


def test_the_rounding_is_the_distance_to_the_exact_drift():
    given, old = problem(), problem(4).design
    exact = sgd_in_rationals(given, **SETTINGS)
    fact = old @ train_with_sgd(given, **SETTINGS).head - old @ given.start
    distance = abs(rational(fact) - rational(old).dot(exact - rational(given.start)))
    found = rounding_of(fact, old, sgd_exactly(given, **SETTINGS), given.start)
    assert largest(rational(found) - distance) <= TWIN_PRECISION * largest(exact) * np.abs(old).sum(1).max()


def test_a_design_ends_with_the_constant_of_the_bias(small_tasks):
    features = small_tasks[0].train_features
    design = design_of(features)
    assert design.dtype == np.float64
    assert (design[:, :-1] == features.double().numpy()).all()
    assert (design[:, -1] == 1).all()
