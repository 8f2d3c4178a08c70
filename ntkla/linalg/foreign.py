"""Operators that other libraries made, as ours."""

from __future__ import annotations

import torch

from ntkla.linalg.linear_operator import LinearOperator
from ntkla.linalg.operators import FunctionOperator


def as_operator(given: object) -> object:
    """A `FunctionOperator` over an operator or sparse matrix of scipy; anything else as it is.

    Vectors travel through numpy on the CPU.  Nothing is known of its rounding, so what is proved is conditional, and
    its symmetry and definiteness are taken at its owner's word.
    """
    if isinstance(given, (LinearOperator, torch.Tensor)) or not hasattr(given, "shape"):
        return given
    from scipy.sparse import issparse
    from scipy.sparse.linalg import LinearOperator as ScipyOperator
    from scipy.sparse.linalg import aslinearoperator

    if not (isinstance(given, ScipyOperator) or issparse(given)):
        return given
    operator = aslinearoperator(given)
    dtype = torch.float32 if operator.dtype == "float32" else torch.float64

    def matmul(v: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(operator.matmat(v.numpy())).to(dtype)

    return FunctionOperator(matmul, tuple(operator.shape), dtype, "cpu", psd=True)
