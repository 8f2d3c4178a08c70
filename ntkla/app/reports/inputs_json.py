"""What went into a command, as its JSON document says it."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import torch

from ntkla.app.files.task_file import TaskFile
from ntkla.forgetting.descent.training import GradientDescent, Training
from ntkla.forgetting.heads import LinearHead
from ntkla.forgetting.tasks import Task


def file_entry(file: TaskFile, task: Task, head: LinearHead) -> dict[str, Any]:
    """A task: where its arrays came from, and what of them was used."""
    arrays = {role: (path, getattr(file, role)) for role, path in file.paths.items()}
    return {
        "argument": file.argument,
        "arrays": {
            role: {"path": str(path), "shape": list(array.shape), "dtype": _dtype(array)}
            for role, (path, array) in arrays.items()
        },
        "samples": task.features.shape[0],
        "outputs": list(range(head.outputs)) if task.outputs is None else task.outputs.tolist(),
    }


def head_entry(argument: str, head: LinearHead) -> dict[str, Any]:
    """A head: what was typed, and its shape."""
    return {
        "argument": argument,
        "weight": list(head.weight.shape),
        "bias": head.bias is not None,
        "dtype": _dtype(head.weight),
    }


def _dtype(x: torch.Tensor) -> str:
    return str(x.dtype).removeprefix("torch.")


def training_entry(training: Training | None) -> dict[str, Any]:
    """A training in the units of half the summed loss."""
    if training is None:
        return {"kind": "optimum"}
    kind = "gradient_descent" if isinstance(training, GradientDescent) else "gradient_flow"
    return {"kind": kind, **asdict(training)}
