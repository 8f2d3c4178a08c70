"""Exact references for the overlap of two tasks: principal cosines of leading row spaces, and the alignment.

The projector P on the leading k eigenvectors of `S = Phi^T Phi` is enclosed by the columns of a nearly orthogonal Q and
the theorem of Davis and Kahan, as in `ball_eigenspaces.py`: `||P - Q_k Q_k^T|| <= ||R|| / (gap sqrt(1 - d)) + 2 d`.
The eigenvalues of `P_a P_b P_a` are the squared cosines, and zeros.
"""

from __future__ import annotations

from typing import Any

import torch

from ntkla.testing.ball_spectrum import diagonalized, symmetric_part
from ntkla.testing.balls import Exact, design_matrix, diagonal, euclidean_norm, flint


def principal_cosines(
    features_a: torch.Tensor, k_a: int, features_b: torch.Tensor, k_b: int, *, bias: bool = False
) -> Exact:
    """Cosines of the principal angles between the leading row spaces of dimensions k_a and k_b, descending, [r, 1].

    A space must be apart from the rest of the spectrum, else no precision will do.
    """

    def compute() -> Any:
        a, b = _projector(features_a, k_a, bias), _projector(features_b, k_b, bias)
        squares = diagonalized(symmetric_part(a * b * a))[1]
        return flint().arb_mat([[square.nonnegative_part().sqrt()] for square in squares[: min(k_a, k_b)]])

    return Exact(compute)


def alignment(features_a: torch.Tensor, features_b: torch.Tensor, *, bias: bool = False) -> Exact:
    """tr(S_a S_b) / (||S_a||_F ||S_b||_F), [1, 1]; features of zeros have none."""

    def compute() -> Any:
        a, b = (phi.transpose() * phi for phi in (design_matrix(x, bias) for x in (features_a, features_b)))
        shared = sum((x * y for x, y in zip(a.entries(), b.entries(), strict=True)), flint().arb(0))
        return flint().arb_mat([[shared / (euclidean_norm(a.entries()) * euclidean_norm(b.entries()))]])

    return Exact(compute)


def total_forgetting(drift: Exact) -> Exact:
    """||dF||_F^2 of a drift, [1, 1]."""
    return Exact(lambda: flint().arb_mat([[sum((e * e for e in drift.compute().entries()), flint().arb(0))]]))


def _projector(features: torch.Tensor, k: int, bias: bool) -> Any:
    module, phi = flint(), design_matrix(features, bias)
    matrix = phi.transpose() * phi
    size = matrix.nrows()
    one = diagonal([module.arb(1)] * size)
    if k == size:
        return one
    q, values = diagonalized(matrix)
    gap = (values[k - 1] - values[k]).lower()
    if not gap > 0:
        raise ZeroDivisionError("the row space is not told from the rest at this precision")
    residual = euclidean_norm((matrix * q - q * diagonal([v.mid() for v in values])).entries())
    defect = euclidean_norm((q.transpose() * q - one).entries())
    radius = (residual / (gap * (1 - defect).sqrt()) + 2 * defect).upper()
    columns = module.arb_mat([row[:k] for row in q.tolist()])
    around = module.arb(0, 1) * radius
    return module.arb_mat([[entry + around for entry in row] for row in (columns * columns.transpose()).tolist()])
