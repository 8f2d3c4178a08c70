"""A strength counts each mode that is kept, however many were asked for and however many outputs a task has."""

from __future__ import annotations

import torch

import ntkla
from ntkla.testing.spectra import normal


def tasks() -> tuple[dict[str, ntkla.Task], ntkla.Task, ntkla.LinearHead]:
    """Two old tasks of different rank and different numbers of outputs."""
    olds = {
        "wide": ntkla.Task(normal(12, 8, 1), labels=torch.arange(12) % 3),
        "flat": ntkla.Task(normal(12, 2, 2) @ normal(2, 8, 3), labels=torch.arange(12) % 2, outputs=[0, 1]),
    }
    return olds, ntkla.Task.from_labels(normal(10, 8, 4), torch.arange(10) % 3, 3), ntkla.LinearHead(normal(3, 8, 5))


def test_modes_beyond_the_rank_change_nothing():
    olds, new, head = tasks()
    plan = ntkla.plan(olds, new, head, ridges=[0.5], strengths=[0.7], modes=[8, 50])
    first, second = plan.points[1:]
    assert first.modes_kept == second.modes_kept == {"wide": 8, "flat": 2}
    assert first.weights == second.weights == {"wide": 0.7 * 3 * 8 / 2, "flat": 0.7 * 2 * 2 / 2}
    assert first.new.drift == second.new.drift
    assert first.old == second.old


def test_the_weights_told_are_those_to_train_with():
    olds, new, head = tasks()
    point = ntkla.plan(olds, new, head, ridges=[0.5], strengths=[0.7], modes=[50]).points[-1]
    penalties = {
        name: ntkla.SpectralPenalty(
            ntkla.eigenmodes(old.features, point.modes_kept[name]),
            head(old.features)[:, : 3 if old.outputs is None else 2],
            point.weights[name],
            columns=None if old.outputs is None else [0, 1],
        )
        for name, old in olds.items()
    }
    found = ntkla.forecast(olds, new, head, ridge=0.5, penalty=penalties)
    for name, report in found.tasks.items():
        drift = float(torch.linalg.vector_norm(report.drift))
        slack = point.old[name].drift_error + float(torch.linalg.vector_norm(report.error_bound))
        # Modes found in other ways differ by rounding over their gaps; the spectra here are well apart.
        assert abs(point.old[name].drift - drift) <= slack + ntkla.linalg.precision.gamma(10**5) * drift
    assert point.settings == "ridge 0.5, weight 1.4 on 2 modes to weight 8.4 on 8 modes, the optimum"


def test_under_cross_entropy_too():
    olds, new, head = tasks()
    plan = ntkla.plan(olds, new, head, ridges=[0.5], strengths=[0.7], modes=[8, 50], loss="cross_entropy")
    first, second = plan.points[1:]
    assert first.weights == second.weights
    assert abs(first.new.loss - second.new.loss) <= first.new.loss_error + second.new.loss_error
