"""Small problems described by a few words and numbers, whose repr is the Python expression that rebuilds them.

A falsifying example of a property test is one line: paste it into `@example(...)` and the same bits come back.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

from ntkla.linalg.checks import LARGEST_ENTRY, LEAST_PENALTY
from ntkla.testing.samples import sample_weights, targets
from ntkla.testing.spectra import features_with_spectrum, normal


class _Short:
    """Prints a dataclass as the shortest constructor call: fields at their default are left out."""

    def __repr__(self) -> str:
        assert dataclasses.is_dataclass(self)
        fields = [(f.name, getattr(self, f.name), f.default) for f in dataclasses.fields(self)]
        shown = [f"{name}={value!r}" for name, value, default in fields if value != default]
        return f"{type(self).__name__}({', '.join(shown)})"

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        """Hypothesis and IPython print this line instead of every field."""
        printer.text(repr(self))


@dataclass(frozen=True, repr=False)
class FeatureSpec(_Short):
    """A feature matrix in words: see `ntkla.testing.features_with_spectrum` for the fields."""

    n: int
    features: int
    spectrum: str = "geometric"
    condition: float = 1e4
    seed: int = 0
    dtype: str = "float64"
    layout: str = "contiguous"
    scale: float = 1.0
    twist: str = "none"

    @cached_property
    def tensor(self) -> torch.Tensor:
        """The features, [n, F]."""
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return features_with_spectrum(**fields)


def mean_eigenvalue(features: torch.Tensor, bias: bool = False, weights: torch.Tensor | None = None) -> float:
    """Mean eigenvalue of Phi^T D Phi, its trace over the columns, the bias column included; 1 when it is zero."""
    rows = features.to(torch.float64).tolist()
    counts = [1.0] * len(rows) if weights is None else weights.to(torch.float64).tolist()
    trace = math.fsum([w * v * v for w, row in zip(counts, rows, strict=True) for v in [*row, float(bias)]])
    return trace / (features.shape[1] + int(bias)) or 1.0


def _penalty(relative: float, features: torch.Tensor, bias: bool, weights: torch.Tensor | None) -> float:
    """A ridge or weight decay in mean eigenvalues; one that is not 0 lies in the range that ntkla accepts."""
    if relative == 0:
        return 0.0
    return min(max(relative * mean_eigenvalue(features, bias, weights), LEAST_PENALTY), LARGEST_ENTRY)


@dataclass(frozen=True, repr=False)
class RidgeProblem(_Short):
    """A ridge regression in words; `arguments()` is the call `ntkla.ridge_solve(**arguments)`.

    Attributes:
        design: the features.
        outputs: C.
        targets_kind, targets_scale, targets_dtype, seed: see `ntkla.testing.targets`.
        ridge_relative: ridge over the mean eigenvalue of Phi^T Phi (bias column included).
        bias, penalize_bias, route: passed on.
        weighting, weights_dtype: see `ntkla.testing.sample_weights`.
    """

    design: FeatureSpec
    outputs: int = 1
    targets_kind: str = "random"
    targets_scale: float = 1.0
    targets_dtype: str = "float64"
    seed: int = 0
    ridge_relative: float = 1e-3
    bias: bool = False
    penalize_bias: bool = True
    route: str = "auto"
    weighting: str = "none"
    weights_dtype: str = "float64"

    @cached_property
    def weights(self) -> torch.Tensor | None:
        """The samples' weights, [n], or None."""
        return sample_weights(self.weighting, self.design.n, seed=self.seed, dtype=self.weights_dtype)

    @cached_property
    def targets(self) -> torch.Tensor:
        """Right-hand sides, [n, C]."""
        return targets(
            self.design.tensor,
            self.outputs,
            self.targets_kind,
            seed=self.seed,
            scale=self.targets_scale,
            dtype=self.targets_dtype,
        )

    @cached_property
    def ridge(self) -> float:
        """The absolute ridge."""
        return _penalty(self.ridge_relative, self.design.tensor, self.bias, self.weights)

    def arguments(self) -> dict[str, Any]:
        """Keyword arguments of `ntkla.ridge_solve`."""
        return {
            "features": self.design.tensor,
            "targets": self.targets,
            "ridge": self.ridge,
            "bias": self.bias,
            "penalize_bias": self.penalize_bias,
            "route": self.route,
            "weights": self.weights,
        }


@dataclass(frozen=True, repr=False)
class Problem(_Short):
    """A forgetting problem in words; `arguments()` is the call `ntkla.predict_forgetting(**arguments)`.

    Attributes:
        old, new: features of the old and of the new task; F and dtype must agree.
        outputs: C.
        residual_kind, residual_scale, residual_dtype, seed: see `ntkla.testing.targets`.
        ridge_relative: ridge over the mean eigenvalue of Phi_B^T Phi_B (bias column included).
        weight_decay_relative: weight decay over the same mean; not zero brings in a head of that seed and scale.
        head_scale: multiplies the head's standard normal entries.
        bias, penalize_bias, route: passed on.
        weighting, weights_dtype: of the new samples, see `ntkla.testing.sample_weights`.
    """

    old: FeatureSpec
    new: FeatureSpec
    outputs: int = 1
    residual_kind: str = "random"
    residual_scale: float = 1.0
    residual_dtype: str = "float64"
    seed: int = 0
    ridge_relative: float = 1e-3
    weight_decay_relative: float = 0.0
    head_scale: float = 1.0
    bias: bool = False
    penalize_bias: bool = True
    route: str = "auto"
    weighting: str = "none"
    weights_dtype: str = "float64"

    @cached_property
    def weights(self) -> torch.Tensor | None:
        """The new samples' weights, [n_B], or None."""
        return sample_weights(self.weighting, self.new.n, seed=self.seed, dtype=self.weights_dtype)

    @property
    def features_old(self) -> torch.Tensor:
        """Phi_A, [n_A, F]."""
        return self.old.tensor

    @property
    def features_new(self) -> torch.Tensor:
        """Phi_B, [n_B, F]."""
        return self.new.tensor

    @cached_property
    def residual_new(self) -> torch.Tensor:
        """R_B, [n_B, C]."""
        return targets(
            self.features_new,
            self.outputs,
            self.residual_kind,
            seed=self.seed,
            scale=self.residual_scale,
            dtype=self.residual_dtype,
        )

    @cached_property
    def ridge(self) -> float:
        """The absolute ridge."""
        return _penalty(self.ridge_relative, self.features_new, self.bias, self.weights)

    @cached_property
    def weight_decay(self) -> float:
        """The absolute weight decay."""
        return _penalty(self.weight_decay_relative, self.features_new, self.bias, self.weights)

    @cached_property
    def head_weight(self) -> torch.Tensor | None:
        """W_A, float64 [C, F], or None without weight decay."""
        if self.weight_decay_relative == 0:
            return None
        return normal(self.outputs, self.new.features, self.seed + 7) * self.head_scale

    @cached_property
    def head_bias(self) -> torch.Tensor | None:
        """The head's bias, float64 [C], or None without weight decay or without a bias."""
        if self.weight_decay_relative == 0 or not self.bias:
            return None
        return normal(1, self.outputs, self.seed + 8)[0] * self.head_scale

    def arguments(self) -> dict[str, Any]:
        """Keyword arguments of `ntkla.predict_forgetting`."""
        from ntkla.forgetting.heads import LinearHead

        head = None if self.head_weight is None else LinearHead(self.head_weight, self.head_bias)
        return {
            "features_old": self.features_old,
            "features_new": self.features_new,
            "residual_new": self.residual_new,
            "ridge": self.ridge,
            "weight_decay": self.weight_decay,
            "head": head,
            "bias": self.bias,
            "penalize_bias": self.penalize_bias,
            "route": self.route,
            "weights": self.weights,
        }
