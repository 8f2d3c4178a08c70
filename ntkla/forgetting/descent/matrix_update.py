"""The update of training that stops early from its matrix and gradient; the bound is derived in `trained.py`."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch

from ntkla.forgetting.descent.filters import filter_values
from ntkla.forgetting.descent.gains import Gains, gains, peaks, remaining_share
from ntkla.forgetting.descent.training import GradientDescent, Training
from ntkla.linalg.arithmetic.accurate import Bounded, accurate_sum
from ntkla.linalg.arithmetic.products import pieced_gamma, pieced_matmul
from ntkla.linalg.eigen.diagonalization import Diagonalization, diagonalize
from ntkla.linalg.errors import ScaleError
from ntkla.linalg.precision import SHORT_CHAIN, TINY64, U64, gamma, norm_upper, rounded_up
from ntkla.linalg.solve.normal import BoundedMatrix


class Coordinates(NamedTuple):
    """z = first + second, [K, C] each, with `g_0 = Q z + r`, and the bound of each column of r, [C]."""

    first: torch.Tensor
    second: torch.Tensor
    rest: torch.Tensor


class MatrixUpdate(NamedTuple):
    """The update of a head by training, for problems known by their matrices.

    Attributes:
        update: float64 [K, C].
        error_bound: 2-norm bound of each column's error, [C].
        gains: how the run amplifies errors of its gradient.
        kept: upper bound of `||I - h_T(A) A||`: what it leaves of an error of the head that it begins with.
    """

    update: torch.Tensor
    error_bound: torch.Tensor
    gains: Gains
    kept: float


def matrix_update(
    hessian: BoundedMatrix, gradient: Bounded, training: Training, floor: float, objective: str
) -> MatrixUpdate:
    """`-h_T(A) g_0` for A and g_0 as computed, each with its error; parts 1 to 3 of `trained.py`.

    Args:
        hessian: A [K, K], positive semidefinite; left as it is.
        gradient: g_0 [K, C].
        training: the optimiser and how far it runs.
        floor: lower bound of the eigenvalues of A.
        objective: whose A it is, for the message.

    Raises:
        TrainingDivergesError, ScaleError

    Cost: about 20 K^3 operations, and `16 K^2 C`.
    """
    modes = diagonalize(hessian, floor)
    if isinstance(training, GradientDescent):
        training.require_stable(modes.largest, objective)
    return MatrixUpdate(*applied(modes, gradient, training), remaining_share(training, modes.largest))


def coordinates_of(vectors: torch.Tensor, defect: float, gradient: Bounded) -> Coordinates:
    """z by one correction: of the first remainder, `||I - Q Q^T||` and the rounding of the correction are left.

    Args:
        vectors: Q, float64 [K, K].
        defect: upper bound of ||Q^T Q - I||_2.
        gradient: g_0, float64 [K, C], and the bound of each column's error.
    """
    q, g = vectors, gradient.value
    first = pieced_matmul(q.T, g)
    remainder = accurate_sum(q, -first, [g])
    left = defect + pieced_gamma(q.shape[0]) * float(norm_upper(q)) * (math.sqrt(1.0 + defect) * SHORT_CHAIN)
    rest = left * norm_upper(remainder.value, dim=0) + remainder.error + gradient.error
    return Coordinates(first, pieced_matmul(q.T, remainder.value), rounded_up(rest + 4 * q.shape[0] ** 2 * TINY64))


def applied(modes: Diagonalization, gradient: Bounded, training: Training) -> tuple[torch.Tensor, torch.Tensor, Gains]:
    """-Q h(L) z, the three parts of its error bound, and the gains that they were made with."""
    size = modes.values.shape[0]
    amplification = gains(training, modes.smallest, modes.largest)
    z = coordinates_of(modes.vectors, modes.defect, gradient)
    values = filter_values(training, modes.values)
    coordinates = z.first + z.second
    filtered = values.value[:, None] * coordinates
    update = -pieced_matmul(modes.vectors, filtered)
    if not bool(torch.isfinite(update).all()):
        raise ScaleError("training: the update overflows float64. Scale the features, or lower lr * steps or the time.")
    magnitudes = coordinates.abs()
    force = peaks(training, modes.values, values)[:, None] * rounded_up(magnitudes)
    disturbance = norm_upper(modes.residual @ force, dim=0) * (1 + gamma(size))
    disturbance = rounded_up(disturbance + modes.residual_error * norm_upper(force, dim=0))
    rounding = pieced_gamma(size) * filtered.abs() + (values.error + 2 * U64 * values.value.abs())[:, None] * magnitudes
    product = norm_upper(modes.vectors.abs() @ rounded_up(rounding), dim=0) * (1 + gamma(size)) + 4 * size**2 * TINY64
    bound = amplification.push * disturbance + amplification.filter * z.rest + product
    return update, rounded_up(bound), amplification
