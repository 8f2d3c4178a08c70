"""The product `w -> Phi^T (Phi w)` that an iteration repeats: one read of the features for both factors.

Unlike the products that bounds are made of, it need not say how it rounds.  On the CPU a block of rows is multiplied
from both sides while it is in the cache, with w lying by columns: thin products run twice as fast so.
"""

from __future__ import annotations

import torch

from ntkla.linalg.design import DesignMatrix
from ntkla.linalg.lanczos import Product

# Rows of a block that stay in a core's cache between the two products.
_ROWS = 256


def normal_product(design: DesignMatrix) -> Product:
    """The product of the normal matrix S = Phi^T Phi with a float64 block [columns, b]: 4 n columns b operations."""

    def product(w: torch.Tensor) -> torch.Tensor:
        by_columns = w.T.contiguous()
        out = torch.zeros_like(by_columns)
        for _, block in design.blocks():
            for part in torch.split(block, _ROWS):
                out += (by_columns @ part.T) @ part
        return out.T

    return product
