"""The product `w -> Phi^T (Phi w)` that an iteration repeats: one read of the features for both factors.

Unlike the products that bounds are made of, it need not say how it rounds.  Where a Triton kernel is wanted that is the
primitive `normal_matmul`.  Else a block of rows is multiplied from both sides while it is in the cache, with w lying by
columns: on processors thin products run twice as fast so.
"""

from __future__ import annotations

import torch

from ntkla.linalg.backends.choices import most_features
from ntkla.linalg.backends.dispatch import Call, kernel_wanted
from ntkla.linalg.design import DesignMatrix
from ntkla.linalg.eigen.lanczos import Product
from ntkla.linalg.ops import normal_matmul

# Rows, and entries of narrow features, of a block that stays in a core's cache from its widening to the second product.
_ROWS, _ENTRIES = 128, 2**17


def normal_product(design: DesignMatrix) -> Product:
    """The product of the normal matrix S = Phi^T Phi with a float64 block [columns, b]: 4 n columns b operations.

    The product raises BackendError where Triton is forced and cannot run.
    """
    rows = max(_ROWS, _ENTRIES // design.columns) if design.device.type == "cpu" else None

    def by_kernel(w: torch.Tensor) -> torch.Tensor:
        out = torch.zeros_like(w)
        for _, block in design.blocks():
            out += normal_matmul(block, w, precision="float64")
        return out

    def by_torch(w: torch.Tensor) -> torch.Tensor:
        by_columns = w.T.contiguous()
        out = torch.zeros_like(by_columns)
        for _, block in design.blocks(rows):
            out += (by_columns @ block.T) @ block
        return out.T

    return lambda w: by_kernel(w) if _kernel_wanted(design, w) else by_torch(w)


def _kernel_wanted(design: DesignMatrix, w: torch.Tensor) -> bool:
    """Whether the table, or a caller, prefers the kernel for the whole product; blocks come in float64."""
    work = 2.0 * design.rows * design.columns * w.shape[1]
    call = Call("normal_matmul", w, design.columns, "float64", work)
    return design.columns <= most_features("normal_matmul") and kernel_wanted(call)
