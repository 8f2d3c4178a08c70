"""Operators that other libraries made, as ours."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from ntkla.linalg.errors import ArgumentError, DtypeError, NonFiniteError, ShapeError
from ntkla.linalg.linear_operator import LinearOperator
from ntkla.linalg.operators import FunctionOperator
from ntkla.linalg.precision import UNIT_ROUNDOFF, gamma


def as_operator(given: object) -> object:
    """A `FunctionOperator` over an operator or sparse matrix of scipy; anything else as it is.

    Vectors travel through numpy on the CPU, as copies.  Nothing is known of its rounding, so what is proved is
    conditional, and its symmetry and definiteness are taken at its owner's word.

    What other libraries work with is wrapped by hand, as long as it multiplies a matrix:

        FunctionOperator(operator.__matmul__, operator.shape, torch.float64, "cpu", psd=True)     # curvlinops
        FunctionOperator(operator.matmul, operator.shape, torch.float64, "cpu", psd=True)         # linear_operator

    Raises:
        DtypeError: it is complex, or a product is no array of real numbers.
        ShapeError, NonFiniteError, ArgumentError: a sparse array that is no square matrix, not finite, not symmetric.
    """
    if isinstance(given, (LinearOperator, torch.Tensor)) or not hasattr(given, "shape"):
        return given
    from scipy.sparse import issparse
    from scipy.sparse.linalg import LinearOperator as ScipyOperator
    from scipy.sparse.linalg import aslinearoperator

    if not (isinstance(given, ScipyOperator) or issparse(given)):
        return given
    if len(given.shape) != 2:
        raise ShapeError(f"operator: expected a sparse matrix, got an array of shape {given.shape}.")
    operator = aslinearoperator(given)
    kind = np.dtype(np.float32 if operator.dtype == "float32" else np.float64)
    if operator.dtype is not None and np.dtype(operator.dtype).kind not in "biuf":
        raise DtypeError(f"operator: expected real numbers, got {operator.dtype}. Take its real part if that is meant.")

    def matmul(v: torch.Tensor) -> torch.Tensor:
        # Copies both ways: it may write into what it is given, and return what torch refuses to read.
        product = np.asarray(operator.matmat(np.array(v.numpy(), order="C")))
        if product.dtype.kind not in "biuf":
            raise DtypeError(f"operator: expected products of real numbers, got an array of {product.dtype}.")
        return torch.from_numpy(np.array(product, dtype=kind, order="C"))

    dtype = torch.float32 if kind == np.float32 else torch.float64

    trace = _trace_of_symmetric(given) if issparse(given) else None
    return FunctionOperator(matmul, tuple(operator.shape), dtype, "cpu", psd=True, trace=trace)


def _trace_of_symmetric(matrix: Any) -> float:
    """The trace of a sparse matrix, rounded up.

    Raises:
        ShapeError: it is not square.
        NonFiniteError: it holds NaN or infinity.
        ArgumentError: it differs from its transpose by more than what sums of so many entries round.
    """
    rows, columns = matrix.shape
    matrix = matrix.tocsr()  # not every format knows its largest entry
    if not np.isfinite(matrix.data).all():
        raise NonFiniteError("operator: expected finite entries, got a sparse matrix with NaN or infinity. Clean it.")
    if rows != columns:
        raise ShapeError(
            f"operator: expected a square sparse matrix, got {rows} x {columns}. Sparse features are not taken: pass "
            "features.toarray() as a tensor, or the sparse product features @ features.T."
        )
    largest = float(abs(matrix).max()) if matrix.nnz else 0.0
    difference = float(abs(matrix - matrix.T).max()) if matrix.nnz else 0.0
    if difference > gamma(2 * rows, UNIT_ROUNDOFF[_stored(matrix)]) * largest:
        raise ArgumentError(
            f"operator: expected a symmetric matrix, got one that differs from its transpose by {difference:.3g}. "
            "Pass (matrix + matrix.T) / 2 if that is meant."
        )
    return float(matrix.diagonal().sum()) * (1.0 + gamma(2 * rows))


def _stored(matrix: Any) -> torch.dtype:
    return torch.float32 if matrix.dtype == "float32" else torch.float64
