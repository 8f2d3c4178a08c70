"""From a solved update of the head to the drift of each old task, refined until every drift meets the tolerance.

One update serves any number of old tasks.  The bound of every drift is derived in `drift_bound.py`.  Its relative form
divides the Frobenius norm of the bound by `max(||dF_A||_F, || |Phi_A| |dW|^T ||_F)`: the two differ when the drift
cancels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch

from ntkla.forgetting.descent.trained import TrainedUpdate
from ntkla.forgetting.drift_bound import Drift, RowSizes, drift_of, drift_scale, root_mean_square
from ntkla.linalg.design import DesignMatrix
from ntkla.linalg.precision import NEGLIGIBLE, norm_upper, ratio
from ntkla.linalg.results import Result
from ntkla.linalg.solve.normal_solver import SolveDiagnostics
from ntkla.linalg.solve.stability import SolutionError, Stability
from ntkla.linalg.status import CERTIFIED, Status


@dataclass(frozen=True, eq=False)
class Forgetting(Result):
    """The forecast of `predict_forgetting`; every tensor is float64 on the features' device.

    Attributes:
        drift: [n_A, C], the change of every old prediction.
        head_update: [C, F], the change of the head's weights.
        bias_update: [C], or None without a bias.
        error_bound: [n_A, C], `|drift - exact drift| <= error_bound` entry by entry.
        update_error_bound: [C], 2-norm bound of the error of one output's weights (and bias).
        relative_bound: `||error_bound||_F / max(||drift||_F, || |Phi_A| |dW|^T ||_F)`.
        route: `"primal"`, `"dual"`, `"spectral"` for training that stops early, or `"newton"` under cross-entropy.
        status: `certified` when `relative_bound <= tol`.
        diagnostics: how the update was reached.
    """

    drift: torch.Tensor
    head_update: torch.Tensor
    bias_update: torch.Tensor | None
    error_bound: torch.Tensor
    update_error_bound: torch.Tensor
    relative_bound: float
    route: str
    status: Status
    diagnostics: SolveDiagnostics

    def update(self, outputs: torch.Tensor) -> torch.Tensor:
        """The update of some outputs, int64 [c], as one float64 matrix [F, c], or [F + 1, c] with the bias last."""
        weights = self.head_update[outputs].T
        return weights if self.bias_update is None else torch.cat([weights, self.bias_update[outputs][None]])

    def __str__(self) -> str:
        samples, outputs = self.drift.shape
        size, _ = root_mean_square(self.drift, self.error_bound)
        return (
            f"Forgetting: drift of {samples} old samples in {outputs} outputs\n"
            f"  root mean square drift {size:.4g}, largest {_largest(self.drift.abs()):.4g}\n"
            f"  largest error bound {_largest(self.error_bound):.2e}, relative {self.relative_bound:.2e}\n"
            f"  route {self.route}, factor {self.diagnostics.factor}, {self.diagnostics.corrections} corrections\n"
            f"  {self.status}"
        )


def _largest(x: torch.Tensor) -> float:
    return float(x.max()) if x.numel() else 0.0


class View(NamedTuple):
    """An old task as the update meets it: its features, and which of the trained outputs it reads (None: all)."""

    design: DesignMatrix
    outputs: torch.Tensor | None = None

    def of(self, x: torch.Tensor) -> torch.Tensor:
        """The columns of x [..., C] that it reads."""
        return x if self.outputs is None else x[..., self.outputs]


class _Seen(NamedTuple):
    """A drift, what its bound is compared with, and the bound in that measure."""

    drift: Drift
    scale: float
    relative: float

    @classmethod
    def of(cls, view: View, x: torch.Tensor, error: SolutionError, sizes: RowSizes, tolerance: float) -> _Seen:
        x = view.of(x)
        error = SolutionError(view.of(error.weights), view.of(error.offset), error.radius)
        drift = drift_of(view.design, x, error, sizes)
        size = float(norm_upper(drift.bound)) if x.shape[1] else 0.0
        scale = drift_scale(view.design, x, drift, size / tolerance) if x.shape[1] else 0.0
        return cls(drift, scale, ratio(size, scale))


class Optimum(Protocol):
    """A certified update [K, C] that can be improved: `GroupedSolve` under squared loss, or that of another loss."""

    @property
    def tolerance(self) -> float: ...  # noqa: D102
    @property
    def stability(self) -> Stability: ...  # noqa: D102
    @property
    def route(self) -> str: ...  # noqa: D102
    @property
    def x(self) -> torch.Tensor: ...  # noqa: D102
    @property
    def error(self) -> SolutionError: ...  # noqa: D102
    def reach_tolerance(self) -> None: ...  # noqa: D102
    def reach(self, size: float) -> None: ...  # noqa: D102
    def status(self, relative_bound: float) -> Status: ...  # noqa: D102
    def diagnostics(self, relative_bound: float) -> SolveDiagnostics: ...  # noqa: D102


def drifts_at_the_optimum(views: Sequence[View], solve: Optimum) -> list[Forgetting]:
    """Refines until the relative bound of every drift, not only of the update, meets the tolerance."""
    tolerance = solve.tolerance
    sizes = [RowSizes(view.design, solve.stability) for view in views]

    def seen() -> list[_Seen]:
        x, error = solve.x, solve.error
        return [_Seen.of(view, x, error, size, tolerance) for view, size in zip(views, sizes, strict=True)]

    solve.reach_tolerance()
    found = seen()
    wanted = math.inf
    for drift, scale, _ in found:
        room = tolerance * scale - drift.from_rounding
        if 0 < room < drift.from_update < math.inf:
            # The drift is smaller than the norms suggest: the update has to be better by the ratio.
            wanted = min(wanted, max(solve.error.size() * room / drift.from_update / 4, NEGLIGIBLE))
    if wanted < math.inf:
        solve.reach(wanted)
        found = seen()
    bound, x = solve.stability.whole(solve.error), solve.x
    return [
        _forgetting(view, x, bound, one, solve.route, solve.status(one.relative), solve.diagnostics(one.relative))
        for view, one in zip(views, found, strict=True)
    ]


def drifts_after_training(views: Sequence[View], update: TrainedUpdate, tolerance: float) -> list[Forgetting]:
    """The drifts of a finite training run."""
    error = SolutionError(update.error_bound, torch.zeros_like(update.error_bound))
    results = []
    for view in views:
        one = _Seen.of(view, update.update, error, RowSizes(view.design), tolerance)
        status, diagnostics = update.status(one.relative, tolerance), update.diagnostics(one.relative, tolerance)
        results.append(_forgetting(view, update.update, update.error_bound, one, "spectral", status, diagnostics))
    return results


def _forgetting(
    view: View,
    x: torch.Tensor,
    update_bound: torch.Tensor,
    seen: _Seen,
    route: str,
    status: Status,
    diagnostics: SolveDiagnostics,
) -> Forgetting:
    """Splits the stacked update [K, C] into weights and bias."""
    features = view.design.features.shape[1]
    if not seen.drift.value.numel():
        status = Status(CERTIFIED, "the new task trains none of the outputs that this task uses: the drift is 0.")
    return Forgetting(
        drift=seen.drift.value,
        head_update=x[:features].T.contiguous(),
        bias_update=x[features] if view.design.bias else None,
        error_bound=seen.drift.bound,
        update_error_bound=update_bound,
        relative_bound=seen.relative,
        route=route,
        status=status,
        diagnostics=diagnostics,
    )
