"""The exact optimum of softmax regression, in ball arithmetic: Newton's method to any precision, then a proof.

The proof is Krawczyk's: with x the approximation, Y near the inverse Hessian there, and a box X around x,

    x - Y g(x) + (I - Y H(X)) (X - x)   inside of X

shows that the box holds exactly one zero of the gradient, which is the optimum, because the objective is strictly
convex.  Nothing of it is shared with the certificates of `ntkla.linalg.entropy`, which argue by strong convexity.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch

from ntkla.testing.ball_penalty import PenaltyTerm
from ntkla.testing.ball_solutions import penalties, start_matrix
from ntkla.testing.balls import Exact, ball, ball_matrix, design_matrix, flint

_NEWTON_STEPS = 12


class _Parts(NamedTuple):
    """Phi and y as rows of balls, the weights, the outputs before training, the penalties and their shift [K][C].

    `curved` holds what penalties on modes add to the Hessian, a matrix [K, K] for each output that feels one; what they
    add to the gradient at the old head is in the shift.
    """

    phi: list[list[Any]]
    targets: list[list[Any]]
    weights: list[Any]
    base: list[list[Any]]
    penalty: list[Any]
    shift: list[list[Any]]
    curved: dict[int, Any]


def softmax_optimum(
    features: torch.Tensor,
    targets: torch.Tensor,
    *,
    ridge: float,
    bias: bool = False,
    penalize_bias: bool = True,
    weights: torch.Tensor | None = None,
    weight_decay: float = 0.0,
    head_weight: torch.Tensor | None = None,
    head_bias: torch.Tensor | None = None,
    near: torch.Tensor | None = None,
    terms: Sequence[PenaltyTerm] = (),
    exact_targets: Callable[[], list[list[Any]]] | None = None,
) -> Exact:
    """The update X of `ntkla.softmax_regression`, exactly: [F, C], with the bias as one more row.

    Args:
        features: Phi, [n, F].
        targets: y >= 0, [n, C].
        ridge, bias, penalize_bias, weights: as there; biases that are free are taken to sum to zero.
        weight_decay: pulls the whole head to zero.
        head_weight, head_bias: what the ridge pulls to, [C, F] and [C]; zero when None.
        terms: penalties on modes.
        exact_targets: a rule that gives y as rows of balls at the working precision, where it is no tensor; `targets`
            then only says its shape.
        near: [F (+ 1), C], where Newton's method begins; None for zero.  It only saves time: the proof is Krawczyk's.
    """
    outputs = targets.shape[1]
    free = bias and not penalize_bias

    def compute() -> Any:
        parts = _parts(features, targets, ridge, bias, penalize_bias, weights, weight_decay, head_weight, head_bias)
        _add_penalties(parts, terms, bias, head_weight, head_bias)
        if exact_targets is not None:
            parts = parts._replace(targets=exact_targets())
        columns = len(parts.penalty)
        unknowns = [(k, c) for k in range(columns) for c in range(outputs)]
        if free:
            unknowns.remove((columns - 1, outputs - 1))  # it is minus the sum of the other biases
        begin = [flint().arb(0)] * len(unknowns)
        if near is not None:
            known = ball_matrix(near)
            begin = [known[k, c] for k, c in unknowns]
        x = _approximation(parts, unknowns, begin, outputs, free)
        box = _proved(parts, unknowns, x, outputs, free)
        return flint().arb_mat(_matrix(unknowns, box, columns, outputs, free))

    return Exact(compute)


def _parts(
    features: torch.Tensor,
    targets: torch.Tensor,
    ridge: float,
    bias: bool,
    penalize_bias: bool,
    weights: torch.Tensor | None,
    weight_decay: float,
    head_weight: torch.Tensor | None,
    head_bias: torch.Tensor | None,
) -> _Parts:
    module = flint()
    phi = design_matrix(features, bias)
    n, columns, outputs = phi.nrows(), phi.ncols(), targets.shape[1]
    head = module.arb_mat(columns, outputs)
    if head_weight is not None:
        head = start_matrix(head_weight, head_bias, bias)
    decay = penalties([weight_decay], columns, bias, penalize_bias)
    shift = [[p * entry for entry in row] for p, row in zip(decay, head.tolist(), strict=True)]
    counts = [module.arb(1)] * n if weights is None else ball_matrix(weights).entries()
    penalty = penalties([ridge, weight_decay], columns, bias, penalize_bias)
    return _Parts(phi.tolist(), ball_matrix(targets).tolist(), counts, (phi * head).tolist(), penalty, shift, {})


def _add_penalties(
    parts: _Parts,
    terms: Sequence[PenaltyTerm],
    bias: bool,
    head_weight: torch.Tensor | None,
    head_bias: torch.Tensor | None,
) -> None:
    """Into `curved` and `shift`."""
    start = None if head_weight is None else start_matrix(head_weight, head_bias, bias)
    for term in terms:
        for output in term.outputs:
            seen = term.rows(output, bias)
            if seen is None:
                continue
            rows, basis = seen
            factor = rows.transpose() * (2 * ball(term.weight) / term.count)
            known = parts.curved.get(output)
            parts.curved[output] = factor * rows if known is None else known + factor * rows
            for k, (pulled,) in enumerate((factor * term.residual(output, basis, start, bias)).tolist()):
                parts.shift[k][output] += pulled


def _matrix(unknowns: Sequence[tuple[int, int]], x: Sequence[Any], columns: int, outputs: int, free: bool) -> Any:
    """The unknowns as X, rows of balls [K][C]."""
    rows = [[flint().arb(0)] * outputs for _ in range(columns)]
    for (k, c), value in zip(unknowns, x, strict=True):
        rows[k][c] = value
    if free:
        rows[-1][-1] = -sum(rows[-1][:-1], flint().arb(0))
    return rows


def _derivatives(
    parts: _Parts, unknowns: Sequence[tuple[int, int]], x: Sequence[Any], outputs: int, free: bool
) -> tuple[list[Any], Any]:
    """Gradient and Hessian in the unknowns."""
    module, columns, size = flint(), len(parts.penalty), len(unknowns)
    rows = _matrix(unknowns, x, columns, outputs, free)
    gradient = [[p * v + s for v, s in zip(rows[k], parts.shift[k], strict=True)] for k, p in enumerate(parts.penalty)]
    hessian = [[module.arb(0)] * (columns * outputs) for _ in range(columns * outputs)]
    for k, p in enumerate(parts.penalty):
        for c in range(outputs):
            hessian[k * outputs + c][k * outputs + c] = p
    for c, matrix in parts.curved.items():
        for k in range(columns):
            for m in range(columns):
                gradient[k][c] += matrix[k, m] * rows[m][c]
                hessian[k * outputs + c][m * outputs + c] += matrix[k, m]
    for phi, y, weight, base in zip(parts.phi, parts.targets, parts.weights, parts.base, strict=True):
        total, p = sum(y, module.arb(0)), _softmax(phi, rows, base)
        for k in range(columns):
            for c in range(outputs):
                gradient[k][c] += weight * phi[k] * (total * p[c] - y[c])
        curvature = [
            [weight * total * ((p[c] if c == e else 0) - p[c] * p[e]) for e in range(outputs)] for c in range(outputs)
        ]
        for k in range(columns):
            for m in range(columns):
                both = phi[k] * phi[m]
                for c in range(outputs):
                    for e in range(outputs):
                        hessian[k * outputs + c][m * outputs + e] += both * curvature[c][e]
    # With a free bias the last entry is minus the sum of the others: J^T g and J^T H J for J that says so.
    jacobian = module.arb_mat(columns * outputs, size)
    for number, (k, c) in enumerate(unknowns):
        jacobian[k * outputs + c, number] = 1
        if free and k == columns - 1:
            jacobian[columns * outputs - 1, number] = -1
    flat = module.arb_mat(columns * outputs, 1, [entry for row in gradient for entry in row])
    turned = jacobian.transpose()
    return (turned * flat).entries(), turned * module.arb_mat(hessian) * jacobian


def _softmax(phi: Sequence[Any], rows: Sequence[Sequence[Any]], base: Sequence[Any]) -> list[Any]:
    z = [b + sum((f * row[c] for f, row in zip(phi, rows, strict=True)), flint().arb(0)) for c, b in enumerate(base)]
    return softmax_rows(z)


def softmax_rows(z: Sequence[Any]) -> list[Any]:
    """The softmax of one row of balls."""
    top = max(range(len(z)), key=lambda c: float(z[c].mid()))
    powers = [flint().arb(1) if c == top else (value - z[top]).exp() for c, value in enumerate(z)]
    total = sum(powers, flint().arb(0))
    return [power / total for power in powers]


def _value(parts: _Parts, unknowns: Sequence[tuple[int, int]], x: Sequence[Any], outputs: int, free: bool) -> Any:
    """The objective, for the line search."""
    rows = _matrix(unknowns, x, len(parts.penalty), outputs, free)
    value = flint().arb(0)
    for k, p in enumerate(parts.penalty):
        value += sum((p * v * v / 2 + s * v for v, s in zip(rows[k], parts.shift[k], strict=True)), flint().arb(0))
    for c, matrix in parts.curved.items():
        own = flint().arb_mat([[row[c]] for row in rows])
        value += (own.transpose() * matrix * own)[0, 0] / 2
    for phi, y, weight, base in zip(parts.phi, parts.targets, parts.weights, parts.base, strict=True):
        for target, probability in zip(y, _softmax(phi, rows, base), strict=True):
            value -= weight * target * probability.log() if target != 0 else 0
    return value


def _approximation(
    parts: _Parts, unknowns: Sequence[tuple[int, int]], x: list[Any], outputs: int, free: bool
) -> list[Any]:
    """Newton's method on midpoints, halving a step until the objective falls, to all digits of the precision."""
    module = flint()
    value, last = _value(parts, unknowns, x, outputs, free).mid(), None
    for _ in range(60 + _NEWTON_STEPS):
        gradient, hessian = _derivatives(parts, unknowns, x, outputs, free)
        middle = module.arb_mat([[entry.mid() for entry in row] for row in hessian.tolist()])
        column = module.arb_mat(len(x), 1, [-entry.mid() for entry in gradient])
        step = [entry.mid() for entry in middle.solve(column, algorithm="lu").entries()]
        size = max(float(abs(entry)) for entry in step)
        if last is not None and not size < last:
            break  # at full steps, and no digit is left to win
        length = module.arb(1)
        for _ in range(60):
            moved = [(a + length * b).mid() for a, b in zip(x, step, strict=True)]
            found = _value(parts, unknowns, moved, outputs, free).mid()
            if found <= value or size < 2.0**-30:
                break
            length /= 2
        last = size if length == 1 and size < 2.0**-20 else None
        x, value = moved, found
    return x


def _proved(parts: _Parts, unknowns: Sequence[tuple[int, int]], x: list[Any], outputs: int, free: bool) -> list[Any]:
    """A box around x that holds the optimum; ZeroDivisionError asks for more digits where none is found."""
    module, size = flint(), len(x)
    gradient, hessian = _derivatives(parts, unknowns, x, outputs, free)
    middle = module.arb_mat([[entry.mid() for entry in row] for row in hessian.tolist()])
    inverse = module.arb_mat([[entry.mid() for entry in row] for row in middle.inv().tolist()])
    newton = (inverse * module.arb_mat(size, 1, gradient)).entries()
    radius = max((abs(entry).upper() for entry in newton), key=float) * 4 + module.arb(2) ** -(module.ctx.prec * 3 // 4)
    around = [module.arb(0, radius)] * size
    _, over = _derivatives(parts, unknowns, [a + b for a, b in zip(x, around, strict=True)], outputs, free)
    unit = module.arb_mat(size, size)
    for i in range(size):
        unit[i, i] = 1
    spread = ((unit - inverse * over) * module.arb_mat(size, 1, around)).entries()
    moved = [b - a for a, b in zip(newton, spread, strict=True)]
    if not all(abs(entry) < radius for entry in moved):
        raise ZeroDivisionError("Krawczyk's test failed")
    return [a + b for a, b in zip(x, moved, strict=True)]
