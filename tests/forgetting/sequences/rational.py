"""A sequence in rational arithmetic: every head exactly, from the stored features, targets and pseudo-samples."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ntkla.testing.balls import euclidean_norm, flint, working_precision


def rational(x: torch.Tensor):
    """A float64 matrix as a matrix of rational numbers."""
    pairs = [[value.as_integer_ratio() for value in row] for row in x.to(torch.float64).tolist()]
    return flint().fmpq_mat([[flint().fmpq(p, q) for p, q in row] for row in pairs])


def design(features: torch.Tensor, bias: bool):
    features = features.to(torch.float64)
    return rational(torch.cat([features, torch.ones_like(features[:, :1])], 1) if bias else features)


def diagonal(values: Sequence[float]):
    size = len(values)
    found = flint().fmpq_mat(size, size)
    for i, value in enumerate(values):
        found[i, i] = flint().fmpq(*float(value).as_integer_ratio())
    return found


def sums(task, bias: bool):
    """Phi^T D Phi and Phi^T D Y."""
    phi, y = design(task.features, bias), rational(task.targets)
    turned = phi.transpose() if task.weights is None else phi.transpose() * diagonal(task.weights.tolist())
    return turned * phi, turned * y


def sums_of(anchors, heads):
    """The sums of Z^T Z and Z^T Z X over stored rows Z and the heads X that are their references."""
    products = [(z.transpose() * z, x) for z, x in zip(map(rational, anchors), heads, strict=True)]
    square, target = products[0][0] * 0, products[0][1] * 0
    for product, x in products:
        square, target = square + product, target + product * x
    return square, target


def exact_heads(start, tasks, anchors, *, ridge, weight_decay=0.0, bias=True, penalize_bias=True, guard=None):
    """The heads after each task, matrices [K, C]; `anchors` are the stored rows Z of each task.

    Args:
        start: a tensor, or a matrix of rational numbers.
        guard: the sums of tasks that are protected from the beginning, or None.
    """
    head = rational(start) if isinstance(start, torch.Tensor) else start
    columns, outputs = (start.nrows(), start.ncols()) if head is start else start.shape
    mask = [1.0] * columns
    if bias and not penalize_bias:
        mask[-1] = 0.0
    pull, decay = diagonal([ridge * m for m in mask]), diagonal([weight_decay * m for m in mask])
    guard, target = guard or (flint().fmpq_mat(columns, columns), flint().fmpq_mat(columns, outputs))
    heads = []
    for task, rows in zip(tasks, anchors, strict=True):
        square, right = sums(task, bias)
        head = (square + guard + pull + decay).solve(right + target + pull * head)
        heads.append(head)
        if rows.shape[0]:
            z = rational(rows)
            guard = guard + z.transpose() * z
            target = target + z.transpose() * (z * head)
    return heads


def trained_heads(start, tasks, anchors, training, *, ridge, weight_decay=0.0, penalize_bias=True):
    """The heads after full-batch gradient descent on each task, with a bias: torch's SGD, step by step."""
    head, (columns, outputs) = rational(start), start.shape
    mask = [1.0] * (columns - 1) + [float(penalize_bias)]
    pull, decay = diagonal([ridge * m for m in mask]), diagonal([weight_decay * m for m in mask])
    guard, target = flint().fmpq_mat(columns, columns), flint().fmpq_mat(columns, outputs)
    lr, m = (flint().fmpq(*float(x).as_integer_ratio()) for x in (training.lr, training.momentum))
    heads = []
    for task, rows in zip(tasks, anchors, strict=True):
        square, right = sums(task, True)
        matrix, constant = square + guard + pull + decay, right + target + pull * head
        velocity = flint().fmpq_mat(columns, outputs)
        for _ in range(training.steps):
            gradient = matrix * head - constant
            velocity = velocity * m + gradient
            head = head - (gradient + velocity * m if training.nesterov else velocity) * lr
        heads.append(head)
        if rows.shape[0]:
            z = rational(rows)
            guard += z.transpose() * z
            target += z.transpose() * (z * head)
    return heads


def parts_of_errors(head: torch.Tensor, low: torch.Tensor, exact, *, bias: bool) -> tuple[list, list]:
    """Balls: the 2-norm of each column of high + low - exact, without the last row for a bias, and |last row|."""
    columns = (rational(head) + rational(low) - exact).transpose().tolist()
    with working_precision(400):
        entries = [[flint().arb(x) for x in column] for column in columns]
        if not bias:
            return [euclidean_norm(column) for column in entries], []
        return [euclidean_norm(column[:-1]) for column in entries], [abs(column[-1]) for column in entries]
