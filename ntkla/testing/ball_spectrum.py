"""Rigorous enclosures of all eigenvalues of a small symmetric matrix, multiple ones included.

With any computed Q, `B = Q^T A Q` in ball arithmetic gives two classical facts.  Ostrowski: the k-th eigenvalue of B is
theta_k times that of A with `|theta_k - 1| <= ||Q^T Q - I||`.  Weyl: the k-th eigenvalue of B is within the norm of its
off-diagonal part of the k-th largest diagonal entry.  Together they enclose every eigenvalue *in order*, so clusters
need no separation.  Q comes from Jacobi rotations at the working precision; nothing is asked of it but to be good.
"""

from __future__ import annotations

from typing import Any

import torch

from ntkla.testing.balls import (
    FIRST_BITS,
    MOST_BITS,
    BallPrecisionError,
    ball_matrix,
    design_matrix,
    diagonal,
    euclidean_norm,
    flint,
    upper,
    working_precision,
)

_SWEEPS = 60


def eigenvalues(matrix: torch.Tensor, *, radius: float) -> list[Any]:
    """Enclosures (`arb`) of all eigenvalues of (A + A^T) / 2, descending and with multiplicity.

    Args:
        matrix: A, [n, n], as stored.
        radius: the largest radius wanted, absolute.

    Raises:
        BallPrecisionError: it needs more than `MOST_BITS` bits.
    """
    return enclosed_eigenvalues(lambda: symmetric_part(ball_matrix(matrix)), radius=radius)


def symmetric_part(matrix: Any) -> Any:
    """(A + A^T) / 2 of an `arb_mat`."""
    return (matrix + matrix.transpose()) / 2


def gram_eigenvalues(features: torch.Tensor, *, bias: bool = False, radius: float) -> list[Any]:
    """Enclosures of all n eigenvalues of G = Phi Phi^T (+ 1 with a bias), descending; G is never rounded."""

    def gram() -> Any:
        phi = design_matrix(features, bias)
        return phi * phi.transpose()

    return enclosed_eigenvalues(gram, radius=radius)


def enclosed_eigenvalues(compute: Any, *, radius: float) -> list[Any]:
    """`eigenvalues` for a symmetric `arb_mat` given by a function that computes it at the working precision."""
    bits = FIRST_BITS
    while bits <= MOST_BITS:
        with working_precision(bits):
            values = _at_working_precision(compute(), bits)
        if all(v.is_finite() and upper(v.rad()) <= radius for v in values):
            return values
        bits *= 2
    raise BallPrecisionError(f"the eigenvalues cannot be enclosed to {radius:.3g} with up to {MOST_BITS} bits.")


def diagonalized(matrix: Any) -> tuple[Any, list[Any]]:
    """Nearly orthogonal columns that nearly diagonalise a symmetric `arb_mat`, and enclosures of all its eigenvalues.

    Both are in descending order, at the working precision.
    """
    bits = flint().ctx.prec
    q = _jacobi(matrix.mid(), bits)
    b = q.transpose() * matrix * q
    order = sorted(range(b.nrows()), key=lambda i: b[i, i].mid(), reverse=True)
    ordered = flint().arb_mat([[row[i] for i in order] for row in q.tolist()])
    return ordered, _enclosed_by(matrix, ordered)


def _at_working_precision(a: Any, bits: int) -> list[Any]:
    return _enclosed_by(a, _jacobi(a.mid(), bits))


def _enclosed_by(a: Any, q: Any) -> list[Any]:
    """Enclosures of all eigenvalues of `a`, descending, by columns that nearly diagonalise it."""
    module = flint()
    b = q.transpose() * a * q
    defect = upper(euclidean_norm((q.transpose() * q - diagonal([module.arb(1)] * a.nrows())).entries()))
    coupling = euclidean_norm((b - diagonal([b[i, i] for i in range(b.nrows())])).entries())
    # The k-th largest lower end and the k-th largest upper end enclose the k-th largest diagonal entry.
    lower = sorted((b[i, i].lower() for i in range(b.nrows())), reverse=True)
    higher = sorted((b[i, i].upper() for i in range(b.nrows())), reverse=True)
    theta = module.arb(1, defect)
    return [(low.union(high) + module.arb(0, upper(coupling))) / theta for low, high in zip(lower, higher, strict=True)]


def _jacobi(a: Any, bits: int) -> Any:
    """Orthogonal columns that nearly diagonalise the symmetric matrix `a`, by cyclic Jacobi rotations on midpoints."""
    module = flint()
    size = a.nrows()
    rows = [[entry.mid() for entry in row] for row in a.tolist()]
    vectors = [[module.arb(int(i == j)) for j in range(size)] for i in range(size)]  # row i: the i-th column of Q
    smallest = module.arb((1, 16 - bits))
    for _ in range(_SWEEPS):
        rotated = False
        for i in range(size):
            for j in range(i + 1, size):
                if abs(rows[i][j]) <= smallest * (abs(rows[i][i]) * abs(rows[j][j])).sqrt() or rows[i][j] == 0:
                    continue
                rotated = True
                _rotate(rows, vectors, i, j)
        if not rotated:
            break
    return module.arb_mat(vectors).transpose()


def _rotate(rows: list[list[Any]], vectors: list[list[Any]], i: int, j: int) -> None:
    """Makes entry (i, j) of the symmetric `rows` zero by a rotation, applied to `vectors` as well."""
    ratio = (rows[j][j] - rows[i][i]) / (2 * rows[i][j])
    root = (1 + ratio * ratio).sqrt()
    tangent = (1 / (ratio + root) if ratio >= 0 else 1 / (ratio - root)).mid()
    cosine = (1 / (1 + tangent * tangent).sqrt()).mid()
    sine = (tangent * cosine).mid()
    for table in (rows, vectors):
        table[i], table[j] = (
            [(cosine * p - sine * q).mid() for p, q in zip(table[i], table[j], strict=True)],
            [(sine * p + cosine * q).mid() for p, q in zip(table[i], table[j], strict=True)],
        )
    for row in rows:
        row[i], row[j] = (cosine * row[i] - sine * row[j]).mid(), (sine * row[i] + cosine * row[j]).mid()
