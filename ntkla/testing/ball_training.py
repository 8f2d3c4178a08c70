"""Exact reference for training that stops early: the optimiser's own steps, in ball arithmetic.

The loss is `1/2 ||D^1/2 (Phi W^T - Y)||^2 + sum_j penalty_j/2 ||w_j - w_j,A||^2 + sum_j decay_j/2 ||w_j||^2`, D the
diagonal of the samples' weights.  For the change `d = W^T - W_A^T` its gradient is `A d + g_0` with
`A = Phi^T D Phi + diag(penalty + decay)` and `g_0 = Phi^T D R + diag(decay) W_A^T`.
`torch.optim.SGD` (dampening 0) then does, from d = 0 and v = 0,

- `v <- momentum v + (A d + g_0)`, `d <- d - lr v`, or with Nesterov `d <- d - lr ((A d + g_0) + momentum v)`.

One step is a linear map of the stacked (d, v, I), so T steps are its T-th power by repeated squaring; gradient flow
`d' = -(A d + g_0)` is a matrix exponential.  No residual polynomial and no eigenvalue enters: this is a route of its
own to what `ntkla.forgetting.descent.training` computes by filters.  Penalties on protected modes add to A and g_0 as
`ball_penalty.py` says, output by output.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from ntkla.testing.ball_penalty import PenaltyTerm, by_output
from ntkla.testing.balls import Exact, ball, ball_matrix, design_matrix, diagonal, flint, times_weights


def gradient_descent(
    features: torch.Tensor,
    residual: torch.Tensor,
    *,
    lr: float,
    steps: int,
    momentum: float = 0.0,
    nesterov: bool = False,
    bias: bool = False,
    penalties: Sequence[float] | float = 0.0,
    decays: Sequence[float] | float = 0.0,
    start: torch.Tensor | None = None,
    weights: torch.Tensor | None = None,
    protected: Sequence[PenaltyTerm] = (),
) -> Exact:
    """d after `steps` steps of full-batch gradient descent, exactly: [F (+ 1), C].

    Args:
        features: Phi, [n, F].
        residual: R, prediction minus target at the start, [n, C].
        lr, steps, momentum, nesterov: of `torch.optim.SGD` with dampening 0 and a fresh state.
        bias: appends a feature 1 (one more row).
        penalties: pull towards the start: one number, or one for each of the F (+ 1) columns.
        decays: pull towards zero, likewise.
        start: W_A^T with the bias as last row, [F (+ 1), C]; needed when a decay is not zero, and with a penalty that
            has a reference.
        weights: of the samples, [n]; None for 1 each.
        protected: penalties.
    """

    def compute() -> Any:
        def run(a: Any, g: Any) -> Any:
            step = _step_map(a, g, ball(lr), ball(momentum), nesterov)
            return _rows(_power(step, steps), a.nrows(), g.ncols())

        a, g = _system(features, residual, bias, penalties, decays, start, weights)
        return run(a, g) if not protected else by_output(run, a, g, protected, _balls(start), bias)

    return Exact(compute)


def gradient_flow(
    features: torch.Tensor,
    residual: torch.Tensor,
    *,
    time: float,
    bias: bool = False,
    penalties: Sequence[float] | float = 0.0,
    decays: Sequence[float] | float = 0.0,
    start: torch.Tensor | None = None,
    weights: torch.Tensor | None = None,
    protected: Sequence[PenaltyTerm] = (),
) -> Exact:
    """d after gradient flow for `time`, exactly: [F (+ 1), C]; the arguments of `gradient_descent`.

    `exp(t [[-A, -g_0], [0, 0]])` has the upper right block `-int_0^t exp(-s A) ds g_0`.
    """

    def compute() -> Any:
        def run(a: Any, g: Any) -> Any:
            zeros = flint().arb_mat(g.ncols(), a.ncols())
            generator = _blocks([[-a, -g], [zeros, flint().arb_mat(g.ncols(), g.ncols())]])
            return _rows((generator * ball(time)).exp(), a.nrows(), g.ncols())

        a, g = _system(features, residual, bias, penalties, decays, start, weights)
        return run(a, g) if not protected else by_output(run, a, g, protected, _balls(start), bias)

    return Exact(compute)


def _system(
    features: torch.Tensor,
    residual: torch.Tensor,
    bias: bool,
    penalties: Sequence[float] | float,
    decays: Sequence[float] | float,
    start: torch.Tensor | None,
    weights: torch.Tensor | None,
) -> tuple[Any, Any]:
    """A and g_0 of the loss in the module's docstring."""
    phi = design_matrix(features, bias)
    penalty, decay = _per_column(penalties, phi.ncols()), _per_column(decays, phi.ncols())
    adjoint = times_weights(phi, weights).transpose()
    a = adjoint * phi + diagonal([ball(p) + ball(d) for p, d in zip(penalty, decay, strict=True)])
    g = adjoint * ball_matrix(residual)
    if start is not None:
        g = g + diagonal([ball(d) for d in decay]) * ball_matrix(start)
    return a, g


def _balls(start: torch.Tensor | None) -> Any | None:
    return None if start is None else ball_matrix(start)


def _per_column(values: Sequence[float] | float, columns: int) -> list[float]:
    return [float(values)] * columns if isinstance(values, (int, float)) else [float(v) for v in values]


def _step_map(a: Any, g: Any, lr: Any, momentum: Any, nesterov: bool) -> Any:
    """The matrix of one step on the stacked (d, v, I): see the module's docstring."""
    module = flint()
    size, outputs = a.nrows(), g.ncols()
    one, unit = diagonal([module.arb(1)] * size), diagonal([module.arb(1)] * outputs)
    # d <- d - lr (gradient * of_gradient + v * of_velocity), with v the velocity before the step.
    of_gradient, of_velocity = (1 + momentum, momentum * momentum) if nesterov else (module.arb(1), momentum)
    zeros = module.arb_mat(outputs, size)
    return _blocks(
        [
            [one - a * (lr * of_gradient), one * (-lr * of_velocity), g * (-lr * of_gradient)],
            [a, one * momentum, g],
            [zeros, zeros, unit],
        ]
    )


def _power(matrix: Any, exponent: int) -> Any:
    result = diagonal([flint().arb(1)] * matrix.nrows())
    while exponent:
        if exponent & 1:
            result = result * matrix
        matrix = matrix * matrix
        exponent >>= 1
    return result


def _rows(matrix: Any, rows: int, columns: int) -> Any:
    """The upper right block [rows, columns]: what the map makes of (0, 0, I)."""
    return flint().arb_mat([row[-columns:] for row in matrix.tolist()[:rows]])


def _blocks(table: list[list[Any]]) -> Any:
    rows = []
    for line in table:
        for parts in zip(*(block.tolist() for block in line), strict=True):
            rows.append([entry for part in parts for entry in part])
    return flint().arb_mat(rows)
