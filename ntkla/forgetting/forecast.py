"""One call from two tasks and a head to everything that can be said about forgetting before training.

The residual `R_B = Phi_B W_A^T - Y_B` is formed here beyond float64 and rounded once; what that rounding can do to the
drift is in the bounds: `||A^-1 Phi^T||` times it for the optimum, `||h_T(A) Phi^T||` times it for training that stops
early (`linalg.stability`, `forgetting.gains`).
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from ntkla.forgetting.decompose import decompose
from ntkla.forgetting.heads import LinearHead
from ntkla.forgetting.predict import predict_forgetting
from ntkla.forgetting.predictions import Flips, Predictions
from ntkla.forgetting.ranks import effective_rank, vulnerable_rank
from ntkla.forgetting.report import ForgettingReport
from ntkla.forgetting.tasks import Task
from ntkla.forgetting.training import Training
from ntkla.linalg import checks
from ntkla.linalg.accurate import Bounded, accurate_outputs
from ntkla.linalg.design import DesignMatrix, widened
from ntkla.linalg.eigenmodes import eigenmodes
from ntkla.linalg.errors import ArgumentError, ShapeError
from ntkla.linalg.modes import Eigenmodes


def forecast(
    old: Task,
    new: Task,
    head: LinearHead,
    *,
    ridge: float,
    penalize_bias: bool = True,
    weight_decay: float = 0.0,
    training: Training | None = None,
    modes: Eigenmodes | None = None,
    q: float = 0.9,
    route: str = "auto",
    tol: float | None = None,
    strict: bool = False,
) -> ForgettingReport:
    """Forecasts what training the head on the new task does to the old one.

    Args:
        old: the task to be remembered; with labels the report has accuracies.
        new: the task to be trained on; same number of features and outputs, same dtype and device.
        head: the head as it stands before; its bias, when it has one, is trained as well.
        ridge: absolute, >= 0, pulls towards the old head.
        penalize_bias: whether ridge and weight decay apply to the bias as to any weight.
        weight_decay: absolute, >= 0, pulls towards zero.
        training: None for the optimum, or `GradientDescent` / `GradientFlow` for training that stops early.
        modes: all eigenmodes of the old features (with the head's bias), when they are known from an earlier forecast.
        q: the share for k_G and k*.
        route, tol, strict: as for `predict_forgetting`.

    Returns:
        ForgettingReport.  Inputs are detached.

    Raises:
        ArgumentError, ShapeError, DtypeError, DeviceError, RidgeError, ScaleError, MemoryEstimateError,
        TrainingDivergesError, NotCertifiedError

    Cost: that of `predict_forgetting`, `6 n_B F C` for the residual, and that of `eigenmodes` for all modes of the old
    features unless they are given.  Deterministic but for the times.
    """
    _check(old, new, head)
    seconds: dict[str, float] = {}
    bias = head.bias is not None
    with _timed("total", seconds):
        with _timed("drift", seconds):
            residual = new_residual(new, head)
            found = predict_forgetting(
                old.features,
                new.features,
                residual.value,
                ridge=ridge,
                bias=bias,
                penalize_bias=penalize_bias,
                weight_decay=weight_decay,
                head=head,
                training=training,
                residual_error=residual.error,
                route=route,
                tol=tol,
                strict=strict,
            )
        with _timed("modes", seconds):
            modes = _old_modes(old, bias, modes)
            parts = decompose(found.drift, modes, error_bound=found.error_bound, tol=tol)
        before = Predictions(*head.predict(old.features))
        after = before.moved(found.drift, found.error_bound)
        ranks = {"r_50": parts.rank(0.5), "r_90": parts.rank(0.9)}
        ranks |= {"k_G": effective_rank(modes, q=q), "k_star": vulnerable_rank(modes, head.outputs, q)}
    return ForgettingReport(
        drift=found.drift,
        error_bound=found.error_bound,
        before=before,
        after=after,
        accuracy_before=None if old.labels is None else before.accuracy(old.labels),
        accuracy_forecast=None if old.labels is None else after.accuracy(old.labels),
        flips=Flips.between(before, after),
        **ranks,
        forgetting=found,
        decomposition=parts,
        modes=modes,
        training=_in_words(training, ridge, weight_decay),
        seconds=seconds,
        status=found.status,
    )


def new_residual(new: Task, head: LinearHead) -> Bounded:
    """`Phi_B W_A^T - Y_B` in float64 [n_B, C] and the 2-norm bound of each column's rounding [C]."""
    return accurate_outputs(DesignMatrix(new.features, head.bias is not None), head.stacked(), widened(new.targets))


def _check(old: object, new: object, head: object) -> None:
    for name, task in (("old", old), ("new", new)):
        if not isinstance(task, Task):
            raise ArgumentError(f"{name}: expected an ntkla.Task, got {type(task).__name__}.")
    if not isinstance(head, LinearHead):
        raise ArgumentError(f"head: expected an ntkla.LinearHead, got {type(head).__name__}.")
    assert isinstance(old, Task)
    assert isinstance(new, Task)
    for name, task in (("old", old), ("new", new)):
        checks.matrix(f"{name}.features", task.features, columns=head.weight.shape[1])
        checks.matrix(f"{name}.targets", task.targets, columns=head.outputs)
    checks.one_dtype(old=old.features, new=new.features)
    checks.one_device(old=old.features, new=new.features, head=head.weight)


def _old_modes(old: Task, bias: bool, modes: Eigenmodes | None) -> Eigenmodes:
    """All modes of the old features: those given, checked, or new ones."""
    samples, features = old.features.shape
    count = min(samples, features + int(bias))
    if modes is None:
        return eigenmodes(old.features, count, bias=bias)
    if not isinstance(modes, Eigenmodes):
        raise ArgumentError(f"modes: expected the result of ntkla.eigenmodes, got {type(modes).__name__}.")
    if modes.output_index is not None or modes.basis.shape != (samples, count):
        raise ShapeError(
            f"modes: expected all {count} modes of the Gram matrix of {samples} old samples, got "
            f"{tuple(modes.basis.shape)}. Pass ntkla.eigenmodes(old.features, {count}, bias={bias})."
        )
    return modes


def _in_words(training: Training | None, ridge: float, weight_decay: float) -> str:
    what = "the optimum" if training is None else str(training)
    return f"{what}, ridge {ridge:.4g}" + (f", weight decay {weight_decay:.4g}" if weight_decay > 0 else "")


@contextmanager
def _timed(name: str, seconds: dict[str, float]) -> Iterator[None]:
    began = time.perf_counter()
    yield
    seconds[name] = time.perf_counter() - began
