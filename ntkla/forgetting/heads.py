"""The linear head that was trained on the old task."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from ntkla.linalg import checks
from ntkla.linalg.arithmetic.products import pieced_gamma
from ntkla.linalg.design import DesignMatrix, widened
from ntkla.linalg.errors import ArgumentError, ShapeError
from ntkla.linalg.precision import TINY64, norm_upper, rounded_up


@dataclass(frozen=True, eq=False)
class LinearHead:
    """A linear head: `outputs = features weight^T + bias`; of a `torch.nn.Linear`: `LinearHead(l.weight, l.bias)`.

    Attributes:
        weight: [C, F], float64, float32, bfloat16 or float16; detached, taken as exact numbers.
        bias: [C], or None.

    Raises:
        DtypeError, ShapeError, DeviceError, NonFiniteError, ScaleError
    """

    weight: torch.Tensor
    bias: torch.Tensor | None = None

    def __post_init__(self) -> None:
        weight = checks.matrix("weight", self.weight)
        object.__setattr__(self, "weight", weight)
        if self.bias is not None:
            if isinstance(self.bias, torch.Tensor):
                checks.dense("bias", self.bias)
            if not isinstance(self.bias, torch.Tensor) or self.bias.ndim != 1:
                came = tuple(self.bias.shape) if isinstance(self.bias, torch.Tensor) else type(self.bias).__name__
                raise ShapeError(f"bias: expected shape ({weight.shape[0]},), one number an output, got {came}.")
            if len(self.bias) == weight.shape[1] != weight.shape[0]:
                raise ShapeError(
                    f"weight: expected [C, F] with C = {len(self.bias)}, one row for each entry of the bias, got "
                    f"{tuple(weight.shape)}. It looks transposed: pass weight.T."
                )
            bias = checks.matrix("bias", self.bias[None, :], columns=weight.shape[0])[0]
            checks.one_device(weight=weight, bias=bias)
            object.__setattr__(self, "bias", bias)

    @property
    def outputs(self) -> int:
        """C."""
        return self.weight.shape[0]

    def select(self, outputs: torch.Tensor | None) -> LinearHead:
        """The head of some outputs only, int64 [c]; None for all of them."""
        if outputs is None:
            return self
        return LinearHead(self.weight[outputs], None if self.bias is None else self.bias[outputs])

    def stacked(self) -> torch.Tensor:
        """The parameters as one float64 matrix [F, C], or [F + 1, C] with the bias as last row; exact."""
        weight = widened(self.weight).T
        return weight if self.bias is None else torch.cat([weight, widened(self.bias)[None, :]])

    def predict(self, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Outputs and how far they can be from the exact ones.

        Args:
            features: [n, F] on the head's device.

        Returns:
            (outputs, error_bound): float64 [n, C] each, `|outputs - exact| <= error_bound` entrywise, from
            `gamma |phi_i| |w_c|`, gamma counting the summands, and the Cauchy-Schwarz inequality.

        Raises:
            DtypeError, ShapeError, DeviceError, NonFiniteError, ScaleError

        Cost: 2 n F C operations.
        """
        design = DesignMatrix(self._checked(features), self.bias is not None)
        columns = self.stacked()
        norms = norm_upper(columns, dim=0)
        # Beside the rounding, flushed arithmetic may drop subnormal features and subnormal parameters.
        relative = pieced_gamma(design.columns) * norms + TINY64 * math.sqrt(design.columns)
        bound = torch.outer(design.row_norms(), relative) + design.flushed_mass() * norms + 2 * design.columns * TINY64
        return design.matmul(columns), rounded_up(bound)

    def __call__(self, features: torch.Tensor) -> torch.Tensor:
        """The outputs of `predict`, float64 [n, C]."""
        return DesignMatrix(self._checked(features), self.bias is not None).matmul(self.stacked())

    def _checked(self, features: torch.Tensor) -> torch.Tensor:
        features = checks.matrix("features", features, columns=self.weight.shape[1])
        checks.one_device(features=features, weight=self.weight)
        return features

    def __str__(self) -> str:
        c, f = self.weight.shape
        return f"LinearHead: {f} features, {c} outputs, {'with' if self.bias is not None else 'without'} bias"

    __repr__ = __str__


def stacked_head(
    name: str, head: object, design: DesignMatrix, outputs: int, *, features: str = "features", why: str = ""
) -> torch.Tensor:
    """A head as one float64 matrix [K, C] with its bias row, checked against features and outputs.

    Args:
        name, features: what the caller calls the head and the features.
        head: must be a LinearHead, with a bias exactly when the design has one.
        design: K columns.
        outputs: C.
        why: said where there is no head at all.

    Raises:
        ArgumentError, ShapeError, DeviceError
    """
    if not isinstance(head, LinearHead):
        reason = f" {why}" if why else ""
        raise ArgumentError(f"{name}: expected an ntkla.LinearHead, got {type(head).__name__}.{reason}")
    if (head.bias is not None) != design.bias:
        has = "a" if head.bias is not None else "no"
        raise ArgumentError(f"{name}: bias={design.bias} was asked for, and the head has {has} bias.")
    stacked = head.stacked()
    if stacked.shape != (design.columns, outputs):
        raise ShapeError(
            f"{name}: expected weight [{outputs}, {design.features.shape[1]}], got {tuple(head.weight.shape)}."
        )
    checks.one_device(**{name: stacked, features: design.features})
    return stacked
