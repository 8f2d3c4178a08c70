"""How long a forecast or a decomposition will take and how much memory, before it runs.

Operations are counted by the formulas in the docstrings of what runs (`linalg.solve.cost`,
`forgetting.descent.trained`, `linalg.eigen.feature_modes`, `linalg.eigen.eigen_cost`); the rates come from a product
and an eigendecomposition on this machine, twenty milliseconds each; whole forecasts reach three quarters of these.  A
residual is counted once plain and once at the first level beyond float64, as most forecasts need it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from ntkla.forgetting import forecast
from ntkla.forgetting.descent import trained
from ntkla.linalg.design import DesignMatrix
from ntkla.linalg.eigen import feature_modes
from ntkla.linalg.eigen.eigen_cost import EigenCost, eigen_cost, feature_lanczos_memory, full_memory
from ntkla.linalg.eigen.lanczos_search import basis_columns, default_block
from ntkla.linalg.solve import cost

_EDGE = 384
# Below this no machine needs a probe: its operations take less than a second at 10^9 of them a second.
_FEW = 1e9
_REACHED = 0.75
# Lanczos often goes on for twice the columns that a spectrum needs which falls off steeply.
_SEARCHES = 2.0
# Of the Hessian of cross-entropy with a direction, for one optimum.
_PRODUCTS = 100.0
# Seconds for each of the two rates.
_PROBE = 0.02
TOLD_FROM = 2.0


@dataclass(frozen=True)
class Estimate:
    """What a command will need.

    Attributes:
        seconds: wall time.
        bytes: at the peak, beside the files' own pages.
    """

    seconds: float
    bytes: int

    @property
    def long(self) -> bool:
        """Whether a person should be told beforehand."""
        return self.seconds > TOLD_FROM

    def __str__(self) -> str:
        return f"about {_time(self.seconds)} and {_size(self.bytes)}"


@dataclass(frozen=True)
class Work:
    """Operations: in matrix products, and in eigendecompositions, which run at another rate."""

    products: float
    decompositions: float


def of_forecast(
    olds: Sequence[torch.Tensor],
    new: torch.Tensor,
    outputs: int,
    *,
    bias: bool,
    finite: bool,
    cross_entropy: bool = False,
) -> Estimate:
    """Time and memory of a forecast.

    Args:
        olds: features of the old tasks, [n_A, F].
        new: features of the new task, [n_B, F].
        outputs: C.
        bias: whether the head has one.
        finite: whether the training stops early.
        cross_entropy: whether that is the loss; how many products Newton's method needs is a guess.

    Cost: under 0.1 s.
    """
    designs, design = [DesignMatrix(old, bias) for old in olds], DesignMatrix(new, bias)
    update = _newton(design, outputs) if cross_entropy else _update(design, outputs, finite)
    parts = [update, *(_report(old, outputs) for old in designs)]
    work = Work(sum(part.products for part in parts), sum(part.decompositions for part in parts))
    return Estimate(_seconds(work, design.device), _bytes(designs, design, outputs, finite))


def of_modes(
    features: torch.Tensor,
    k: int,
    *,
    bias: bool,
    block: int | None = None,
    prove: str | None = "trace",
    route: str = "auto",
) -> Estimate:
    """Time and memory of the k leading modes of features [n, F] on the route that `eigenmodes` will begin with.

    Args:
        features, k, bias, prove, route: as for `eigenmodes`.
        block: its `block_size`.

    How long Lanczos goes on depends on the spectrum, which is not known yet: what is told is for one that decays.

    Cost: under 0.1 s.
    """
    design = DesignMatrix(features, bias)
    n, columns = design.rows, design.columns
    m = min(n, columns)
    block = block or default_block(k, m)
    costs = eigen_cost(n, columns, k, block, route)
    if costs.route == "full":
        work = Work(float(n * m * columns + 4 * m**3 + 4 * n * k * (columns + k)), 10.0 * m**3)
        return Estimate(_seconds(work, design.device), full_memory(n, columns, k))
    squares = prove == "inertia"
    work = _lanczos(design, k, block, costs)
    if squares:
        work = Work(work.products + float(n * m * columns + 2 * m * m * k + m**3), work.decompositions)
    return Estimate(_seconds(work, design.device), feature_lanczos_memory(design, k, block, squares=squares))


def _lanczos(design: DesignMatrix, k: int, block: int, costs: EigenCost) -> Work:
    """Products with the features, at the rate of thin ones, and the sections that are decomposed after each."""
    if math.isinf(costs.lanczos):
        # Its basis has no room: it will be refused, which takes no time.
        return Work(0.0, 0.0)
    search, basis = _SEARCHES * costs.lanczos, basis_columns(k, block)
    judged = 6.0 * design.rows * design.columns * (k + block)
    # The section grows with the basis: on average its cube is a quarter of the largest.
    return Work(2 * search + judged, search / (costs.column * block) * 10.0 * basis**3 / 4)


def _update(new: DesignMatrix, outputs: int, finite: bool) -> Work:
    n, k, c = float(new.rows), float(new.columns), float(outputs)
    residual = 6 * n * k * c
    if finite:
        return Work(n * k * k + 10 * k**3 + 16 * k * k * c + residual + 6 * n * k * c, 10 * k**3)
    costs = cost.route_cost(new.rows, new.columns, outputs)
    refinement = (1 + 3) * 4 * n * k * c
    return Work((costs.primal if costs.route == "primal" else costs.dual) + residual + refinement, 0.0)


def _newton(new: DesignMatrix, outputs: int) -> Work:
    n, k, c = float(new.rows), float(new.columns), float(outputs)
    return Work(n * k * k + _PRODUCTS * 4 * n * k * c, 0.0)


def _report(old: DesignMatrix, outputs: int) -> Work:
    n, k, c = float(old.rows), float(old.columns), float(outputs)
    m = min(n, k)
    return Work(n * k * m + 16 * m**3 + 6 * n * k * c + 6 * m * m * c, 10 * m**3)


def _bytes(olds: Sequence[DesignMatrix], new: DesignMatrix, outputs: int, finite: bool) -> int:
    rows = sum(old.rows for old in olds)
    if finite:
        update = trained.memory_estimate(new, outputs)
    else:
        picked = cost.route_cost(new.rows, new.columns, outputs).route
        update = cost.memory_estimate(new, outputs, picked, targets_copied=True, rows_predicted=rows)
    # Residual and targets; the old predictions; the modes of every task.
    targets, held = 8 * 2 * new.rows * outputs, forecast.memory_estimate(rows * outputs)
    kept = sum(8 * min(old.rows, old.columns) ** 2 for old in olds)
    modes = max(feature_modes.memory_estimate(old) for old in olds)
    return max(update + targets, modes + kept + held + targets)


def _seconds(work: Work, device: torch.device) -> float:
    if work.products + work.decompositions < _FEW:
        return (work.products + work.decompositions) / _FEW
    x = torch.rand((_EDGE, _EDGE), dtype=torch.float64, device=device, generator=torch.Generator(device).manual_seed(0))
    product = 2 * _EDGE**3 / _fastest(lambda: x @ x, device)
    decomposition = 10 * _EDGE**3 / _fastest(lambda: torch.linalg.eigh(x @ x.T), device)
    return (work.products / product + work.decompositions / decomposition) / _REACHED


def _fastest(run: Callable[[], object], device: torch.device) -> float:
    """Seconds of the fastest of some runs: the first also loads code, and other programs disturb single ones."""
    seconds: list[float] = []
    while sum(seconds) < _PROBE or (len(seconds) < 2 and sum(seconds) < 10 * _PROBE):
        began = time.perf_counter()
        run()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - began)
    return min(seconds)


def _time(seconds: float) -> str:
    if seconds < 180:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"
