"""The demo's plan: what was said beforehand is what training left, and a mistake on either side is seen."""

from __future__ import annotations

import dataclasses

import torch

import ntkla


def test_the_choice_holds_in_real_training(planned, small_tasks):
    assert planned.holds
    assert planned.outputs.bound.max() < planned.outputs.unfinished.max() < 1.0
    rows = sum(len(task.test_labels) for task in small_tasks)
    assert planned.outputs.trained.shape == (rows, 6)
    assert list(planned.accuracy) == [task.name for task in small_tasks]


def test_an_output_that_moved_is_seen(planned):
    outputs = planned.outputs
    allowed = outputs.bound + outputs.unfinished
    place = divmod(int(allowed.argmin()), allowed.shape[1])
    moved = outputs.trained.clone()
    moved[place] = outputs.forecast[place] + 1.01 * allowed[place]
    assert not dataclasses.replace(outputs, trained=moved).holds
    assert not dataclasses.replace(planned, outputs=dataclasses.replace(outputs, trained=moved)).holds


def test_the_forecast_of_every_output_is_that_of_the_closed_form(planned, small_tasks):
    *olds, new = (ntkla.Task.from_labels(t.train_features, t.train_labels, 6) for t in small_tasks)
    point = planned.choice.point
    together = torch.cat([old.features for old in olds])
    unit = _mean(together)
    head = ntkla.ridge_solve(together, torch.cat([old.targets for old in olds]), ridge=1e-2 * unit, bias=True)
    start = torch.cat([head.solution, head.bias[None]])
    design = _with_ones(new.features)
    system = design.T @ design + point.ridge * torch.eye(design.shape[1], dtype=torch.float64)
    for task, old in zip(small_tasks, olds, strict=False):
        kept = point.modes_kept[task.name]
        if kept:
            rows = torch.linalg.svd(_with_ones(old.features), full_matrices=False)
            leading = rows.Vh[:kept] * rows.S[:kept, None]
            system += 2 * point.weight / (6 * kept) * leading.T @ leading
    update = -torch.linalg.solve(system, design.T @ (design @ start - new.targets))
    tested = _with_ones(torch.cat([task.test_features for task in small_tasks]))
    expected = tested @ (start + update)
    # What the dense solve may lose: the condition times the rounding of its products.
    slack = float(torch.linalg.cond(system)) * ntkla.linalg.precision.gamma(len(design)) * float(expected.abs().max())
    assert bool(((planned.outputs.forecast - expected).abs() <= planned.outputs.bound + slack).all())


def _with_ones(x: torch.Tensor) -> torch.Tensor:
    return torch.cat([x.to(torch.float64), torch.ones((len(x), 1), dtype=torch.float64)], dim=1)


def _mean(x: torch.Tensor) -> float:
    design = _with_ones(x)
    return float(design.square().sum()) / design.shape[1]


def test_the_curve_rises_to_what_all_tasks_together_reach(curve):
    first, *_, last = curve.rows
    assert first.final_accuracy.low < last.final_accuracy.low
    assert last.forgetting.high < first.forgetting.low
    assert curve.certified
    assert curve.joint_accuracy.low > first.final_accuracy.high
    assert "joint" in str(curve)
