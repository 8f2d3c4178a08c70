"""Enclosures of what lies in the eigenspaces of `S = Phi^T Phi`: the parts `Phi P x` of a drift, in ball arithmetic.

With orthogonal columns Q from Jacobi rotations at the working precision, `R = S Q - Q diag(theta)`, and delta the
distance of a set of eigenvalues to all others (from their enclosures), Davis and Kahan bound the sine of the angle
between the columns of the set and the exact eigenspace by `||R|| / (delta sqrt(1 - d))`, `d = ||Q^T Q - I||`.  So
`Phi Q_c Q_c^T x` is off by at most `||Phi|| ||x|| (sine + 2 d)` in norm: a radius that falls with the precision.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, partial
from typing import Any

import torch

from ntkla.testing.ball_spectrum import diagonalized
from ntkla.testing.balls import Exact, design_matrix, diagonal, euclidean_norm, flint, working_precision

Sets = Sequence[tuple[int, int]]  # start and stop of sets of eigenvalues, counted from 0 in descending order


def eigenspace_parts(features: torch.Tensor, update: Exact, sets: Sets, *, bias: bool = False) -> list[Exact]:
    """`Phi P x` for the eigenspaces of some sets of eigenvalues of Phi^T Phi, [n, C] each, exactly.

    A set must be apart from all other eigenvalues, else no precision will do.
    """

    @cache
    def parts(bits: int) -> list[Any]:
        with working_precision(bits):
            return _parts(features, update, sets, bias)

    def part(place: int) -> Any:
        return parts(flint().ctx.prec)[place]

    return [Exact(partial(part, place)) for place in range(len(sets))]


def eigenspace_energies(features: torch.Tensor, update: Exact, sets: Sets, *, bias: bool = False) -> Exact:
    """`||Phi P x||_F^2` for the eigenspaces of some sets of eigenvalues, one below the other, exactly."""
    parts = eigenspace_parts(features, update, sets, bias=bias)
    zero = flint().arb(0)
    return Exact(lambda: flint().arb_mat([[sum((e * e for e in p.compute().entries()), zero)] for p in parts]))


def _parts(features: torch.Tensor, update: Exact, sets: Sets, bias: bool) -> list[Any]:
    module = flint()
    phi, x = design_matrix(features, bias), update.compute()
    matrix = phi.transpose() * phi
    q, values = diagonalized(matrix)
    residual = euclidean_norm((matrix * q - q * diagonal([v.mid() for v in values])).entries())
    defect = euclidean_norm((q.transpose() * q - diagonal([module.arb(1)] * len(values))).entries())
    size = euclidean_norm(phi.entries()) * euclidean_norm(x.entries())
    found = []
    for start, stop in sets:
        if stop - start == len(values):
            found.append(phi * x)
            continue
        columns = module.arb_mat([row[start:stop] for row in q.tolist()])
        part = phi * (columns * (columns.transpose() * x))
        radius = size * (residual / (_gap(values, start, stop) * (1 - defect).sqrt()) + 2 * defect)
        around = module.arb(0, 1) * radius.upper()
        found.append(module.arb_mat([[entry + around for entry in row] for row in part.tolist()]))
    return found


def _gap(values: list[Any], start: int, stop: int) -> Any:
    """A lower bound of the distance between the enclosures of a set and those of its neighbours."""
    above = [values[start - 1] - values[start]] if start > 0 else []
    gap = min(g.lower() for g in [*above, *([values[stop - 1] - values[stop]] if stop < len(values) else [])])
    if not gap > 0:
        raise ZeroDivisionError("the set is not told from its neighbours at this precision")
    return gap
