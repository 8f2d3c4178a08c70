"""From residuals to errors: how far a trial solution of the regularised normal equations can be from the exact one.

With `A = Phi^T Phi + p I` and the residual `rho` of `residual.py`, the error is `A^-1 (rho + its rounding)`.

- A rounding `r` of rho itself reaches the solution as `||A^-1 r|| <= ||r|| / p`.
- A rounding `d` of `T = Y - Phi x` reaches it as `A^-1 Phi^T d`, and with a singular value s of Phi
  `s / (s^2 + p) <= 1 / (2 sqrt(p))`, so `||A^-1 Phi^T d|| <= ||d|| / (2 sqrt(p))`: smaller by `2 ||Phi|| / sqrt(p)`.
- Without a penalty but with a certified least eigenvalue p of Phi^T Phi the second bound is `||d|| / sqrt(p)`.

An unpenalised bias is eliminated: with the feature mean m and H = I - 1 1^T / n the weights solve the centred system
`(Phi^T H Phi + p I) e_w = r_w - m r_b`, and `e_b = r_b / n - m^T e_w`.  A prediction for features phi is then off by at
most `||phi - m|| ||e_w|| + offset`, `offset = |r_b| / n + ||d|| / sqrt(n)`.

Samples with weights D: read `D^1/2 Phi` for Phi, `D^1/2 d` for d, the weighted mean for m and the total weight for n.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch

from ntkla.linalg.design import Design, DesignMatrix
from ntkla.linalg.precision import SHORT_CHAIN, TINY64, U64, gamma, norm_upper, norms_below, rounded_up
from ntkla.linalg.solve.normal_problem import Residual
from ntkla.linalg.solve.weights import SampleWeights


@dataclass(frozen=True)
class SolutionError:
    """Per output column: `|phi . error| <= ||phi - centre|| weights + offset`.

    Without a free bias `phi - centre` stands for `[phi, 1]` and the offset is 0.

    Attributes:
        weights, offset: float64 [C].
        radius: what turns an error of the weights into one of outputs, beside which the offset stands; 1 without a
            free bias.
    """

    weights: torch.Tensor
    offset: torch.Tensor
    radius: float = 1.0

    def __add__(self, other: SolutionError) -> SolutionError:
        weights, offset = rounded_up(self.weights + other.weights), rounded_up(self.offset + other.offset)
        return SolutionError(weights, offset, self.radius)

    @property
    def norm(self) -> torch.Tensor:
        """One number, the 2-norm over columns of both parts: what the refinement drives below its goal."""
        return norm_upper(torch.cat([self.weights * self.radius, self.offset]))

    def size(self) -> float:
        """The same, read."""
        return float(self.norm)


@dataclass(frozen=True)
class Stability:
    """The constants of the bounds above.

    Attributes:
        least: lower bound of the least eigenvalue of A (of the centred A when `centre` is given).
        gain: upper bound of ||A^-1 Phi^T D^1/2||.
        mass: n, or a lower bound of the samples' total weight.
        centre: the feature mean m, float64 [F], when the bias is unpenalised, else None.
        centre_error: 2-norm bound of the rounding of `centre`.
        radius: the root mean square of ||[phi_i, 1]|| when the bias is unpenalised, else 1: what an error of the
            weights amounts to in an output.
        largest_root: upper bound of the largest entry of D^1/2.
    """

    least: float
    gain: float
    mass: float
    centre: torch.Tensor | None = None
    centre_error: float = 0.0
    radius: float = 1.0
    largest_root: float = 1.0

    @classmethod
    def ridge(
        cls,
        penalty: float,
        design: Design,
        free_bias: bool,
        weights: SampleWeights | None = None,
        frobenius: float | None = None,
    ) -> Stability:
        """For a penalty > 0 on every feature, and on the bias unless it is free; `frobenius` of D^1/2 Phi if known."""
        least = penalty / SHORT_CHAIN
        if frobenius is None:
            frobenius = design.frobenius() if weights is None else weights.frobenius
        # s / (s^2 + p) is at most 1 / (2 sqrt(p)), and at most s / p: the smaller one for features below the ridge.
        gain = min(0.5 / math.sqrt(least), frobenius / least) * SHORT_CHAIN
        mass = design.rows if weights is None else weights.least_total
        root = 1.0 if weights is None else weights.largest_root
        if not free_bias:
            return cls(least, gain, mass, largest_root=root)
        centre, error = _centre(design, weights)
        radius = frobenius / math.sqrt(mass)
        return cls(least, gain, mass, centre, error * SHORT_CHAIN, radius, root)

    @classmethod
    def full_rank(cls, least: float, design: Design, weights: SampleWeights | None = None) -> Stability:
        """For no penalty and a certified lower bound > 0 of the least eigenvalue of Phi^T D Phi (or of Phi Phi^T)."""
        gain = SHORT_CHAIN / math.sqrt(least)
        if weights is None:
            return cls(least, gain, design.rows)
        return cls(least, gain, weights.least_total, largest_root=weights.largest_root)

    @cached_property
    def centre_norm(self) -> float:
        """Upper bound of ||m||."""
        return 0.0 if self.centre is None else (float(norm_upper(self.centre)) + self.centre_error) * SHORT_CHAIN

    def remaining(self, rho: torch.Tensor) -> SolutionError:
        """||A^-1 rho|| for the computed residual."""
        if self.centre is None:
            weights = norm_upper(rho, dim=0) / self.least
            return SolutionError(rounded_up(weights), torch.zeros_like(weights))
        bias_part = rho[-1].abs()
        centred = norm_upper(rho[:-1] - self.centre[:, None] * rho[-1], dim=0)
        # The subtraction rounds by 2 u (|rho| + |m rho_b|), and the mean itself is off by centre_error.
        rounding = (
            3 * U64 * (norm_upper(rho[:-1], dim=0) + self.centre_norm * bias_part) + self.centre_error * bias_part
        )
        return self._free((centred + rounding) / self.least, bias_part / self.mass)

    def rounding(self, r: Residual) -> SolutionError:
        """What the rounding inside the residual adds."""
        weights = r.adjoint_error / self.least + self.gain * r.output_error
        if self.centre is None:
            return SolutionError(rounded_up(weights), torch.zeros_like(weights))
        weights = weights + r.bias_error * (self.centre_norm / self.least)
        return self._free(weights, r.bias_error / self.mass + r.output_error / math.sqrt(self.mass))

    def inherited(self, targets_error: torch.Tensor) -> SolutionError:
        """What it adds when the targets themselves are off by at most `targets_error` (2-norm per column)."""
        targets_error = targets_error * self.largest_root
        weights = torch.where(targets_error > 0.0, self.gain * targets_error, 0.0)
        offset = torch.zeros_like(weights) if self.centre is None else targets_error / math.sqrt(self.mass)
        return self._free(weights, offset)

    def moved(self, by: torch.Tensor) -> SolutionError:
        """What it adds when the stored solution itself is off by at most `by`, entry by entry [K, C]."""
        if self.centre is None:
            weights = norm_upper(by, dim=0)
            return SolutionError(weights, torch.zeros_like(weights))
        weights = norm_upper(by[:-1], dim=0)
        return self._free(weights, by[-1].abs() + self.centre_norm * weights)

    def _free(self, weights: torch.Tensor, offset: torch.Tensor) -> SolutionError:
        return SolutionError(rounded_up(weights), rounded_up(offset), self.radius)

    def length(self, x: torch.Tensor) -> torch.Tensor:
        """||x||_F in the units of `SolutionError.size`, from below (but for the roundings of a short chain)."""
        if self.centre is None:
            return norms_below(norm_upper(x), x.numel())
        weights, bias = x[:-1], x[-1]
        lower = norms_below(norm_upper(weights), weights.numel()), norms_below(norm_upper(bias), bias.numel())
        return torch.hypot(lower[0] * self.radius, lower[1])

    def whole(self, error: SolutionError) -> torch.Tensor:
        """Upper bound of the 2-norm of a column's error, its bias included."""
        return error.weights if self.centre is None else rounded_up(error.weights + self.bias_part(error))

    def bias_part(self, error: SolutionError) -> torch.Tensor:
        """Upper bound of the error of a free bias: it is the offset less m times the error of the weights."""
        return rounded_up(error.offset + self.centre_norm * error.weights)

    def row_distances(self, design: Design) -> torch.Tensor:
        """Upper bounds of ||phi_i - centre|| (of ||[phi_i, 1]|| when nothing is centred), float64 [n]."""
        if self.centre is None:
            return design.row_norms()
        out = torch.empty(design.rows, dtype=torch.float64, device=design.device)
        for rows, block in design.blocks():
            features = block[:, :-1]
            rounding = U64 * (norm_upper(features, dim=1) + self.centre_norm) + self.centre_error
            out[rows] = norm_upper(features - self.centre, dim=1) + rounding
        return rounded_up(out)


def _centre(design: Design, weights: SampleWeights | None) -> tuple[torch.Tensor, float]:
    """The (weighted) mean of the features, [F], and the 2-norm bound of its rounding."""
    assert isinstance(design, DesignMatrix), "a free bias is eliminated through its column of ones"
    ones = torch.ones((design.rows, 1), dtype=torch.float64, device=design.device)
    features = DesignMatrix(design.features)
    if weights is None:
        # The mean is of the features alone; flushed arithmetic may drop small ones, and again in the division.
        rounding = gamma(design.summands + 2) * features.frobenius() + 2 * design.flushed_mass()
        return design.rmatmul(ones)[:-1, 0] / design.rows, rounding / math.sqrt(design.rows)
    centre = design.rmatmul(ones, weights.values)[:-1, 0] / weights.total
    # One rounding more for the products with the weights, and three for their total.
    norm = float(norm_upper(weights.bounded(slice(None), features.row_norms()[:, None])))
    rounding = gamma(design.summands + 6) * norm * weights.root_total
    # Dropped are subnormal features, times their weights, and what underflows in products and in the division.
    edge = 2 * math.sqrt(design.columns) * TINY64
    return centre, (rounding + edge * (weights.root_total**2 + design.rows)) / weights.least_total + edge
