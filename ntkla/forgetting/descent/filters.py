"""The spectral filters h_T(a) of training that stops early: `dW^T = -h_T(A) g_0`, with the error of each value.

Gradient descent.  With w = lr a, the T-th step has `h_T = lr X_T`, where X solves the recurrence of the optimiser from
X_0 = 0 under a constant force.  Its impulse response is the Lucas sequence `U_0 = 0`, `U_1 = 1`,
`U_{k+1} = P U_k - Q U_{k-1}`,

- plain and momentum m: `P = 1 + m - w`, `Q = m`, and `X_T = Y_T`,
- Nesterov as torch defines it: `P = (1 + m)(1 - w)`, `Q = m (1 - w)`, and `X_T = Y_T + m U_T`,

with `Y_k = U_1 + ... + U_k`.  In both cases `1 - P + Q = w`, so `e_k = U_{k+1} - Q U_k = 1 - w Y_k`, and the addition
theorem `U_{k+j} = U_{k+1} U_j - Q U_k U_{j-1}`, summed over j, gives the doubling step used here:

    Y_{2k} = Y_k (1 + e_k) + Q U_k^2,    U_{2k} = U_k (2 e_k - (P - 2 Q) U_k),
    U_{k+1} = e_k + Q U_k,               Y_{k+1} = Y_k + U_{k+1}.

log2(T) steps reach any T, nothing cancels for small w (the limit h_T(0) comes out by itself), and no root is taken, so
nothing happens at the double root.  That holds for P >= 0.  For P < 0 the iteration alternates; U is then (-1)^(k-1)
times the sequence of -P, which is computed instead, with `2 (1 + Q) - w` in the place of w, and `Y_T = (1 - e_T) / w`
is recovered from `e_T = (-1)^T (e + 2 Q U)`, e and U being those of -P; w > 1 there, so the division loses nothing.
An error in (Y, U) grows by at most about 4 a step, T^2 in all; 106 bits leave it below a rounding for T up to 10^6 and
beyond, and each value carries the radius that this run found.

Gradient flow: `h = -expm1(-t a) / a`.  The relative condition of `1 - exp(-x)` is `x / (exp(x) - 1) <= 1`.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from ntkla.forgetting.descent.training import GradientDescent, GradientFlow, Training
from ntkla.linalg.arithmetic.doubled import two_product
from ntkla.linalg.arithmetic.enclosure import (
    Enclosed,
    choose,
    divide,
    exactly,
    minus,
    multiply,
    opposite,
    plus,
    rounded,
)
from ntkla.linalg.precision import TINY64, U64, rounded_up

# Assumption: torch's expm1 is within this many units in the last place (SLEEF and CUDA state at most 1, libm 2).
EXPM1_ULPS = 2
# Below this t a the filter is t to within t a / 2 relative, a quarter of a rounding.
_LINEAR = U64 / 2


class FilterValues(NamedTuple):
    """h_T at each eigenvalue, float64 [K], and an upper bound of each one's error."""

    value: torch.Tensor
    error: torch.Tensor


def filter_values(training: Training, eigenvalues: torch.Tensor) -> FilterValues:
    """h_T(a) for float64 eigenvalues a >= 0 within the stable range.

    Cost: about 300 K log2(steps) operations for K eigenvalues.
    """
    if isinstance(training, GradientFlow):
        return _flow(training.time, eigenvalues)
    return _descent(training, eigenvalues)


def _flow(time: float, a: torch.Tensor) -> FilterValues:
    x = time * a
    linear = x <= _LINEAR
    value = torch.where(linear, torch.full_like(a, time), -torch.expm1(-x) / torch.where(linear, torch.ones_like(a), a))
    # The product t a (condition <= 1), expm1, the division; an underflow of t a is in the linear branch.
    relative = (2 * EXPM1_ULPS + 3) * U64  # a unit in the last place is up to 2 u
    return FilterValues(value, rounded_up(relative * value))


def _descent(training: GradientDescent, a: torch.Tensor) -> FilterValues:
    # lr a without rounding; a product below 2^-969 loses a few `tiny`.
    w = Enclosed(two_product(torch.full_like(a, training.lr), a), torch.full_like(a, 8 * TINY64))
    one, m = exactly(torch.ones_like(a)), exactly(torch.full_like(a, training.momentum))
    kept = minus(one, w)
    q = multiply(m, kept) if training.nesterov else m
    p = minus(plus(one, q), w)
    alternates = p.value.high < 0
    reflected = minus(plus(plus(one, one), plus(q, q)), w)
    u, y, gap = _lucas_sums(choose(alternates, opposite(p), p), q, choose(alternates, reflected, w), training.steps)
    correction = multiply(plus(q, q), u)
    odd = training.steps % 2 == 1
    numerator = plus(minus(plus(one, one), gap), correction) if odd else minus(gap, correction)
    total = choose(alternates, divide(numerator, w), y)
    if training.nesterov:
        total = plus(total, multiply(m, u if odd else choose(alternates, opposite(u), u)))
    steps, error = rounded(total)
    value = training.lr * steps
    return FilterValues(value, rounded_up(training.lr * error + U64 * value.abs()))


def _lucas_sums(p: Enclosed, q: Enclosed, w: Enclosed, steps: int) -> tuple[Enclosed, Enclosed, Enclosed]:
    """U_T, Y_T and w Y_T for T = steps, by binary doubling; `w = 1 - p + q`, p >= 0."""
    y = u = one = exactly(torch.ones_like(w.radius))
    gap = w
    slope = minus(p, plus(q, q))
    for bit in bin(steps)[3:]:
        e = minus(one, gap)
        velocity = minus(plus(e, e), multiply(slope, u))
        y = plus(multiply(y, plus(one, e)), multiply(q, multiply(u, u)))
        u = multiply(u, velocity)
        if bit == "1":
            u = plus(minus(one, multiply(w, y)), multiply(q, u))
            y = plus(y, u)
        gap = multiply(w, y)
    return u, y, gap
