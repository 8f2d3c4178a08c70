"""The kernel of a linear head with several outputs: one Gram matrix, used once for each output and never expanded."""

from __future__ import annotations

from functools import cached_property

import torch

from ntkla.linalg import checks
from ntkla.linalg.errors import DtypeError, ShapeError
from ntkla.linalg.linear_operator import LinearOperator
from ntkla.linalg.precision import SHORT_CHAIN, norm_upper


class KroneckerGram(LinearOperator):
    """The kernel of a linear head with C outputs: a Gram matrix G [n, n] once for each output, [nC, nC].

    Args:
        gram: G, any square operator.
        outputs: C.
        order: `"class"`: `I_C (x) G`, position `c n + i` of a vector belongs to sample i and output c (the paper's);
            `"sample"`: `G (x) I_C`, position `i C + c`.

    Nothing is expanded: a product with [nC, m] is one product of G with [n, C m].

    Raises:
        DtypeError, ShapeError, ArgumentError
    """

    def __init__(self, gram: LinearOperator, outputs: int, order: str = "class") -> None:
        if not isinstance(gram, LinearOperator):
            raise DtypeError(f"gram: expected an operator, got {type(gram).__name__}. Wrap it: GramOperator(features).")
        self.gram = gram
        self.outputs = checks.integer("outputs", outputs, least=1)
        self.order = checks.choice("order", order, ("class", "sample"))
        if gram.shape[0] != gram.shape[1]:
            raise ShapeError(f"gram: expected a square operator, got shape {tuple(gram.shape)}.")
        size = gram.shape[0] * self.outputs
        super().__init__((size, size), gram.dtype, gram.device, gram.psd)

    @cached_property
    def T(self) -> LinearOperator:
        """The transpose of G, once for each output."""
        return self if self.gram.T is self.gram else KroneckerGram(self.gram.T, self.outputs, self.order)

    def trace(self) -> float | None:
        """C times the trace of G."""
        trace = self.gram.trace()
        return None if trace is None else self.outputs * trace

    def diagonal_bounds(self) -> tuple[torch.Tensor, torch.Tensor] | None:
        """The bounds of G's diagonal, once for each output."""
        bounds = self.gram.diagonal_bounds()
        if bounds is None:
            return None
        low, high = bounds
        if self.order == "class":
            return low.repeat(self.outputs), high.repeat(self.outputs)
        return low.repeat_interleave(self.outputs), high.repeat_interleave(self.outputs)

    def trace_bounds(self) -> tuple[float, float] | None:
        """C times the bounds of G's trace."""
        bounds = self.gram.trace_bounds()
        if bounds is None:
            return None
        low, high = (self.outputs * bound for bound in bounds)
        return min(low / SHORT_CHAIN, low * SHORT_CHAIN), max(high / SHORT_CHAIN, high * SHORT_CHAIN)

    def _by_sample(self, v: torch.Tensor) -> torch.Tensor:
        """[nC, m] -> [n, C m]."""
        samples, outputs = self.gram.shape[0], self.outputs
        if self.order == "class":
            v = v.reshape(outputs, samples, v.shape[1]).transpose(0, 1)
        return v.reshape(samples, -1)

    def _matmat(self, v: torch.Tensor) -> torch.Tensor:
        product = self.gram._matmat(self._by_sample(v))
        if self.order == "class":
            product = product.reshape(self.gram.shape[0], self.outputs, v.shape[1]).transpose(0, 1)
        return product.reshape(v.shape)

    def _error_bound(self, v: torch.Tensor) -> torch.Tensor:
        return norm_upper(self.gram._error_bound(self._by_sample(v)).reshape(self.outputs, -1), dim=0)

    def _dense_bytes(self) -> int:
        samples = self.gram.shape[0]
        return (self.shape[0] ** 2 + 2 * samples**2) * self.dtype.itemsize

    def to_dense(self) -> torch.Tensor:
        """The matrix itself, [nC, nC]: C^2 times the memory of G.

        Raises:
            MemoryEstimateError: before anything is allocated, when it will not fit.
        """
        checks.memory(f"{self}.to_dense()", self._dense_bytes(), self.device)
        samples, outputs = self.gram.shape[0], self.outputs
        gram = self.gram.to_dense()
        dense = torch.zeros(self.shape, dtype=self.dtype, device=self.device)
        for c in range(outputs):
            if self.order == "class":
                dense.view(outputs, samples, outputs, samples)[c, :, c] = gram
            else:
                dense.view(samples, outputs, samples, outputs)[:, c, :, c] = gram
        return dense
