"""The design matrix: stored features, read as exact float64 row blocks.

`Design` is how every algorithm sees features.  `DesignMatrix` is one stored tensor: it adds the bias column (one more
feature that is 1 for every sample) and widens narrow types block by block, so no second copy of the features is ever
made.  `stacked_design.StackedDesign` has more rows below one.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import NamedTuple

import torch

from ntkla.linalg import host
from ntkla.linalg.arithmetic.probe import require_conventional_products
from ntkla.linalg.arithmetic.products import PIECE, add_matmul, pieced_matmul
from ntkla.linalg.precision import SHORT_CHAIN, TINY64, UNIT_ROUNDOFF, flushes_subnormals, gamma, norm_upper

# At most 32 MiB a block: fewer rows would spend the time of wide features on adding up their many small products.
_BLOCK_ENTRIES = 2**22
MOST_BLOCK_ROWS = 1024
# Factors of at most this many columns are multiplied as rows on the CPU, with blocks of few rows: a whole number of
# pieces, and in the cache from their widening to their product.
_THIN, _THIN_ROWS = 128, 2 * PIECE
# Norms between these lose less than a rounding to squares that vanish, and none to squares that overflow.
_SQUARES_KEPT = {torch.float64: (2.0**-400, 2.0**500), torch.float32: (2.0**-40, 2.0**60)}
# Below this norm, squares that vanished may be what it is made of.
_ALL_BUT_ZERO = 2.0**-450


def widened(x: torch.Tensor) -> torch.Tensor:
    """`x` in float64, exactly, whether this thread's arithmetic flushes subnormal numbers or not."""
    return _decoded(x, flushes_subnormals()).to(torch.float64)


def _decoded(part: torch.Tensor, flushed: bool) -> torch.Tensor:
    """`part`, ready to be copied into float64.

    Flushed arithmetic would turn float32 and bfloat16 subnormals into zeros: those are decoded from their bits.
    """
    if not flushed or part.dtype not in (torch.float32, torch.bfloat16):
        return part
    part = part.to(torch.float32)
    bits = part.contiguous().view(torch.int32)
    subnormal = (bits & 0x7F800000) == 0
    magnitude = (bits & 0x007FFFFF).to(torch.float64) * 2.0**-149
    decoded = torch.where(bits < 0, -magnitude, magnitude)
    return torch.where(subnormal, decoded, part.to(torch.float64))


class Part(NamedTuple):
    """One stored tensor of a design, and the row of the design where its rows begin."""

    start: int
    design: DesignMatrix


class Design(ABC):
    """An exact n x columns matrix of float64 numbers that is read in blocks of rows.

    Attributes:
        rows, columns: n and K.
        block_rows: rows in a block, a power of two between 256 and `MOST_BLOCK_ROWS`.
        bias: whether the last column is the constant 1.
    """

    rows: int
    columns: int
    block_rows: int
    bias: bool

    @property
    @abstractmethod
    def device(self) -> torch.device:
        """Where the rows are."""

    @property
    @abstractmethod
    def dtype(self) -> torch.dtype:
        """The type that the features are stored in."""

    @property
    @abstractmethod
    def parts(self) -> tuple[Part, ...]:
        """The stored tensors that it consists of, from the first row to the last."""

    @abstractmethod
    def blocks(self, block_rows: int | None = None) -> Iterator[tuple[slice, torch.Tensor]]:
        """Yields (rows, block): the block is float64 [m, columns], equal to the stored values, m at most `block_rows`.

        All blocks but the last have `block_rows` rows.  A block may be a view of the features or of a buffer that the
        next one overwrites: use it, do not keep or change it.
        """

    @abstractmethod
    def row_norms(self) -> torch.Tensor:
        """Upper bounds of the row norms, float64 [n]."""

    @abstractmethod
    def selected(self, rows: torch.Tensor) -> Design:
        """The same with some rows only, a mask [n]; they are copied."""

    def matmul(self, w: torch.Tensor) -> torch.Tensor:
        """Phi w in float64: w [columns, m] -> [n, m], off by at most pieced_gamma(columns) |Phi| |w|."""
        out = torch.empty((self.rows, w.shape[1]), dtype=torch.float64, device=self.device)
        thin = self._thin(w)
        by_columns = w.T.contiguous() if thin else w
        for rows, block in self.blocks(_THIN_ROWS if thin else None):
            out[rows] = pieced_matmul(by_columns, block.T).T if thin else pieced_matmul(block, w)
        return out

    def rmatmul(self, t: torch.Tensor, weights: torch.Tensor | None = None) -> torch.Tensor:
        """Phi^T t in float64: t [n, m] -> [columns, m], off by at most gamma_`summands` |Phi|^T |t| (+ underflow).

        With weights [n] it is Phi^T (weights * t); a t of more than 128 columns is multiplied block by block.
        """
        if self._thin(t):
            by_columns = t.T.contiguous() if weights is None else (t * weights[:, None]).T.contiguous()
            turned = torch.zeros((t.shape[1], self.columns), dtype=torch.float64, device=self.device)
            for rows, block in self.blocks(_THIN_ROWS):
                add_matmul(turned, by_columns[:, rows], block)
            return turned.T.contiguous()
        out = torch.zeros((self.columns, t.shape[1]), dtype=torch.float64, device=self.device)
        for rows, block in self.blocks():
            add_matmul(out, block.T, t[rows] if weights is None else t[rows] * weights[rows, None])
        return out

    def _thin(self, factor: torch.Tensor) -> bool:
        """Whether products with this factor are twice as fast when it lies by columns: few of them, on the CPU."""
        return self.device.type == "cpu" and 1 < factor.shape[1] <= _THIN

    @property
    def summands(self) -> int:
        """The n of gamma_n for a sum over rows made block by block: within a piece, then over the pieces."""
        pieces = -(-min(self.block_rows, self.rows) // PIECE) * -(-self.rows // self.block_rows)
        return min(self.rows, PIECE) + pieces

    def frobenius(self) -> float:
        """Upper bound of the Frobenius norm."""
        return float(norm_upper(self.row_norms()))

    def flushed_mass(self) -> float:
        """Upper bound of the Frobenius norm of what flushed float64 arithmetic may drop from the stored values."""
        return TINY64 * math.sqrt(self.rows * self.columns)


class DesignMatrix(Design):
    """Features [n, F], as stored, with an optional bias column: an exact n x columns matrix.

    Attributes:
        features: the stored tensor, any strides, float64 or narrower.
        bias: whether column F is the constant 1.
        rows, columns: n and F (+ 1 with a bias).
        block_rows: rows in a block, a power of two between 256 and `MOST_BLOCK_ROWS`.
    """

    def __init__(self, features: torch.Tensor, bias: bool = False) -> None:
        require_conventional_products(features.device)
        self.features = features
        self.bias = bias
        self.rows = features.shape[0]
        self.columns = features.shape[1] + int(bias)
        wanted = max(256, min(MOST_BLOCK_ROWS, _BLOCK_ENTRIES // self.columns))
        self.block_rows = 1 << (wanted.bit_length() - 1)
        self._flushed = flushes_subnormals()

    @property
    def device(self) -> torch.device:
        """The device of the features."""
        return self.features.device

    @property
    def dtype(self) -> torch.dtype:
        """The type of the features."""
        return self.features.dtype

    @property
    def parts(self) -> tuple[Part, ...]:
        """Itself."""
        return (Part(0, self),)

    def selected(self, rows: torch.Tensor) -> DesignMatrix:
        """The same with some rows only, a mask [n]; they are copied."""
        return DesignMatrix(self.features[rows], self.bias)

    def blocks(self, block_rows: int | None = None) -> Iterator[tuple[slice, torch.Tensor]]:
        """As for every `Design`."""
        buffer: torch.Tensor | None = None
        block_rows = self.block_rows if block_rows is None else block_rows
        for start in range(0, self.rows, block_rows):
            rows = slice(start, min(start + block_rows, self.rows))
            part = self.features[rows]
            if not self.bias and part.dtype == torch.float64:
                yield rows, part
                continue
            if buffer is None:
                buffer = torch.ones((block_rows, self.columns), dtype=torch.float64, device=self.device)
            block = buffer[: part.shape[0]]
            block[:, : part.shape[1]] = _decoded(part, self._flushed)
            yield rows, block

    def row_norms(self) -> torch.Tensor:
        """Upper bounds of the row norms, float64 [n], in one pass without a copy of the features.

        Narrow types are summed in float32: a bound that is `F 2^-24` too large costs nothing, widening them would.
        """
        count = self.features.shape[1]
        dtype = torch.promote_types(self.features.dtype, torch.float32)
        norms = self._plain_row_norms(dtype)
        rounding, least, greatest = gamma(count + 8, UNIT_ROUNDOFF[dtype]), *_SQUARES_KEPT[dtype]
        vanished = norms < _ALL_BUT_ZERO
        kept, some = host.numbers(((norms > least) & (norms < greatest)).all(), vanished.any())
        if not (math.isfinite(rounding) and kept):
            norms = self._plain_row_norms(torch.float64)
            rounding, least = gamma(count + 8), 0.0
            vanished = norms < _ALL_BUT_ZERO
            some = float(vanished.any())
        flushed = float(torch.finfo(self.features.dtype).tiny) if self._flushed else 0.0
        # Squares below the smallest normal number may vanish, and flushed arithmetic drops the stored subnormals.
        dropped = 0.0 if least > 0 else math.sqrt(count) * 2.0**-511
        norms = norms * (1.0 + rounding) + (dropped + math.sqrt(count) * flushed)
        if some:
            # Rows of zeros, most of all: their bound must not be what other rows may have lost.
            norms[vanished] = norm_upper(widened(self.features[vanished]), dim=1)
        return (torch.hypot(norms, torch.ones_like(norms)) if self.bias else norms) * SHORT_CHAIN

    def _plain_row_norms(self, dtype: torch.dtype) -> torch.Tensor:
        # Part by part: torch widens the whole argument before it sums in another type.
        norms = torch.empty(self.rows, dtype=torch.float64, device=self.device)
        for start in range(0, self.rows, self.block_rows):
            rows = slice(start, start + self.block_rows)
            norms[rows] = torch.linalg.vector_norm(self.features[rows], dim=1, dtype=dtype)
        return norms

    def absolute_column_sums(self) -> torch.Tensor:
        """The column sums of |Phi| in float64 [columns], each off by at most gamma_rows of itself, in one pass."""
        sums = torch.zeros(self.features.shape[1], dtype=torch.float64, device=self.device)
        for part in torch.split(self.features, self.block_rows):
            sums += torch.linalg.vector_norm(part, ord=1, dim=0, dtype=torch.float64)
        return torch.cat([sums, torch.full_like(sums[:1], self.rows)]) if self.bias else sums
