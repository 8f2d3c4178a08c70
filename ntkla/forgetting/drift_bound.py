"""The last product, `dF_A = Phi_A dW^T`, with a bound on every entry.

With `e_c` the certified error of column c of the update,

    |error_ic| <= ||phi_i - centre|| e_c + offset_c + gamma (||phi_i|| ||dw_c|| + |db_c|)

Centre and offset belong to an unpenalised bias (see `linalg.solve.stability`); the last term is the rounding of the
product, by the Cauchy-Schwarz inequality, gamma counting its summands.  The Triton kernel `drift` writes both from one
read of the features, with the same formula and the norms that it finds on its way.
"""

from __future__ import annotations

import math
from functools import cached_property
from typing import NamedTuple

import torch

from ntkla.linalg import host
from ntkla.linalg.arithmetic.products import pieced_gamma
from ntkla.linalg.design import DesignMatrix
from ntkla.linalg.drift_product import Centre, Errors, moved, one_pass_wanted
from ntkla.linalg.precision import SHORT_CHAIN, TINY64, U64, gamma, norm_lower, norm_upper, norms_below, rounded_up
from ntkla.linalg.solve.stability import SolutionError, Stability


class RowSizes:
    """What multiplies the errors of an update in row i, float64 [n_A] each: upper bounds, formed when first asked for.

    A kernel that multiplies the features finds them on its way, and brings them.

    Args:
        old: the features.
        stability: of the solve, for the centre of an unpenalised bias where there is one.

    Attributes:
        norms: ||phi_i||.
        distances: ||phi_i - centre||; without a centre ||[phi_i, 1]||, or ||phi_i|| without a bias.
    """

    def __init__(self, old: DesignMatrix, stability: Stability | None = None) -> None:
        self._old = old
        self._centred = stability if stability is not None and stability.centre is not None else None

    @cached_property
    def norms(self) -> torch.Tensor:  # noqa: D102
        return DesignMatrix(self._old.features).row_norms()

    @cached_property
    def distances(self) -> torch.Tensor:  # noqa: D102
        if self._centred is not None:
            return self._centred.row_distances(self._old)
        norms = self.norms
        return torch.hypot(norms, torch.ones_like(norms)) * SHORT_CHAIN if self._old.bias else norms

    @property
    def centre(self) -> Centre | None:
        """Where distances are measured from, for a kernel."""
        if self._centred is None or self._centred.centre is None:
            return None
        beside = (U64 * self._centred.centre_norm + self._centred.centre_error) * SHORT_CHAIN
        return Centre(self._centred.centre, beside)

    def found(self, norms: torch.Tensor, distances: torch.Tensor) -> None:
        """Keeps what a kernel found."""
        self.norms, self.distances = norms, distances


class Drift(NamedTuple):
    """A product Phi_A x, the entrywise bound of its error [n_A, C], and the norms of the two parts of that bound."""

    value: torch.Tensor
    bound: torch.Tensor
    from_update: float
    from_rounding: float


def product_rounding(old: DesignMatrix, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """What the rounding of `Phi_A x` adds in each column, [C] each: times the norm of a row, and alone."""
    weights = x[: old.features.shape[1]]
    # Beside the rounding, flushed arithmetic may drop subnormal features and subnormal entries of x.
    rounding = pieced_gamma(old.columns) * norm_upper(weights, dim=0) + TINY64 * math.sqrt(old.columns)
    constant = TINY64 * old.columns * (2 + norm_upper(x, dim=0))
    if old.bias:
        constant = constant + pieced_gamma(old.columns) * x[-1].abs()
    return rounding, constant


def drift_of(old: DesignMatrix, x: torch.Tensor, error: SolutionError, sizes: RowSizes) -> Drift:
    """`Phi_A x` with its bound, given the error of x.

    Cost: 2 n_A K C operations, two arrays [n_A, C], one read of the features where a kernel is wanted, else two.
    """
    rounding, constant = product_rounding(old, x)
    errors = Errors(error.weights, rounding, error.offset + constant)
    moving = moved(old, x, errors, centre=sizes.centre) if one_pass_wanted(old, x.shape[1]) else None
    if moving is None:
        value, bound = old.matmul(x), torch.outer(sizes.distances, errors.update)
        bound.addr_(sizes.norms, errors.rounding).add_(errors.constant).mul_(SHORT_CHAIN)
    else:
        value, bound = moving.value, moving.bound
        sizes.found(moving.norms, moving.distances)
    rows = math.sqrt(old.rows)
    from_update = norm_upper(sizes.distances) * norm_upper(error.weights) + rows * norm_upper(error.offset)
    from_rounding = norm_upper(sizes.norms) * norm_upper(rounding) + rows * norm_upper(constant)
    return Drift(value, bound, float(from_update), float(from_rounding))


def drift_scale(old: DesignMatrix, x: torch.Tensor, drift: Drift, enough: float) -> float:
    """`max(||dF||_F, ||M||_F)` from below, M = |Phi_A| |dW|^T; what is dearer only while the rest is below `enough`.

    By the Cauchy-Schwarz inequality `||M||_F >= sum(M) / sqrt(n_A C)`, and `sum(M)` needs column sums only.
    """
    scale = norm_lower(drift.value) - float(norm_upper(drift.bound))
    if scale >= enough:
        return scale
    magnitudes, rounding = x.abs(), gamma(2 * old.columns + old.rows * x.shape[1] + 8)
    total = float(old.absolute_column_sums() @ magnitudes.sum(1)) * (1.0 - rounding)
    scale = max(scale, total / math.sqrt(old.rows * x.shape[1]))
    if scale >= enough:
        return scale
    products = (block.abs() @ magnitudes for _, block in old.blocks())
    norms = [norms_below(norm_upper(product), product.numel()) for product in products]
    return max(scale, math.hypot(*host.numbers(*norms)) * (1.0 - rounding))


class Size(NamedTuple):
    """Norms of exact drifts, float64: each is within `error` of `value`."""

    value: torch.Tensor
    error: torch.Tensor


def size_of(drift: torch.Tensor, error_bound: torch.Tensor, dim: int | None = None) -> Size:
    """The Euclidean norm of the exact drift, or of its slices along `dim`, as far as it is known.

    The triangle inequality: it is off by the norm of the entries' bounds, and by the rounding of the norm itself.

    Args:
        drift: float64 [n, C], entries up to 2^250 (`checks.LARGEST_ENTRY`), as the product gave it.
        error_bound: float64 [n, C], `|drift - exact| <= error_bound`; may be infinite.
        dim: the dimension to reduce; None reduces both.
    """
    upper = norm_upper(drift, dim)
    lower = norms_below(upper, drift.numel() if dim is None else drift.shape[dim])
    # Where nothing says that the computed drift is not zero, it is called zero.
    value = torch.where(lower > 0.0, (lower + upper) / 2.0, 0.0)
    rounding = torch.maximum(upper - value, value - lower)
    return Size(value, rounded_up(rounding + norm_upper(error_bound, dim)))


def root_mean_square(drift: torch.Tensor, error_bound: torch.Tensor) -> tuple[float, float]:
    """Of the entries of an exact drift [n, C] that is known within `error_bound`, and the bound of its own error.

    0 where there are no entries.
    """
    size, error = (float(x) for x in size_of(drift, error_bound))
    root = math.sqrt(max(1, drift.numel()))
    # The root and the quotient round once each.
    return size / root, (error + 4 * U64 * size) / root * SHORT_CHAIN
