"""What stands beside the kernels of `gram` and `normal_matmul`: what their results must be, and cuBLAS for `gram`."""

from __future__ import annotations

import torch

from ntkla.linalg.backends import cublas
from ntkla.linalg.backends.dispatch import Library
from ntkla.linalg.backends.freivalds import Expected, Factor, Reference, product_reference
from ntkla.linalg.backends.primitive import accumulation_dtype, converted, gram_roundings, normal_roundings
from ntkla.linalg.design import DesignMatrix
from ntkla.linalg.precision import UNIT_ROUNDOFF, gamma


def gram_reference(x: torch.Tensor, y: torch.Tensor | None, bias: bool, precision: str) -> Reference:
    """`[x, 1] [y, 1]^T`, the ones with a bias; off by what `gram` says."""
    wide = accumulation_dtype(x.dtype, precision)

    def reference(v: torch.Tensor) -> Expected:
        if x.shape[1] + int(bias) == 0:
            return Expected(torch.zeros_like(v[:1]).expand(x.shape[0], -1), torch.zeros_like(v[:1, :1]))
        left = _design(x, bias)
        right = left if y is None else _design(y, bias)
        error = gamma(gram_roundings(x.shape[1], x.dtype, precision), UNIT_ROUNDOFF[wide])
        return product_reference((Factor(left), Factor(right, transposed=True)), error, dtype=wide)(v)

    return reference


def normal_reference(
    x: torch.Tensor, w: torch.Tensor, weights: torch.Tensor | None, bias: bool, precision: str
) -> Reference:
    """`[x, 1]^T (weights * ([x, 1] w))`; off by what `normal_matmul` says."""
    wide = accumulation_dtype(x.dtype, precision)

    def reference(v: torch.Tensor) -> Expected:
        if x.shape[1] + int(bias) == 0 or x.shape[0] == 0:
            return Expected(v.new_zeros((w.shape[0], v.shape[1])), v.new_zeros((1, 1)))
        design = _design(x, bias)
        middle = () if weights is None else (weights,)
        factors = (Factor(design, transposed=True), *middle, Factor(design), Factor(_design(w, False)))
        error = gamma(normal_roundings(*x.shape), UNIT_ROUNDOFF[wide])
        return product_reference(factors, error, dtype=wide)(v)

    return reference


def gram_by_cublas(x: torch.Tensor, bias: bool, working: torch.dtype, wide: torch.dtype) -> Library:
    """The symmetric Gram matrix by cuBLAS, in the type `working` that torch would multiply in."""

    def compute() -> torch.Tensor:
        return cublas.gram(converted(x.detach(), working), bias).to(wide)

    mode = "float64" if working == torch.float64 else "ieee"
    return Library("cublas", mode, why_not=lambda: cublas.why_not(x.device, working), compute=compute)


def _design(x: torch.Tensor, bias: bool) -> DesignMatrix:
    return DesignMatrix(x.detach().resolve_neg(), bias)
