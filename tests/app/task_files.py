"""A small problem in files, as a person would have saved it: two old tasks, a new one, the head before and after."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

import ntkla

CLASSES, FEATURES, RIDGE = 5, 12, 2.0


@dataclass(frozen=True)
class TaskFiles:
    """Arguments of the command line, and the same tasks as the library takes them."""

    folder: Path
    first: str
    second: str
    new: str
    head: str
    after: str
    olds: dict[str, ntkla.Task]
    new_task: ntkla.Task
    linear: ntkla.LinearHead

    @property
    def arguments(self) -> list[str]:
        return [self.first, self.second, self.new, self.head]

    def forecast(self, **settings) -> ntkla.ForgettingReports:
        return ntkla.forecast(self.olds, self.new_task, self.linear, **{"ridge": RIDGE, **settings})


def task_files(folder: Path) -> TaskFiles:
    """Writes the files: the second old task and the head as .safetensors, the others as .npy."""
    draw = torch.Generator().manual_seed(3)
    patterns = torch.randn((CLASSES, FEATURES), generator=draw)

    def samples(classes: list[int], count: int) -> tuple[torch.Tensor, torch.Tensor]:
        labels = torch.tensor(classes)[torch.randint(len(classes), (count,), generator=draw)]
        return patterns[labels] + 0.8 * torch.randn((count, FEATURES), generator=draw), labels

    parts = {"first": samples([0, 1], 30), "second": samples([2], 20), "new": samples([2, 3, 4], 40)}
    for name in ("first", "new"):
        for suffix, array in zip("xy", parts[name], strict=True):
            np.save(folder / f"{name}_{suffix}.npy", array.numpy())
    save_file(dict(zip(("features", "labels"), parts["second"], strict=True)), folder / "second.safetensors")
    everything = ntkla.Task.from_labels(*samples([0, 1, 2], 90), CLASSES)
    fitted = ntkla.ridge_solve(everything.features, everything.targets, ridge=1.0, bias=True)
    head = {"weight": fitted.solution.T.contiguous(), "bias": fitted.bias.contiguous()}
    save_file(head, folder / "head.safetensors")
    olds = {"first_x": ntkla.Task(parts["first"][0], labels=parts["first"][1])}
    olds["second"] = ntkla.Task(parts["second"][0], labels=parts["second"][1])
    new, linear = ntkla.Task.from_labels(*parts["new"], CLASSES), ntkla.LinearHead(**head)
    moved = ntkla.forecast(olds["second"], new, linear, ridge=RIDGE).forgetting
    save_file(
        {"weight": linear.weight + moved.head_update, "bias": linear.bias + moved.bias_update},
        folder / "after.safetensors",
    )
    named = {name: str(folder / f"{name}.safetensors") for name in ("second", "head", "after")}
    joined = {name: f"{folder}/{name}_x.npy,{folder}/{name}_y.npy" for name in ("first", "new")}
    return TaskFiles(folder, **joined, **named, olds=olds, new_task=new, linear=linear)
