"""Penalties on protected modes under cross-entropy: what training with the module itself does, and ball arithmetic."""

from __future__ import annotations

import pytest
import torch

import ntkla
from ntkla import LinearHead, Protection, SpectralPenalty, Task
from ntkla.testing import compare, drift_of
from ntkla.testing.ball_entropy import softmax_optimum
from ntkla.testing.ball_penalty import PenaltyTerm
from tests.forgetting.test_cross_entropy import CLASSES, drawn


def protected(setting, weight, modes=3, moved=0.0, columns=None):
    """A penalty on the old features whose reference is what the head says, or something near it."""
    reference = setting.head(setting.old)
    generator = torch.Generator().manual_seed(4)
    reference = reference + moved * torch.randn(reference.shape, generator=generator, dtype=torch.float64)
    reference = reference if columns is None else reference[:, columns]
    return SpectralPenalty(ntkla.eigenmodes(setting.old, modes), reference, weight=weight, columns=columns)


@pytest.mark.parametrize(("weight", "moved", "columns"), [(10.0, 0.0, None), (1e3, 0.1, None), (50.0, 0.1, [0, 2])])
def test_training_with_the_module_ends_where_the_forecast_says(weight, moved, columns):
    setting, ridge = drawn(), 3.0
    penalty = protected(setting, weight, moved=moved, columns=columns)
    report = ntkla.forecast(
        Task(setting.old),
        Task(setting.new, setting.targets),
        setting.head,
        ridge=ridge,
        penalty=penalty,
        loss="cross_entropy",
    )
    assert report.status.certified, report.status
    w, b = setting.head.weight.clone().requires_grad_(), setting.head.bias.clone().requires_grad_()
    options = {"max_iter": 5000, "tolerance_grad": 1e-10, "tolerance_change": 0.0, "history_size": 60}
    search = torch.optim.LBFGS([w, b], line_search_fn="strong_wolfe", **options)
    loss = torch.nn.CrossEntropyLoss(reduction="sum")

    def closure():
        search.zero_grad()
        pulled = (w - setting.head.weight).square().sum() + (b - setting.head.bias).square().sum()
        said = setting.old @ w.T + b
        value = loss(setting.new @ w.T + b, setting.labels) + penalty(said) + ridge / 2 * pulled
        value.backward()
        return value

    search.step(closure)
    closure()
    left = float(torch.cat([w.grad.flatten(), b.grad]).norm()) / ridge
    drift = (setting.old @ (w - setting.head.weight).T + (b - setting.head.bias)).detach()
    theirs = 2 * left * torch.hypot(setting.old.norm(dim=1), torch.ones(len(drift), dtype=torch.float64))[:, None]
    assert float(theirs.max()) < 1e-3 * float(drift.abs().max()), "the comparison says something"
    assert bool(((drift - report.drift).abs() <= report.error_bound + theirs).all())
    assert f"weight {weight:.4g}" in report.training


@pytest.mark.parametrize(
    ("bias", "weight", "decay", "columns"),
    [(False, 1.0, 0.0, None), (True, 1e4, 0.25, None), (True, 1e8, 0.0, [0, 2]), (False, 1e-6, 0.0, [1])],
)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_bounds_hold_against_ball_arithmetic(bias, weight, decay, columns, dtype):
    setting = drawn(dtype, bias, samples=8, features=3, classes=3, seed=5)
    penalty = protected(setting, weight, modes=2, moved=0.1, columns=columns)
    targets = ntkla.cross_entropy_targets(setting.labels, 3)
    report = ntkla.forecast(
        Task(setting.old),
        Task(setting.new, targets),
        setting.head,
        ridge=0.5,
        weight_decay=decay,
        penalty=penalty,
        loss="cross_entropy",
    )
    # Beside a penalty of 1e8 the ridge is a rounding: its bound is proved, and says that it is above the tolerance.
    assert report.status.certified or (weight > 1e6 and report.forgetting.relative_bound < 1e-5), report.forgetting
    exact = softmax_optimum(
        setting.new,
        targets,
        ridge=0.5,
        bias=bias,
        weight_decay=decay,
        head_weight=setting.head.weight,
        head_bias=setting.head.bias,
        terms=[PenaltyTerm.of(penalty, setting.old)],
    )
    verdict = compare(report.drift, report.error_bound, drift_of(setting.old, exact, bias=bias))
    assert verdict.sound, verdict


def test_a_penalty_keeps_the_protected_modes():
    setting = drawn()
    penalty = protected(setting, 1e6)
    old, new = Task(setting.old), Task(setting.new, setting.targets)
    free = ntkla.forecast(old, new, setting.head, ridge=3.0, loss="cross_entropy")
    kept = ntkla.forecast(old, new, setting.head, ridge=3.0, loss="cross_entropy", penalty=penalty)
    inside = [float((penalty.basis.T @ one.drift).norm()) for one in (free, kept)]
    assert inside[1] < 1e-3 * inside[0]


def test_probes_elsewhere_and_outputs_that_are_not_trained():
    setting = drawn()
    probes = setting.new[:20]
    penalty = SpectralPenalty(ntkla.eigenmodes(probes, 4), setting.head(probes), weight=100.0)
    two = setting.labels < 2
    task = Task.from_labels(setting.new[two], setting.labels[two], CLASSES, outputs=[0, 1])
    report = ntkla.forecast(
        Task(setting.old), task, setting.head, ridge=1.0, loss="cross_entropy", penalty=Protection(penalty, probes)
    )
    small = LinearHead(setting.head.weight[:2], setting.head.bias[:2])
    alone = SpectralPenalty(ntkla.eigenmodes(probes, 4), small(probes), weight=50.0)  # of C k, C is half
    again = ntkla.forecast(
        Task(setting.old),
        Task.from_labels(setting.new[two], setting.labels[two], 2),
        small,
        ridge=1.0,
        loss="cross_entropy",
        penalty=Protection(alone, probes),
    )
    gap = (report.drift[:, :2] - again.drift).abs()
    assert bool((gap <= report.error_bound[:, :2] + again.error_bound).all())
    assert not bool(report.drift[:, 2:].any())
