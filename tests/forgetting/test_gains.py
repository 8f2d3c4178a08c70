"""The amplification bounds against the sequences that they bound, computed step by step."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from ntkla.forgetting.descent.filters import filter_values
from ntkla.forgetting.descent.gains import gains, peaks
from ntkla.forgetting.descent.training import GradientDescent, GradientFlow
from ntkla.linalg.precision import gamma

STEPS = 300
# The step-by-step sequences below are float64 themselves; they are bounded by STEPS / (1 - m) and stable.
SLACK = 1.0 + gamma(8 * STEPS)

MOMENTA = st.one_of(st.sampled_from([0.0, 0.5, 0.9]), st.floats(0.0, 0.95))
SHARES = st.lists(st.floats(0.0, 1.0), min_size=1, max_size=8)


def sequences(training: GradientDescent, a: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Impulse responses U_1 ... U_T, filters h_0 ... h_T, and a disturbance's forces at each step; rows are steps."""
    m, w = training.momentum, training.lr * a
    kept = 1 - w if training.nesterov else torch.ones_like(w)
    p, q = (1 + m) * kept if training.nesterov else 1 + m - w, m * kept
    u = [torch.zeros_like(w), torch.ones_like(w)]
    for _ in range(STEPS - 1):
        u.append(p * u[-1] - q * u[-2])
    sums = torch.stack(u).cumsum(0)
    h = training.lr * (sums + m * torch.stack(u) if training.nesterov else sums)
    before = torch.cat([torch.zeros_like(h[:1]), h[:-1]])
    force = (1 + m) * h - m * before if training.nesterov else h
    return torch.stack(u[1:]), h, force


@given(MOMENTA, st.booleans(), SHARES, st.sampled_from([1.0, 1e12]))
@example(0.9, False, [0.0, 1.0], 1.0)
@example(0.9, True, [0.3, 1.0], 1.0)
@example(0.0, False, [0.5], 1.0)
# The double root below and the largest stable eigenvalue above: neither sum alone bounds the largest terms of both.
@example(0.9, True, [0.00204111, 0.99473], 1.0)
@example(1.0 - 2.0**-50, False, [0.1, 0.5], 1.0)
# So close to 1 no eigenvalue is certainly in the monotone range, not even 0.
@example(1.0 - 1e-8, False, [0.0, 0.5], 1.0)
@example(1.0 - 1e-8, True, [0.0, 0.5], 1.0)
@example(1.0 - 2.0**-53, True, [0.0, 0.5], 1.0)
def test_bounds_hold_step_by_step(momentum: float, nesterov: bool, shares: list[float], lr: float) -> None:
    training = GradientDescent(lr, STEPS, momentum, nesterov and momentum > 0)
    a = torch.tensor(shares, dtype=torch.float64) * training.largest_stable_lr(1.0) / lr
    low, high = float(a.min()), float(a.max())
    bound = gains(training, low, high)
    u, h, force = sequences(training, a)
    assert float(h[-1].abs().max()) <= bound.filter * SLACK
    assert float((a.sqrt() * h[-1].abs()).max()) <= bound.root * SLACK
    assert lr * float(u.abs().amax(1).sum()) <= bound.push * SLACK
    peak = peaks(training, a, filter_values(training, a))
    assert bool((force.abs().amax(0) <= peak * SLACK).all())


@given(st.floats(0.0, 1e3), st.floats(1.0, 1e3), st.floats(1e-3, 1e3))
def test_flow_bounds(low: float, ratio: float, time: float) -> None:
    a = torch.tensor([low, low * ratio], dtype=torch.float64)
    training = GradientFlow(time)
    h = filter_values(training, a).value
    bound = gains(training, low, low * ratio)
    assert float(h.max()) <= bound.filter
    assert float((a.sqrt() * h).max()) <= bound.root
    assert bound.push <= min(time, 1 / low if low > 0 else math.inf) * SLACK


@pytest.mark.parametrize(("momentum", "nesterov"), [(0.0, False), (0.9, False), (0.9, True)])
def test_bounds_are_tight_somewhere(momentum: float, nesterov: bool) -> None:
    """At eigenvalue 0 every bound but the root's is attained to within the transient of the momentum."""
    training = GradientDescent(0.1, STEPS, momentum, nesterov)
    a = torch.zeros(1, dtype=torch.float64)
    bound = gains(training, 0.0, 0.0)
    u, h, _ = sequences(training, a)
    assert bound.filter <= 1.1 * float(h[-1])
    assert bound.push <= 1.1 * training.lr * float(u.abs().sum())


def test_a_positive_least_eigenvalue_stops_the_growth() -> None:
    long, longer = (gains(GradientDescent(0.1, steps, 0.9), 1.0, 2.0) for steps in (10**4, 10**6))
    assert long == longer
