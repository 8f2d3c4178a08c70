"""Enclosures of what lies in the eigenspaces of `S = Phi^T Phi`: the parts `Phi P x` of a drift, in ball arithmetic.

With orthogonal columns Q from Jacobi rotations at the working precision, `R = S Q - Q diag(theta)`, and delta the
distance of a set of eigenvalues to all others (from their enclosures), Davis and Kahan bound the sine of the angle
between the columns of the set and the exact eigenspace by `||R|| / (delta sqrt(1 - d))`, `d = ||Q^T Q - I||`.  So
`Phi Q_c Q_c^T x` is off by at most `||Phi|| ||x|| (sine + 2 d)` in norm: a radius that falls with the precision.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from ntkla.testing.ball_spectrum import diagonalized
from ntkla.testing.balls import Exact, design_matrix, diagonal, euclidean_norm, flint

Sets = Sequence[tuple[int, int]]  # start and stop of sets of eigenvalues, counted from 0 in descending order


def eigenspace_parts(features: torch.Tensor, update: Exact, sets: Sets, *, bias: bool = False) -> list[Exact]:
    """`Phi P x` for the eigenspaces of some sets of eigenvalues of Phi^T Phi, [n, C] each, exactly.

    A set must be apart from all other eigenvalues, else no precision will do.
    """
    return [Exact(lambda one=one: _part(features, update, one, bias)) for one in sets]  # type: ignore[misc]


def eigenspace_energies(features: torch.Tensor, update: Exact, sets: Sets, *, bias: bool = False) -> Exact:
    """`||Phi P x||_F^2` for the eigenspaces of some sets of eigenvalues, one below the other, exactly."""
    parts = eigenspace_parts(features, update, sets, bias=bias)
    zero = flint().arb(0)
    return Exact(lambda: flint().arb_mat([[sum((e * e for e in p.compute().entries()), zero)] for p in parts]))


def _part(features: torch.Tensor, update: Exact, one: tuple[int, int], bias: bool) -> Any:
    module = flint()
    phi, x = design_matrix(features, bias), update.compute()
    matrix = phi.transpose() * phi
    q, values = diagonalized(matrix)
    start, stop = one
    below = [values[start - 1] - values[start]] if start > 0 else []
    gaps = [*below, *([values[stop - 1] - values[stop]] if stop < len(values) else [])]
    columns = module.arb_mat([row[start:stop] for row in q.tolist()])
    part = phi * (columns * (columns.transpose() * x))
    if not gaps:
        return phi * x
    if not all(bool(gap > 0) for gap in gaps):
        raise ZeroDivisionError("the set is not told from its neighbours at this precision")
    gap = min(gap.lower() for gap in gaps)
    theta = diagonal([v.mid() for v in values])
    residual = euclidean_norm((matrix * q - q * theta).entries())
    defect = euclidean_norm((q.transpose() * q - diagonal([module.arb(1)] * len(values))).entries())
    sine = residual / (gap * (1 - defect).sqrt())
    radius = euclidean_norm(phi.entries()) * euclidean_norm(x.entries()) * (sine + 2 * defect)
    around = module.arb(0, 1) * radius.upper()
    return module.arb_mat([[entry + around for entry in row] for row in part.tolist()])
