"""How often a solve waits for a device, seen on the CPU: the decisions of a device are forced, and readings counted.

Whatever is looked at, and however seldom: solutions have the same bits, and bounds hold.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings

import ntkla
from ntkla.linalg import host
from ntkla.linalg.design import DesignMatrix
from ntkla.linalg.precision import DEFAULT_TOLERANCE, U64, norm_upper
from ntkla.linalg.solve import rounds
from ntkla.linalg.solve.factor import CholeskyFactor
from ntkla.linalg.solve.normal_problem import NormalProblem
from ntkla.linalg.solve.refine import Refinement
from ntkla.linalg.solve.rounds import Standing, relative_goal, steps_ahead
from ntkla.testing import problems, ridge_problems
from ntkla.testing.spectra import normal
from tests.linalg.host_reads import HostReads
from tests.linalg.test_refine import Worthless, assert_sound, parts, qr
from tests.soundness.judge import forecast, judge_forgetting, judge_ridge, promised_drift, promised_ridge, solve

CPU = torch.device("cpu")
# Of a solve on a device: two inputs, the norms of the rows and of the features, whether the factor was built and its
# first solution is finite, its size (for the levels), the rows' scales, the first standing, that of the residual, the
# round of corrections, and the final bound.
ONCE = 12


@pytest.fixture
def device(monkeypatch):
    """Decides as on a device."""
    monkeypatch.setattr(host, "reads_are_free", lambda _: False)


def problem(n: int, features: int, outputs: int, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    return normal(n, features, 1).to(dtype), normal(n, outputs, 2)


def reads(call: Callable[[], object]) -> HostReads:
    with HostReads() as counted:
        call()
    # Whether this thread flushes subnormal numbers is found out on the processor, wherever the features lie.
    del counted.places["precision.py:flushes_subnormals"]
    return counted


# --- counted ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_readings_of_a_solve_are_few_and_depend_on_neither_samples_nor_outputs(dtype, device):
    ridge_solve = ntkla.ridge_solve
    ridge_solve(*problem(9, 3, 1, dtype), ridge=1.0)  # what is tried once a process
    found = {
        (n, outputs): reads(lambda n=n, outputs=outputs: ridge_solve(*problem(n, 20, outputs, dtype), ridge=30.0))
        for n, outputs in ((300, 2), (300, 40), (5000, 2))
    }
    for counted in found.values():
        assert counted.total <= ONCE, counted.places


@pytest.mark.parametrize(
    ("options", "more"),
    [
        # The mean of the features and its norm, and the second goal.
        ({"bias": True, "penalize_bias": False}, 6),
        # Four checks of the weights, six sums and norms.
        ({"weights": torch.ones(4000, dtype=torch.float64)}, 10),
        # The penalty, the trace of the Gram matrix, and the factor.
        ({"route": "dual"}, 3),
    ],
    ids=["free bias", "weights", "dual"],
)
def test_options_add_a_fixed_number(options, more, device):
    n = 300 if "route" in options else 4000
    ntkla.ridge_solve(*problem(9, 3, 1, torch.float32), ridge=1.0)
    counted = reads(lambda: ntkla.ridge_solve(*problem(n, 20, 3, torch.float32), ridge=30.0, **options))
    assert counted.total <= ONCE + more, counted.places


def test_a_forecast_reads_no_more_for_more_samples(device):
    def forecast(n: int, outputs: int) -> int:
        x, residual = problem(n, 20, outputs, torch.float32)
        return reads(lambda: ntkla.predict_forgetting(x[: n // 2], x, residual, ridge=30.0)).total

    forecast(10, 1)
    # One more input, the old features' norms, the drift's scale and the three norms of its bound, and its status.
    assert max(forecast(300, 2), forecast(3000, 2), forecast(300, 30)) <= ONCE + 9


def test_the_processor_is_asked_as_often_as_it_likes():
    """There a look is cheaper than a pass, so this is no bound; it shows that the counter counts."""
    counted = reads(lambda: ntkla.ridge_solve(*problem(300, 20, 2, torch.float32), ridge=30.0))
    assert counted.total > ONCE
    assert counted.places["precision.py:norm_upper"] > ONCE


def test_what_waits_is_counted():
    x = torch.arange(3.0)
    waiting = [
        lambda: float(x[0]),
        lambda: bool((x > 0).all()),
        lambda: x[x > 1],
        lambda: x.index_put_((x > 1,), x[:1]),
        lambda: torch.nonzero(x),
        lambda: torch.equal(x, x),
        lambda: x.masked_select(x > 1),
        lambda: host.numbers(x[0], x[1]),
    ]
    for call in waiting:
        assert reads(call).total >= 1
    assert reads(lambda: x[torch.tensor([0, 2])] + x[1:2]).total == 0


# --- rounds -----------------------------------------------------------------------------------------------------------


def slow() -> Refinement:
    """Two thirds of the way in every step."""
    given_problem, stability = parts()
    factor = ("slow", lambda: Worthless(given_problem, lambda x: x * 2 / 3))
    return Refinement(given_problem, stability, [factor, qr(given_problem)])


def reached(refinement: Refinement, tolerance: float = DEFAULT_TOLERANCE) -> tuple[bool, int, HostReads]:
    with HostReads() as counted:
        done = refinement.reach(relative_goal(tolerance, refinement.stability))
    return done, refinement.corrections, counted


@pytest.mark.parametrize("tolerance", [1e-4, 1e-10, 1e-16])
@pytest.mark.parametrize("ahead", [2, 3, 8])
def test_the_length_of_rounds_changes_nothing(ahead, tolerance, monkeypatch):
    plain, in_rounds = slow(), slow()
    expected = reached(plain, tolerance)
    monkeypatch.setattr("ntkla.linalg.solve.rounds.steps_ahead", lambda *_: ahead)
    found = reached(in_rounds, tolerance)
    assert found[:2] == expected[:2]
    assert expected[1] > 3
    for a, b in zip((*plain.x, plain.error.weights), (*in_rounds.x, in_rounds.error.weights), strict=True):
        assert torch.equal(a, b)
    assert (plain.escalations, plain.levels) == (in_rounds.escalations, in_rounds.levels)
    looks = found[2].places["rounds.py:seen"]
    assert looks < expected[1] == expected[2].places["rounds.py:seen"]
    if tolerance > U64:
        assert looks <= math.ceil(expected[1] / ahead) + 2
    assert_sound(in_rounds, False)


@pytest.mark.parametrize("good", [0, 1, 2, 3])
def test_a_round_that_fails_in_the_middle_is_kept_up_to_there(good, monkeypatch):
    """The factor is right for some steps, then overflows: the next one takes over where it was."""
    monkeypatch.setattr("ntkla.linalg.solve.rounds.steps_ahead", lambda *_: 3)
    given_problem, stability = parts()

    class Failing(Worthless):
        left = good

        def solve(self, rho: torch.Tensor) -> torch.Tensor:
            self.left -= 1
            return super().solve(rho) * (1.0 if self.left >= 0 else math.inf)

    failing = ("failing", lambda: Failing(given_problem, lambda x: x * 2 / 3))
    refinement = Refinement(given_problem, stability, [failing, qr(given_problem)])
    done, corrections, _ = reached(refinement)
    assert done
    assert refinement.factor_name == "qr:float64"
    assert refinement.escalations == ["worthless overflowed"]
    assert corrections > good
    assert_sound(refinement, False)


def test_rounds_are_as_long_as_the_prediction_says():
    now = Standing(wanted=1e-10, rounding=0.0, error=1e-4, remaining=1e-4)
    assert steps_ahead(now, 1e-3, CPU) == 1
    assert [steps_ahead(now, rate, torch.device("cuda")) for rate in (1e-7, 1e-3, 0.5)] == [1, 2, rounds._MOST_AHEAD]
    met = now._replace(remaining=1e-12)
    unknown = now._replace(remaining=math.inf)
    assert [steps_ahead(one, 1e-3, torch.device("cuda")) for one in (met, unknown)] == [1, 1]


def test_the_contraction_of_a_cholesky_factor_is_at_most_what_is_predicted():
    given_problem, stability = parts()
    for dtype in (torch.float32, torch.float64):
        factor = CholeskyFactor.build(given_problem, dtype)
        assert factor is not None
        predicted = rounds.predicted_contraction(factor.precision, given_problem.frobenius, stability)
        refinement = Refinement(given_problem, stability, [("cholesky", lambda factor=factor: factor)])
        reached(refinement, U64)
        assert refinement._contraction <= max(predicted, U64) * given_problem.design.columns
    assert predicted < 0.5


# --- sound ------------------------------------------------------------------------------------------------------------

PARTS = {
    "zeros": [0.0] * 5,
    "ordinary": [3.0, -4.0, 1e-3],
    "subnormal": [5e-324, -3e-320, 1e-310],
    "vanishing squares": [1e-200, 2e-200, -1e-180],
    "overflowing squares": [1e200, -3e290, 1e100],
    "far apart": [1e-300, 1e300],
}


@pytest.mark.parametrize("name", PARTS)
@pytest.mark.parametrize("dim", [None, 0, 1])
def test_norms_without_a_look_are_bounds_and_close(name, dim, device):
    values = PARTS[name]
    x = torch.tensor([values, [0.0] * len(values)], dtype=torch.float64)
    found = norm_upper(x, dim)
    exact = {None: [values], 0: [[v] for v in values], 1: [values, [0.0]]}[dim]
    for bound, row in zip(found.reshape(-1).tolist(), exact, strict=True):
        squares = sum(Fraction(v) ** 2 for v in row)
        assert Fraction(bound) ** 2 >= squares
        assert Fraction(bound) ** 2 <= squares * Fraction(1 + 2.0**-40) + Fraction(2.0**-1000) ** 2
    assert math.isinf(float(norm_upper(torch.tensor([1.0, math.inf], dtype=torch.float64))))


@settings(max_examples=10)
@given(ridge_problems())
def test_drawn_problems_are_sound_and_certified_as_on_the_processor(drawn):
    plain = solve(drawn)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(host, "reads_are_free", lambda _: False)
        found = solve(drawn)
    judge_ridge(drawn, found)
    if promised_ridge(drawn):
        assert found.status.certified, found.status
    if plain.diagnostics.corrections == found.diagnostics.corrections:
        assert torch.equal(plain.solution, found.solution)


@settings(max_examples=5)
@given(problems())
def test_drawn_forecasts_are_sound_too(drawn):
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(host, "reads_are_free", lambda _: False)
        found = forecast(drawn)
    judge_forgetting(drawn, found)
    if promised_drift(drawn):
        assert found.status.certified, found.status


def test_a_matrix_that_is_not_definite_is_told_without_a_look_in_between(device):
    """Rows of an infinite square, and a penalty that float64 does not see."""
    for x, penalty in ((torch.full((3, 2), 1e200, dtype=torch.float64), 1.0), (torch.ones((3, 2)).double(), 2.0**-60)):
        design = DesignMatrix(x)
        diagonal = torch.full((2,), penalty, dtype=torch.float64)
        given_problem = NormalProblem(design, normal(3, 1, 1), (diagonal,), None, design.frobenius())
        assert CholeskyFactor.build(given_problem, torch.float64) is None
