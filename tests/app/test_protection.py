"""The demo's curve of protected modes: it is what a sequence forecasts, and it rises to the joint optimum."""

from __future__ import annotations

import pytest
import torch

from ntkla.app.demo import protection
from ntkla.app.demo.data import CLASSES
from ntkla.app.demo.protection import ProtectionCurve, protection_curve
from ntkla.linalg.precision import U64
from ntkla.testing.spectra import normal

MODES = (0, 1, 3, 20)


def digits(samples: int = 300, features: int = 12) -> tuple[torch.Tensor, torch.Tensor]:
    labels = torch.arange(samples) % CLASSES
    return (normal(CLASSES, features, 1)[labels] + 0.4 * normal(samples, features, 2)).to(torch.float32), labels


@pytest.fixture(scope="module")
def curve() -> ProtectionCurve:
    return protection_curve(*digits(), seed=0, modes=MODES)


def test_protection_saves_what_is_forgotten_without(curve):
    accuracies = [float(row.final_accuracy) for row in curve.rows]
    assert accuracies[0] < accuracies[-1] <= float(curve.joint_accuracy) + 1 / curve.test_images
    assert float(curve.rows[0].forgetting) > float(curve.rows[-1].forgetting)
    assert curve.certified


def test_the_samples_are_cut_as_it_says(curve):
    assert (curve.train_images, curve.test_images, curve.probes) == (240, 60, 48)
    tasks, tests, probes = protection._cut(*digits(), seed=0)
    assert list(tasks) == ["0/1", "2/3", "4/5", "6/7", "8/9"]
    for first, name in enumerate(tasks):
        assert set((tasks[name].labels // 2).tolist()) == set((tests[name].labels // 2).tolist()) == {first}
        assert len(set(probes[name].tolist())) == len(probes[name])
    mean = sum(float(task.features.double().square().sum()) + 48 for task in [tasks["0/1"]]) / 13
    assert abs(curve.ridge - mean / 100) <= 600 * U64 * mean


def test_rows_and_text_say_the_same(curve):
    assert tuple(row.modes for row in curve.rows) == MODES
    assert [row.weight for row in curve.rows] == [5.0 * k for k in MODES]
    lines = str(curve).splitlines()
    assert len(lines) == len(MODES) + 2
    assert all(str(row.final_accuracy) in line for row, line in zip(curve.rows, lines[1:], strict=False))
    assert curve.to_dict()["rows"][1]["modes"] == 1


def test_progress_is_told_and_the_seed_decides(curve):
    told: list[tuple[int, int]] = []
    again = protection_curve(*digits(), seed=0, modes=MODES[:2], progress=lambda *done: told.append(done))
    assert told == [(1, 2), (2, 2)]
    assert again.rows == curve.rows[:2]
    other = protection_curve(*digits(), seed=1, modes=MODES[:2])
    assert other.ridge != curve.ridge
