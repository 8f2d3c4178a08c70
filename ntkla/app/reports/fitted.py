"""A head for a person who has none yet: where HEAD is the word `fit`, one is fitted to OLD before anything is forecast.

Regression with a bias on the one-hot labels (or the targets) of OLD, by the loss that NEW is trained with.  Its ridge
is one hundredth of the mean eigenvalue of OLD's normal matrix: small beside what the data say, whatever the scale of
the features, and large enough for a well-posed fit of redundant ones.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ntkla.app.command_line import notation
from ntkla.app.command_line.settings import mean_eigenvalue
from ntkla.app.files.task_file import TaskFile
from ntkla.forgetting.heads import LinearHead
from ntkla.forgetting.softmax.softmax_regression import softmax_regression
from ntkla.linalg.errors import ArgumentError
from ntkla.linalg.ridge import ridge_solve

RELATIVE_RIDGE = 0.01


def fitted_head(
    olds: Sequence[TaskFile], new: TaskFile, kept: Sequence[str] | None, *, cross_entropy: bool
) -> LinearHead:
    """The head that is fitted to the one OLD.

    Args:
        olds: the old tasks; exactly one, with labels or targets.
        new: the new task, whose labels say as well how many outputs the head has.
        kept: `--old-classes` as typed: the samples that the head is fitted to.
        cross_entropy: whether by softmax regression instead of ridge regression.

    Raises:
        ArgumentError: several OLD, or one without labels and targets.
        What `ntkla.ridge_solve` or `ntkla.softmax_regression` raises.

    Cost: that of these.
    """
    if len(olds) != 1:
        raise ArgumentError(f"HEAD: a head can be fitted to one OLD, and {len(olds)} are given. Pass a head's file.")
    old = olds[0]
    if old.labels is None and old.targets is None:
        raise ArgumentError(
            f"HEAD: nothing to fit a head to: {old.argument} has no labels. Add them, FEATURES.npy,LABELS.npy."
        )
    outputs = max(_outputs(old), _outputs(new))
    task = old.task(outputs, need_targets=True)
    for typed in kept or ():
        task = task.select(notation.numbers("--old-classes", typed, outputs))
    ridge = RELATIVE_RIDGE * mean_eigenvalue(task, bias=True)
    assert task.targets is not None, "labels became targets"
    if cross_entropy:
        learned = softmax_regression(task.features, task.targets, ridge=ridge, bias=True, weights=task.weights)
        return LinearHead(learned.weight, learned.bias)
    found = ridge_solve(task.features, task.targets, ridge=ridge, bias=True, weights=task.weights)
    return LinearHead(found.solution.T.contiguous(), found.bias)


def _outputs(file: TaskFile) -> int:
    """How many outputs a head must have for this task."""
    if file.targets is not None and file.outputs is None:
        return file.targets.shape[1]
    named = [x for x in (file.labels, file.outputs) if x is not None]
    return max([1 + int(torch.max(x)) for x in named], default=1)
