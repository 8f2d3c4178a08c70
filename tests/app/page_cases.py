"""Forecasts for the page: usual ones, and cases that are hard to draw."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import torch

import ntkla
from ntkla.app.pictures.page import write_page
from ntkla.forgetting.reports.classes import per_class
from ntkla.forgetting.reports.predictions import Flips
from ntkla.forgetting.reports.report import ForgettingReport
from ntkla.forgetting.tasks import positions

# As long as it gets, and digits are the widest letters.
TRAINING = (
    "100000 full-batch steps of SGD, Nesterov momentum 0.987654321, learning rate 0.0123457, ridge 123.457 "
    "(0.000123 mean eigenvalues) and weight decay 0.00123457 of the mean loss (8.333e-06, 1.234e+05 and 2.4 of half "
    "the sum)"
)


@dataclasses.dataclass(frozen=True)
class Case:
    """A forecast and its post-mortem for the head that it forecasts."""

    reports: dict[str, ForgettingReport]
    facts: dict[str, ntkla.PostMortem]
    labels: dict[str, torch.Tensor | None]

    def write(self, path: Path, *, fact: bool, title: str = "") -> Path:
        return write_page(
            path, self.reports, self.facts if fact else None, title, training=TRAINING, labels=self.labels
        )


def made(
    n: int = 24,
    features: int = 6,
    classes: int = 4,
    *,
    names: tuple[str, ...] = ("old",),
    labelled: bool = True,
    scale: float = 1.0,
    ridge: float = 1.0,
    outputs: list[int] | None = None,
    old: torch.Tensor | None = None,
    still: bool = False,
    uncertainty: float | None = None,
) -> Case:
    generator = torch.Generator().manual_seed(17)

    def noise(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    head = ntkla.LinearHead(noise(classes, features) * scale)
    inputs = noise(max(classes, 9), features)
    targets = inputs @ head.weight.T if still else noise(len(inputs), classes) * scale
    new = ntkla.Task(inputs * (0.0 if still else 1.0), targets * (0.0 if still else 1.0))
    used = list(range(classes)) if outputs is None else outputs
    labels = torch.tensor(used)[torch.arange(n) % len(used)] if labelled else None
    tasks = {
        name: ntkla.Task(noise(n, features) if old is None else old, labels=labels, outputs=outputs) for name in names
    }
    reports = ntkla.forecast(tasks, new, head, ridge=ridge).tasks
    after = ntkla.LinearHead(head.weight + next(iter(reports.values())).forgetting.head_update)
    if uncertainty is not None:
        reports = {name: less_certain(report, labels, uncertainty) for name, report in reports.items()}
    facts = {name: ntkla.post_mortem(report, tasks[name], head, after) for name, report in reports.items()}
    return Case(reports, facts, dict.fromkeys(names, labels))


def less_certain(report: ForgettingReport, labels: torch.Tensor, bound: float) -> ForgettingReport:
    """The same drift, known less exactly."""
    wide = torch.full_like(report.error_bound, bound)
    after = report.before.moved(report.drift, wide)
    places = positions(labels, report.outputs)
    parts = ntkla.decompose(report.drift, report.modes.eigenmodes(), error_bound=wide)
    return dataclasses.replace(
        report,
        error_bound=wide,
        after=after,
        flips=Flips.between(report.before, after),
        decomposition=parts,
        r_50=parts.rank(0.5),
        r_90=parts.rank(0.9),
        accuracy_forecast=after.accuracy(places),
        classes=per_class(report.before, after, places, report.outputs, report.drift, wide),
    )


CASES = {
    "usual": {},
    "no labels": {"labelled": False},
    "one sample": {"n": 1},
    "one mode": {"features": 1},
    "one output": {"classes": 1, "labelled": False},
    "two classes": {"classes": 2},
    "nothing drifts": {"still": True},
    "nothing drifts, no labels": {"still": True, "labelled": False},
    "all features are zero": {"old": torch.zeros((5, 6), dtype=torch.float64), "n": 5},
    "one cluster": {"old": torch.eye(6, dtype=torch.float64), "n": 6},
    "ties": {"old": torch.ones((5, 6), dtype=torch.float64), "n": 5},
    "wide bounds": {"uncertainty": 0.2, "n": 6, "old": torch.eye(6, dtype=torch.float64)},
    "no bounds": {"uncertainty": math.inf, "n": 6, "old": torch.eye(6, dtype=torch.float64)},
    "minimum norm": {"ridge": 0.0},
    "ten tasks": {"names": tuple(f"a rather long name of the old task {i}" for i in range(10))},
    "strange names": {"names": ("a$b$", "x_1^2 \N{CJK UNIFIED IDEOGRAPH-4E2D}", "line\nbreak \\frac{", "")},
    "one head of several": {"classes": 6, "outputs": [5, 1]},
    "a thousand classes": {"classes": 1000, "n": 1500, "features": 4},
    "many samples": {"n": 100_000, "features": 3},
    "very small": {"scale": 1e-70},
    "very large": {"scale": 1e60},
}
