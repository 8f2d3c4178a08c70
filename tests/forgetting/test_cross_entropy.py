"""The forecast under cross-entropy is what training makes of the head, and what ball arithmetic says of the optimum."""

from __future__ import annotations

import dataclasses

import pytest
import torch

import ntkla
from ntkla import ArgumentError, GradientDescent, LinearHead, RidgeError, Task, UnsupportedTrainingError
from ntkla.linalg.entropy.gauss_newton import REDUCTION, ROUNDS
from ntkla.linalg.precision import DEFAULT_TOLERANCE, U64, gamma
from ntkla.testing import compare, drift_of
from ntkla.testing.ball_entropy import softmax_optimum

OLD, NEW, FEATURES, CLASSES = 40, 120, 12, 4


@dataclasses.dataclass(frozen=True)
class Setting:
    """Two tasks and a head; `targets` for the new one."""

    old: torch.Tensor
    new: torch.Tensor
    labels: torch.Tensor
    head: LinearHead
    weights: torch.Tensor

    @property
    def targets(self) -> torch.Tensor:
        return ntkla.cross_entropy_targets(self.labels, CLASSES)

    @property
    def residual(self) -> torch.Tensor:
        return torch.softmax(self.head(self.new), 1) - self.targets


def drawn(dtype=torch.float64, bias=True, samples=NEW, features=FEATURES, classes=CLASSES, seed=0):
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    old, new = normal(OLD, features).relu().to(dtype), (normal(samples, features) + 0.3).relu().to(dtype)
    labels = torch.randint(0, classes, (samples,), generator=generator)
    head = LinearHead(normal(classes, features) / 3, normal(classes) if bias else None)
    return Setting(old, new, labels, head, torch.rand(samples, generator=generator, dtype=torch.float64) + 0.1)


def curvature(setting, weights=None):
    """Upper bound of the Hessian of the loss: the softmax's own is at most 1/2."""
    masses = setting.new.double().square().sum(1) + 1
    return float((masses if weights is None else weights * masses).sum()) / 2


def trained(setting, *, ridge, decay=0.0, weights=None, label_smoothing=0.0, optimiser="lbfgs"):
    """Weight and bias of a head that torch trains from the old one, and the norm of the gradient that it leaves."""
    weight = setting.head.weight.clone().requires_grad_()
    bias = setting.head.bias.clone().requires_grad_()
    features = setting.new.to(torch.float64)
    loss = torch.nn.CrossEntropyLoss(reduction="none", label_smoothing=label_smoothing)

    def objective():
        rows = loss(features @ weight.T + bias, setting.labels)
        data = rows.sum() if weights is None else (weights * rows).sum()
        pulled = (weight - setting.head.weight).square().sum() + (bias - setting.head.bias).square().sum()
        return data + ridge / 2 * pulled + decay / 2 * (weight.square().sum() + bias.square().sum())

    if optimiser == "lbfgs":
        settings = {"max_iter": 2000, "tolerance_grad": 1e-11, "tolerance_change": 0.0, "history_size": 50}
        search = torch.optim.LBFGS([weight, bias], line_search_fn="strong_wolfe", **settings)
        steps = 1
    else:
        mass = (features.square().sum(1) + 1).sum() / 2
        search = torch.optim.SGD([weight, bias], lr=float(1.0 / (mass + ridge + decay)), momentum=0.9)
        steps = 3000

    def closure():
        search.zero_grad()
        value = objective()
        value.backward()
        return value

    for _ in range(steps):
        search.step(closure)
    closure()
    left = float(torch.cat([weight.grad.flatten(), bias.grad]).norm())
    return weight.detach(), bias.detach(), left


@pytest.mark.parametrize("optimiser", ["lbfgs", "sgd"])
@pytest.mark.parametrize(
    ("decay", "weighted", "smoothing"), [(0.0, False, 0.0), (0.5, True, 0.0), (0.0, True, 0.1), (0.5, False, 0.1)]
)
def test_training_in_torch_ends_where_the_forecast_says(optimiser, decay, weighted, smoothing):
    setting, ridge = drawn(), 3.0
    weights = setting.weights if weighted else None
    weight, bias, left = trained(
        setting, ridge=ridge, decay=decay, weights=weights, label_smoothing=smoothing, optimiser=optimiser
    )
    targets = ntkla.cross_entropy_targets(setting.labels, CLASSES, label_smoothing=smoothing)
    report = ntkla.forecast(
        Task(setting.old),
        Task(setting.new, targets, weights=weights),
        setting.head,
        ridge=ridge,
        weight_decay=decay,
        loss="cross_entropy",
    )
    assert report.status.certified, report.status
    drift = setting.old @ (weight - setting.head.weight).T + (bias - setting.head.bias)
    # Strong convexity for theirs, whose own rounding is far below the gradient that is left.
    theirs = torch.hypot(setting.old.norm(dim=1), torch.ones(OLD, dtype=torch.float64))[:, None] * left / ridge
    # Both take differences of outputs: sums of so many products, at most so large.
    rows = float(setting.old.norm(dim=1).max() + 1)
    rounding = gamma(4 * (FEATURES + 1)) * rows * float(setting.head.stacked().norm())
    assert bool(((drift - report.drift).abs() <= report.error_bound + 2 * theirs + rounding).all())
    # Torch's search ends where the objective shows no decrease: at half of its digits, times the condition.
    known = U64**0.5 * curvature(setting, weights) / ridge
    assert float(theirs.max()) < known * float(report.drift.abs().max()), "the comparison says something"


@pytest.mark.parametrize("solver", ["lbfgs", "newton-cg"])
@pytest.mark.parametrize("intercept", [False, True])
def test_scikit_learn_agrees(solver, intercept):
    linear_model = pytest.importorskip("sklearn.linear_model")
    setting, ridge = drawn(bias=intercept, seed=3), 0.5
    model = linear_model.LogisticRegression(
        C=1 / ridge, solver=solver, fit_intercept=intercept, tol=1e-10, max_iter=9999
    )
    model.fit(setting.new.numpy(), setting.labels.numpy(), sample_weight=setting.weights.numpy())
    options = {"ridge": ridge, "classes": CLASSES, "weights": setting.weights, "bias": intercept}
    ours = ntkla.softmax_regression(setting.new, setting.labels, penalize_bias=not intercept, tol=1e-10, **options)
    assert ours.status.certified, ours
    start = LinearHead(torch.from_numpy(model.coef_), torch.from_numpy(model.intercept_) if intercept else None)
    again = ntkla.softmax_regression(
        setting.new, setting.labels, penalize_bias=not intercept, tol=1e9, start=start, **options
    )
    # A tolerance that anything meets: what comes back is their head with our bound of its error.
    assert torch.equal(again.weight, start.weight)
    assert float((again.weight - ours.weight).norm()) <= again.error_bound + ours.error_bound
    # scikit-learn stops when a step changes the loss by 64 eps of it: at sqrt(128 u) < 16 sqrt(u) of the weights, which
    # makes a gradient of at most the largest curvature times that; the bound divides it by the least.
    condition = curvature(setting, setting.weights) / again.diagnostics.curvature
    assert again.error_bound < 16 * U64**0.5 * condition * float(ours.weight.norm())


@pytest.mark.parametrize(
    ("bias", "penalize", "decay", "weighted", "dtype"),
    [
        (False, True, 0.0, False, torch.float64),
        (True, True, 0.25, True, torch.float32),
        (True, False, 0.0, True, torch.bfloat16),
        (True, True, 0.0, False, torch.float16),
    ],
)
@pytest.mark.parametrize("from_residual", [False, True])
def test_bounds_hold_against_ball_arithmetic(bias, penalize, decay, weighted, dtype, from_residual):
    setting = drawn(dtype, bias, samples=8, features=3, classes=3, seed=5)
    targets = ntkla.cross_entropy_targets(setting.labels, 3)
    weights = setting.weights if weighted else None
    options = {"ridge": 0.5, "weight_decay": decay, "penalize_bias": penalize, "loss": "cross_entropy"}
    if from_residual:
        outputs = setting.head(setting.new)
        residual = (torch.softmax(outputs, 1) - targets).to(dtype)
        found = ntkla.predict_forgetting(
            setting.old, setting.new, residual, bias=bias, head=setting.head, weights=weights, **options
        )
        # Exactly what the documentation says: the softmax of the exact outputs less the residual as stored.
        balls = recovered(setting, residual)
    else:
        task = Task(setting.new, targets, weights=weights)
        found, balls = ntkla.forecast(Task(setting.old), task, setting.head, **options).forgetting, None
    assert found.status.certified, found
    exact = softmax_optimum(
        setting.new,
        targets,
        ridge=0.5,
        bias=bias,
        penalize_bias=penalize,
        weights=weights,
        weight_decay=decay,
        head_weight=setting.head.weight,
        head_bias=setting.head.bias,
        exact_targets=balls,
    )
    verdict = compare(found.drift, found.error_bound, drift_of(setting.old, exact, bias=bias))
    assert verdict.sound, verdict
    # The gradient over the ridge is too large by the condition at most, and as much again for a row's direction.
    assert verdict.largest_ratio > (0.5 / curvature(setting, weights)) ** 2


def recovered(setting, residual):
    """A rule for the targets in balls: softmax of the head's exact outputs, less the residual."""
    from ntkla.testing.ball_entropy import softmax_rows
    from ntkla.testing.ball_solutions import start_matrix
    from ntkla.testing.balls import ball_matrix, design_matrix

    bias = setting.head.bias is not None

    def rows():
        outputs = design_matrix(setting.new, bias) * start_matrix(setting.head.weight, setting.head.bias, bias)
        return [
            [p - r for p, r in zip(softmax_rows(z), row, strict=True)]
            for z, row in zip(outputs.tolist(), ball_matrix(residual).tolist(), strict=True)
        ]

    return rows


def test_residual_and_task_give_the_same_forecast():
    setting = drawn()
    of_task = ntkla.forecast(
        Task(setting.old), Task(setting.new, setting.targets), setting.head, ridge=1.0, loss="cross_entropy"
    )
    of_residual = ntkla.predict_forgetting(
        setting.old, setting.new, setting.residual, ridge=1.0, bias=True, head=setting.head, loss="cross_entropy"
    )
    gap = (of_task.drift - of_residual.drift).abs()
    assert bool((gap <= of_task.error_bound + of_residual.error_bound).all())


def test_an_error_of_the_residual_is_in_the_bounds():
    setting = drawn()
    generator = torch.Generator().manual_seed(9)
    noise = 1e-4 * torch.randn(NEW, CLASSES, generator=generator, dtype=torch.float64)
    options = {"ridge": 1.0, "bias": True, "head": setting.head, "loss": "cross_entropy"}
    exact = ntkla.predict_forgetting(setting.old, setting.new, setting.residual, **options)
    known = ntkla.predict_forgetting(
        setting.old, setting.new, setting.residual + noise, residual_error=noise.norm(dim=0), **options
    )
    assert bool(((exact.drift - known.drift).abs() <= exact.error_bound + known.error_bound).all())
    assert float(known.error_bound.max()) > float((exact.drift - known.drift).abs().max())


def test_the_one_step_prediction_is_that_of_the_kernel_at_the_old_head():
    """`-Phi_A (H + ridge)^-1 grad` with the dense Hessian, and its distance to the optimum as reported."""
    setting, ridge = drawn(bias=False), 5.0
    report = ntkla.forecast(
        Task(setting.old), Task(setting.new, setting.targets), setting.head, ridge=ridge, loss="cross_entropy"
    )
    p = torch.softmax(setting.new @ setting.head.weight.T, 1)
    metric = torch.diag_embed(p) - p[:, :, None] * p[:, None, :]
    hessian = torch.einsum("ik,il,icd->kcld", setting.new, setting.new, metric).reshape(FEATURES * CLASSES, -1)
    gradient = (setting.new.T @ (p - setting.targets)).reshape(-1)
    step = -torch.linalg.solve(hessian + ridge * torch.eye(len(hessian), dtype=torch.float64), gradient)
    apart = setting.old @ step.reshape(FEATURES, CLASSES) - report.drift
    expected = float(apart.norm() / report.drift.norm())
    found = report.forgetting.diagnostics.gauss_newton_difference
    # What the rounds leave of the gradient, over the ridge, moves the drift by the norm of the features times as much.
    left = REDUCTION**ROUNDS * float(gradient.norm()) / ridge * float(torch.linalg.matrix_norm(setting.old, 2))
    assert abs(found - expected) <= left / float(report.drift.norm())
    assert f"differs by {found:.2g}" in str(report)


def test_small_changes_are_linear():
    setting = drawn()
    differences = [
        ntkla.forecast(
            Task(setting.old), Task(setting.new, setting.targets), setting.head, ridge=ridge, loss="cross_entropy"
        ).forgetting.diagnostics.gauss_newton_difference
        for ridge in (1.0, 1e2, 1e4)
    ]
    assert differences[0] > differences[1] > differences[2]
    assert differences[2] < 0.01


def test_outputs_that_the_new_task_does_not_use_stay():
    setting = drawn()
    two = setting.labels < 2
    task = Task.from_labels(setting.new[two], setting.labels[two], CLASSES, outputs=[0, 1])
    report = ntkla.forecast(Task(setting.old), task, setting.head, ridge=1.0, loss="cross_entropy")
    assert report.status.certified
    assert not bool(report.drift[:, 2:].any())
    alone = ntkla.forecast(
        Task(setting.old),
        Task.from_labels(setting.new[two], setting.labels[two], 2),
        setting.head.select(torch.tensor([0, 1])),
        ridge=1.0,
        loss="cross_entropy",
    )
    assert torch.equal(report.drift[:, :2], alone.drift)


def test_a_class_without_samples_is_pushed_down():
    setting = drawn()
    task = Task.from_labels(setting.new, setting.labels.clamp(max=CLASSES - 2), CLASSES)
    report = ntkla.forecast(Task(setting.old), task, setting.head, ridge=1.0, loss="cross_entropy")
    assert report.status.certified
    assert float((report.drift - report.drift.mean(1, keepdim=True))[:, -1].mean()) < 0


def test_several_old_tasks_share_the_update():
    setting = drawn()
    reports = ntkla.forecast(
        {"a": Task(setting.old), "b": Task(setting.old[:5])},
        Task(setting.new, setting.targets),
        setting.head,
        ridge=1.0,
        loss="cross_entropy",
    )
    assert reports.status.certified
    assert torch.equal(reports["a"].forgetting.head_update, reports["b"].forgetting.head_update)
    assert "cross-entropy" in reports.training


def test_a_tighter_tolerance_is_met():
    setting = drawn()
    report = ntkla.forecast(
        Task(setting.old),
        Task(setting.new, setting.targets),
        setting.head,
        ridge=1.0,
        loss="cross_entropy",
        tol=DEFAULT_TOLERANCE,
    )
    assert report.status.certified
    assert report.forgetting.relative_bound <= DEFAULT_TOLERANCE


@pytest.mark.parametrize(
    ("changes", "error", "said"),
    [
        ({"ridge": 0.0}, RidgeError, "separable"),
        ({"loss": "hinge"}, ArgumentError, "loss"),
        ({"training": GradientDescent(0.1, 10)}, UnsupportedTrainingError, "closed form"),
        ({"head": None}, ArgumentError, "softmax"),
        ({"residual_new": torch.ones(NEW, CLASSES, dtype=torch.float64)}, ArgumentError, "softmax(outputs"),
        ({"residual_new": -torch.ones(NEW, CLASSES, dtype=torch.float64)}, ArgumentError, "totals"),
    ],
)
def test_what_has_no_forecast_is_named(changes, error, said):
    setting = drawn()
    given = {
        "features_old": setting.old,
        "features_new": setting.new,
        "residual_new": setting.residual,
        "ridge": 1.0,
        "bias": True,
        "head": setting.head,
        "loss": "cross_entropy",
    }
    with pytest.raises(error) as caught:
        ntkla.predict_forgetting(**(given | changes))
    assert said in str(caught.value)


def test_targets_below_zero_are_refused():
    setting = drawn()
    with pytest.raises(ArgumentError, match="targets"):
        ntkla.forecast(
            Task(setting.old), Task(setting.new, -setting.targets), setting.head, ridge=1.0, loss="cross_entropy"
        )
