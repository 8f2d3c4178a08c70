"""A design with more rows below the features: pseudo-samples, given in float64 with every column of their own.

The features are not copied, and every product, factor and bound of a design holds for the stacked one, because all of
them see blocks of rows.  Its last column is no constant, even where the features have a bias: below the ones it holds
whatever the further rows say.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from ntkla.linalg.design import Design, DesignMatrix, Part
from ntkla.linalg.precision import norm_upper


class StackedDesign(Design):
    """`[Phi; Z]`: the rows of a design matrix [n, columns], then further rows [k, columns], float64.

    Attributes:
        top: Phi.
        further: Z.
        rows, columns: n + k and those of Phi, its bias counted.
        block_rows: that of Phi.
        bias: False.
    """

    def __init__(self, top: DesignMatrix, further: torch.Tensor) -> None:
        self.top, self.further = top, further
        self.rows = top.rows + further.shape[0]
        self.columns = top.columns
        self.block_rows = top.block_rows
        self.bias = False

    @property
    def device(self) -> torch.device:
        """The device of the features."""
        return self.top.device

    @property
    def dtype(self) -> torch.dtype:
        """The type of the features: a factor of the precision that suits them is tried first."""
        return self.top.dtype

    @property
    def parts(self) -> tuple[Part, ...]:
        """Phi and Z."""
        return (Part(0, self.top), Part(self.top.rows, DesignMatrix(self.further)))

    def blocks(self, block_rows: int | None = None) -> Iterator[tuple[slice, torch.Tensor]]:
        """As for every `Design`; one block may hold the last rows of Phi and the first of Z."""
        step = self.block_rows if block_rows is None else block_rows
        done = 0
        for rows, block in self.top.blocks(step):
            done = min(rows.start + step, self.rows)
            filled = block if rows.stop == done else torch.cat([block, self.further[: done - rows.stop]])
            yield slice(rows.start, done), filled
        for start in range(done, self.rows, step):
            stop = min(start + step, self.rows)
            yield slice(start, stop), self.further[start - self.top.rows : stop - self.top.rows]

    def row_norms(self) -> torch.Tensor:
        """Upper bounds of the row norms, float64 [n + k]."""
        return torch.cat([self.top.row_norms(), norm_upper(self.further, dim=1)])

    def selected(self, rows: torch.Tensor) -> StackedDesign:
        """The same with some rows only, a mask [n + k]; they are copied."""
        n = self.top.rows
        return StackedDesign(self.top.selected(rows[:n]), self.further[rows[n:]])
