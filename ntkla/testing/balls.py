"""Ball arithmetic (python-flint): real matrices enclosed as tightly as asked, from the stored bits of the inputs.

Every reference of this package that is called exact is an :class:`Exact`: a computation in midpoint-radius interval
arithmetic (arb, Johansson 2017) that is run again at doubled precision until the caller is satisfied.  Its balls
contain the real result of the formula for the inputs as stored; nothing about them depends on torch's rounding.

python-flint is imported on first use, so `import ntkla.testing` works without it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch

from ntkla.linalg.errors import ArgumentError, MissingPackageError, NtklaError
from ntkla.testing.exact import dyadic, dyadic_number, integers

FIRST_BITS = 128
MOST_BITS = 1 << 15


class BallPrecisionError(NtklaError, ArithmeticError):
    """The enclosure did not become as tight as asked: the result is singular, or needs more than `MOST_BITS` bits."""


def flint() -> Any:
    """The python-flint module.

    Raises:
        MissingPackageError: it is not installed.
    """
    try:
        import flint as module
    except ImportError as cause:
        raise MissingPackageError(
            "ball arithmetic needs python-flint, which is not installed. Install it with: pip install python-flint"
        ) from cause
    return module


def working_precision(bits: int) -> AbstractContextManager[None]:
    """A context in which ball arithmetic works with midpoints of `bits` bits; it restores the earlier precision."""
    return flint().ctx.workprec(bits)  # type: ignore[no-any-return]


def ball_matrix(x: torch.Tensor) -> Any:
    """A matrix [n, m] or a vector [n] (as a column) of any supported dtype as an `arb_mat` of radius zero."""
    rows, columns = (x.shape[0], 1) if x.ndim == 1 else x.shape
    module = flint()
    return module.arb_mat(rows, columns, [module.arb(pair) for pair in dyadic(x)])


def ball(value: float) -> Any:
    """A Python float as an `arb` of radius zero."""
    return flint().arb(dyadic_number(value))


def stack(top: Any, bottom: Any) -> Any:
    """Two `arb_mat` on top of each other."""
    return flint().arb_mat(top.tolist() + bottom.tolist())


def design_matrix(features: torch.Tensor, bias: bool = False) -> Any:
    """Phi as an `arb_mat` of radius zero, with a last column of ones when `bias`."""
    phi = ball_matrix(features)
    if not bias:
        return phi
    return flint().arb_mat([[*row, 1] for row in phi.tolist()])


def times_weights(matrix: Any, weights: torch.Tensor | None) -> Any:
    """Each row of an `arb_mat` times its sample's weight; the matrix itself without weights."""
    return matrix if weights is None else diagonal(ball_matrix(weights).entries()) * matrix


def diagonal(values: Sequence[Any]) -> Any:
    """A diagonal `arb_mat`."""
    size = len(values)
    matrix = flint().arb_mat(size, size)
    for i, value in enumerate(values):
        matrix[i, i] = value
    return matrix


def design_integers(features: torch.Tensor, bias: bool = False) -> tuple[Any, int]:
    """Phi (with its column of ones) as an exact integer matrix `fmpz_mat` and a shift e: Phi = matrix * 2^e."""
    n, width = features.shape
    pairs = dyadic(features)
    if bias:
        pairs = [p for i in range(n) for p in [*pairs[i * width : (i + 1) * width], (1, 0)]]
    values, shift = integers(pairs)
    return flint().fmpz_mat(n, width + int(bias), values), shift


class Exact:
    """A real matrix, known by a rule that encloses it at any working precision.

    Attributes:
        compute: called inside `working_precision(bits)`; returns an `arb_mat` that contains the exact matrix.  It may
            raise ZeroDivisionError when the precision does not suffice, which asks for more.
    """

    def __init__(self, compute: Callable[[], Any]) -> None:
        self.compute = compute

    def at(self, bits: int) -> Any | None:
        """The enclosure computed with `bits` bits; None when that many cannot tell a matrix from a singular one."""
        with working_precision(bits):
            try:
                return self.compute()
            except ZeroDivisionError:
                return None

    def until(self, satisfied: Callable[[Any], bool]) -> Any:
        """The first enclosure, at doubled precisions from `FIRST_BITS`, that satisfies the caller.

        Raises:
            BallPrecisionError: none does up to `MOST_BITS`.
        """
        bits = FIRST_BITS
        while bits <= MOST_BITS:
            enclosure = self.at(bits)
            if enclosure is not None and satisfied(enclosure):
                return enclosure
            bits *= 2
        raise BallPrecisionError(
            f"no satisfying enclosure with up to {MOST_BITS} bits: the matrix is singular or the demand is too tight."
        )

    def within(self, radius: float) -> Any:
        """The enclosure, an `arb_mat`, with every radius at most `radius` (absolute, > 0)."""
        if not radius > 0:
            raise ArgumentError(f"radius: expected a number > 0, got {radius!r}.")
        return self.until(lambda balls: all(_at_most(entry, radius) for entry in balls.entries()))

    def tensor(self, relative: float = 2.0**-60) -> torch.Tensor:
        """The matrix rounded to float64, from an enclosure with radii at most `relative` times the largest entry.

        A matrix of zeros never gets there; a radius below all of float64 will do as well.
        """

        def satisfied(balls: Any) -> bool:
            largest = max(upper(abs(entry)) for entry in balls.entries())
            radius = max(relative * largest, 2.0**-1074)
            return math.isfinite(largest) and all(_at_most(entry, radius) for entry in balls.entries())

        balls = self.until(satisfied)
        values = [[float(entry.mid()) for entry in row] for row in balls.tolist()]
        return torch.tensor(values, dtype=torch.float64, device="cpu")


def euclidean_norm(entries: Sequence[Any]) -> Any:
    """The Euclidean norm of balls; the square of a ball around zero reaches below zero, where no root is."""
    return sum((entry * entry for entry in entries), flint().arb(0)).nonnegative_part().sqrt()


def upper(value: Any) -> float:
    """A float not below any number in the ball `value`; infinite for an unbounded ball."""
    return math.nextafter(float(value.upper()), math.inf) if value.is_finite() else math.inf


def _at_most(entry: Any, radius: float) -> bool:
    return bool(entry.is_finite()) and upper(entry.rad()) <= radius
