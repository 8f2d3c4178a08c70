"""How far training can amplify: bounds of the filters over a whole spectrum, which is what their certificate needs.

Notation of `filters.py`: w = lr a, impulse response U_k, `e_k = U_{k+1} - Q U_k`, m the momentum.

1. *Impulse response.*  In the stable range `|U_{k+1}| <= 1 + |Q| + ... + |Q|^k <= 1 / (1 - |Q|)`, and `|Q| <= m`.
   U_{k+1} is the complete homogeneous polynomial `sum_i r1^i r2^(k-i)` of the roots, so replace them by majorants: two
   complex roots by `sqrt(Q)` twice, two real ones by their magnitudes.  Their product is |Q| and the larger is at most
   1; for a given product the sum grows with the ratio of the two: it is largest for (1, |Q|).
2. *Its sum* over an interval of eigenvalues [low, high], `sum_k sup |U_{k+1}|`.  For majorants of product R1 R2 and
   ratio R1 / R2 every term grows with both, and the sum of one pair is `1 / ((1 - R1)(1 - R2))`.
   - Momentum: the product is always m, so the largest ratio decides, and it lies at an end: the sum is at most one
     over the least of `w_low`, `2 (1 + m) - w_high` and `(1 - sqrt(m))^2`.
   - Nesterov, w <= 1: product and ratio fall with w, so `w_low` decides: `w_low`, or `(1 - sqrt(m q))^2` with
     `q = max(1 - w_low, 0)` for complex roots.  For `c = w_high - 1 > 0` they grow with c, and
     `(1 - R1)(1 - R2) = 1 + m c - sqrt(c^2 (1 + m)^2 + 4 m c)`.  Neither side need majorise the other in every term,
     so their two sums are added.
3. *Residual polynomial.*  `|e_k| <= |U_{k+1}| + |Q| |U_k| <= (1 + |Q|) / (1 - |Q|)`; for complex roots also
   `|e_k| <= sqrt(4 Q w / (4 Q - P^2))`, the amplitude of the oscillation, and `|U_k| <= sqrt(4 Q / (4 Q - P^2))`.
   Nesterov's residual polynomial is `e_k - w m U_k`.
4. *Monotone range.*  With two positive real roots, `w <= (1 - sqrt(m))^2`, for Nesterov `w <= ((1 - m) / (1 + m))^2`,
   h_t increases with t towards 1/a: every h_t is in [0, min(h_T, 1/a)].  (Nesterov: the increment is
   `(1 + m) U_{t+1} - m U_t >= 0` because `U_{t+1} >= r1 U_t` and `r1 >= sqrt(Q) >= 2 m / (1 + m)`.)
5. From 1 and 3: `|h_t(a)| <= min(reach, swing / a)`, `reach = lr (T + m') / (1 - m)` (m' = m for Nesterov, else 0) and
   `swing = 1 + sup_k |residual polynomial|`.  Hence `sqrt(a) |h_t(a)| <= sqrt(reach swing)`.

Gradient flow is the limit: reach = t, swing = 1, and `int_0^t exp(-s a) ds <= min(t, 1 / low)` for the sum in 2.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch

from ntkla.forgetting.descent.filters import FilterValues
from ntkla.forgetting.descent.training import GradientDescent, GradientFlow, Training
from ntkla.linalg.precision import SHORT_CHAIN, TINY64, U64, rounded_up

# Absolute rounding of a few operations on numbers of magnitude at most 8.
_SLACK = 64 * U64


class Gains(NamedTuple):
    """Upper bounds over all eigenvalues of A, for the filter h_T and the iteration behind it.

    Attributes:
        filter: of `|h_T(a)|`: what an error of g_0 is multiplied with.
        root: of `sqrt(a) |h_T(a)|`, so of `||h_T(A) Phi^T||`: what an error of the residual R is multiplied with.
        push: of `lr sum_k ||U_k(A)||`: what a constant disturbance of every step is multiplied with.
    """

    filter: float
    root: float
    push: float


def gains(training: Training, low: float, high: float) -> Gains:
    """The bounds for the eigenvalues in [low, high], 0 <= low, high within the stable range."""
    reach, monotone = _reach(training), _monotone_limit(training)
    swing = 1.0 if high <= monotone else 1.0 + _largest_residual(training)
    filter_bound = min(reach, swing / low if low > 0 else math.inf)
    root = min(math.sqrt(reach) * math.sqrt(swing), swing / math.sqrt(low) if low > 0 else math.inf)
    if isinstance(training, GradientFlow):
        push = filter_bound
    else:
        steps = training.steps / (1.0 - training.momentum)
        push = training.lr * min(steps, _response_sum(training, training.lr * low, training.lr * high * SHORT_CHAIN))
    return Gains(*(bound * SHORT_CHAIN for bound in (filter_bound, root, push)))


def peaks(training: Training, eigenvalues: torch.Tensor, values: FilterValues) -> torch.Tensor:
    """Upper bounds, for each eigenvalue, of the force that a unit disturbance of A exerts on any step t <= T.

    That is `sup_t |h_t|`, and for Nesterov `sup_t |(1 + m) h_t - m h_{t-1}|`, which is at most `1 + 2 m` times it.
    """
    at_end = values.value.abs() + values.error
    if isinstance(training, GradientFlow):
        return rounded_up(at_end)
    swing = 1.0 + _polynomial_bounds(training, eigenvalues)
    bounded = torch.clamp(swing / eigenvalues.clamp(min=TINY64), max=_reach(training))
    peak = torch.where(eigenvalues <= _monotone_limit(training), at_end, bounded)
    return rounded_up(peak * (1.0 + 2.0 * training.momentum if training.nesterov else 1.0))


def remaining_share(training: Training, high: float) -> float:
    """Upper bound of the residual polynomial `|1 - a h_T(a)|` over [0, high]: what training leaves of a distance."""
    return 1.0 if high <= _monotone_limit(training) else _largest_residual(training)


def _reach(training: Training) -> float:
    if isinstance(training, GradientFlow):
        return training.time
    m = training.momentum
    return training.lr * ((training.steps + (m if training.nesterov else 0.0)) / (1.0 - m)) * SHORT_CHAIN


def _monotone_limit(training: Training) -> float:
    """Eigenvalues up to this one are certainly in the monotone range."""
    if isinstance(training, GradientFlow):
        return math.inf
    m = training.momentum
    root = (1.0 - m) / (1.0 + m) if training.nesterov else 1.0 - math.sqrt(m)
    return (root**2 - _SLACK) / training.lr / SHORT_CHAIN


def _largest_residual(training: GradientDescent | GradientFlow) -> float:
    """Bound of the residual polynomial anywhere in the stable range, where w <= 2 for Nesterov."""
    if isinstance(training, GradientFlow):
        return 1.0
    m = training.momentum
    return (1.0 + (3.0 if training.nesterov else 1.0) * m) / (1.0 - m)


def _polynomial_bounds(training: GradientDescent, a: torch.Tensor) -> torch.Tensor:
    """Bound of the residual polynomial of every step, for each eigenvalue."""
    m, w = training.momentum, training.lr * a
    kept = 1.0 - w if training.nesterov else torch.ones_like(w)
    p, q = (1.0 + m) * kept if training.nesterov else 1.0 + m - w, m * kept
    discriminant = 4.0 * q - p * p - _SLACK
    oscillates = discriminant > 0.0
    spread = torch.where(oscillates, 4.0 * (q.abs() + _SLACK) / torch.where(oscillates, discriminant, 1.0), torch.inf)
    product = q.abs() + _SLACK
    # A momentum within the slack of 1 leaves no room for a geometric series.
    room = torch.where(product < 1.0, 1.0 - product, 0.0)
    # At w = 0, where an infinite bound times w would be NaN, nothing oscillates and Nesterov adds nothing.
    amplitude = torch.where(oscillates, torch.sqrt(spread * w), torch.inf)
    polynomial = torch.minimum(amplitude, (1.0 + product) / room)
    impulse = torch.minimum(torch.sqrt(spread), 1.0 / room)
    return polynomial + (torch.where(w > 0.0, m * w * impulse, 0.0) if training.nesterov else 0.0)


def _response_sum(training: GradientDescent, w_low: float, w_high: float) -> float:
    """Bound of `sum_k sup |U_{k+1}|`, see 2 in the module's docstring."""
    m = training.momentum
    if not training.nesterov:
        return _inverse(min(w_low, 2.0 * (1.0 + m) - w_high, (1.0 - math.sqrt(m)) ** 2))
    c = max(w_high - 1.0, 0.0)
    double_root = (1.0 - math.sqrt(m * max(1.0 - w_low, 0.0))) ** 2
    below = _inverse(min(w_low, double_root))
    return below + _inverse(1.0 + m * c - math.sqrt((c * (1.0 + m)) ** 2 + 4.0 * m * c)) if c > 0.0 else below


def _inverse(room: float) -> float:
    """1 / room for a number known to within `_SLACK`; infinite where it may be zero."""
    return 1.0 / (room - _SLACK) if room > _SLACK else math.inf
