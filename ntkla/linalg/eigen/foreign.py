"""Operators that other libraries made, as ours."""

from __future__ import annotations

import numpy as np
import torch

from ntkla.linalg.errors import DtypeError
from ntkla.linalg.linear_operator import LinearOperator
from ntkla.linalg.operators import FunctionOperator


def as_operator(given: object) -> object:
    """A `FunctionOperator` over an operator or sparse matrix of scipy; anything else as it is.

    Vectors travel through numpy on the CPU, as copies.  Nothing is known of its rounding, so what is proved is
    conditional, and its symmetry and definiteness are taken at its owner's word.

    What other libraries work with is wrapped by hand, as long as it multiplies a matrix:

        FunctionOperator(operator.__matmul__, operator.shape, torch.float64, "cpu", psd=True)     # curvlinops
        FunctionOperator(operator.matmul, operator.shape, torch.float64, "cpu", psd=True)         # linear_operator

    Raises:
        DtypeError: it is complex, or a product is no array of real numbers.
    """
    if isinstance(given, (LinearOperator, torch.Tensor)) or not hasattr(given, "shape"):
        return given
    from scipy.sparse import issparse
    from scipy.sparse.linalg import LinearOperator as ScipyOperator
    from scipy.sparse.linalg import aslinearoperator

    if not (isinstance(given, ScipyOperator) or issparse(given)):
        return given
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

    return FunctionOperator(matmul, tuple(operator.shape), dtype, "cpu", psd=True)
