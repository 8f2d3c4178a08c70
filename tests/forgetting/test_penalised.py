"""The forecast under a spectral penalty: what it means, what torch really does, and the joint optimum it reaches."""

from __future__ import annotations

import pytest
import torch

import ntkla
from ntkla.forgetting.descent.gains import gains
from ntkla.linalg.precision import U64, gamma
from ntkla.testing import dense_drift_penalised, with_bias
from ntkla.testing.spectra import normal

OLD, NEW, F, C = 20, 30, 6, 3
PHI_OLD, PHI = normal(OLD, F, 1), normal(NEW, F, 2)
HEAD = ntkla.LinearHead(normal(C, F, 4), normal(1, C, 5)[0])
TARGETS = normal(NEW, C, 3)
R = HEAD(PHI) - TARGETS
MODES = ntkla.eigenmodes(PHI_OLD, 4, bias=True)
ELSEWHERE = HEAD(PHI_OLD) + 0.1 * normal(OLD, C, 6)
DESCENT = ntkla.GradientDescent(2e-3, 60, 0.8)


def penalised(penalty: object, **options: object) -> ntkla.Forgetting:
    return ntkla.predict_forgetting(
        PHI_OLD, PHI, R, **{"ridge": 0.3, "bias": True, "head": HEAD, "penalty": penalty, **options}
    )


def agree(left: ntkla.Forgetting, right: ntkla.Forgetting) -> None:
    assert left.status.certified
    assert right.status.certified
    assert bool(((left.drift - right.drift).abs() <= left.error_bound + right.error_bound).all())


@pytest.mark.parametrize("training", [None, DESCENT], ids=str)
def test_a_weight_of_zero_changes_no_bit(training):
    without = penalised(None, training=training)
    nothing = ntkla.SpectralPenalty(MODES, ELSEWHERE, 0.0)
    for penalty in (nothing, [], [nothing, ntkla.Protection(nothing, PHI_OLD)]):
        found = penalised(penalty, training=training)
        assert torch.equal(found.drift, without.drift)
        assert torch.equal(found.error_bound, without.error_bound)
    assert not torch.equal(penalised(ntkla.SpectralPenalty(MODES, ELSEWHERE, 1.0)).drift, without.drift)


def test_the_formula_as_written():
    penalty = ntkla.SpectralPenalty(ntkla.eigenmodes(PHI_OLD, 4), HEAD(PHI_OLD), 5.0)
    found = ntkla.predict_forgetting(PHI_OLD, PHI, R, ridge=0.3, penalty=penalty)
    expected = dense_drift_penalised(PHI_OLD, PHI, R, 0.3, penalty.basis, 5.0)
    # A backward stable solve of a matrix whose condition number is below 2^10, and a few products.
    assert float((found.drift - expected).norm()) <= 2.0**20 * U64 * float(expected.norm())


@pytest.mark.parametrize("route", ["primal", "dual"])
@pytest.mark.parametrize("weight", [1e-2, 1.0, 1e2, 1e4, 1e6])
@pytest.mark.parametrize("ridge", [1e-2, 1e-4, 1e-6])
def test_every_ridge_and_weight_is_certified(ridge, weight, route):
    """The old features' eigenvalues fall by 1e4, in bfloat16; the ridge is in mean eigenvalues."""
    features = [(normal(n, 24, n) * torch.logspace(0, -2, 24)).to(torch.bfloat16) for n in (60, 80)]
    mean = float(features[1].double().square().sum()) / 25
    head = ntkla.LinearHead(normal(C, 24, 9), normal(1, C, 5)[0])
    penalty = ntkla.SpectralPenalty(ntkla.eigenmodes(features[0], 12, bias=True), head(features[0]), weight)
    given = {"ridge": ridge * mean, "bias": True, "head": head, "penalty": penalty, "route": route}
    found = ntkla.predict_forgetting(*features, normal(80, C, 7), **given)
    assert found.status.certified, found.status


def test_the_joint_optimum_is_reached():
    """W_A the ridge optimum of A, all its samples probes, all modes kept, weight C k / 2: the optimum of A and B.

    Its normal equations, with the ridge pulling towards W_A, add to those of W_A: the ridge counts once.
    """
    targets_old, ridge = normal(OLD, C, 8), 0.7
    alone = ntkla.ridge_solve(PHI_OLD, targets_old, ridge=ridge, bias=True)
    head = ntkla.LinearHead(alone.solution.T, alone.bias)
    modes = ntkla.eigenmodes(PHI_OLD, F + 1, bias=True)
    penalty = ntkla.SpectralPenalty(modes, head(PHI_OLD), C * (F + 1) / 2)
    new = ntkla.Task(PHI, TARGETS)
    found = ntkla.forecast(ntkla.Task(PHI_OLD), new, head, ridge=ridge, penalty=penalty).forgetting
    joint = ntkla.ridge_solve(torch.cat([PHI_OLD, PHI]), torch.cat([targets_old, TARGETS]), ridge=ridge, bias=True)
    there = torch.cat([joint.solution, joint.bias[None]]).T
    here = torch.cat([head.weight + found.head_update, (head.bias + found.bias_update)[:, None]], 1)
    # Beside both bounds: W_A is within its own, the reference and the modes are rounded (U U^T is the projector to
    # within a few roundings, of which a change of the matrix makes the relative change times its condition).
    bound = joint.error_bound.norm(dim=0) + joint.bias_error_bound + found.update_error_bound
    start = alone.error_bound.norm(dim=0) + alone.bias_error_bound
    stacked = with_bias(torch.cat([PHI_OLD, PHI]))
    condition = float(torch.linalg.matrix_norm(stacked, 2)) ** 2 / ridge
    rounding = gamma(4 * OLD * F) * condition * float(here.norm() + head.weight.norm())
    assert bool(((here - there).norm(dim=1) <= bound + start * condition + rounding).all())
    assert float((here - there).norm()) <= 2.0**-30 * float(there.norm())
    # What is not the joint optimum: another weight, or a mode less.
    for other in (
        ntkla.SpectralPenalty(modes, head(PHI_OLD), C * (F + 1)),
        ntkla.SpectralPenalty(ntkla.eigenmodes(PHI_OLD, F, bias=True), head(PHI_OLD), C * F / 2),
    ):
        moved = ntkla.forecast(ntkla.Task(PHI_OLD), new, head, ridge=ridge, penalty=other).forgetting
        bounds = moved.update_error_bound + bound + start * condition + rounding
        assert float((head.weight + moved.head_update - there[:, :F]).norm()) > float(bounds.norm())


def objective(parameter: torch.Tensor, start: torch.Tensor, penalties: list, ridge: float) -> torch.Tensor:
    """The loss as a training loop would write it, with the modules themselves; the bias is the last column."""
    loss = 0.5 * (with_bias(PHI) @ parameter.T - TARGETS).square().sum()
    loss = loss + ridge / 2 * (parameter - start).square().sum()
    return loss + sum(penalty(with_bias(probes) @ parameter.T) for penalty, probes in penalties)


def size_of(penalties: list) -> float:
    """Upper bound of the largest eigenvalue of the loss, less the ridge."""
    added = [2 * penalty.weight * float(with_bias(probes).norm()) ** 2 for penalty, probes in penalties]
    return float(with_bias(PHI).norm()) ** 2 + sum(added)


def modules() -> list:
    """Two penalties: partial rows of outputs and another reference; some outputs and probes elsewhere."""
    kronecker = ntkla.eigenmodes(ntkla.KroneckerGram(ntkla.GramOperator(PHI_OLD, bias=True), C), 2 * C + 2)
    probes = normal(9, F, 7)
    some = ntkla.SpectralPenalty(ntkla.eigenmodes(probes, 3, bias=True), HEAD(probes)[:, [2, 0]], 4.0, columns=[2, 0])
    return [(ntkla.SpectralPenalty(kronecker, ELSEWHERE, 2.0), PHI_OLD), (some, probes)]


@pytest.mark.parametrize(("momentum", "nesterov"), [(0.0, False), (0.9, False), (0.9, True)])
@pytest.mark.parametrize("steps", [1, 20, 400])
def test_gradient_descent_on_the_modules_agrees(momentum, nesterov, steps):
    start = HEAD.stacked().T.contiguous()
    parameter, penalties, ridge, lr = start.clone().requires_grad_(), modules(), 0.3, 2e-3
    optimizer = torch.optim.SGD([parameter], lr=lr, momentum=momentum, nesterov=nesterov)
    for _ in range(steps):
        optimizer.zero_grad()
        objective(parameter, start, penalties, ridge).backward()
        optimizer.step()
    happened = (parameter.detach() - start).T
    training = ntkla.GradientDescent(lr, steps, momentum, nesterov)
    found = penalised([ntkla.Protection(*one) for one in penalties], training=training)
    assert found.status.certified
    update = torch.cat([found.head_update.T, found.bias_update[None]])
    difference = (update - happened).norm(dim=0)
    # To first order: what one step rounds (sums of F, n and k terms), times what a lasting push of it makes of the run.
    hessian = size_of(penalties)
    sizes = hessian * 2 * float(start.norm() + 10) + float(TARGETS.norm() + ELSEWHERE.norm()) * 10
    each = gamma(NEW + OLD + 2 * F + 16) * sizes + 8 * U64 * float(start.norm() + 10) / lr
    assert bool((difference <= found.update_error_bound + gains(training, 0.0, hessian).push * each).all())
    assert float(difference.norm()) <= 2.0**24 * U64 * float(happened.norm())


def test_lbfgs_on_the_modules_reaches_the_forecast():
    start = HEAD.stacked().T.contiguous()
    parameter, penalties, ridge = start.clone().requires_grad_(), modules(), 0.3
    optimizer = torch.optim.LBFGS(
        [parameter], max_iter=400, tolerance_grad=0.0, tolerance_change=0.0, line_search_fn="strong_wolfe"
    )

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = objective(parameter, start, penalties, ridge)
        loss.backward()
        return loss

    optimizer.step(closure)
    closure()
    found = penalised([ntkla.Protection(*one) for one in penalties], ridge=ridge)
    update = torch.cat([found.head_update.T, found.bias_update[None]])
    difference = (update - (parameter.detach() - start).T).norm(dim=0)
    # The objective is ridge-convex: no further from its minimum than the gradient over the ridge.
    left = parameter.grad.norm(dim=1) / ridge
    rounding = gamma(NEW + OLD + 2 * F) * 20 * size_of(penalties) / ridge
    assert bool((difference <= found.update_error_bound + left + rounding).all())
    # LBFGS ends where the objective f shows no decrease, and ridge/2 ||e||^2 is what it is above its minimum.
    unseen = gamma(NEW + OLD + 2 * F) * float(objective(parameter, start, penalties, ridge).detach())
    assert float(difference.norm()) <= (2 * unseen / ridge) ** 0.5


def test_each_output_feels_its_own_penalties():
    """A column forecast with all others is the column forecast alone, under the penalties that cover it."""
    whole = penalised([ntkla.Protection(*one) for one in modules()])
    (first, probes), (some, elsewhere) = modules()
    for column in range(C):
        modes = 3 if column < 2 else 2
        alone = [ntkla.SpectralPenalty(ntkla.eigenmodes(probes, modes, bias=True), ELSEWHERE[:, [column]], 1.0)]
        alone[0].weight = first.weight * modes / first.count
        pairs = [ntkla.Protection(alone[0], probes)]
        if column in some.columns:
            modes_there = ntkla.eigenmodes(elsewhere, 3, bias=True)
            other = ntkla.SpectralPenalty(modes_there, HEAD(elsewhere)[:, [column]], some.weight * 3 / some.count)
            pairs.append(ntkla.Protection(other, elsewhere))
        head = HEAD.select(torch.tensor([column]))
        one = ntkla.predict_forgetting(PHI_OLD, PHI, R[:, [column]], ridge=0.3, bias=True, head=head, penalty=pairs)
        difference = (one.drift[:, 0] - whole.drift[:, column]).abs()
        slack = gamma(100 * OLD) * float(whole.drift.norm())  # the modes were found twice
        assert bool((difference <= one.error_bound[:, 0] + whole.error_bound[:, column] + slack).all())
        free = penalised(None)
        least = one.error_bound[:, 0] + free.error_bound[:, column] + slack
        assert bool(((one.drift[:, 0] - free.drift[:, column]).abs() > least).any())


def test_without_a_head_the_reference_is_what_it_says():
    kept = ntkla.SpectralPenalty(MODES, HEAD(PHI_OLD), 3.0)
    agree(penalised(kept, head=None), penalised(ntkla.SpectralPenalty(MODES, ELSEWHERE, 3.0), head=None))
    compared = penalised(ntkla.SpectralPenalty(MODES, ELSEWHERE, 3.0))
    unseen = penalised(kept, head=None)
    assert bool(((compared.drift - unseen.drift).abs() > compared.error_bound + unseen.error_bound).any())


@pytest.mark.parametrize("new", [12, 3])
def test_the_minimum_norm_under_a_penalty(new):
    """Full column rank, and more columns than rows: the least-norm minimiser of the same objective, and its bounds."""
    features, phi, residual = normal(20, 9, 1), normal(new, 9, 2), normal(new, 2, 3)
    penalty = ntkla.SpectralPenalty(ntkla.eigenmodes(features, 4), normal(20, 2, 4), 6.0)
    head = ntkla.LinearHead(normal(2, 9, 5))
    found = ntkla.predict_forgetting(features, phi, residual, ridge=0.0, head=head, penalty=penalty)
    assert found.status.certified, found.status
    root = (2 * penalty.weight / penalty.count) ** 0.5
    rows = torch.cat([phi, root * penalty.basis.T @ features])
    right = torch.cat([residual, root * penalty.basis.T @ (head(features) - penalty.reference)])
    expected = -torch.linalg.pinv(rows) @ right
    slack = gamma(1000) * float(torch.linalg.cond(rows)) ** 2 * float(expected.norm())
    assert bool(((found.head_update.T - expected).norm(dim=0) <= found.update_error_bound + slack).all())
    twin = torch.cat([phi[:, :8], phi[:, :1]], 1)
    double = torch.cat([features[:, :8], features[:, :1]], 1)
    there = ntkla.SpectralPenalty(ntkla.eigenmodes(double, 4), normal(20, 2, 4), 6.0)
    twice = ntkla.predict_forgetting(double, torch.cat([twin] * 6), torch.cat([residual] * 6), ridge=0.0, penalty=there)
    assert twice.status.code == "rank_deficient"
    assert not bool(twice.error_bound.isnan().any())


def test_the_learning_rate_is_judged_with_the_penalty():
    training = ntkla.GradientDescent(5e-3, 10)
    assert penalised(None, training=training).status.certified
    with pytest.raises(ntkla.TrainingDivergesError, match="with its penalty") as caught:
        penalised(ntkla.SpectralPenalty(MODES, ELSEWHERE, 500.0), training=training)
    least = caught.value.largest_stable_lr
    settled = ntkla.GradientDescent(least, 10)
    assert penalised(ntkla.SpectralPenalty(MODES, ELSEWHERE, 500.0), training=settled).status.certified


def test_weights_and_an_inexact_residual_stay_apart_from_the_penalty():
    """The pseudo-samples' large weight plays no part in what an inexact residual of the new samples does."""
    heavy = ntkla.SpectralPenalty(MODES, ELSEWHERE, 1e8)
    off = torch.full((C,), 1e-6, dtype=torch.float64)
    for training in (None, ntkla.GradientDescent(1e-9, 5)):
        exact, found = (penalised(heavy, training=training, residual_error=error) for error in (None, off))
        added = found.update_error_bound - exact.update_error_bound
        # ||A^-1 Phi^T|| is at most 1 / (2 sqrt(ridge)), for the samples of weight 1; each of both bounds is rounded up.
        rounding = gamma(64) * (found.update_error_bound + exact.update_error_bound)
        assert bool((added <= off / (2 * 0.3**0.5) + rounding).all())
    weights = torch.rand(NEW, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    rows = torch.arange(NEW).repeat_interleave(2)
    twice = penalised(heavy, weights=2 * weights)
    agree(
        twice,
        ntkla.predict_forgetting(
            PHI_OLD, PHI[rows], R[rows], ridge=0.3, bias=True, head=HEAD, penalty=heavy, weights=weights[rows]
        ),
    )
