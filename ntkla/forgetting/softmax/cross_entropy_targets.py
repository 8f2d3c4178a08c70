"""Targets of cross-entropy as one matrix: labels, label smoothing and class weights in torch's meaning.

`torch.nn.CrossEntropyLoss(weight, label_smoothing=e, reduction="sum")` of labels l is

    sum_i -(1 - e) v_(l_i) log p_(i, l_i) - e / C sum_c v_c log p_ic  =  sum_i -<y_i, log p_i>,
    y_ic = v_c ((1 - e) [c = l_i] + e / C),

a target that need not sum to 1: its total s_i weighs the sample.
"""

from __future__ import annotations

import torch

from ntkla.forgetting.tasks import checked_labels
from ntkla.linalg import checks
from ntkla.linalg.design import widened
from ntkla.linalg.errors import ArgumentError, ShapeError
from ntkla.linalg.precision import NEGLIGIBLE


def cross_entropy_targets(
    labels: torch.Tensor,
    classes: int,
    *,
    label_smoothing: float = 0.0,
    class_weights: torch.Tensor | None = None,
) -> torch.Tensor:
    """The targets y for which `sum_i -<y_i, log softmax(z_i)>` is torch's loss with `reduction="sum"`.

    `reduction="mean"` divides that sum, with labels, by `sum_i class_weights[labels_i]` (the number of samples without
    class weights).  A loss of `mean + l2/2 ||W||^2` has the optimum of `ridge = l2 * divisor` here.

    Args:
        labels: integers [n], each in 0 ... classes - 1.
        classes: C, the number of outputs.
        label_smoothing: in [0, 1], the share that is spread over all classes.
        class_weights: [C], >= 0, one above 0; None for 1 each.

    Returns:
        float64 [n, C], each entry within three roundings of the formula.

    Raises:
        LabelError, ArgumentError, DtypeError, ShapeError, DeviceError, NonFiniteError, ScaleError, MemoryEstimateError
    """
    classes = checks.integer("classes", classes, least=1)
    samples = len(labels) if isinstance(labels, torch.Tensor) and labels.ndim > 0 else 1
    if not samples:
        raise ShapeError("labels: expected at least one, got none.")
    labels = checked_labels(labels, samples, classes)
    smoothing = checks.number("label_smoothing", label_smoothing)
    if not 0.0 <= smoothing <= 1.0:
        raise ArgumentError(f"label_smoothing: expected a share between 0 and 1, got {label_smoothing!r}.")
    checks.memory("the targets", 8 * labels.shape[0] * classes, labels.device)
    spread = smoothing / classes
    targets = torch.full((samples, classes), spread, dtype=torch.float64, device=labels.device)
    targets.scatter_(1, labels[:, None], (1.0 - smoothing) + spread)
    return targets if class_weights is None else targets * _class_weights(class_weights, targets)


def checked_targets(
    targets: torch.Tensor | None, samples: int, classes: int | None, name: str = "targets"
) -> torch.Tensor:
    """Targets as a caller gives them, labels [n] or soft targets [n, C], as float64 [n, C] >= 0; `name` them so.

    Raises:
        ArgumentError: labels without `classes`, a negative target, or targets of zero only.
        LabelError, DtypeError, ShapeError, DeviceError, NonFiniteError, ScaleError, MemoryEstimateError
    """
    if isinstance(targets, torch.Tensor) and targets.dtype in checks.INTEGERS:
        labels = checked_labels(targets, samples, None)
        if classes is None:
            raise ArgumentError("classes: labels need the number of outputs, of absent classes too. Pass classes=.")
        return cross_entropy_targets(labels, classes)
    if isinstance(targets, torch.Tensor) and targets.ndim == 2 and targets.dtype != torch.float64:
        checks.memory("the targets in float64", 8 * targets.numel(), targets.device)
    columns = None if classes is None else checks.integer("classes", classes, least=1)
    soft = widened(checks.matrix(name, targets, rows=samples, columns=columns))
    if bool((soft < 0).any()):
        raise ArgumentError(
            f"{name}: expected probabilities (or counts) >= 0, got a negative one. Cross-entropy is not defined for it."
        )
    if not bool((soft >= NEGLIGIBLE).any()):
        raise ArgumentError(f"{name}: expected a target above 0, got zeros only: there is nothing to train on.")
    return soft


def _class_weights(weights: object, targets: torch.Tensor) -> torch.Tensor:
    if isinstance(weights, torch.Tensor):
        checks.dense("class_weights", weights)
    classes = targets.shape[1]
    if not isinstance(weights, torch.Tensor) or weights.shape != (classes,):
        came = tuple(weights.shape) if isinstance(weights, torch.Tensor) else type(weights).__name__
        raise ShapeError(f"class_weights: expected one a class, shape ({classes},), got {came}.")
    checked = widened(checks.matrix("class_weights", weights[None])[0])
    checks.one_device(class_weights=checked, labels=targets)
    if bool((checked < 0).any()) or not bool((checked > 0).any()):
        raise ArgumentError("class_weights: expected weights >= 0, one of them above 0.")
    return checked
