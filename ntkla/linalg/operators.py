"""Gram matrices of features as operators, and the operator that somebody else brings.

Rounding of `y = L (R^T v)` in float64 (L [n, F], R [m, F]): the inner product loses at most `g_R |R|^T |v|` with
`g_R = gamma_(R.summands)`, the outer one `g_L |L| |R^T v|` with `g_L = pieced_gamma(F)`, together `g |L| |R|^T |v|`,
`g = g_R + g_L + g_R g_L`.  By Cauchy-Schwarz the 2-norm of that is at most `g ||L||_F sum_j ||r_j|| |v_j|`, which costs
O(m) a column once the norms are known.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cached_property

import torch

from ntkla.linalg import checks
from ntkla.linalg.arithmetic.products import pairwise_depth, pairwise_sums, pieced_gamma
from ntkla.linalg.design import DesignMatrix
from ntkla.linalg.errors import ArgumentError, DeviceError, DtypeError, ShapeError
from ntkla.linalg.linear_operator import LinearOperator
from ntkla.linalg.precision import TINY64, gamma, norm_upper, rounded_up
from ntkla.linalg.solve.normal import exactly_zero

# Rows and entries of a block whose squares stay in a core's cache while they are added up.
_LEAST_ROWS, _CACHED = 64, 2**18


class CrossGram(LinearOperator):
    """The cross-Gram matrix `Phi_left Phi_right^T` [n_left, n_right], never formed.

    Args:
        features_left: [n_left, F], float64, float32, bfloat16 or float16, any strides.
        features_right: [n_right, F], same dtype and device.
        bias: appends a constant feature 1 to both sides, which adds 1 to every entry.

    Products are float64 and taken with the stored features exactly.  A product with [n_right, m] costs
    `2 (n_left + n_right) F m` operations and one read of each feature matrix.  Deterministic for fixed inputs
    (strides included), versions and thread count.

    Raises:
        DtypeError, ShapeError, DeviceError, NonFiniteError, ScaleError, ArgumentError
    """

    def __init__(self, features_left: torch.Tensor, features_right: torch.Tensor, bias: bool = False) -> None:
        left = checks.matrix("features_left", features_left)
        right = checks.matrix("features_right", features_right, columns=left.shape[1])
        checks.one_dtype(features_left=left, features_right=right)
        device = checks.one_device(features_left=left, features_right=right)
        flag = checks.flag("bias", bias)
        self.left = DesignMatrix(left, flag)
        self.right = self.left if features_right is features_left else DesignMatrix(right, flag)
        super().__init__((left.shape[0], right.shape[0]), torch.float64, device, psd=False)

    @cached_property
    def T(self) -> LinearOperator:
        """The Gram matrix of right against left."""
        return CrossGram(self.right.features, self.left.features, self.right.bias)

    def trace(self) -> float:
        """The sum of `<left_i, right_i>`, for as many rows on the left as on the right; ShapeError otherwise."""
        self._square("trace()")
        blocks = zip(self.left.blocks(), self.right.blocks(), strict=True)
        return math.fsum(float((left * right).sum()) for (_, left), (_, right) in blocks)

    def _matmat(self, v: torch.Tensor) -> torch.Tensor:
        return self.left.matmul(self.right.rmatmul(v))

    @cached_property
    def _norms(self) -> tuple[float, float, torch.Tensor]:
        """Upper bounds of ||L||_F, of ||R||_F, and of the norms of R's rows."""
        right = self.right.frobenius()
        return right if self.left is self.right else self.left.frobenius(), right, self.right.row_norms()

    def _error_bound(self, v: torch.Tensor) -> torch.Tensor:
        left, right = self.left, self.right
        left_norm, right_norm, right_norms = self._norms
        # A sum of n non-negative products is at most 1 / (1 - gamma_n) <= 1 + gamma_2n times what was computed.
        weighted = right_norms @ (v.abs() + TINY64) * (1.0 + gamma(2 * right.rows + 2)) + 2 * right.rows * TINY64
        inner, outer = gamma(right.summands), pieced_gamma(left.columns)
        bound = (inner + outer + inner * outer) * left_norm * weighted
        # What underflows in the two products, and what flushed arithmetic drops from the features and from v.
        dropped = left.flushed_mass() * right_norm + left_norm * right.flushed_mass()
        constant = (
            left_norm * math.sqrt(right.columns) * 4 * right.rows
            + math.sqrt(left.rows) * 2 * left.columns
            + left_norm * right_norm * math.sqrt(right.rows)
        )
        return rounded_up(bound + 2.0 * dropped * norm_upper(v, dim=0) + constant * TINY64)

    def to_dense(self) -> torch.Tensor:
        """The matrix itself, float64 [n_left, n_right]; each entry off by at most `gamma_F |phi_i| |phi_j|`.

        Raises:
            MemoryEstimateError: before anything is allocated, when it will not fit.
        """
        checks.memory(f"{self}.to_dense()", self._dense_bytes(), self.device)
        out = torch.empty(self.shape, dtype=torch.float64, device=self.device)
        for rows, block in self.left.blocks():
            for columns, other in self.right.blocks():
                out[rows, columns] = block @ other.T
        return out


def squared_norms(design: DesignMatrix) -> tuple[torch.Tensor, torch.Tensor]:
    """Lower and upper bounds of the squared norms of the rows, float64 [n] each; one pass over the features."""
    squares = torch.empty(design.rows, dtype=torch.float64, device=design.device)
    few = max(_LEAST_ROWS, _CACHED // design.columns) if design.device.type == "cpu" else None
    for rows, block in design.blocks(few):
        squares[rows] = pairwise_sums(block * block)
    rounding = gamma(2 * pairwise_depth(design.columns) + 4)
    underflow = 4 * design.columns * TINY64
    low = (squares * (1.0 - rounding) - underflow).clamp(min=0.0)
    if not design.bias and not bool(low.any()) and exactly_zero(design.features):
        return low, torch.zeros_like(low)
    return low, rounded_up(squares * (1.0 + rounding) + underflow)


class GramOperator(CrossGram):
    """The Gram matrix `Phi Phi^T` [n, n], symmetric positive semidefinite, never formed.

    Args:
        features: [n, F], float64, float32, bfloat16 or float16, any strides.
        bias: appends a constant feature 1, which adds 1 to every entry.

    Cost, rounding and errors as for `CrossGram`.
    """

    def __init__(self, features: torch.Tensor, bias: bool = False) -> None:
        features = checks.matrix("features", features)
        super().__init__(features, features, bias)
        self.design = self.left
        self.psd = True

    @property
    def T(self) -> LinearOperator:
        """Itself: the matrix is symmetric."""
        return self

    def diagonal_bounds(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Lower and upper bounds of the squared norms of the rows, float64 [n] each; one pass over the features."""
        return squared_norms(self.design)

    def to_dense(self) -> torch.Tensor:
        """The matrix itself, float64 [n, n], exactly symmetric; otherwise as `CrossGram.to_dense`."""
        checks.memory(f"{self}.to_dense()", self._dense_bytes(), self.device)
        out = torch.empty(self.shape, dtype=torch.float64, device=self.device)
        for rows, block in self.design.blocks():
            for columns, other in self.design.blocks():
                if columns.start > rows.start:
                    break
                out[rows, columns] = block @ other.T
            out[: rows.start, rows] = out[rows, : rows.start].T
            # The two halves of the diagonal block may differ by a rounding: the lower one decides.
            square = out[rows, rows]
            square.copy_(square.tril() + square.tril(-1).T)
        return out


class FunctionOperator(LinearOperator):
    """Anybody's operator: a function that multiplies, and what its owner knows about it.

    Args:
        matmul: takes [N, m] of `dtype` on `device`, returns [M, m] of the same type there, for every m >= 1.
        shape: (M, N).
        dtype: float64, float32, bfloat16 or float16: the type that `matmul` takes and returns.
        device: where it works.
        psd: the owner's word that it is symmetric positive semidefinite; nothing here can check it.
        matmul_error: a number e with `||matmul(v) - K v||_2 <= e ||v||_2` for every column v, rounding and underflow
            included, or None: then every bound is conditional, for the operator as evaluated.
        trace: the sum of its diagonal, taken as exact, or None: then completeness cannot be proved by the trace.

    Raises:
        ArgumentError, ShapeError, DtypeError, DeviceError.  From a product also ShapeError, DtypeError, DeviceError or
        NonFiniteError when `matmul` breaks its contract.
    """

    def __init__(
        self,
        matmul: Callable[[torch.Tensor], torch.Tensor],
        shape: Sequence[int],
        dtype: torch.dtype,
        device: torch.device | str,
        *,
        psd: bool = False,
        matmul_error: float | None = None,
        trace: float | None = None,
    ) -> None:
        if not callable(matmul):
            raise DtypeError(f"matmul: expected a function from [N, m] to [M, m], got {type(matmul).__name__}.")
        if dtype not in checks.FLOATING:
            raise DtypeError(f"dtype: expected float64, float32, bfloat16 or float16, got {dtype!r}.")
        if isinstance(shape, (str, bytes)) or not isinstance(shape, Sequence) or len(shape) != 2:
            raise ShapeError(f"shape: expected two lengths (M, N), got {shape!r}.")
        rows, columns = (checks.integer("shape", length, least=1) for length in shape)
        super().__init__((rows, columns), dtype, _device(device), checks.flag("psd", psd))
        if self.psd:
            self._square("psd")
        self.matmul = matmul
        self.matmul_error = None if matmul_error is None else checks.number("matmul_error", matmul_error)
        self._trace = None if trace is None else checks.number("trace", trace)
        if self.matmul_error is not None and self.matmul_error < 0:
            raise ArgumentError(f"matmul_error: expected a bound >= 0, got {matmul_error!r}.")
        if self.psd and self._trace is not None and self._trace < 0:
            raise ArgumentError(f"trace: expected >= 0 for a positive semidefinite operator, got {trace!r}.")

    @property
    def T(self) -> LinearOperator:
        """Itself when `psd`; ArgumentError otherwise, since a product does not tell the transpose."""
        if not self.psd:
            raise ArgumentError(f"{self}.T: the transpose is not known. Build a FunctionOperator for it.")
        return self

    def trace(self) -> float | None:
        """The trace that was given, None where none was."""
        return self._trace

    def trace_bounds(self) -> tuple[float, float] | None:
        """The trace that was given, taken at its owner's word; None where none was."""
        return None if self._trace is None else (self._trace, self._trace)

    def _matmat(self, v: torch.Tensor) -> torch.Tensor:
        product = checks.matrix(f"{self}: matmul(v)", self.matmul(v), rows=self.shape[0], columns=v.shape[1])
        checks.one_device(v=v, product=product)
        if product.dtype != self.dtype:
            raise DtypeError(f"{self}: expected matmul to return {self.dtype}, got {product.dtype}.")
        return product

    def _error_bound(self, v: torch.Tensor) -> torch.Tensor:
        if self.matmul_error is None:
            return torch.full((v.shape[1],), math.inf, dtype=torch.float64, device=self.device)
        return rounded_up(self.matmul_error * norm_upper(v, dim=0))


def _device(device: object) -> torch.device:
    """`device` as torch names it; DeviceError when it names none."""
    try:
        return torch.device(device)  # type: ignore[call-overload, no-any-return]
    except (RuntimeError, TypeError) as cause:
        raise DeviceError(f"device: expected a device such as 'cpu' or 'cuda:0', got {device!r}.") from cause
