"""A head of a sequence, and how far it can be from the head of exact arithmetic."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ntkla.forgetting.heads import LinearHead
from ntkla.forgetting.reports.predictions import Predictions
from ntkla.linalg import checks
from ntkla.linalg.arithmetic.doubled import Doubled
from ntkla.linalg.design import DesignMatrix
from ntkla.linalg.errors import ScaleError
from ntkla.linalg.precision import norm_lower, norm_upper, ratio, rounded_up
from ntkla.linalg.results import Result
from ntkla.linalg.status import Status

REMEDY = (
    "errors of earlier heads are inherited, and grow with the strength and the number of tasks. Use a larger ridge, a "
    "smaller strength, or a larger tol if this bound suffices."
)


@dataclass(frozen=True, eq=False)
class SequenceHead(Result):
    """A linear head with a proved error; tensors are float64.

    Attributes:
        head: as a `LinearHead`, [C, F] and [C].
        error_bound: [C], 2-norm bound of the error of each output's weights.
        bias_error_bound: [C], or None without a bias.
        relative_bound: the norm of both bounds over that of the head.
        status: `certified` when `relative_bound <= tol`.
    """

    head: LinearHead
    error_bound: torch.Tensor
    bias_error_bound: torch.Tensor | None
    relative_bound: float
    status: Status

    @classmethod
    def of(cls, x: Doubled, errors: tuple[torch.Tensor, torch.Tensor], bias: bool, tolerance: float) -> SequenceHead:
        """The high part of X [K, C]; its low part counts as error.

        Raises:
            ScaleError: the head is so large that its products with features overflow.
        """
        largest = float(x.high.abs().max())
        if not largest <= checks.LARGEST_ENTRY:
            raise ScaleError(
                f"head: the task makes its largest entry {largest:.3g}, and products of such entries overflow. "
                "The features are tiny beside the targets: multiply all features by a power of two, and the ridge by "
                "its square."
            )
        weights = rounded_up(errors[0] + norm_upper(x.low[:-1] if bias else x.low, dim=0))
        last = rounded_up(errors[1] + x.low[-1].abs()) if bias else None
        head = LinearHead(x.high[:-1].T.contiguous(), x.high[-1].clone()) if bias else LinearHead(x.high.T.contiguous())
        size = float(norm_upper(weights if last is None else torch.cat([weights, last])))
        relative = ratio(size, norm_lower(x.high))
        return cls(head, weights, last, relative, Status.of_bound(relative, tolerance, REMEDY))

    def predict(self, features: torch.Tensor) -> Predictions:
        """The outputs of the exact head [n, C], with bounds.  Cost: 2 n F C operations.

        Raises:
            DtypeError, ShapeError, DeviceError, NonFiniteError, ScaleError
        """
        value, rounding = self.head.predict(features)
        inherited = torch.outer(DesignMatrix(features.detach()).row_norms(), self.error_bound)
        if self.bias_error_bound is not None:
            inherited = inherited + self.bias_error_bound
        return Predictions(value, rounded_up(rounding + inherited))

    def __str__(self) -> str:
        return f"SequenceHead: {self.head}\n  within {self.relative_bound:.2e} of the exact one; {self.status}"
