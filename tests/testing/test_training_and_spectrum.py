"""The exact training and eigenvalue references against torch's optimiser, closed forms and known spectra."""

from __future__ import annotations

import pytest
import torch

from ntkla.linalg.precision import gamma
from ntkla.testing import (
    BallPrecisionError,
    FeatureSpec,
    compare,
    dense_kronecker,
    eigenvalues,
    gradient_descent,
    gradient_flow,
    gram_eigenvalues,
    head_update,
    looped_gradient_descent,
    working_precision,
)
from ntkla.testing.balls import FIRST_BITS, ball, flint
from ntkla.testing.spectra import normal

KINDS = [(0.0, False), (0.9, False), (0.9, True)]
PHI, RESIDUAL, START = normal(6, 4, 1), normal(6, 2, 2), normal(4, 2, 3)


def slack(x: torch.Tensor, steps: int) -> torch.Tensor:
    """Rounding of `steps` float64 steps of a stable iteration on the small matrices of this file."""
    return torch.full_like(x, gamma(100 * steps) * float(x.abs().max() + 1))


def trained_by_torch(lr, steps, momentum, nesterov, penalty, decay):
    weights = START.clone().requires_grad_()
    optimiser = torch.optim.SGD([weights], lr=lr, momentum=momentum, nesterov=nesterov)
    targets = PHI @ START - RESIDUAL
    for _ in range(steps):
        optimiser.zero_grad()
        fit = (PHI @ weights - targets).square().sum() / 2
        (fit + penalty / 2 * (weights - START).square().sum() + decay / 2 * weights.square().sum()).backward()
        optimiser.step()
    return (weights - START).detach()


@pytest.mark.parametrize(("momentum", "nesterov"), KINDS)
@pytest.mark.parametrize("steps", [1, 2, 30])
def test_descent_is_what_torch_does(momentum, nesterov, steps):
    rates = {"lr": 0.02, "steps": steps, "momentum": momentum, "nesterov": nesterov}
    done = trained_by_torch(**rates, penalty=0.3, decay=0.2)
    looped = looped_gradient_descent(PHI, RESIDUAL, **rates, penalty=0.3, decay=0.2, start=START)
    exact = gradient_descent(PHI, RESIDUAL, **rates, penalties=0.3, decays=0.2, start=START)
    for computed in (done, looped):
        verdict = compare(computed, slack(computed, steps), exact)
        assert verdict.sound, verdict
    other = gradient_descent(PHI, RESIDUAL, **{**rates, "steps": steps + 1}, penalties=0.3, decays=0.2, start=START)
    assert not compare(done, slack(done, steps), other).sound


@pytest.mark.parametrize(("momentum", "nesterov"), KINDS)
def test_descent_is_the_residual_polynomial_of_the_design(momentum, nesterov):
    """One feature, A = a: d = -(1 - p_T(a)) / a g_0 with the recurrence of p_T, in ball arithmetic."""
    feature, residual, lr, steps = 1.25, -0.5, 0.125, 9
    a, g = ball(feature * feature), ball(feature * residual)
    m, rate = ball(momentum), ball(lr)
    with working_precision(FIRST_BITS * 4):
        p = [flint().arb(1), 1 - (1 + m if nesterov else 1) * rate * a]
        while len(p) <= steps:
            heavy_ball = (1 + m - rate * a) * p[-1] - m * p[-2]
            p.append((1 - rate * a) * ((1 + m) * p[-1] - m * p[-2]) if nesterov else heavy_ball)
        expected = -(1 - p[steps]) / a * g
        column = torch.tensor([[feature]], dtype=torch.float64), torch.tensor([[residual]], dtype=torch.float64)
        exact = gradient_descent(*column, lr=lr, steps=steps, momentum=momentum, nesterov=nesterov).compute()
        flow = gradient_flow(*column, time=2.0).compute()
    assert exact[0, 0].overlaps(expected)
    with working_precision(FIRST_BITS * 4):
        assert flow[0, 0].overlaps(-(1 - (-2 * a).exp()) / a * g)


@pytest.mark.parametrize(("momentum", "nesterov"), KINDS)
def test_long_training_ends_at_the_ridge_optimum(momentum, nesterov):
    exact = gradient_descent(
        PHI,
        RESIDUAL,
        lr=0.05,
        steps=10**6,
        momentum=momentum,
        nesterov=nesterov,
        bias=True,
        penalties=[0.1] * 4 + [0.0],
    )
    optimum = head_update(PHI, RESIDUAL, ridge=0.1, bias=True, penalize_bias=False)
    assert torch.equal(exact.tensor(), optimum.tensor())
    flow = gradient_flow(PHI, RESIDUAL, time=10.0**4, bias=True, penalties=[0.1] * 4 + [0.0])
    assert torch.equal(flow.tensor(), optimum.tensor())


def test_no_steps_and_no_time_change_nothing():
    for exact in (gradient_descent(PHI, RESIDUAL, lr=0.1, steps=0), gradient_flow(PHI, RESIDUAL, time=0.0)):
        assert not exact.tensor().any()


@pytest.mark.parametrize("radius", [1e-10, 1e-40])
def test_known_eigenvalues_are_enclosed_with_multiplicity(radius):
    gram = torch.tensor([[2.0, 1.0], [1.0, 2.0]], dtype=torch.float64)
    for order in ("class", "sample"):
        values = eigenvalues(dense_kronecker(gram, 3, order), radius=radius)
        assert [v.contains(expected) for v, expected in zip(values, [3, 3, 3, 1, 1, 1], strict=True)] == [True] * 6
        assert not values[2].contains(1)
        assert max(float(v.rad()) for v in values) <= radius


@pytest.mark.parametrize(
    "spectrum", ["flat", "geometric", "clustered", "pairs", "rank_one", "zero", "integer_low_rank"]
)
@pytest.mark.parametrize("bias", [False, True])
def test_eigenvalues_have_the_right_sums(spectrum, bias):
    """Trace and squared Frobenius norm of G are the sums of the eigenvalues and of their squares."""
    features = FeatureSpec(5, 4, spectrum, dtype="float32").tensor
    values = gram_eigenvalues(features, bias=bias, radius=1e-30)
    with working_precision(FIRST_BITS * 2):
        wide = [[ball(v) for v in [*row, *([1.0] if bias else [])]] for row in features.tolist()]
        entries = [[sum((p * q for p, q in zip(u, v, strict=True)), ball(0.0)) for u in wide] for v in wide]
        assert sum(values, ball(0.0)).overlaps(sum((entries[i][i] for i in range(5)), ball(0.0)))
        squares = sum((v * v for v in values), ball(0.0))
        assert squares.overlaps(sum((e * e for row in entries for e in row), ball(0.0)))
    dropped = [values[0], *values[:-1]] if spectrum not in ("flat", "zero") else None
    if dropped:
        with working_precision(FIRST_BITS * 2):
            assert not sum(dropped, ball(0.0)).overlaps(sum(values, ball(0.0)))


def test_eigenvalues_are_ordered_and_agree_with_torch():
    matrix = normal(12, 12, 5)
    matrix = matrix + matrix.T
    values = eigenvalues(matrix, radius=1e-20)
    mids = torch.tensor([float(v.mid()) for v in values], dtype=torch.float64)
    assert torch.equal(mids, mids.sort(descending=True).values)
    assert (mids - torch.linalg.eigvalsh(matrix).flip(0)).abs().max() <= gamma(12**2) * matrix.norm()


def test_an_impossible_demand_is_named():
    third = torch.tensor([[2.0, 1.0], [1.0, 3.0]], dtype=torch.float64)  # irrational eigenvalues: never of radius zero
    with pytest.raises(BallPrecisionError, match="cannot be enclosed"):
        eigenvalues(third, radius=0.0)
