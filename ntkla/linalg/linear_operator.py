"""What a linear operator is here: a matrix known through its products, checked at the door and honest about rounding.

`__matmul__` validates and calls `_matmat`, so an operator is its `_matmat`, its `error_bound` and its trace.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

import numpy as np
import torch

from ntkla.linalg import checks
from ntkla.linalg.design import widened
from ntkla.linalg.errors import DeviceError, DtypeError, ShapeError
from ntkla.linalg.precision import SHORT_CHAIN, TINY64

if TYPE_CHECKING:
    import scipy.sparse.linalg

# A product with the identity is formed in blocks of this many columns, so that it needs little beside its result.
_DENSE_COLUMNS = 256


class LinearOperator(ABC):
    """A real matrix [M, N] of which only products are formed.

    Attributes:
        shape: (M, N).
        dtype: the type of its products; vectors of this type or an exactly contained one are accepted.
        device: where its products are computed; vectors must lie there.
        psd: True when it is symmetric and positive semidefinite by construction or by its owner's word.

    Not differentiable: what goes in is detached, features included.  Features are not copied: leave them as they are
    while the operator is in use.
    """

    def __init__(self, shape: tuple[int, int], dtype: torch.dtype, device: torch.device, psd: bool) -> None:
        self.shape = torch.Size(shape)
        self.dtype = dtype
        self.device = device
        self.psd = psd

    def __matmul__(self, v: torch.Tensor) -> torch.Tensor:
        """`K @ v` for v [N] or [N, m]: shape [M] or [M, m], in `dtype`.

        Raises:
            DtypeError, ShapeError, NonFiniteError, ScaleError, DeviceError
        """
        block = self._block(v)
        product = self._matmat(block)
        return product[:, 0] if v.ndim == 1 else product

    def error_bound(self, v: torch.Tensor) -> torch.Tensor:
        """Upper bounds of the rounding error of `K @ v`: the 2-norm of each column's error.

        Args:
            v: [N] or [N, m], as for `K @ v`.

        Returns:
            float64, a scalar or [m]; infinite where nothing is known about the operator's rounding.

        Raises:
            DtypeError, ShapeError, NonFiniteError, ScaleError, DeviceError
        """
        bounds = self._error_bound(widened(self._block(v)))
        return bounds[0] if v.ndim == 1 else bounds

    @abstractmethod
    def _matmat(self, v: torch.Tensor) -> torch.Tensor:
        """The product with a checked block [N, m] of type `dtype`."""

    @abstractmethod
    def _error_bound(self, v: torch.Tensor) -> torch.Tensor:
        """`error_bound` for a checked float64 block [N, m]: float64 [m]."""

    @abstractmethod
    def trace(self) -> float | None:
        """The sum of the diagonal, None where it is not known.  ShapeError for an operator that is not square."""

    def output_layout(self) -> tuple[int, str] | None:
        """Of a kernel over n samples and C outputs, C and its order; None for other operators.

        The entry of sample i and output c stands at `c n + i` of a vector in the order `"class"`, at `i C + c` in
        `"sample"`.
        """
        return None

    def diagonal_bounds(self) -> tuple[torch.Tensor, torch.Tensor] | None:
        """Lower and upper bounds of the diagonal, float64 [N] each, rounding included; None where they are not known.

        For a positive semidefinite operator the lower ones are not negative.
        """
        return None

    def trace_bounds(self) -> tuple[float, float] | None:
        """A lower and an upper bound of the trace, rounding included; None where they are not known."""
        diagonal = self.diagonal_bounds()
        return None if diagonal is None else summed_bounds(*diagonal)

    @property
    @abstractmethod
    def T(self) -> LinearOperator:
        """The transpose, itself matrix-free."""

    @property
    def mH(self) -> LinearOperator:
        """The adjoint: the transpose, since every operator here is real."""
        return self.T

    def to_dense(self) -> torch.Tensor:
        """The matrix itself, [M, N] in `dtype`.

        Raises:
            MemoryEstimateError: before anything is allocated, when it will not fit.
        """
        rows, columns = self.shape
        checks.memory(f"{self}.to_dense()", self._dense_bytes(), self.device)
        out = torch.empty((rows, columns), dtype=self.dtype, device=self.device)
        for start in range(0, columns, _DENSE_COLUMNS):
            width = min(_DENSE_COLUMNS, columns - start)
            unit = torch.zeros((columns, width), dtype=self.dtype, device=self.device)
            unit[start : start + width].fill_diagonal_(1.0)
            out[:, start : start + width] = self._matmat(unit)
        return out

    def _dense_bytes(self) -> int:
        rows, columns = self.shape
        return (rows * columns + (rows + columns) * min(columns, _DENSE_COLUMNS)) * self.dtype.itemsize

    def to_scipy(self) -> scipy.sparse.linalg.LinearOperator:
        """A `scipy.sparse.linalg.LinearOperator` over the same products; vectors travel through numpy on the CPU.

        scipy's vectors are converted to `dtype`, which rounds them when that is narrower than float64.

        Raises:
            DtypeError: for a bfloat16 operator, which numpy cannot hold.
        """
        from scipy.sparse.linalg import LinearOperator as ScipyOperator

        if self.dtype == torch.bfloat16:
            raise DtypeError(f"{self}.to_scipy(): numpy has no bfloat16. Make the operator in float32.")
        kind = torch.empty(0, dtype=self.dtype, device="cpu").numpy().dtype

        def product(operator: LinearOperator, x: np.ndarray) -> np.ndarray:
            # A copy, because numpy's vectors may be read-only or run backwards, which torch refuses.
            v = torch.from_numpy(np.array(x, dtype=kind, order="C"))
            return (operator @ v.to(self.device)).cpu().numpy()

        def adjoint(x: np.ndarray) -> np.ndarray:
            return product(self.T, x)

        return ScipyOperator(
            shape=tuple(self.shape),
            dtype=kind,
            matvec=lambda x: product(self, x),
            matmat=lambda x: product(self, x),
            rmatvec=adjoint,
            rmatmat=adjoint,
        )

    def _block(self, v: torch.Tensor) -> torch.Tensor:
        """`v` checked, as a block [N, m] of type `dtype`."""
        name = f"{self} @ v"
        if isinstance(v, torch.Tensor) and v.ndim not in (1, 2):
            raise ShapeError(
                f"{name}: expected v of shape [{self.shape[1]}] or [{self.shape[1]}, m], got {tuple(v.shape)}."
            )
        is_vector = isinstance(v, torch.Tensor) and v.ndim == 1 and v.layout is torch.strided
        block = checks.matrix(name, v[:, None] if is_vector else v, rows=self.shape[1])
        if block.device != self.device:
            raise DeviceError(f"{name}: expected v on {self.device}, got {block.device}. Move it with .to(device).")
        if torch.promote_types(block.dtype, self.dtype) != self.dtype:
            raise DtypeError(
                f"{name}: expected v in {self.dtype}, got {block.dtype}, which would be rounded. Use .to(...)."
            )
        return widened(block) if self.dtype == torch.float64 else block.to(self.dtype)

    def _square(self, what: str) -> None:
        if self.shape[0] != self.shape[1]:
            raise ShapeError(f"{self}.{what}: expected a square operator, got shape {tuple(self.shape)}.")

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.shape[0]} x {self.shape[1]})"


def summed_bounds(low: torch.Tensor, high: torch.Tensor) -> tuple[float, float]:
    """Bounds of the sum of non-negative numbers that lie between `low` and `high`, float64 [n] each."""
    least, most = (math.fsum(bound.tolist()) for bound in (low, high))
    # `fsum` rounds once, and where subnormal numbers are flushed it loses one `tiny` a term at most.
    flushed = low.shape[0] * TINY64
    return max(0.0, least / SHORT_CHAIN - flushed), most * SHORT_CHAIN + flushed if most > 0.0 else 0.0
