"""The end of a computation as data, and as an exception for callers who ask for one."""

import math

import pytest

from ntkla.linalg.eigenmodes import eigenmodes
from ntkla.linalg.errors import ArgumentError, NotCertifiedError
from ntkla.linalg.ridge import ridge_solve
from ntkla.linalg.status import ABOVE_TOLERANCE, CERTIFIED, CONDITIONAL, RANK_DEFICIENT, UNCERTIFIED, Status
from ntkla.testing.spectra import normal

# No float64 result is this accurate.
UNREACHABLE = 1e-300
X, Y = normal(20, 5, 1), normal(20, 2, 2)


@pytest.mark.parametrize("code", [ABOVE_TOLERANCE, CONDITIONAL, RANK_DEFICIENT, UNCERTIFIED])
def test_only_a_strict_caller_gets_an_exception(code):
    status = Status(code, "what happened")
    assert status.require(False) is status
    with pytest.raises(NotCertifiedError, match=f"{code}: what happened"):
        status.require(True)


def test_a_bound_is_compared_with_the_tolerance():
    assert Status.of_bound(0.5, 0.5, "do this.").code == CERTIFIED
    above = Status.of_bound(0.75, 0.5, "do this.", what="the length")
    assert above == Status(
        ABOVE_TOLERANCE, "the length is proved to be at most 7.50e-01 only, above the tolerance 5.0e-01: do this."
    )


def test_an_infinite_bound_proves_nothing():
    status = Status.of_bound(math.inf, 0.5, "do this.", what="the length")
    assert status.code == UNCERTIFIED
    assert "no bound of the length can be given" in status.message


def test_a_certified_status_passes():
    status = Status(CERTIFIED, "proved")
    assert status.require(True) is status


@pytest.mark.parametrize(
    "solve",
    [
        lambda **options: ridge_solve(X, Y, ridge=1.0, **options),
        lambda **options: eigenmodes(X, 3, **options),
    ],
    ids=["ridge_solve", "eigenmodes"],
)
def test_strict_solvers_raise_with_the_message_of_the_status(solve):
    status = solve(tol=UNREACHABLE).status
    assert status.code == ABOVE_TOLERANCE
    with pytest.raises(NotCertifiedError) as raised:
        solve(tol=UNREACHABLE, strict=True)
    assert status.message in str(raised.value)
    assert solve(strict=True).status.certified
    with pytest.raises(ArgumentError, match="strict"):
        solve(strict=1)


def test_a_strict_solver_refuses_a_rank_deficient_problem():
    with pytest.raises(NotCertifiedError, match=RANK_DEFICIENT):
        ridge_solve(X[:, [0, 0]], Y, ridge=0.0, strict=True)
