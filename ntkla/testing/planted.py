"""Features whose Gram matrix has exactly known eigenvalues and eigenvectors: the columns of a Hadamard matrix.

With Hadamard matrices H (n x n) and J (F x F) of entries +-1 and `Phi = H[:, :r] diag(s) J[:, :r]^T`,
`Phi Phi^T = F H[:, :r] diag(s^2) H[:, :r]^T`: eigenvalues n F s^2 with the eigenvectors H[:, j] / sqrt(n), no rounding
anywhere as long as the sums of the s fit into a float64 number.  Equal s make clusters.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from scipy.linalg import hadamard

from ntkla.testing.balls import Exact, ball_matrix, flint


def hadamard_basis(n: int) -> torch.Tensor:
    """The matrix H [n, n] of entries +-1 with H^T H = n I; n a power of two (ValueError otherwise)."""
    return torch.tensor(hadamard(n), dtype=torch.float64, device="cpu")


def planted_features(n: int, features: int, singular: Sequence[float]) -> torch.Tensor:
    """Features [n, F] with the eigenvectors H[:, j] / sqrt(n) and the eigenvalues n F s_j^2; n, F powers of two."""
    rank = len(singular)
    s = torch.tensor(singular, dtype=torch.float64, device="cpu")
    return (hadamard_basis(n)[:, :rank] * s) @ hadamard_basis(features)[:, :rank].T


def planted_components(vectors: torch.Tensor, inside: range) -> Exact:
    """The components of vectors [n, k] outside the eigenspace of the eigenvectors `inside`: exactly, [n - size, k]."""
    n = vectors.shape[0]
    outside = hadamard_basis(n)[:, [j for j in range(n) if j not in inside]]
    return Exact(lambda: ball_matrix(outside).transpose() * ball_matrix(vectors) / flint().arb(n).sqrt())


def planted_energies(drift: torch.Tensor, shift: torch.Tensor | None = None) -> list[Any]:
    """Energies of drift + shift [n, C] in each eigenvector, summed over outputs, as balls (`arb`)."""
    moved = ball_matrix(drift) if shift is None else ball_matrix(drift) + ball_matrix(shift)
    coefficients = (ball_matrix(hadamard_basis(drift.shape[0])).transpose() * moved).tolist()
    return [sum((c * c for c in row), flint().arb(0)) / drift.shape[0] for row in coefficients]
