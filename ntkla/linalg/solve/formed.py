"""The matrices that factors are made of: formed by a Triton kernel or cuBLAS where that is wanted, else in torch.

A factor decides how many corrections are needed, never what is true, so nothing is proved of these matrices, and the
fastest mode that the table takes will do, "split" for float32.  Without a kernel they are those of `normal.py`.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from ntkla.linalg.backends.dispatch import Call, at_best, implementation, last_dispatch
from ntkla.linalg.backends.primitive import arithmetic
from ntkla.linalg.design import Design, DesignMatrix
from ntkla.linalg.ops import gram
from ntkla.linalg.solve.normal import float32_normal_matrix, float64_normal_matrix, gram_matrix
from ntkla.linalg.solve.weights import SampleWeights

# Features in one launch, 128 MiB in float64: weighted rows are copies, and so are 16-bit ones for mode "float64".
_SLAB_ENTRIES = 2**24


class Formed(NamedTuple):
    """A symmetric matrix, and what formed it: such as "triton:gram:ieee", or None for torch."""

    matrix: torch.Tensor
    kernel: str | None


def formed_normal_matrix(design: Design, weights: SampleWeights | None, dtype: torch.dtype) -> Formed:
    """About `Phi^T D Phi` in `dtype`, float32 or float64, exactly symmetric.

    Raises:
        BackendError: Triton or cuBLAS is forced and cannot run.
    """
    double = dtype == torch.float64
    if not _gram_wanted(design.parts[0].design.features.T, double):
        form = float64_normal_matrix if double else float32_normal_matrix
        return Formed(form(design, weights), None)
    matrix = torch.zeros((design.columns, design.columns), dtype=dtype, device=design.device)
    step = max(1, _SLAB_ENTRIES // design.columns)
    for first, part in design.parts:
        roots = None if weights is None else weights.roots[first : first + part.rows, None].to(dtype)
        for start in range(0, part.rows, step):
            rows = slice(start, start + step)
            if roots is None:
                _add_squares(matrix, part.features[rows], part.bias, double)
            else:
                scaled = part.features[rows].to(dtype) * roots[rows]
                _add_squares(matrix, torch.cat([scaled, roots[rows]], 1) if part.bias else scaled, False, double)
    return Formed(matrix, last_dispatch())


def formed_gram_matrix(design: Design) -> Formed:
    """About `Phi Phi^T` in float64, exactly symmetric.

    Raises:
        BackendError: Triton or cuBLAS is forced and cannot run.
    """
    if not isinstance(design, DesignMatrix):
        return _formed_by_parts(design)
    if not _gram_wanted(design.features, True):
        return Formed(gram_matrix(design).matrix, None)
    matrix = torch.zeros((design.rows, design.rows), dtype=torch.float64, device=design.device)
    for columns in torch.split(design.features, max(1, _SLAB_ENTRIES // design.rows), dim=1):
        matrix += gram(columns, precision="float64")
    return Formed(matrix.add_(float(design.bias)), last_dispatch())


def _formed_by_parts(design: Design) -> Formed:
    """The Gram matrices of all parts, and their products with one another."""
    matrix = torch.empty((design.rows, design.rows), dtype=torch.float64, device=design.device)
    kernel = None
    for first, part in design.parts:
        own = slice(first, first + part.rows)
        matrix[own, own], formed_by = formed_gram_matrix(part)
        kernel = formed_by if kernel is None else kernel
        for start, earlier in design.parts:
            if start < first:
                other = slice(start, start + earlier.rows)
                matrix[other, own] = earlier.matmul(torch.cat([block.T for _, block in part.blocks()], 1))
                matrix[own, other] = matrix[other, own].T
    return Formed(matrix, kernel)


def _gram_wanted(x: torch.Tensor, double: bool) -> bool:
    (rows, summed), precision = x.shape, _precision(double)
    call = Call("gram", x, summed, arithmetic(x.dtype, precision), float(rows) * rows * summed, symmetric=True)
    return implementation(at_best(call, precision)) != "torch"


def _precision(double: bool) -> str:
    return "float64" if double else "auto"


def _add_squares(matrix: torch.Tensor, rows: torch.Tensor, bias: bool, double: bool) -> None:
    """Adds `[rows, 1]^T [rows, 1]`, the constant only with a bias."""
    features = rows.shape[1]
    matrix[:features, :features] += gram(rows.T, precision=_precision(double))
    if bias:
        sums = rows.sum(0, dtype=matrix.dtype)
        matrix[features, :features] += sums
        matrix[:features, features] += sums
        matrix[features, features] += rows.shape[0]
