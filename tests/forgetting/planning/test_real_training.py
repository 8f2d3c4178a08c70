"""A plan's points against training that really happens: torch's optimiser, autograd, the penalty as a module."""

from __future__ import annotations

import pytest
import torch

import ntkla
from ntkla.linalg.precision import gamma
from tests.forgetting.planning.dense import Dense
from tests.forgetting.planning.problems import problem, stable_lr

MODES, RIDGE = 3, 0.5
# A training of 100 steps on sums of 60 terms, with penalties of their own rounding.
SLACK = gamma(10**6)


def trained(dense: Dense, point: ntkla.PlanPoint) -> torch.nn.Linear:
    """The head that `torch.optim.SGD` leaves, everything by autograd."""
    layer = torch.nn.Linear(dense.head.weight.shape[1], dense.head.outputs, dtype=torch.float64, device="cpu")
    layer.load_state_dict({"weight": dense.head.weight, "bias": dense.head.bias})
    start = [parameter.detach().clone() for parameter in layer.parameters()]
    penalties = [
        ntkla.SpectralPenalty(ntkla.eigenmodes(old.features, MODES, bias=True), dense.head(old.features), point.weight)
        for old in dense.olds.values()
    ]
    settings = point.training
    optimizer = torch.optim.SGD(layer.parameters(), settings.lr, momentum=settings.momentum, nesterov=settings.nesterov)
    for _ in range(settings.steps):
        optimizer.zero_grad()
        loss = (layer(dense.new.features) - dense.new.targets).square().sum() / 2
        pull = sum((x - y).square().sum() for x, y in zip(layer.parameters(), start, strict=True))
        held = sum(penalty(layer(old.features)) for penalty, old in zip(penalties, dense.olds.values(), strict=True))
        (loss + point.ridge / 2 * pull + held).backward()
        optimizer.step()
    return layer


@pytest.mark.parametrize(("momentum", "nesterov"), [(0.0, False), (0.8, False), (0.8, True)])
def test_training_with_the_penalty_ends_where_the_plan_says(momentum: float, nesterov: bool) -> None:
    dense = problem()
    found = ntkla.plan(
        dense.olds, dense.new, dense.head, ridges=[RIDGE], weights=[0.0, 3.0], modes=[MODES], steps=[1, 30, 100],
        lr=stable_lr(dense, 0.1), momentum=momentum, nesterov=nesterov,
    )  # fmt: skip
    for point in found.points:
        layer = trained(dense, point)
        for outcome, task in ((point.new, dense.new), *((point.old[name], task) for name, task in dense.olds.items())):
            outputs = layer(task.features).detach()
            drift = float(torch.linalg.vector_norm(outputs - dense.head(task.features)))
            loss = float((outputs - task.targets).square().sum()) / (2 * outputs.shape[0])
            assert abs(outcome.drift - drift) <= outcome.drift_error + SLACK * (1 + drift)
            assert abs(outcome.loss - loss) <= outcome.loss_error + SLACK * (1 + loss)
            assert float((outputs.argmax(dim=1) == task.labels).double().mean()) in outcome.accuracy


def test_the_recommended_point_is_what_predict_forgetting_confirms() -> None:
    dense = problem()
    found = ntkla.plan(dense.olds, dense.new, dense.head, ridges=[0.1, 5.0], strengths=[0, 1, 10], modes=[2, 6])
    point = found.recommend(0.05).point
    assert point.weight > 0
    penalties = {
        name: ntkla.SpectralPenalty(
            ntkla.eigenmodes(task.features, point.modes_kept[name], bias=True), dense.head(task.features), point.weight
        )
        for name, task in dense.olds.items()
    }
    reports = ntkla.forecast(dense.olds, dense.new, dense.head, ridge=point.ridge, penalty=penalties)
    for name, outcome in point.old.items():
        report = reports[name]
        drift = float(torch.linalg.vector_norm(report.drift))
        off = float(torch.linalg.vector_norm(report.error_bound))
        assert abs(outcome.drift - drift) <= outcome.drift_error + off + SLACK * drift
        assert report.accuracy_forecast == outcome.accuracy
        assert report.flips.count == outcome.flips
